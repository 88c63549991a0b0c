#pragma once
// What the files of Pool share: how the C side is asked, the pool's handle, the checks of what a caller named.
// Threading: the reactor.
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "zfs/engine_internal.h"
#include "zfs/leg_driver_internal.h"
#include "zfs/pool.h"
#include "zfs/volume_internal.h"

namespace zpair::zfs {

ErrorCode code_of(int error);  // of an errno's number

// Runs what waits on a thread that may.
template <class Call>
block::Task<void> apart(Engine& engine, Call call) {
  auto run = [&call] {
    call();
    return true;
  };
  co_await engine.blocking(run);
}

// The same for a call of the C side, which returns an error's number and says why: `int call(zp_why*)`.
template <class Call>
block::Task<Result<void>> ask(Engine& engine, Call call) {
  zp_why why{};
  auto run = [&call, &why] { return call(&why); };
  int error = co_await engine.blocking(run);
  if (error != 0) co_return fail(code_of(error), "{}", why.text);
  co_return Result<void>{};
}

struct Pool::Handle {
  zp_pool* pool = nullptr;
  std::map<std::string, Volume::State*> open_volumes;    // owned by their Volumes
  std::map<std::string, zp_volume*> replayed;            // opened by the import, not asked for yet
  std::map<std::string, std::uint64_t> floor_sequences;  // of volumes that are not open yet
  std::mutex progress_mutex;
  zp_pool_stats progress{};  // written by the thread that waits for a scan

  static void note_progress(void* context, const zp_pool_stats* stats) {
    auto* self = static_cast<Handle*>(context);
    std::lock_guard lock(self->progress_mutex);
    self->progress = *stats;
  }
};

// The C form of mirrors, with the strings that it points to.
struct PlainMirrors {
  std::vector<std::string> paths;
  std::vector<std::vector<zp_leg_spec>> legs;
  std::vector<zp_mirror_spec> mirrors;

  PlainMirrors(const LegDriver& driver, const std::vector<MirrorSpec>& specs);
  int count() const { return static_cast<int>(mirrors.size()); }
};

Result<void> check_name(std::string_view kind, std::string_view name);
Result<void> check_mirrors(const std::vector<MirrorSpec>& mirrors);
// Before OpenZFS depends on a new drive: it takes a write and a flush.
block::Task<Result<void>> prove_writable(const LegSpec& leg);

std::vector<zp_leaf> leaves_of(zp_pool* pool);  // may wait
std::vector<LegId> legs_of(const PoolLayout& layout);
std::vector<std::uint64_t> numbers_of(const std::vector<LegId>& legs);
ScanStatus scan_of(const zp_pool_stats& stats);

}  // namespace zpair::zfs
