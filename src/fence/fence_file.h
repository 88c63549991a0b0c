#pragma once
// A leg's fence file: who may write to the drive, and the newest record that the drive's node has stored for it. It lies in
// the node's state folder, one file a drive, and is kept by this one library in zpaird (the target) and in the pool
// process (which fences its own node's legs itself), so that both see one truth (rule 5).
//
// Every change is a compare-and-swap on the file itself, under a lock that excludes the other process: read, decide, write
// a new file, fsync it, rename it over, fsync the folder. A change that returned success survives a power cut. Nothing
// ever goes back: neither the epoch nor the stored (epoch, revision) (rule 9). A file that is missing, unreadable or
// damaged is an error of every call, and an error means closed: nobody may write.
//
// Ownership: an object owns no descriptor between calls; several objects, in several processes, may name one file.
// Threading: any one thread. Calls are synchronous and take two fsyncs: they are rare (an import, a shrink, a grow).
// Errors:    invalid (damaged, or another drive's file), not_found, exists, stale_epoch (lower than what is stored),
//            fenced (the key is not the expected one: somebody else fenced in between; contents() names it), io.
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/ids.h"

namespace zpair::fence {

// NVMe's reservation types; ours is always write_exclusive. `none`: nobody holds it, so nobody may write.
enum class ReservationType : std::uint8_t { none = 0, write_exclusive = 1 };

// The newest record of the pool that was stored for this leg.
struct StoredRecord {
  Epoch epoch;
  Revision rev;
  std::uint64_t digest = 0;
  bool operator==(const StoredRecord&) const = default;
};

struct Contents {
  std::string drive;  // durable id: a file renamed to another drive's name is damaged
  Epoch epoch;        // the reservation key; the highest ever, also after a release
  Uuid host_id;       // the NVMe Host ID that holds it
  ReservationType type = ReservationType::none;
  bool persists_through_power_loss = true;  // always: the file is how
  StoredRecord stored;
  bool operator==(const Contents&) const = default;

  bool held_by(const Uuid& host) const { return type != ReservationType::none && host_id == host; }
};

// Epochs of one compare-and-swap: `expected_former` is the key that the caller saw (0: never fenced).
struct FenceRequest {
  Epoch expected_former;
  Epoch epoch;
  Uuid host_id;
};

class FenceFile {
 public:
  // At the drive's registration only; `exists` when there is one. Makes `folder` if need be.
  static Result<std::unique_ptr<FenceFile>> create(std::string folder, std::string_view drive);
  // not_found when the drive was never registered here: that is closed, never "fresh".
  static Result<std::unique_ptr<FenceFile>> open(std::string folder, std::string_view drive);
  // When a drive is unregistered (its pool is destroyed, or it starts a new life in another pool). Nothing may be in flight.
  static Result<void> remove(const std::string& folder, std::string_view drive);
  // Where the file of this drive lies.
  static std::string path_of(std::string_view folder, std::string_view drive);

  // Reads the file anew.
  Result<Contents> contents() const;

  // Fences: afterwards only request.host_id may write. The same request again succeeds (its first answer may have been
  // lost). Refused: an epoch below any stored one (stale_epoch); a key other than expected, or another host at the same
  // epoch (fenced). Returns what is now in the file.
  Result<Contents> fence(const FenceRequest& request);

  // Both in one write (two fsyncs instead of four): a takeover waits for it on every leg. All or nothing.
  Result<Contents> fence(const FenceRequest& request, const StoredRecord& record);

  // Nobody may write any more; the epoch stays. Only the holder may ask (fenced otherwise).
  Result<Contents> release(const Uuid& host_id);

  // Keeps the record's (epoch, revision, digest). Equal is fine, lower is stale_epoch, equal with another digest invalid.
  Result<Contents> store_record(const StoredRecord& record);

  const std::string& path() const { return path_; }
  const std::string& drive() const { return drive_; }

 private:
  FenceFile(std::string folder, std::string_view drive);
  Result<void> decide_fence(Contents& now, const FenceRequest& request) const;
  Result<void> decide_record(Contents& now, const StoredRecord& record) const;
  template <class Decide>
  Result<Contents> change(Decide decide);

  std::string folder_;
  std::string drive_;
  std::string path_;
};

}  // namespace zpair::fence
