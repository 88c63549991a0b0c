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

// 0: no uberblock, or the drive cannot be read.
block::Task<Txg> newest_uberblock_txg(block::BlockDevice& device);

// The highest txg in one label's ring of uberblocks, whole or torn.
Txg newest_txg_in(std::span<const std::byte> ring);

}  // namespace zpair::node
