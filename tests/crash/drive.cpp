#include "drive.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/assert.h"
#include "base/unique_fd.h"

namespace zpair::crash {

namespace {

constexpr std::uint64_t sector_bytes = 512;
constexpr std::uint64_t survey_bytes = 512 << 10;

}  // namespace

// ---- image

Image::Image(std::uint64_t size_bytes) {
  void* memory =
      ::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ZP_ASSERT(memory != MAP_FAILED, "there is memory for an image");
  bytes_ = {static_cast<std::byte*>(memory), size_bytes};
}

Image::~Image() { ::munmap(bytes_.data(), bytes_.size()); }

void Image::put(std::uint64_t offset, std::span<const std::byte> data) {
  if (!marks_.empty()) {
    auto before = part(offset, data.size());
    undo_.push_back({offset, {before.begin(), before.end()}});
  }
  std::memcpy(bytes_.data() + offset, data.data(), data.size());
}

void Image::clear() {
  ZP_ASSERT(marks_.empty(), "no trial runs");
  ::madvise(bytes_.data(), bytes_.size(), MADV_DONTNEED);
}

Result<void> Image::save(const std::string& path) const {
  UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!file) return fail_errno(errno, "cannot create {}", path);
  if (::ftruncate(file.get(), static_cast<off_t>(bytes_.size())) != 0) return fail_errno(errno, "cannot size {}", path);
  constexpr std::size_t page_bytes = 4096;
  static const std::byte zeroes[page_bytes] = {};
  for (std::size_t at = 0; at < bytes_.size(); at += page_bytes) {
    if (std::memcmp(bytes_.data() + at, zeroes, page_bytes) == 0) continue;
    if (::pwrite(file.get(), bytes_.data() + at, page_bytes, static_cast<off_t>(at)) != page_bytes)
      return fail_errno(errno, "cannot write {}", path);
  }
  return {};
}

void Image::end_trial() {
  for (; undo_.size() > marks_.back(); undo_.pop_back()) {
    std::memcpy(bytes_.data() + undo_.back().offset, undo_.back().before.data(), undo_.back().before.size());
  }
  marks_.pop_back();
}

// ---- what a power cut leaves

Leave Leave::any(Random& random) {
  return {static_cast<Style>(random.below(static_cast<std::uint64_t>(Style::count))), random.next()};
}

std::string_view name_of(Leave::Style style) {
  switch (style) {
    case Leave::Style::nothing: return "nothing";
    case Leave::Style::everything: return "everything";
    case Leave::Style::completed: return "what had completed";
    case Leave::Style::all_but_one: return "all but one";
    case Leave::Style::prefix: return "the older ones";
    case Leave::Style::some: return "some";
    case Leave::Style::torn: return "torn";
    case Leave::Style::count: break;
  }
  return "?";
}

std::string_view name_of(Fate fate) {
  switch (fate) {
    case Fate::durable: return "durable";
    case Fate::kept: return "kept";
    case Fate::dropped: return "dropped";
    case Fate::torn: return "torn";
  }
  return "?";
}

std::vector<Fate> WriteCache::fates(const Leave& leave) const {
  Random random(leave.seed);
  std::vector<Fate> fates(writes_.size(), Fate::dropped);
  const std::uint64_t chosen = writes_.empty() ? 0 : random.below(writes_.size());
  const std::uint64_t percent = std::array{5U, 30U, 50U, 70U, 95U}[random.below(5)];
  for (std::size_t i = 0; i < writes_.size(); ++i) {
    auto when = [](bool kept) { return kept ? Fate::kept : Fate::dropped; };
    switch (leave.style) {
      case Leave::Style::nothing: break;
      case Leave::Style::everything: fates[i] = Fate::kept; break;
      case Leave::Style::completed: fates[i] = when(writes_[i].completion != 0); break;
      case Leave::Style::all_but_one: fates[i] = when(i != chosen); break;
      case Leave::Style::prefix: fates[i] = when(i < chosen); break;
      case Leave::Style::some: fates[i] = when(random.below(100) < percent); break;
      case Leave::Style::torn: fates[i] = random.below(3) == 0 ? when(random.below(2) == 0) : Fate::torn; break;
      case Leave::Style::count: break;
    }
    if (writes_[i].durable) fates[i] = Fate::durable;
  }
  return fates;
}

