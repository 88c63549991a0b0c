#pragma once
// One drive of the partner, as a BlockDevice. Made by RemoteNode::open_drive.
//
// Requests longer than the target's MDTS are split. Each command takes the least busy queue of all paths that are up; with
// none up it is held. A target that restarted (closed, or without the namespace for a moment) holds the drive's commands
// until this object has fenced it again at its own epoch; a verifier that changed meanwhile shows in every completion.
//
// States:    serving  --fail_all()-->  failed  --rejoin()-->  serving;  close() from either.
//            In `failed` every request completes with `cancelled`; what the target still has in flight may land until
//            rejoin() has seen it quiesced (rule 8).
// Ownership: a Request and its buffers stay the caller's until on_done, as for every BlockDevice. The RemoteNode must
//            outlive this object.
// Threading: the node's reactor.
// Errors:    IoStatus::fenced (another epoch holds the drive: fenced_by() names it), io_error and media_error (the target's
//            words), invalid (range), cancelled (fail_all, close). A lost path is no error.
#include <memory>
#include <string>

#include "block/block_device.h"
#include "nvme/remote_node.h"

namespace zpair::nvme {

class RemoteDrive final : public block::BlockDevice {
 public:
  ~RemoteDrive() override;  // asserts that close() ran

  block::Geometry geometry() const override;
  std::string durable_id() const override;
  Verifier verifier() const override;  // the newest seen, in a completion or a hello
  void submit(block::Request& request) override;
  block::Task<void> close() override;  // with no path up: call fail_all() first, or it waits

  std::uint32_t nsid() const;
  block::Task<Result<Hello>> hello(Deadline deadline);
  // Rule 5: registers this host with key `epoch` and acquires by compare with `expected_former` (0: never fenced); returns
  // after the target stored it and drained every other host. From then on the drive keeps itself fenced at this epoch
  // over restarts of the target. Errors: fenced (another key or another host; fenced_by() names the epoch), stale_epoch (the
  // target has stored a higher one), refused (its fence file is unreadable), timed_out (the outcome is unknown).
  block::Task<Result<Verifier>> fence(Epoch epoch, Epoch expected_former, Deadline deadline);
  // Stores the record's (epoch, revision, digest) in the leg's fence file at the target. Errors: fenced, stale_epoch, timed_out.
  block::Task<Result<void>> store_record(Epoch epoch, Revision rev, std::uint64_t digest, Deadline deadline);

  Epoch fenced_by() const;                // the epoch that the last conflict named; 0: none
  Nanoseconds oldest_request_ns() const;  // when the oldest request in flight was submitted; 0: none
  // The brain took the leg off the record: completes all requests, held or in flight, with `cancelled` (soon: not inside
  // this call, and not before the kernel let go of their buffers), and all that are submitted from now on.
  void fail_all();
  // After fail_all: waits until nothing of the former requests may be in flight at the target, then serves again.
  block::Task<Result<void>> rejoin(Deadline deadline);
  // Rule 8: true when no command to this drive over a former connection may still be in flight at the target.
  bool quiesced() const;
  block::Task<bool> wait_quiesced(Deadline deadline);

  struct State;
  explicit RemoteDrive(std::unique_ptr<State> state);  // by RemoteNode only

 private:
  std::unique_ptr<State> state_;
};

}  // namespace zpair::nvme
