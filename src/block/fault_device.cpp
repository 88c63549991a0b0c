#include "block/fault_device.h"

#include <algorithm>
#include <charconv>
#include <cstring>

namespace zpair::block {

namespace {

constexpr std::size_t sector_bytes = 512;  // what a power loss may tear

// co_await Submitted(device, request): for a request that is already filled in.
class Submitted : private Request {
 public:
  Submitted(BlockDevice& device, const Request& like, bool as_durable) : device_(device) {
    operation = like.operation;
    durable = as_durable;
    offset_bytes = like.offset_bytes;
    size_bytes = like.size_bytes;
    buffers = like.buffers;
    on_done = [](Request& self) { make_ready(static_cast<Submitted&>(self).waiter_); };
  }
  Submitted(const Submitted&) = delete;
  Submitted& operator=(const Submitted&) = delete;
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> waiter) {
    waiter_ = waiter;
    device_.submit(*this);
  }
  Op::Outcome await_resume() const { return {status, verifier}; }

 private:
  BlockDevice& device_;
  std::coroutine_handle<> waiter_;
};

void gather(std::span<const iovec> pieces, std::byte* to) {
  for (const iovec& piece : pieces) {
    std::memcpy(to, piece.iov_base, piece.iov_len);
    to += piece.iov_len;
  }
}

void scatter(const std::byte* from, std::span<const iovec> pieces) {
  for (const iovec& piece : pieces) {
    std::memcpy(piece.iov_base, from, piece.iov_len);
    from += piece.iov_len;
  }
}

std::vector<std::string_view> words_of(std::string_view text) {
  std::vector<std::string_view> words;
  for (std::size_t begin = 0; (begin = text.find_first_not_of(" \t\r", begin)) != std::string_view::npos;) {
    std::size_t end = std::min(text.find_first_of(" \t\r", begin), text.size());
    words.push_back(text.substr(begin, end - begin));
    begin = end;
  }
  return words;
}

template <class Number>
bool parse_number(std::string_view text, Number& number) {
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc{} && end == text.data() + text.size();
}

bool is_write(Operation operation) {
  return operation == Operation::write || operation == Operation::write_zeroes || operation == Operation::trim;
}

}  // namespace

Result<std::unique_ptr<FaultDevice>> FaultDevice::wrap(std::unique_ptr<BlockDevice> inner, FaultOptions options) {
  std::string commands = options.commands;
  std::unique_ptr<FaultDevice> device(new FaultDevice(std::move(inner), std::move(options)));
  ZP_CHECK(device->apply(commands));
  return device;
}

FaultDevice::FaultDevice(std::unique_ptr<BlockDevice> inner, FaultOptions options)
    : inner_(std::move(inner)), options_(std::move(options)) {
  std::random_device entropy;
  random_.seed(options_.seed != 0 ? options_.seed : (std::uint64_t{entropy()} << 32 | entropy()));
  // From the system and not from the seed: two instances must never show one verifier.
  if (options_.volatile_cache) verifier_salt_ = (std::uint64_t{entropy()} << 32 | entropy()) | 1;
  not_hanging_.set();
}

FaultDevice::~FaultDevice() { ZP_ASSERT(closed_, "a fault device is closed before it ends"); }

Verifier FaultDevice::verifier() const { return Verifier{inner_->verifier().value ^ verifier_salt_}; }

void FaultDevice::power_cut() {
  cache_.clear();
  ++power_cuts_;
  std::random_device entropy;
  std::uint64_t former = verifier_salt_;
  while (verifier_salt_ == former) verifier_salt_ = (std::uint64_t{entropy()} << 32 | entropy()) | 1;
}

// ---------------------------------------------------------------------------------------------------------- commands

Result<void> FaultDevice::apply(std::string_view commands) {
  while (!commands.empty()) {
    std::size_t end = std::min(commands.find_first_of(";\n"), commands.size());
    ZP_CHECK(apply_one(commands.substr(0, end)));
    commands.remove_prefix(std::min(end + 1, commands.size()));
  }
  return {};
}

FaultDevice::Faults* FaultDevice::faults_named(std::string_view name) {
  if (name == "read-errors") return &read_errors_;
  if (name == "write-errors") return &write_errors_;
  if (name == "flush-errors") return &flush_errors_;
  if (name == "torn-writes") return &torn_writes_;
  if (name == "wrong-data") return &wrong_data_;
  return nullptr;
}

