#include <cerrno>
#include <cstdlib>

#include "base/assert.h"
#include "base/log.h"
#include "zfs/leg_driver_internal.h"
#include "zfs/mutation.h"

namespace zpair::zfs {

namespace {

// All legs of the process, for OpenZFS's threads: it asks by guid, or by path for a leg that it has just made.
struct Registry {
  std::mutex mutex;
  std::vector<Leg*> legs;
};
Registry& registry() {
  static Registry instance;
  return instance;
}

// Buffers of commands, kept for the next ones: fresh memory costs a page fault for each 4 KiB.
class Buffers {
 public:
  static Buffers& instance() {
    static Buffers buffers;
    return buffers;
  }
  void* take(std::size_t size_bytes) {
    std::size_t rank = rank_of(size_bytes);
    if (rank < ranks) {
      std::lock_guard lock(spare_[rank].mutex);
      if (!spare_[rank].buffers.empty()) {
        void* buffer = spare_[rank].buffers.back();
        spare_[rank].buffers.pop_back();
        return buffer;
      }
    }
    return std::aligned_alloc(alignment,
                              rank < ranks ? alignment << rank : (size_bytes + alignment - 1) / alignment * alignment);
  }
  void give(void* buffer, std::size_t size_bytes) {
    if (buffer == nullptr) return;
    std::size_t rank = rank_of(size_bytes);
    if (rank < ranks) {
      std::lock_guard lock(spare_[rank].mutex);
      if (spare_[rank].buffers.size() < most_spare_bytes / (alignment << rank)) {
        spare_[rank].buffers.push_back(buffer);
        return;
      }
    }
    std::free(buffer);
  }

