#pragma once
// What zpaird gives a new pool process: which pool to create or import, at which epoch, over which drives.
// A plain value and its JSON. The paths to the partner, the limits and the ZFS host id are not in it: the process reads
// the node's own config file (--config).
// Source: design, sections 2 (rules 4 to 7) and 4.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/ids.h"
#include "base/timeline.h"
#include "record/record.h"

namespace zpair::control {

// A drive of the pair that is, was or shall be a leg of this pool.
struct DrivePlace {
  NodeId node = NodeId::a;
  std::string durable_id;        // record::Leg::drive names it by this
  std::string path;              // of a drive on the pool process's own node: file or block device to open
  std::uint32_t nsid = 0;        // its namespace at its node's target
  std::uint64_t size_bytes = 0;  // 0: not known
  bool operator==(const DrivePlace&) const = default;
};

struct StartDocument {
  enum class Mode : std::uint8_t {
    create,  // `stored` is the wanted record: mirrors with node and drive, guids 0, epoch 1, mod_revision 0. ZFS gives
             // the guids; the process writes the record before its first acknowledgement
    import,  // `stored` is what the swap wrote: the new epoch, this node as owner, in-sync legs := those reached (rule 4)
  };
  Mode mode = Mode::import;
  record::Stored stored;
  std::vector<DrivePlace> drives;  // of every leg that the record knows, in sync or not
  record::Floor floor;             // max of the record's and the newest promise's (rule 7)
  // Rule 6: no acknowledgement before this instant, unless the former process is known dead or exported.
  Nanoseconds first_ack_not_before_ns = 0;  // CLOCK_BOOTTIME; 0: released
  Txg newest_txg;                           // newest uberblock txg on the node's own legs before the swap; 0: unknown
  bool force = false;                       // create: take drives that carry another pool
  bool accept_data_loss = false;  // import: the operator's override (rule 11): the floor is skipped, and said so
  bool accept_corruption = false;
  Timeline timeline;  // up to here
  bool operator==(const StartDocument&) const = default;
};

std::string to_json(const StartDocument& document);
Result<StartDocument> parse_start_document(std::string_view json);

}  // namespace zpair::control