Result<void> FaultDevice::apply_fault(Faults& faults, const std::vector<std::string_view>& words) {
  if (words.size() == 2 && words[1] == "off") {
    faults.clear();
    return {};
  }
  Fault fault;
  for (std::size_t i = 1; i < words.size(); ++i) {
    std::size_t plus = words[i].find('+');
    std::uint64_t offset = 0, size = 0;
    if (words[i] == "on") continue;
    if (plus != std::string_view::npos && parse_number(words[i].substr(0, plus), offset) &&
        parse_number(words[i].substr(plus + 1), size)) {
      fault.everywhere = false;
      fault.range = Range{offset, offset + size};
    } else if (!parse_number(words[i], fault.probability) || fault.probability < 0 || fault.probability > 1) {
      return fail(ErrorCode::invalid,
                  "fault `{}`: `{}` is neither on, off, a probability (0.01) nor a range (OFFSET+SIZE)", words[0],
                  words[i]);
    }
  }
  faults.push_back(fault);
  return {};
}

Result<void> FaultDevice::apply_one(std::string_view command) {
  std::vector<std::string_view> words = words_of(command);
  if (words.empty()) return {};
  std::string_view verb = words[0];
  auto ends = [&words] { return words.size() == 2 && words[1] == "off"; };
  if (Faults* faults = faults_named(verb); faults != nullptr && words.size() > 1) return apply_fault(*faults, words);
  if (verb == "slow" && ends()) {
    slow_ms_ = 0;
  } else if (verb == "slow" && words.size() == 2) {
    std::int64_t ms = 0;
    if (!parse_number(words[1], ms) || ms < 0)
      return fail(ErrorCode::invalid, "fault `slow`: `{}` is no number of ms", words[1]);
    slow_ms_ = ms;
  } else if (verb == "latency-us" && ends()) {
    latency_ = {};
  } else if (verb == "latency-us" && words.size() == 4) {
    Latency latency;
    bool good = parse_number(words[1], latency.read_us) && parse_number(words[2], latency.write_us) &&
                parse_number(words[3], latency.flush_us);
    if (!good) return fail(ErrorCode::invalid, "fault `latency-us`: `{}` is not three numbers of µs", command);
    latency_ = latency;
  } else if (verb == "parallel" && ends()) {
    parallel_ = 0;
    slot_free_.set();
  } else if (verb == "parallel" && words.size() == 2) {
    std::size_t count = 0;
    if (!parse_number(words[1], count) || count == 0)
      return fail(ErrorCode::invalid, "fault `parallel`: `{}` is no number ≥ 1", words[1]);
    parallel_ = count;
    slot_free_.set();
  } else if (verb == "protected-cache" && words.size() == 2 && (words[1] == "on" || words[1] == "off")) {
    protected_cache_ = words[1] == "on";
  } else if (verb == "hang" && ends()) {
    if (!not_hanging_.is_set()) not_hanging_.set();
  } else if (verb == "hang" && words.size() == 2 && words[1] == "on") {
    not_hanging_.reset();
  } else if (verb == "lose-cache" && words.size() == 1) {
    power_cut();
  } else if (verb == "tear-cache" && words.size() == 1) {
    Cache lost = std::move(cache_);
    power_cut();
    if (!lost.empty() && !tearing_) {
      tearing_ = true;
      tasks_.spawn(tear_cache(std::move(lost)));
    }
  } else if (verb == "clear" && words.size() == 1) {
    for (Faults* faults : {&read_errors_, &write_errors_, &flush_errors_, &torn_writes_, &wrong_data_}) faults->clear();
    slow_ms_ = 0;
    latency_ = {};
    parallel_ = 0;
    protected_cache_ = false;
    if (!not_hanging_.is_set()) not_hanging_.set();
    slot_free_.set();
  } else {
    return fail(
        ErrorCode::invalid,
        "no fault `{}`: write read-errors, write-errors, flush-errors, torn-writes or wrong-data with on, off, "
        "PROBABILITY "
        "or OFFSET+SIZE; slow MS, latency-us READ WRITE FLUSH, parallel N, protected-cache on, hang on, lose-cache, "
        "tear-cache, clear",
        command);
  }
  return {};
}

