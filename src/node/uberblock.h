#pragma once
// Reads the newest txg out of a drive's ZFS labels, without any ZFS: for `since` at an import (rule 3). A lower value than the
// true one is always safe there, a higher one never, so torn or foreign uberblocks must not raise it.
// Source: OpenZFS on-disk format: four labels of 256 KiB, each with 128 KiB of uberblocks (magic, version, txg, ...).
#include <span>

#include "base/error.h"
#include "base/ids.h"
#include "block/block_device.h"
#include "block/task.h"

namespace zpair::node {

struct Uberblock {
  Txg txg;                      // 0: none
  std::uint64_t written_s = 0;  // by the wall clock of who wrote it: for people only
};

// No txg: no uberblock, or the drive cannot be read.
block::Task<Uberblock> newest_uberblock(block::BlockDevice& device);

// The one with the highest txg in one label's ring, whole or torn.
Uberblock newest_in(std::span<const std::byte> ring);

}  // namespace zpair::node
