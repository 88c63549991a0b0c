#pragma once
// The driver below OpenZFS's leaves: gives each command to the leg's BlockDevice, and holds what must not be answered.
//
// Rule 2, per leg of the ack set: an error of a write, flush or trim is no answer; the command is held and the owner told. A
// flush completes only if no completed write may have been lost since: the device's verifier is the one seen at every write
// since the last flush. Reads: an error goes up, so that OpenZFS reads another leg and heals; it is held during an import, or
// when no other leg of the mirror that is in the ack set answers. A read of the labels is the other way round: held while
// another leg serves, so that the owner takes the leg off before ZFS closes it; told of the last leg, as ZFS keeps four labels.
// A leg outside the ack set passes its errors up.
//
// Flushed txg (for `since`): a flush covers every write that had completed when it was handed over, hence every txg that had
// synced by then. When it completes, under an unchanged verifier, those txgs are flushed.
//
// Log writes: when nothing is unflushed on a leg, a write of the intent log is sent as a durable one (FUA), and the flush that
// OpenZFS sends after it has nothing to do: one round trip a commit instead of two.
//
// Threading: offered(), in_ack_set() and take() on any thread; everything else on the reactor.
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "block/reactor.h"
#include "zfs/engine_internal.h"
#include "zfs/leg.h"

namespace zpair::zfs {

class LegDriver;
struct Leg;

struct LegIo : zp_leg_io, block::Request {
  iovec whole{};
  LegIo* previous_of_leg = nullptr;
  LegIo* next_of_leg = nullptr;
  Nanoseconds handed_over_ns = 0;
  bool at_device = false;
  bool held = false;
  std::uint64_t covered_writes = 0;  // flush: writes completed when it was handed over
  Txg covered_txg;
};

// In the order of arrival, so that the first is the oldest.
struct LegIoList {
  LegIo* first = nullptr;
  LegIo* last = nullptr;
  void add(LegIo& io);
  void remove(LegIo& io);
};

struct Leg {
  LegDriver* driver = nullptr;
  std::string path;
  std::string name;
  std::atomic<std::uint64_t> guid{0};
  std::atomic<bool> in_ack_set{false};
  std::atomic<bool> offered{false};
  std::atomic<bool> remote{false};
  std::atomic<std::uint64_t> size_bytes{0};
  std::atomic<std::uint32_t> block_size_bytes{4096};

  MirrorId mirror;
  block::BlockDevice* device = nullptr;
  bool failed = false;
  bool stuck = false;
  bool tainted = false;            // outside the ack set: a command failed since it was offered
  LegIoList writes, trims, reads;  // writes: flushes too
  unsigned at_device_count = 0, held_count = 0;
  unsigned plain_writes_at_device = 0;  // not durable when they complete
  std::uint64_t completed_writes = 0, flushed_writes = 0;
  bool flushed_once = false;  // since it was offered: nothing of a former owner's is unflushed
  bool nothing_unflushed() const { return flushed_once && flushed_writes == completed_writes; }
  std::atomic<bool> all_flushed{false};  // the same for OpenZFS's threads, told before a write is answered
  void tell_flushed() { all_flushed.store(nothing_unflushed() && !failed && !stuck, std::memory_order_release); }
  std::optional<Verifier> seen_verifier;
  Txg flushed_txg;
  LegHealth counters;
};

class LegDriver {
 public:
  LegDriver(block::Reactor& reactor, std::string pool_name, std::function<void(const LegEvent&)> on_event);
  ~LegDriver();

  // The leg becomes visible to OpenZFS (again). Asserts that nothing of it is still at a former device.
  Leg& offer(const LegSpec& spec);
  // Takes the leg back before OpenZFS learned of it, or after it left the pool.
  void forget(LegId leg);
  void forget_path(const std::string& path);
  void learn(const std::string& path, LegId guid, MirrorId mirror);  // what OpenZFS made of it
  Leg* find(LegId leg);
  const Leg* find(LegId leg) const;
  std::string path_of(const LegSpec& spec) const;
  static std::string name_in_path(const std::string& path);

  void set_ack_set(std::span<const LegId> legs);
  std::vector<LegId> ack_set() const;
  void set_importing(bool importing) { importing_ = importing; }
  void set_pool(const zp_pool* pool) { pool_ = pool; }
  void start_flushed_at(Txg txg);  // of all legs of the ack set: what an import found
  void fail(LegId leg);            // refuses everything from now on, what is held or at the device first
  void retry_held(LegId leg);
  // Rule 8, before a leg counts: what it took so far is flushed, and nothing of it failed or was lost.
  block::Task<bool> flush_all(LegId leg);
  LegHealth health(const Leg& leg) const;
  unsigned in_flight_count() const;  // of all legs, at devices

  void take(zp_leg_io* io);  // any thread

 private:
  void drain();
  void start(LegIo& io);
  void issue(LegIo& io);
  static void on_device_done(block::Request& request);
  void finish(LegIo& io);
  bool note_verifier(Leg& leg, Verifier verifier);
  void answer(LegIo& io, int error);
  void hold(LegIo& io, LegEvent::Kind kind);
  void tell(Leg& leg, LegEvent::Kind kind, block::Operation operation, bool held);
  bool another_leg_serves(const Leg& leg) const;
  LegIoList& list_of(LegIo& io);

  block::Reactor& reactor_;
  std::string pool_name_;
  std::function<void(const LegEvent&)> on_event_;
  const zp_pool* pool_ = nullptr;
  bool importing_ = false;
  std::vector<std::unique_ptr<Leg>> legs_;
  std::atomic<zp_leg_io*> handed_over_{nullptr};
  Nanoseconds now_ns_ = 0;  // of this turn's hand-over
};

}  // namespace zpair::zfs
