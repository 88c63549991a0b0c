#pragma once
// What both machines say to the store and hear from it (rule 9). The driver (pool/, node/) carries them out.
#include <cstdint>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/ids.h"
#include "record/record.h"

namespace zpair::brain {

using PathIndex = std::uint8_t;

// ---- orders ----

// Compare-and-swap at `expected_mod_revision`. record.op identifies it. Answered once by SwapApplied, SwapOther or SwapUnknown.
struct SwapRecord {
  std::uint64_t expected_mod_revision = 0;
  record::Record record;
  bool operator==(const SwapRecord&) const = default;
};

// The end of a pool: removes the key at `expected_mod_revision`. Answered like SwapRecord; `op` comes back in the answer.
struct RemoveRecord {
  std::uint64_t expected_mod_revision = 0;
  std::string op;
  bool operator==(const RemoveRecord&) const = default;
};

// A linearizable read. Answered once by RecordRead or RecordReadFailed.
struct ReadRecord {
  bool operator==(const ReadRecord&) const = default;
};

// Makes a copy durable before anything counts: the whole record in the node's state file; epoch, revision and digest in
// the fence files of the legs reached. Answered by RecordKept, once. A copy that cannot be written ends the process.
struct KeepCopy {
  record::Stored stored;
  bool operator==(const KeepCopy&) const = default;
};

// ---- facts ----

struct SwapApplied {
  Nanoseconds now_ns;
  std::string op;
  record::Stored stored;  // what was written, with its new mod_revision (of a removal: mod_revision 0)
};

struct SwapOther {  // the key has another mod_revision
  Nanoseconds now_ns;
  std::string op;
  std::optional<record::Stored> stored;  // nullopt: no such key
};

struct SwapUnknown {  // no answer in time: it may have been applied, or may still be
  Nanoseconds now_ns;
  std::string op;
};

struct RecordRead {  // answer to ReadRecord
  Nanoseconds now_ns;
  std::optional<record::Stored> stored;
};

struct RecordReadFailed {
  Nanoseconds now_ns;
};

struct RecordSeen {  // the store's watch: a hint, possibly late, but always a record that was written
  Nanoseconds now_ns;
  record::Stored stored;
};

struct RecordKept {
  Nanoseconds now_ns;
  Epoch epoch;
  Revision rev;
};

// A swap that was sent and is not resolved. Until it is, both outcomes count (rule 9).
struct OpenSwap {
  std::string op;
  std::uint64_t expected_mod_revision = 0;
  record::Record wanted;
  bool remove = false;
  enum class Phase : std::uint8_t {
    sent,        // waiting for the store's answer
    unresolved,  // unknown: a read is wanted
    reading,     // the read is on its way
    keeping,     // applied; the durable copy is on its way
  } phase = Phase::sent;
  Nanoseconds retry_at_ns = 0;
  std::uint64_t applied_mod_revision = 0;  // phase keeping: the record's new mod_revision
};

}  // namespace zpair::brain