 private:
  static constexpr std::size_t alignment = 4096;               // for direct I/O
  static constexpr std::size_t ranks = 9;                      // 4 KiB to 1 MiB
  static constexpr std::size_t most_spare_bytes = 8ULL << 20;  // of each rank
  static std::size_t rank_of(std::size_t size_bytes) {
    std::size_t rank = 0;
    while (rank < ranks && (alignment << rank) < size_bytes) ++rank;
    return rank;
  }
  struct Spare {
    std::mutex mutex;
    std::vector<void*> buffers;
  };
  Spare spare_[ranks];
};

constexpr block::Operation block_operation_of[] = {block::Operation::read, block::Operation::write,
                                                   block::Operation::flush, block::Operation::trim};

const char* word_for(block::Operation operation) {
  switch (operation) {
    case block::Operation::read: return "read";
    case block::Operation::write: return "write";
    case block::Operation::flush: return "flush";
    case block::Operation::trim: return "trim";
    case block::Operation::write_zeroes: return "write-zeroes";
    case block::Operation::extents: return "extents";
  }
  return "?";
}

}  // namespace

// ---- lists

void LegIoList::add(LegIo& io) {
  io.previous_of_leg = last;
  io.next_of_leg = nullptr;
  (last != nullptr ? last->next_of_leg : first) = &io;
  last = &io;
}

void LegIoList::remove(LegIo& io) {
  (io.previous_of_leg != nullptr ? io.previous_of_leg->next_of_leg : first) = io.next_of_leg;
  (io.next_of_leg != nullptr ? io.next_of_leg->previous_of_leg : last) = io.previous_of_leg;
}

// ---- legs

LegDriver::LegDriver(block::Reactor& reactor, std::string pool_name, std::function<void(const LegEvent&)> on_event)
    : reactor_(reactor), pool_name_(std::move(pool_name)), on_event_(std::move(on_event)) {}

LegDriver::~LegDriver() {
  std::lock_guard lock(registry().mutex);
  for (auto& leg : legs_) std::erase(registry().legs, leg.get());
}

std::string LegDriver::path_of(const LegSpec& spec) const {
  return fmt::format("/zpair/{}/{}/{}", pool_name_, spec.node, spec.name);
}

std::string LegDriver::name_in_path(const std::string& path) { return path.substr(path.rfind('/') + 1); }

Leg& LegDriver::offer(const LegSpec& spec) {
  Leg* leg = spec.guid.value != 0 ? find(spec.guid) : nullptr;
  if (leg == nullptr) {
    legs_.push_back(std::make_unique<Leg>());
    leg = legs_.back().get();
    leg->driver = this;
    leg->guid = spec.guid.value;
    leg->path = path_of(spec);
    std::lock_guard lock(registry().mutex);
    registry().legs.push_back(leg);
  }
  ZP_ASSERT(leg->at_device_count == 0, "rule 8: a leg returns after all its older commands have ended");
  leg->name = spec.name;
  leg->device = spec.device;
  leg->failed = leg->stuck = leg->tainted = false;
  leg->completed_writes = leg->flushed_writes = 0;
  leg->flushed_once = false;
  leg->all_flushed = false;
  leg->seen_verifier.reset();
  leg->flushed_txg = Txg{};
  leg->size_bytes = spec.device->geometry().size_bytes;
  leg->block_size_bytes = spec.device->geometry().block_size_bytes;
  leg->remote = spec.place == LegSpec::Place::remote;
  leg->offered = true;
  return *leg;
}

void LegDriver::forget(LegId id) {
  if (Leg* leg = find(id)) {
    fail(id);
    leg->in_ack_set = false;
    std::lock_guard lock(registry().mutex);
    leg->guid = 0;  // its commands at the device still refer to it: the object stays
    leg->path.clear();
  }
}

void LegDriver::forget_path(const std::string& path) {
  for (auto& leg : legs_) {
    if (leg->path != path || leg->guid != 0) continue;
    leg->offered = false;
    leg->failed = true;
    leg->in_ack_set = false;
    std::lock_guard lock(registry().mutex);
    leg->path.clear();
  }
}

void LegDriver::learn(const std::string& path, LegId guid, MirrorId mirror) {
  if (Leg* known = find(guid)) {
    known->mirror = mirror;
    return;
  }
  for (auto& leg : legs_) {
    if (leg->guid == 0 && leg->path == path && leg->offered) {
      leg->guid = guid.value;
      leg->mirror = mirror;
    }
  }
}

Leg* LegDriver::find(LegId id) {
  for (auto& leg : legs_) {
    if (leg->guid == id.value && id.value != 0) return leg.get();
  }
  return nullptr;
}

const Leg* LegDriver::find(LegId id) const { return const_cast<LegDriver*>(this)->find(id); }

void LegDriver::set_ack_set(std::span<const LegId> ids) {
  for (auto& leg : legs_) {
    bool member = false;
    for (LegId id : ids) member = member || (id.value == leg->guid && id.value != 0);
    leg->in_ack_set = member;
  }
}

std::vector<LegId> LegDriver::ack_set() const {
  std::vector<LegId> ids;
  for (auto& leg : legs_) {
    if (leg->in_ack_set) ids.push_back(LegId{leg->guid});
  }
  return ids;
}

void LegDriver::start_flushed_at(Txg txg) {
  for (auto& leg : legs_) {
    if (leg->in_ack_set && leg->flushed_txg < txg) leg->flushed_txg = txg;
  }
}

unsigned LegDriver::in_flight_count() const {
  unsigned count = 0;
  for (auto& leg : legs_) count += leg->at_device_count;
  return count;
}

// ---- a command's way down

void LegDriver::take(zp_leg_io* io) {
  zp_leg_io* head = handed_over_.load(std::memory_order_relaxed);
  do {
    io->next = head;
  } while (!handed_over_.compare_exchange_weak(head, io, std::memory_order_release, std::memory_order_relaxed));
  if (head == nullptr) reactor_.post([this] { drain(); });  // else a drain is on its way
}

void LegDriver::drain() {
  zp_leg_io* newest = handed_over_.exchange(nullptr, std::memory_order_acquire);
  zp_leg_io* oldest = nullptr;
  while (newest != nullptr) {
    zp_leg_io* next = newest->next;
    newest->next = oldest;
    oldest = newest;
    newest = next;
  }
  now_ns_ = boot_time_ns();
  while (oldest != nullptr) {
    zp_leg_io* io = oldest;
    oldest = io->next;
    start(*static_cast<LegIo*>(io));
  }
}

LegIoList& LegDriver::list_of(LegIo& io) {
  Leg& leg = *static_cast<Leg*>(io.leg);
  switch (io.zp_leg_io::operation) {
    case ZP_READ: return leg.reads;
    case ZP_TRIM: return leg.trims;
    default: return leg.writes;
  }
}

void LegDriver::start(LegIo& io) {
  Leg& leg = *static_cast<Leg*>(io.leg);
  io.handed_over_ns = now_ns_;
  list_of(io).add(io);
  if (leg.failed) {
    ZP_ASSERT(io.zp_leg_io::operation == ZP_READ || !leg.in_ack_set, "rule 2: a failed leg is in no ack set");
    answer(io, ENXIO);
  } else if (leg.stuck) {
    io.held = true;
    ++leg.held_count;
  } else {
    issue(io);
  }
}

void LegDriver::issue(LegIo& io) {
  Leg& leg = *static_cast<Leg*>(io.leg);
  block::Request& request = io;
  request.operation = block_operation_of[io.zp_leg_io::operation];
  request.offset_bytes = io.zp_leg_io::offset_bytes;
  request.size_bytes = io.zp_leg_io::size_bytes;
  request.buffers = {};
  if (io.buffer != nullptr) {
    io.whole = iovec{io.buffer, io.zp_leg_io::size_bytes};
    request.buffers = std::span(&io.whole, 1);
  }
  request.on_done = on_device_done;
  if (io.zp_leg_io::operation == ZP_WRITE) {
    request.durable =
        io.of_log && zp_durable_log_writes != 0 && leg.plain_writes_at_device == 0 && leg.nothing_unflushed();
    if (!request.durable) ++leg.plain_writes_at_device;
  }
  if (io.zp_leg_io::operation == ZP_FLUSH || request.durable) {
    io.covered_writes = leg.completed_writes;
    io.covered_txg = pool_ != nullptr ? Txg{zp_pool_last_synced_txg(pool_)} : Txg{};
  }
  io.at_device = true;
  ++leg.at_device_count;
  leg.device->submit(request);
}

// ---- and up again

void LegDriver::on_device_done(block::Request& request) {
  LegIo& io = static_cast<LegIo&>(request);
  Leg& leg = *static_cast<Leg*>(io.leg);
  io.at_device = false;
  --leg.at_device_count;
  if (io.zp_leg_io::operation == ZP_WRITE && !io.durable) --leg.plain_writes_at_device;
  if (io.zio == nullptr) {  // OpenZFS had its answer when the leg was failed
    zp_leg_io_free(&io);
    return;
  }
  leg.driver->finish(io);
}

// False: writes that had completed but were not flushed may be lost.
bool LegDriver::note_verifier(Leg& leg, Verifier verifier) {
  if (leg.seen_verifier == verifier || zp_mutated(ZP_VERIFIER_IGNORED)) return true;
  bool nothing_unflushed = leg.flushed_writes == leg.completed_writes;
  bool first = !leg.seen_verifier.has_value();
  if (first || nothing_unflushed) {
    leg.seen_verifier = verifier;
    return true;
  }
  return false;
}

void LegDriver::finish(LegIo& io) {
  Leg& leg = *static_cast<Leg*>(io.leg);
  const zp_operation operation = io.zp_leg_io::operation;
  leg.counters.last_progress_ns = boot_time_ns();

  if (leg.stuck) {  // nothing of this leg is an answer any more
    hold(io, LegEvent::Kind::error);
    return;
  }
  if (io.status == block::IoStatus::fenced) {
    leg.stuck = true;
    hold(io, LegEvent::Kind::fenced);
    return;
  }
  if (io.status == block::IoStatus::ok) {
    if (operation != ZP_READ && !note_verifier(leg, io.verifier)) {
      if (leg.in_ack_set) {
        leg.stuck = true;
        hold(io, LegEvent::Kind::verifier_changed);
      } else {
        leg.tainted = true;
        tell(leg, LegEvent::Kind::verifier_changed, io.Request::operation, false);
        leg.seen_verifier = io.verifier;
        leg.flushed_writes = leg.completed_writes;
        answer(io, EIO);
      }
      return;
    }
    switch (operation) {
      case ZP_READ:
        ++leg.counters.read_count;
        leg.counters.read_bytes += io.zp_leg_io::size_bytes;
        break;
      case ZP_WRITE:
        if (io.durable && leg.flushed_writes == leg.completed_writes) {
          ++leg.flushed_writes;
          if (leg.flushed_txg.value != 0) leg.flushed_txg = std::max(leg.flushed_txg, io.covered_txg);
        }
        ++leg.completed_writes;
        ++leg.counters.write_count;
        if (io.durable) ++leg.counters.durable_write_count;
        leg.counters.write_bytes += io.zp_leg_io::size_bytes;
        break;
      case ZP_FLUSH:
        ++leg.counters.flush_count;
        leg.flushed_writes = std::max(leg.flushed_writes, io.covered_writes);
        leg.flushed_once = true;
        leg.flushed_txg = std::max(leg.flushed_txg, io.covered_txg);
        break;
      case ZP_TRIM: break;
    }
    leg.tell_flushed();
    answer(io, 0);
    return;
  }
  if (operation == ZP_READ) {
    ++leg.counters.read_error_count;
    // Bad labels: ZFS closes a leg whose probe fails. So the owner shall take it off before, as long as another one serves.
    const bool labels_of_ack_set = leg.in_ack_set && io.in_labels != 0;
    const bool of_import = importing_ && !zp_mutated(ZP_READS_NOT_HELD);
    const bool must_hold = leg.in_ack_set && (of_import || another_leg_serves(leg) == labels_of_ack_set);
    const bool bad_place = io.status == block::IoStatus::media_error && !(labels_of_ack_set && must_hold);
    LegEvent::Kind kind = bad_place ? LegEvent::Kind::media_error : LegEvent::Kind::error;
    if (io.status == block::IoStatus::cancelled || must_hold) {
      hold(io, kind);
    } else {
      tell(leg, kind, block::Operation::read, false);
      answer(io, EIO);
    }
    return;
  }
  ++leg.counters.write_error_count;
  const bool passed = operation == ZP_FLUSH ? zp_mutated(ZP_FLUSH_ERRORS_PASS) : zp_mutated(ZP_SHORT_WRITES_PASS);
  if (leg.in_ack_set && !passed) {
    hold(io, LegEvent::Kind::error);
  } else {
    leg.tainted = true;
    tell(leg, LegEvent::Kind::error, io.Request::operation, false);
    answer(io, EIO);
  }
}

bool LegDriver::another_leg_serves(const Leg& leg) const {
  for (auto& other : legs_) {
    if (other.get() != &leg && other->mirror == leg.mirror && other->mirror.value != 0 && other->in_ack_set &&
        !other->failed && !other->stuck && other->held_count == 0) {
      return true;
    }
  }
  return false;
}

void LegDriver::answer(LegIo& io, int error) {
  list_of(io).remove(io);
  void* zio = std::exchange(io.zio, nullptr);
  if (io.at_device) {  // the device keeps it, and the buffer
    zp_zio_done(zio, error, nullptr);
  } else if (io.zp_leg_io::operation == ZP_READ) {
    zp_zio_done(zio, error, &io);
  } else {
    zp_leg_io_free(&io);
    zp_zio_done(zio, error, nullptr);
  }
}

void LegDriver::hold(LegIo& io, LegEvent::Kind kind) {
  Leg& leg = *static_cast<Leg*>(io.leg);
  leg.tell_flushed();
  io.held = true;
  ++leg.held_count;
  tell(leg, kind, io.Request::operation, true);
}

void LegDriver::tell(Leg& leg, LegEvent::Kind kind, block::Operation operation, bool held) {
  if (!on_event_) return;
  LegEvent event{LegId{leg.guid}, kind, operation, held, {}};
  switch (kind) {
    case LegEvent::Kind::error: event.text = fmt::format("{}: {} failed", leg.name, word_for(operation)); break;
    case LegEvent::Kind::media_error: event.text = fmt::format("{}: a read met a bad place", leg.name); break;
    case LegEvent::Kind::fenced: event.text = fmt::format("{}: fenced by a newer epoch", leg.name); break;
    case LegEvent::Kind::verifier_changed:
      event.text = fmt::format("{}: it may have lost writes that it had completed (its verifier changed)", leg.name);
      break;
  }
  on_event_(event);
}

void LegDriver::fail(LegId id) {
  Leg* leg = find(id);
  if (leg == nullptr) return;
  ZP_ASSERT(!leg->in_ack_set, "rule 3: a leg is failed after the record dropped it");
  leg->failed = true;
  leg->offered = false;
  leg->held_count = 0;
  leg->tell_flushed();
  for (LegIoList* list : {&leg->writes, &leg->trims, &leg->reads}) {
    while (list->first != nullptr) answer(*list->first, ENXIO);
  }
}

void LegDriver::retry_held(LegId id) {
  Leg* leg = find(id);
  if (leg == nullptr || leg->stuck || leg->failed) return;
  for (LegIoList* list : {&leg->writes, &leg->trims, &leg->reads}) {
    for (LegIo* io = list->first; io != nullptr;) {
      LegIo* next = io->next_of_leg;
      if (io->held) {
        io->held = false;
        --leg->held_count;
        issue(*io);
      }
      io = next;
    }
  }
}

block::Task<bool> LegDriver::flush_all(LegId id) {
  Leg* leg = find(id);
  if (leg == nullptr || leg->failed || leg->stuck) co_return false;
  const std::uint64_t covered_writes = leg->completed_writes;
  const Txg covered_txg = pool_ != nullptr ? Txg{zp_pool_last_synced_txg(pool_)} : Txg{};
  leg->flushed_txg = Txg{};
  ++leg->at_device_count;
  auto outcome = co_await block::flush(*leg->device);
  --leg->at_device_count;
  if (!outcome.ok() || leg->failed || leg->stuck || leg->tainted || !note_verifier(*leg, outcome.verifier))
    co_return false;
  leg->flushed_writes = std::max(leg->flushed_writes, covered_writes);
  leg->flushed_once = true;
  leg->flushed_txg = covered_txg;
  co_return true;
}

LegHealth LegDriver::health(const Leg& leg) const {
  LegHealth health = leg.counters;
  health.in_ack_set = leg.in_ack_set;
  health.failed = leg.failed;
  health.stuck = leg.stuck;
  health.in_flight_count = leg.at_device_count;
  health.held_count = leg.held_count;
  if (leg.writes.first != nullptr) health.oldest_write_ns = leg.writes.first->handed_over_ns;
  if (leg.trims.first != nullptr) health.oldest_trim_ns = leg.trims.first->handed_over_ns;
  if (leg.reads.first != nullptr) health.oldest_read_ns = leg.reads.first->handed_over_ns;
  if (!health.in_ack_set && health.oldest_read_ns != 0) {
    health.oldest_write_ns =
        health.oldest_write_ns == 0 ? health.oldest_read_ns : std::min(health.oldest_write_ns, health.oldest_read_ns);
  }
  health.newest_flushed_txg = leg.flushed_txg;
  // A quiet leg: everything that ever completed is flushed and nothing is under way, so what has synced is flushed.
  if (!leg.failed && !leg.stuck && pool_ != nullptr && leg.in_ack_set && leg.writes.first == nullptr &&
      leg.flushed_writes == leg.completed_writes && leg.seen_verifier == leg.device->verifier() &&
      leg.flushed_txg.value != 0) {
    health.newest_flushed_txg = std::max(leg.flushed_txg, Txg{zp_pool_last_synced_txg(pool_)});
  }
  return health;
}

}  // namespace zpair::zfs