std::string FaultDevice::faults() const {
  std::string text;
  auto list = [&text](std::string_view name, const Faults& faults) {
    for (const Fault& fault : faults) {
      text += name;
      if (!fault.everywhere) text += fmt::format(" {}+{}", fault.range.begin, fault.range.end - fault.range.begin);
      if (fault.probability < 1) text += fmt::format(" {}", fault.probability);
      if (fault.everywhere && fault.probability >= 1) text += " on";
      text += '\n';
    }
  };
  list("read-errors", read_errors_);
  list("write-errors", write_errors_);
  list("flush-errors", flush_errors_);
  list("torn-writes", torn_writes_);
  list("wrong-data", wrong_data_);
  if (slow_ms_ > 0) text += fmt::format("slow {}\n", slow_ms_);
  if (latency_.read_us + latency_.write_us + latency_.flush_us > 0) {
    text += fmt::format("latency-us {} {} {}\n", latency_.read_us, latency_.write_us, latency_.flush_us);
  }
  if (parallel_ > 0) text += fmt::format("parallel {}\n", parallel_);
  if (protected_cache_) text += "protected-cache on\n";
  if (!not_hanging_.is_set()) text += "hang on\n";
  return text;
}

// ----------------------------------------------------------------------------------------------------------- requests

bool FaultDevice::transparent() const {
  bool no_errors = read_errors_.empty() && write_errors_.empty() && flush_errors_.empty() && torn_writes_.empty() &&
                   wrong_data_.empty();
  bool no_delay = slow_ms_ == 0 && latency_.read_us + latency_.write_us + latency_.flush_us == 0 && parallel_ == 0 &&
                  !protected_cache_;
  return no_errors && no_delay && not_hanging_.is_set() && verifier_salt_ == 0 && !options_.volatile_cache;
}

bool FaultDevice::strikes(const Faults& faults, const Request& request) {
  for (const Fault& fault : faults) {
    bool hit = fault.everywhere || (request.offset_bytes < fault.range.end &&
                                    fault.range.begin < request.offset_bytes + request.size_bytes);
    if (!hit) continue;
    if (fault.probability >= 1 || std::uniform_real_distribution<>(0, 1)(random_) < fault.probability) {
      ++error_count_;
      return true;
    }
  }
  return false;
}

// A bad sector that is written is good again.
void FaultDevice::heal(const Request& request) {
  std::uint64_t begin = request.offset_bytes;
  std::uint64_t end = begin + request.size_bytes;
  Faults left;
  for (const Fault& fault : read_errors_) {
    if (fault.everywhere || fault.range.end <= begin || end <= fault.range.begin) {
      left.push_back(fault);
      continue;
    }
    Fault before = fault;
    before.range.end = begin;
    Fault after = fault;
    after.range.begin = end;
    if (before.range.begin < before.range.end) left.push_back(before);
    if (after.range.begin < after.range.end) left.push_back(after);
  }
  read_errors_ = std::move(left);
}

std::int64_t FaultDevice::delay_us(const Request& request) const {
  std::int64_t own_us = request.operation == Operation::read    ? latency_.read_us
                        : request.operation == Operation::flush ? latency_.flush_us
                                                                : latency_.write_us;
  if (request.operation == Operation::write && request.durable) own_us += latency_.flush_us;
  return own_us + slow_ms_ * 1000;
}

void FaultDevice::submit(Request& request) {
  if (transparent() && !closing_) {
    inner_->submit(request);
    return;
  }
  tasks_.spawn(serve(request));
}

Task<void> FaultDevice::serve(Request& request) {
  Reactor& reactor = Reactor::current();
  co_await reactor.yield();  // never complete inside submit()
  while (parallel_ > 0 && active_ >= parallel_) {
    slot_free_.reset();
    co_await slot_free_.wait();
  }
  ++active_;
  if (std::int64_t us = delay_us(request); us > 0) co_await reactor.until(boot_time_ns() + us * ns_per_us);
  while (!not_hanging_.is_set() && !closing_) co_await not_hanging_.wait();
  while (tearing_) {
    torn_.reset();
    co_await torn_.wait();
  }
  Op::Outcome outcome{IoStatus::cancelled, verifier()};
  if (!closing_) outcome = co_await perform(request);
  --active_;
  slot_free_.set();
  request.status = outcome.status;
  request.verifier = outcome.verifier;
  request.on_done(request);
}

// The verifier is the one that the command started under: were it read after a power cut in between, the loss of this very
// write would go unseen. What the inner device may have lost is told by its own, as it was at the inner completion.
Task<Op::Outcome> FaultDevice::perform(Request& request) {
  Operation operation = request.operation;
  Op::Outcome outcome{IoStatus::io_error, verifier()};
  if (operation == Operation::read && strikes(read_errors_, request))
    co_return Op::Outcome{IoStatus::media_error, outcome.verifier};
  if (is_write(operation) && strikes(write_errors_, request)) co_return outcome;
  if (operation == Operation::flush && strikes(flush_errors_, request)) co_return outcome;
  if (operation == Operation::write && strikes(torn_writes_, request)) {
    outcome.status = co_await tear(request);
    co_return outcome;
  }

  if (options_.volatile_cache) {
    outcome.status = co_await cached(request);
  } else {
    outcome = co_await forward(request);
  }
  if (outcome.ok() && is_write(operation)) heal(request);
  if (outcome.ok() && operation == Operation::read && strikes(wrong_data_, request)) falsify(request);
  co_return outcome;
}

