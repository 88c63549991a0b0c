#pragma once
// The tape: what happened in one life (one pool process on its drives), in one order: every command of every drive with its
// data, what the clients asked and were told, what the record said. It lies in memory that the process shares with the one
// that started it, so it outlives whatever end the process comes to.
// Threading: the writer's reactor; readers wait for the writer's end.
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "base/error.h"

namespace zpair::crash {

inline constexpr unsigned legs_most = 8;
inline constexpr unsigned volumes_most = 4;

struct Event {
  enum class Kind : std::uint8_t {
    // drives: leg, io
    write_submitted,  // offset, size, data; flag: durable (FUA)
    flush_submitted,
    completed,  // a write or flush
    failed,     // it never happened
    cache_lost,  // of what had completed and was not flushed, the pieces that follow are left; flag: power, what was in flight too
    piece,  // offset, size, data: what a part of the drive holds after cache_lost
    // clients: volume, sequence; offset and size in sectors
    issued,  // flag: zeroes (trim, write-zeroes), else data
    answered,
    found,  // a recovery served this: later ones must hold it. Sequence 0: never written; flag: zeroes
    grew,   // size: the volume's bytes, answered
    // the owner
    ready,         // recorded and served: from here on it counts
    record_is,     // legs: bits of those in sync; offset: the smallest `since` of the others
    record_asked,  // a swap to this is open: either counts
    floor,         // offset: txg
    log_floor,     // volume; offset: its log's sequence, size: its guid
    note,          // for people: data
  };
  Kind kind;
  std::uint8_t leg = 0;   // or the volume
  std::uint8_t legs = 0;  // record_*
  bool flag = false;
  std::uint32_t io = 0;  // or the client's sequence
  std::uint64_t offset = 0, size = 0;
  std::uint64_t data = 0;  // where it begins
};
std::string_view name_of(Event::Kind kind);

// What the first life of a pool fixes for the later ones.
struct Identity {
  std::uint64_t pool_guid;
  std::uint64_t leg_guids[legs_most];
};

class Tape {
 public:
  Tape();
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  void erase();
  void add(Event event) { add(event, {}); }
  std::span<const std::byte> add(Event event, std::span<const std::byte> data);  // the tape's own copy of `data`
  std::span<std::byte> reserve(std::uint64_t size_bytes);  // room for the data of the event that is added next
  void note(std::string_view text);

  std::span<const Event> events() const { return {events_, head_->count.load(std::memory_order_acquire)}; }
  std::span<const std::byte> data_of(const Event& event) const { return {data_ + event.data, event.size}; }
  Identity& identity() { return head_->identity; }
  const Identity& identity() const { return head_->identity; }

  Result<void> save(const std::string& path) const;
  Result<void> load(const std::string& path);

 private:
  struct Head {
    std::atomic<std::uint64_t> count;
    std::uint64_t data_bytes;
    Identity identity;
  };
  Head* head_;
  Event* events_;
  std::byte* data_;
};

}  // namespace zpair::crash
