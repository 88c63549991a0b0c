// How a pool does, and its scrub.
#include <algorithm>

#include "base/assert.h"
#include "zfs/pool_internal.h"

namespace zpair::zfs {

using block::Task;

namespace {

LegState state_of(int vdev_state, int offline) {
  if (offline != 0) return LegState::offline;
  switch (vdev_state) {  // OpenZFS's vdev_state_t
    case 1: return LegState::closed;
    case 2: return LegState::offline;
    case 3: return LegState::removed;
    case 4: return LegState::cannot_open;
    case 5: return LegState::faulted;
    case 6: return LegState::degraded;
    case 7: return LegState::healthy;
    default: return LegState::unknown;
  }
}

}  // namespace

std::string_view name_of(LegState state) {
  switch (state) {
    case LegState::healthy: return "ONLINE";
    case LegState::degraded: return "DEGRADED";
    case LegState::offline: return "OFFLINE";
    case LegState::removed: return "REMOVED";
    case LegState::faulted: return "FAULTED";
    case LegState::cannot_open: return "UNAVAIL";
    case LegState::closed: return "CLOSED";
    case LegState::unknown: return "UNKNOWN";
  }
  return "?";
}

ScanStatus scan_of(const zp_pool_stats& stats) {
  ScanStatus scan;
  scan.kind = static_cast<ScanStatus::Kind>(stats.scan_kind);
  scan.state = static_cast<ScanStatus::State>(stats.scan_state);
  scan.done_bytes = stats.scan_done_bytes;
  scan.total_bytes = stats.scan_total_bytes;
  scan.repaired_bytes = stats.scan_repaired_bytes;
  scan.error_count = stats.scan_errors;
  if (scan.state == ScanStatus::State::finished) {
    scan.percent = 100;
  } else if (scan.total_bytes > 0) {
    scan.percent = 100.0 * static_cast<double>(scan.done_bytes) / static_cast<double>(scan.total_bytes);
  }
  return scan;
}

Task<Result<PoolStatus>> Pool::status() {
  ZP_ASSERT(handle_->pool != nullptr, "the pool is open");
  zp_pool_stats stats;
  std::vector<zp_leaf> leaves;
  auto look = [&, pool = handle_->pool] {
    zp_pool_look(pool, &stats);
    leaves = leaves_of(pool);
  };
  co_await apart(engine_, look);
  PoolStatus status;
  status.suspended = stats.suspended != 0;
  status.size_bytes = stats.size_bytes;
  status.allocated_bytes = stats.allocated_bytes;
  status.free_bytes = status.size_bytes - std::min(status.size_bytes, status.allocated_bytes);
  status.last_synced_txg = Txg{stats.last_synced_txg};
  status.data_error_count = stats.data_errors;
  status.scan = scan_of(stats);
  for (const zp_leaf& leaf : leaves) {
    status.legs.push_back(PoolStatus::Leg{LegId{leaf.guid}, MirrorId{leaf.mirror_guid},
                                          LegDriver::name_in_path(leaf.path), state_of(leaf.state, leaf.offline),
                                          leaf.read_errors, leaf.write_errors, leaf.checksum_errors,
                                          leaf.repaired_bytes, leaf.dtl_empty == 0});
  }
  co_return status;
}

ScanStatus Pool::resync_progress() const {
  std::lock_guard lock(handle_->progress_mutex);
  return scan_of(handle_->progress);
}

Task<Result<void>> Pool::start_scrub() {
  if (resyncing_) co_return fail(ErrorCode::refused, "a resync of pool {} is running", options_.name);
  auto start = [pool = handle_->pool](zp_why* why) { return zp_scrub_start(pool, why); };
  co_return co_await ask(engine_, start);
}

Task<Result<void>> Pool::cancel_scrub() {
  auto cancel = [pool = handle_->pool](zp_why* why) { return zp_scan_cancel(pool, why); };
  co_return co_await ask(engine_, cancel);
}

}  // namespace zpair::zfs