Task<Op::Outcome> FaultDevice::forward(Request& request) {
  std::uint64_t salt = verifier_salt_;
  if (protected_cache_ && request.operation == Operation::flush) co_return Op::Outcome{IoStatus::ok, verifier()};
  Submitted submitted(*inner_, request, request.durable && !protected_cache_);
  Op::Outcome outcome = co_await submitted;
  outcome.verifier.value ^= salt;
  co_return outcome;
}

// Stores each sector of the write with a chance of one half, the others keep what they had.
Task<IoStatus> FaultDevice::tear(Request& request) {
  std::vector<std::byte> stored(request.size_bytes);
  std::vector<std::byte> wanted(request.size_bytes);
  gather(request.buffers, wanted.data());
  iovec whole{stored.data(), stored.size()};
  Request part;
  part.operation = Operation::read;
  part.offset_bytes = request.offset_bytes;
  part.size_bytes = request.size_bytes;
  part.buffers = std::span<const iovec>(&whole, 1);
  Op::Outcome outcome{IoStatus::ok, {}};
  if (options_.volatile_cache) {
    outcome.status = co_await cached(part);
  } else {
    outcome = co_await forward(part);
  }
  if (!outcome.ok()) co_return IoStatus::io_error;
  for (std::size_t at = 0; at < stored.size(); at += sector_bytes) {
    if ((random_() & 1) != 0)
      std::memcpy(stored.data() + at, wanted.data() + at, std::min(sector_bytes, stored.size() - at));
  }
  part.operation = Operation::write;
  if (options_.volatile_cache) {
    outcome.status = co_await cached(part);
  } else {
    outcome = co_await forward(part);
  }
  co_return IoStatus::io_error;
}

void FaultDevice::falsify(const Request& request) {
  std::vector<std::byte> bytes(request.size_bytes);
  gather(request.buffers, bytes.data());
  std::size_t block = geometry().block_size_bytes;
  for (std::size_t at = 0; at < bytes.size(); at += block) bytes[at + random_() % block] ^= std::byte{0x5a};
  scatter(bytes.data(), request.buffers);
}

// ------------------------------------------------------------------------------------------------------------- cache

Task<IoStatus> FaultDevice::cached(Request& request) {
  const Geometry shape = geometry();
  bool flush = request.operation == Operation::flush;
  bool acceptable = request.offset_bytes % shape.block_size_bytes == 0 &&
                    request.size_bytes % shape.block_size_bytes == 0 && request.size_bytes > 0 &&
                    request.size_bytes <= shape.size_bytes &&
                    request.offset_bytes <= shape.size_bytes - request.size_bytes;
  if (!flush && !acceptable) co_return IoStatus::invalid;
  switch (request.operation) {
    case Operation::read: co_return co_await cached_read(request);
    case Operation::flush: co_return co_await write_out();
    case Operation::write: {
      put_in_cache(request);
      if (!request.durable) co_return IoStatus::ok;
      co_return co_await write_out(request.offset_bytes / shape.block_size_bytes,
                                   (request.offset_bytes + request.size_bytes) / shape.block_size_bytes);
    }
    case Operation::trim:
    case Operation::write_zeroes: co_return co_await cached_zeroes(request);
    case Operation::extents: break;
  }
  co_return IoStatus::invalid;
}

void FaultDevice::put_in_cache(const Request& request) {
  std::size_t block = geometry().block_size_bytes;
  std::vector<std::byte> bytes(request.size_bytes);
  gather(request.buffers, bytes.data());
  std::uint64_t sequence = ++last_sequence_;
  for (std::size_t at = 0; at < bytes.size(); at += block) {
    auto copy = std::make_shared<std::vector<std::byte>>(bytes.begin() + at, bytes.begin() + at + block);
    cache_[(request.offset_bytes + at) / block] = CachedBlock{sequence, std::move(copy)};
  }
}

void FaultDevice::drop_from_cache(const Request& request, std::uint64_t before_sequence) {
  std::size_t block = geometry().block_size_bytes;
  auto last = cache_.lower_bound((request.offset_bytes + request.size_bytes) / block);
  for (auto it = cache_.lower_bound(request.offset_bytes / block); it != last;) {
    it = it->second.sequence < before_sequence ? cache_.erase(it) : std::next(it);
  }
}