// ---- what gate.c calls

using zpair::zfs::Leg;
using zpair::zfs::LegIo;

void* zp_leg_find(std::uint64_t guid, const char* path) {
  auto& registry = zpair::zfs::registry();
  std::lock_guard lock(registry.mutex);
  for (Leg* leg : registry.legs) {
    if (leg->guid == guid && leg->offered) return leg;
  }
  for (Leg* leg : registry.legs) {
    if (leg->guid == 0 && leg->offered && leg->path == path) return leg;
  }
  return nullptr;
}

int zp_leg_offered(void* opaque, std::uint64_t* size_bytes, std::uint32_t* block_size_bytes, int* remote) {
  Leg* leg = static_cast<Leg*>(opaque);
  *remote = leg->remote ? 1 : 0;
  *size_bytes = leg->size_bytes;
  *block_size_bytes = leg->block_size_bytes;
  return leg->offered ? 0 : ENXIO;
}

int zp_leg_in_ack_set(void* leg) { return static_cast<Leg*>(leg)->in_ack_set.load(std::memory_order_acquire); }

int zp_guid_in_ack_set(std::uint64_t guid) {
  auto& registry = zpair::zfs::registry();
  std::lock_guard lock(registry.mutex);
  for (Leg* leg : registry.legs) {
    if (leg->guid == guid) return leg->in_ack_set;
  }
  return 0;
}

zp_leg_io* zp_leg_io_new(zp_operation operation, std::uint64_t size_bytes) {
  LegIo* io = new LegIo();  // all zero
  io->zp_leg_io::operation = operation;
  io->zp_leg_io::size_bytes = size_bytes;
  if (operation == ZP_READ || operation == ZP_WRITE) {
    io->buffer = zpair::zfs::Buffers::instance().take(size_bytes);
    if (io->buffer == nullptr) zp_die("out of memory");
  }
  return io;
}

void zp_leg_io_free(zp_leg_io* io) {
  zpair::zfs::Buffers::instance().give(io->buffer, io->size_bytes);
  delete static_cast<LegIo*>(io);
}

int zp_leg_all_flushed(void* leg) { return static_cast<Leg*>(leg)->all_flushed.load(std::memory_order_acquire); }

void zp_leg_submit(zp_leg_io* io) { static_cast<Leg*>(io->leg)->driver->take(io); }
