#include "drill/load.h"

#include <unistd.h>

#include <algorithm>
#include <bit>

namespace zpair::drill {

namespace {

constexpr std::size_t verify_bytes = 1u << 20;
constexpr std::int64_t pause_after_error_ms = 20;
constexpr Nanoseconds most_burst_ns = 100 * ns_per_ms;

using Bytes = std::vector<std::byte>;

std::uint64_t ms_of(Nanoseconds ns) { return static_cast<std::uint64_t>(std::max<Nanoseconds>(ns, 0) / ns_per_ms); }

}  // namespace

Load::Load(LoadOptions options) : options_(std::move(options)) {
  options_.least_bytes = std::bit_ceil(std::max(options_.least_bytes, stamped_block_bytes));
  options_.greatest_bytes = std::max(std::bit_floor(options_.greatest_bytes), options_.least_bytes);
  client_ = std::make_unique<NbdClient>(options_.target, options_.client);
}

Load::~Load() { ZP_ASSERT(tasks_.running() == 0, "a load is closed before it ends"); }

block::Task<Result<void>> Load::open(Deadline deadline) {
  auto info = co_await client_->open(deadline);
  if (!info) co_return std::unexpected(info.error());
  std::uint64_t bytes = std::min(options_.working_set_bytes, info->size_bytes);
  std::uint64_t block_count = bytes / stamped_block_bytes;
  if (block_count * stamped_block_bytes < options_.greatest_bytes) {
    co_return fail(ErrorCode::invalid, "the working set of '{}' is {} bytes: the largest operation has {}",
                   options_.target.export_name, bytes, options_.greatest_bytes);
  }
  if (!options_.state_file.empty() && ::access(options_.state_file.c_str(), F_OK) == 0) {
    ZP_CO_TRY(loaded, History::load(options_.state_file));
    if (loaded.block_count() * stamped_block_bytes > info->size_bytes) {
      co_return fail(ErrorCode::invalid, "'{}' is smaller than what {} knows of", options_.target.export_name,
                     options_.state_file);
    }
    history_.emplace(std::move(loaded));
    co_return Result<void>{};
  }
  auto fresh = co_await new_history(block_count);
  if (!fresh) co_return std::unexpected(fresh.error());
  history_.emplace(std::move(*fresh));
  co_return Result<void>{};
}

// A volume that reads as zeroes throughout lets the checker tell more.
block::Task<Result<History>> Load::new_history(std::uint64_t block_count) {
  Bytes buffer(verify_bytes);
  History::Before before = History::Before::zeroes;
  std::uint64_t size = block_count * stamped_block_bytes;
  for (std::uint64_t at = 0; at < size && before == History::Before::zeroes; at += verify_bytes) {
    std::span<std::byte> part(buffer.data(), std::min<std::uint64_t>(verify_bytes, size - at));
    auto got = co_await client_->read(at, part);
    if (!got) co_return std::unexpected(got.error());
    if (std::ranges::any_of(part, [](std::byte byte) { return byte != std::byte{0}; }))
      before = History::Before::unknown;
  }
  co_return History(Uuid::random(), block_count, before);
}

void Load::start() {
  ZP_ASSERT(history_.has_value(), "a load is opened before it starts");
  started_ns_ = boot_time_ns();
  next_slot_ns_ = started_ns_;
  whole_run_ = stalls_.begin("run", started_ns_);
  since_sample_ = stalls_.begin("sample", started_ns_);
  for (std::uint32_t i = 0; i < options_.writers; ++i) tasks_.spawn(write_for_ever(i));
  for (std::uint32_t i = 0; i < options_.readers; ++i) tasks_.spawn(read_for_ever(i));
}

block::Task<void> Load::stop() {
  stopping_ = true;
  co_await tasks_.close();
  if (stopped_ns_ == 0) stopped_ns_ = boot_time_ns();
  if (whole_run_) stalls_.end(*whole_run_, stopped_ns_);
}

block::Task<void> Load::abandon() {
  stopping_ = true;
  if (!client_closed_) co_await client_->close();
  client_closed_ = true;
  co_await stop();
}

block::Task<void> Load::close() { co_await abandon(); }

// ---- the operations -------------------------------------------------------------------------------------------------

std::uint64_t Load::random_extent(std::mt19937_64& random, std::uint64_t& block_count) const {
  // Each doubling of the size is half as likely as the one before.
  auto steps =
      static_cast<unsigned>(std::countr_zero(options_.greatest_bytes) - std::countr_zero(options_.least_bytes));
  unsigned step = std::min<unsigned>(static_cast<unsigned>(std::countr_zero(random() | (1ull << 63))), steps);
  block_count = (options_.least_bytes << step) / stamped_block_bytes;
  return random() % (history_->block_count() - block_count + 1);
}

block::Task<void> Load::write_for_ever(std::uint32_t writer) {
  std::mt19937_64 random(options_.seed * 1'000'003 + writer);
  Bytes buffer(options_.greatest_bytes);
  std::uint32_t since_flush = 0;
  while (!stopping_) {
    co_await keep_rate();
    if (stopping_) co_return;
    std::uint64_t count = 0;
    std::uint64_t first = random_extent(random, count);
    if (!history_->claim(first, count)) {
      co_await block::Reactor::current().yield();
      continue;
    }
    std::span<std::byte> bytes(buffer.data(), count * stamped_block_bytes);
    history_->issue_write(first, bytes);
    Nanoseconds began = boot_time_ns();
    stalls_.started(StallKind::write, began);
    auto written = co_await client_->write(first * stamped_block_bytes, bytes);
    stalls_.completed(StallKind::write, began, boot_time_ns());
    if (written) {
      history_->acknowledged(first, count);
      ++operations_;
      ++write_operations_;
    } else {
      history_->outcome_unknown(first, count);
      note_error(written.error());
      co_await block::Reactor::current().after_ms(pause_after_error_ms);
    }
    if (options_.flush_every == 0 || ++since_flush < options_.flush_every || stopping_) continue;
    since_flush = 0;
    auto flushed = co_await client_->flush();
    if (flushed) {
      ++operations_;
      ++flush_operations_;
    } else {
      note_error(flushed.error());
    }
  }
}

block::Task<void> Load::read_for_ever(std::uint32_t reader) {
  std::mt19937_64 random(options_.seed * 7'000'003 + reader + 1'000);
  Bytes buffer(options_.greatest_bytes);
  while (!stopping_) {
    co_await keep_rate();
    if (stopping_) co_return;
    std::uint64_t count = 0;
    std::uint64_t first = random_extent(random, count);
    std::span<std::byte> bytes(buffer.data(), count * stamped_block_bytes);
    std::vector<std::uint64_t> floor = history_->read_floor(first, count);
    Nanoseconds began = boot_time_ns();
    stalls_.started(StallKind::read, began);
    auto got = co_await client_->read(first * stamped_block_bytes, bytes);
    stalls_.completed(StallKind::read, began, boot_time_ns());
    if (got) {
      history_->check_read(first, bytes, floor);
      ++operations_;
      ++read_operations_;
    } else {
      note_error(got.error());
      co_await block::Reactor::current().after_ms(pause_after_error_ms);
    }
  }
}

block::Task<void> Load::keep_rate() {
  if (options_.operations_per_second <= 0) co_return;
  Nanoseconds now = boot_time_ns();
  next_slot_ns_ = std::max(next_slot_ns_, now - most_burst_ns);  // what a stall missed is not made up for
  Nanoseconds slot = next_slot_ns_;
  next_slot_ns_ += static_cast<Nanoseconds>(static_cast<double>(ns_per_s) / options_.operations_per_second);
  if (slot > now) co_await block::Reactor::current().until(slot);
}

void Load::note_error(const Error& error) {
  if (error.code == ErrorCode::cancelled) return;  // we closed the client
  ++failed_operations_;
  if (first_error_.empty()) first_error_ = error.message;
}

// ---- after the faults -----------------------------------------------------------------------------------------------

block::Task<Result<void>> Load::verify() {
  ZP_ASSERT(tasks_.running() == 0, "a load is stopped before it is verified");
  if (client_closed_) {
    client_ = std::make_unique<NbdClient>(options_.target, options_.client);
    client_closed_ = false;
    auto opened = co_await client_->open(Deadline::never());
    if (!opened) co_return std::unexpected(opened.error());
  }
  Bytes buffer(verify_bytes);
  std::uint64_t size = history_->block_count() * stamped_block_bytes;
  for (std::uint64_t at = 0; at < size; at += verify_bytes) {
    std::span<std::byte> part(buffer.data(), std::min<std::uint64_t>(verify_bytes, size - at));
    auto got = co_await client_->read(at, part);
    if (!got) {
      note_error(got.error());
      co_return fail(got.error(), "cannot verify '{}' at byte {}", options_.target.export_name, at);
    }
    history_->check_final(at / stamped_block_bytes, part);
  }
  verified_ = true;
  co_return Result<void>{};
}

Load::EventId Load::begin_event(std::string name) {
  events_.push_back(stalls_.begin(std::move(name), boot_time_ns()));
  return events_.back();
}

void Load::end_event(EventId event) { stalls_.end(event, boot_time_ns()); }

std::uint64_t Load::stall_ms(EventId event) const { return ms_of(stalls_.stall_of(event, boot_time_ns())); }

Load::Sample Load::take_sample() {
  const Nanoseconds now = boot_time_ns();
  Sample sample{operations_, history_->counts().acknowledged_blocks, 0,
                static_cast<double>(stalls_.going_on(now)) / 1e6};
  if (!since_sample_) return sample;
  sample.slowest_ms = static_cast<double>(stalls_.windows()[*since_sample_].slowest_ns) / 1e6;
  stalls_.restart(*since_sample_, now);
  return sample;
}

Nanoseconds Load::stall_ended_ns(EventId event) const {
  const StallMeter::Window& window = stalls_.windows()[event];
  const bool goes_on = window.ended_ns == 0 && stalls_.going_on(boot_time_ns()) > window.stall_ns;
  return goes_on ? 0 : window.stall_ended_ns;
}

std::uint64_t Load::stalled_now_ms() const { return ms_of(stalls_.going_on(boot_time_ns())); }

Result<void> Load::save_state() const {
  if (options_.state_file.empty() || !history_) return {};
  return history_->save(options_.state_file);
}

LoadReport Load::report() const {
  Nanoseconds now = boot_time_ns();
  LoadReport report;
  report.export_name = options_.target.export_name;
  if (history_) {
    report.counts = history_->counts();
    for (const Finding& finding : history_->findings()) report.findings.push_back(finding.to_string());
  }
  report.operations = operations_;
  report.write_operations = write_operations_;
  report.read_operations = read_operations_;
  report.flush_operations = flush_operations_;
  report.failed_operations = failed_operations_;
  report.first_error = first_error_;
  report.reconnects = client_->connection_count() > 0 ? client_->connection_count() - 1 : 0;
  report.resent = client_->resent_count();
  if (started_ns_ != 0) {
    Nanoseconds until = stopped_ns_ != 0 ? stopped_ns_ : now;
    report.seconds = static_cast<double>(until - started_ns_) / static_cast<double>(ns_per_s);
    if (report.seconds > 0) report.operations_per_second = static_cast<double>(operations_) / report.seconds;
  }
  if (whole_run_) report.stall_ms = ms_of(stalls_.stall_of(*whole_run_, now));
  for (EventId id : events_) {
    const StallMeter::Window& window = stalls_.windows()[id];
    Nanoseconds until = window.ended_ns != 0 ? window.ended_ns : now;
    report.events.push_back({window.name, ms_of(stalls_.stall_of(id, now)), ms_of(window.slowest_ns),
                             ms_of(until - window.began_ns), window.completed_count});
  }
  report.verified = verified_;
  return report;
}

}  // namespace zpair::drill