void WriteCache::leave(const Leave& leave, const std::vector<Fate>& fates, Image& image) const {
  for (std::size_t i = 0; i < writes_.size(); ++i) {
    const Write& write = writes_[i];
    if (fates[i] == Fate::dropped) continue;
    if (fates[i] != Fate::torn) {
      image.put(write.offset, write.data);
      continue;
    }
    Random random(leave.seed ^ write.io * 0x9e3779b97f4a7c15);
    const std::uint64_t unit = random.below(2) == 0 ? sector_bytes : 4096;
    for (std::uint64_t at = 0; at < write.data.size(); at += unit) {
      if (random.below(2) == 0)
        image.put(write.offset + at, write.data.subspan(at, std::min<std::uint64_t>(unit, write.data.size() - at)));
    }
  }
}

// ---- cache

void WriteCache::write_submitted(std::uint32_t io, std::uint64_t offset, std::span<const std::byte> data, bool fua) {
  writes_.push_back({io, offset, data, fua, false, 0});
}

void WriteCache::flush_submitted(std::uint32_t io) { flushes_[io] = completions_; }

void WriteCache::note_completed(std::uint32_t io) {
  if (auto flush = flushes_.find(io); flush != flushes_.end()) {
    for (Write& write : writes_)
      write.durable = write.durable || (write.completion != 0 && write.completion <= flush->second);
    flushes_.erase(flush);
    return;
  }
  for (Write& write : writes_) {
    if (write.io != io) continue;
    write.completion = ++completions_;
    write.durable = write.fua;
  }
}

void WriteCache::failed(std::uint32_t io) {
  flushes_.erase(io);
  std::erase_if(writes_, [io](const Write& write) { return write.io == io; });
}

void WriteCache::lost(bool in_flight_too) {
  std::erase_if(writes_, [in_flight_too](const Write& write) { return in_flight_too || write.completion != 0; });
  if (in_flight_too) flushes_.clear();
}

// ---- drive

Drive::Drive(block::Reactor& reactor, Tape& tape, std::uint8_t leg, Image& image, DriveManners manners,
             std::uint64_t seed)
    : reactor_(reactor),
      tape_(tape),
      leg_(leg),
      image_(image),
      size_bytes_(image.bytes().size()),
      manners_(manners),
      random_(seed) {}

void Drive::submit(block::Request& request) {
  using block::Operation;
  unanswered_.push_back(&request);
  if (!powered_) return;
  Command command{&request, ++last_io_, request.offset_bytes, {}};
  switch (request.operation) {
    case Operation::read:
    case Operation::extents: break;
    case Operation::flush:
      tape_.add({.kind = Event::Kind::flush_submitted, .leg = leg_, .io = command.io});
      cache_.flush_submitted(command.io);
      if (at_great_flush_ && is_great()) std::exchange(at_great_flush_, nullptr)();
      if (lose_at_flush_) lose_cache(*std::exchange(lose_at_flush_, std::nullopt));
      break;
    case Operation::write:
    case Operation::trim:
    case Operation::write_zeroes: {
      std::span<std::byte> data = tape_.reserve(request.size_bytes);
      std::byte* at = data.data();
      if (request.operation != Operation::write) std::memset(at, 0, data.size());
      for (const iovec& piece : request.buffers) {
        std::memcpy(at, piece.iov_base, piece.iov_len);
        at += piece.iov_len;
      }
      Event event{.kind = Event::Kind::write_submitted,
                  .leg = leg_,
                  .flag = request.durable,
                  .io = command.io,
                  .offset = command.offset,
                  .size = data.size()};
      command.data = tape_.add(event, data);
      cache_.write_submitted(command.io, command.offset, command.data, request.durable);
      break;
    }
  }
  serve(command);
}