// What the cache holds when the read arrives goes over what the medium gives later: a flush in between may move a block
// from the one to the other.
Task<IoStatus> FaultDevice::cached_read(Request& request) {
  std::size_t block = geometry().block_size_bytes;
  std::uint64_t first_block = request.offset_bytes / block;
  auto begin = cache_.lower_bound(first_block);
  auto end = cache_.lower_bound(first_block + request.size_bytes / block);
  Cache held(begin, end);
  if (held.empty()) {
    Op::Outcome outcome = co_await forward(request);
    co_return outcome.status;
  }
  std::vector<std::byte> bytes(request.size_bytes);
  if (held.size() * block < request.size_bytes) {
    Op::Outcome outcome = co_await read(*inner_, request.offset_bytes, bytes);
    if (!outcome.ok()) co_return outcome.status;
  }
  for (const auto& [number, cached] : held) {
    std::memcpy(bytes.data() + (number - first_block) * block, cached.bytes->data(), block);
  }
  scatter(bytes.data(), request.buffers);
  co_return IoStatus::ok;
}

// Goes to the medium at once: a drive may keep more than it must.
Task<IoStatus> FaultDevice::cached_zeroes(Request& request) {
  co_await lock_write_out();
  std::uint64_t sequence = ++last_sequence_;
  Op::Outcome outcome = co_await forward(request);
  IoStatus status = outcome.status;
  if (status == IoStatus::ok) drop_from_cache(request, sequence);
  unlock_write_out();
  if (status == IoStatus::ok && request.durable) status = (co_await flush(*inner_)).status;
  co_return status;
}

Task<void> FaultDevice::lock_write_out() {
  while (writing_out_) {
    write_out_free_.reset();
    co_await write_out_free_.wait();
  }
  writing_out_ = true;
}

void FaultDevice::unlock_write_out() {
  writing_out_ = false;
  write_out_free_.set();
}

// What the cache holds of these blocks now, then the inner device's own flush.
Task<IoStatus> FaultDevice::write_out(std::uint64_t first_block, std::uint64_t end_block) {
  std::uint64_t power_cuts = power_cuts_;
  co_await lock_write_out();
  std::size_t block = geometry().block_size_bytes;
  Cache taken(cache_.lower_bound(first_block), cache_.lower_bound(end_block));  // shares the bytes
  IoStatus status = IoStatus::ok;
  for (auto it = taken.begin(); it != taken.end() && status == IoStatus::ok;) {
    std::uint64_t first = it->first;
    std::vector<std::byte> run;
    for (; it != taken.end() && it->first == first + run.size() / block && run.size() < (std::size_t{1} << 20); ++it) {
      run.insert(run.end(), it->second.bytes->begin(), it->second.bytes->end());
    }
    Op::Outcome outcome = co_await write(*inner_, first * block, run);
    status = outcome.status;
    if (power_cuts != power_cuts_) break;
  }
  if (status == IoStatus::ok && power_cuts == power_cuts_) {
    Op::Outcome outcome = co_await flush(*inner_);
    status = outcome.status;
  }
  if (power_cuts != power_cuts_) status = IoStatus::io_error;  // what it was to make durable is gone
  if (status == IoStatus::ok) {
    for (const auto& [number, block_taken] : taken) {
      auto now = cache_.find(number);
      if (now != cache_.end() && now->second.sequence == block_taken.sequence) cache_.erase(now);
    }
  }
  unlock_write_out();
  co_return status;
}

// A part of what was lost had been on its way to the medium.
Task<void> FaultDevice::tear_cache(Cache lost) {
  co_await lock_write_out();
  std::size_t block = geometry().block_size_bytes;
  for (const auto& [number, cached] : lost) {
    if ((random_() & 1) != 0) continue;
    std::vector<std::byte> stored(block);
    Op::Outcome outcome = co_await read(*inner_, number * block, stored);
    if (!outcome.ok()) continue;
    for (std::size_t at = 0; at < block; at += sector_bytes) {
      if ((random_() & 1) != 0) std::memcpy(stored.data() + at, cached.bytes->data() + at, sector_bytes);
    }
    (void)co_await write(*inner_, number * block, stored);
  }
  unlock_write_out();
  tearing_ = false;
  torn_.set();
}

Task<void> FaultDevice::close() {
  if (closed_) co_return;
  closing_ = true;
  if (!not_hanging_.is_set()) not_hanging_.set();
  co_await tasks_.close();
  cache_.clear();
  co_await inner_->close();
  closed_ = true;
}

}  // namespace zpair::block
