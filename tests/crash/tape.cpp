#include "tape.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "base/assert.h"

namespace zpair::crash {

namespace {

constexpr std::uint64_t head_room = 4096;
constexpr std::uint64_t events_most = 2'000'000;
constexpr std::uint64_t data_most = 6ULL << 30;  // address space: what is not written takes no memory
constexpr std::uint64_t mapped_bytes = head_room + events_most * sizeof(Event) + data_most;

struct Close {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

}  // namespace

std::string_view name_of(Event::Kind kind) {
  switch (kind) {
    case Event::Kind::write_submitted: return "write";
    case Event::Kind::flush_submitted: return "flush";
    case Event::Kind::completed: return "completed";
    case Event::Kind::failed: return "failed";
    case Event::Kind::cache_lost: return "cache lost";
    case Event::Kind::piece: return "left";
    case Event::Kind::issued: return "client issues";
    case Event::Kind::answered: return "client is answered";
    case Event::Kind::found: return "found";
    case Event::Kind::grew: return "volume grew";
    case Event::Kind::ready: return "serves";
    case Event::Kind::record_is: return "record";
    case Event::Kind::record_asked: return "swap asked";
    case Event::Kind::floor: return "floor";
    case Event::Kind::log_floor: return "log floor";
    case Event::Kind::note: return "note";
  }
  return "?";
}

Tape::Tape() {
  void* memory =
      ::mmap(nullptr, mapped_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ZP_ASSERT(memory != MAP_FAILED, "there is address space for a tape");
  auto* bytes = static_cast<std::byte*>(memory);
  head_ = new (bytes) Head{};
  events_ = reinterpret_cast<Event*>(bytes + head_room);
  data_ = bytes + head_room + events_most * sizeof(Event);
}

Tape::~Tape() { ::munmap(head_, mapped_bytes); }

void Tape::erase() {
  ::madvise(reinterpret_cast<std::byte*>(head_) + head_room, mapped_bytes - head_room, MADV_REMOVE);
  head_->count = 0;
  head_->data_bytes = 0;
}

std::span<std::byte> Tape::reserve(std::uint64_t size_bytes) {
  ZP_ASSERT(head_->data_bytes + size_bytes <= data_most, "a tape is long enough for one life");
  return {data_ + head_->data_bytes, size_bytes};
}

std::span<const std::byte> Tape::add(Event event, std::span<const std::byte> data) {
  std::uint64_t count = head_->count.load(std::memory_order_relaxed);
  ZP_ASSERT(count < events_most, "a tape is long enough for one life");
  event.data = head_->data_bytes;
  std::span<std::byte> room = reserve(data.size());
  if (!data.empty() && room.data() != data.data()) std::memcpy(room.data(), data.data(), data.size());
  head_->data_bytes += data.size();
  events_[count] = event;
  head_->count.store(count + 1, std::memory_order_release);
  return room;
}

void Tape::note(std::string_view text) {
  add(Event{.kind = Event::Kind::note, .size = text.size()}, std::as_bytes(std::span(text)));
}

Result<void> Tape::save(const std::string& path) const {
  std::unique_ptr<std::FILE, Close> file(std::fopen(path.c_str(), "wb"));
  if (!file) return fail_errno(errno, "cannot create {}", path);
  bool good = std::fwrite(head_, sizeof *head_, 1, file.get()) == 1 &&
              std::fwrite(events_, sizeof *events_, head_->count, file.get()) == head_->count &&
              std::fwrite(data_, 1, head_->data_bytes, file.get()) == head_->data_bytes && std::fflush(file.get()) == 0;
  if (!good) return fail_errno(errno, "cannot write {}", path);
  return {};
}

Result<void> Tape::load(const std::string& path) {
  std::unique_ptr<std::FILE, Close> file(std::fopen(path.c_str(), "rb"));
  if (!file) return fail_errno(errno, "cannot open {}", path);
  erase();
  bool good = std::fread(head_, sizeof *head_, 1, file.get()) == 1 && head_->count <= events_most &&
              head_->data_bytes <= data_most &&
              std::fread(events_, sizeof *events_, head_->count, file.get()) == head_->count &&
              std::fread(data_, 1, head_->data_bytes, file.get()) == head_->data_bytes;
  if (!good) return fail(ErrorCode::invalid, "{} is no tape", path);
  return {};
}

}  // namespace zpair::crash