bool Drive::is_great() const {
  constexpr std::size_t great = 6;
  const auto& writes = cache_.writes();
  return writes.size() >= great &&
         std::ranges::none_of(writes, [](const WriteCache::Write& write) { return write.completion == 0; });
}

void Drive::serve(Command command) {
  auto end = [this, command, cycle = power_cycle_] {
    if (powered_ && cycle == power_cycle_) finish(command);
  };
  if (random_.below(100) < manners_.immediate_percent) {
    reactor_.post(end);
  } else {
    reactor_.call_at(boot_time_ns() + static_cast<Nanoseconds>(random_.below(manners_.delay_us_most + 1)) * ns_per_us,
                     end);
  }
}

void Drive::finish(Command command) {
  using block::Operation;
  block::Request& request = *command.request;
  request.status = block::IoStatus::ok;
  if (request.operation == Operation::read) {
    // The survey of the labels, before an import, is refused by an error; it may be asked again, and is no read of OpenZFS's.
    const bool survey = request.size_bytes >= survey_bytes;
    if (manners_.read_errors_one_in != 0 && !survey && random_.one_in(manners_.read_errors_one_in))
      request.status = block::IoStatus::media_error;
    std::uint64_t at = request.offset_bytes;
    for (const iovec& piece : request.buffers) {
      std::memcpy(piece.iov_base, image_.part(at, piece.iov_len).data(), piece.iov_len);
      at += piece.iov_len;
    }
  } else if (request.operation == Operation::flush ? fail_flushes_ : fail_writes_) {
    request.status = block::IoStatus::io_error;
    tape_.add({.kind = Event::Kind::failed, .leg = leg_, .io = command.io});
    cache_.failed(command.io);
  } else {
    if (request.operation != Operation::flush) {
      auto before = image_.part(command.offset, command.data.size());
      applied_.push_back({command.io, command.offset, {before.begin(), before.end()}});
      image_.put(command.offset, command.data);
    }
    tape_.add({.kind = Event::Kind::completed, .leg = leg_, .io = command.io});
    cache_.completed(command.io, [this](const WriteCache::Write& write) {
      std::erase_if(applied_, [&write](const Applied& each) { return each.io == write.io; });
    });
  }
  request.verifier = verifier_;
  std::erase(unanswered_, &request);
  request.on_done(request);
}

// Takes back what had completed and was not flushed, puts on what is left of it, and tells the tape how that looks.
void Drive::lose(const Leave& leave, bool in_flight_too) {
  for (; !applied_.empty(); applied_.pop_back()) image_.put(applied_.back().offset, applied_.back().before);
  std::vector<Fate> fates = cache_.fates(leave);
  std::vector<WriteCache::Write> touched;
  for (std::size_t i = 0; i < fates.size(); ++i) {
    const WriteCache::Write& write = cache_.writes()[i];
    if (write.completion == 0 && !in_flight_too) fates[i] = Fate::dropped;  // still to come
    if (write.completion != 0 || in_flight_too) touched.push_back(write);
  }
  cache_.leave(leave, fates, image_);
  cache_.lost(in_flight_too);
  tape_.add({.kind = Event::Kind::cache_lost, .leg = leg_, .flag = in_flight_too});
  for (const WriteCache::Write& write : touched) {
    Event event{.kind = Event::Kind::piece, .leg = leg_, .offset = write.offset, .size = write.data.size()};
    tape_.add(event, image_.part(write.offset, write.data.size()));
  }
  verifier_ = verifier_.next();
}

void Drive::lose_power(const Leave& leave) {
  powered_ = false;
  ++power_cycle_;
  lose(leave, true);
}

void Drive::power_on() {
  fail_writes_ = fail_flushes_ = false;
  if (std::exchange(powered_, true)) return;
  for (block::Request* request : std::exchange(unanswered_, {})) {
    request->status = block::IoStatus::cancelled;
    request->on_done(*request);
  }
}

void Drive::lose_cache(const Leave& leave) { lose(leave, false); }

}  // namespace zpair::crash
