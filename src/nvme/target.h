#pragma once
// Our NVMe/TCP target: one NVM subsystem a node, one namespace a registered drive, several addresses (paths).
//
// What a stock target does not do, and the rules of zero RPO ask for (docs/wire.md has the bytes):
// - A namespace with a fence file starts closed: no write-class command (write, flush, trim, write-zeroes) is let in until
//   a reservation at an epoch at least as high as any that the file holds (rule 5). Afterwards only the host that holds it
//   writes; any other gets Reservation Conflict, whose completion carries the current epoch.
// - An acquire is a compare-and-swap on the former key, stored durably before it counts, and answered only when no
//   write-class command of any other host is in flight at the device.
// - Every completion carries the device's verifier in Dwords 0 and 1 (rule 2).
// - Cross-Controller Reset ends another controller of the same host and is answered when none of its commands is in
//   flight. A controller or connection, once ended, stays ended: its bytes may arrive later, they are thrown away.
//
// Ownership: devices and fence files stay the caller's and must live until remove_namespace() (or close()) has returned.
// Threading: one reactor, the one current at the first listen().
// Errors:    listen: invalid, io. What goes wrong on a connection ends that connection, never the target.
// Source:    NVMe Base 2.0 and 2.3 (Cross-Controller Reset, TP8028), NVM Command Set 1.0, TCP Transport 1.0.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/ids.h"
#include "block/block_device.h"
#include "block/stream.h"
#include "block/task.h"
#include "fence/fence_file.h"

namespace zpair::nvme {

struct TargetOptions {
  std::string subsystem_nqn;                       // nqn.2026-01.io.zpair:node-a
  std::uint16_t max_io_queues = 8;                 // a controller
  std::uint16_t queue_entries = 128;               // commands in flight a queue
  std::uint32_t in_capsule_bytes = 64 * 1024;      // a write up to this size travels inside its command
  std::uint32_t max_transfer_bytes = 1024 * 1024;  // MDTS
  std::vector<std::string> allowed_peers;          // numeric addresses; empty: anyone
};

struct TargetCounts {
  std::uint64_t connections = 0;  // open now
  std::uint64_t controllers = 0;  // not ended
  std::uint64_t commands = 0;     // I/O commands ever completed
  std::uint64_t conflicts = 0;    // Reservation Conflict answers ever
  std::uint64_t resets = 0;       // Cross-Controller Resets ever
};

class Target {
 public:
  explicit Target(TargetOptions options);
  ~Target();  // asserts that close() ran, if it ever listened
  Target(const Target&) = delete;
  Target& operator=(const Target&) = delete;

  // One path; several may be open. Returns the address with the port that the kernel chose.
  Result<block::Endpoint> listen(block::Endpoint at);

  // Exports `device` under `nsid` (1 …), closed until it is fenced. Takes the place of fenced_elsewhere(nsid).
  void add_namespace(std::uint32_t nsid, Uuid uuid, block::BlockDevice& device, fence::FenceFile& fence_file);
  // Without a fence: every host may write (volumes).
  void add_open_namespace(std::uint32_t nsid, Uuid uuid, block::BlockDevice& device);
  // Lets no new command in, waits for those in flight; then the device may be closed. Initiators hold what they send
  // meanwhile (Invalid Namespace). Unknown nsid: nothing.
  block::Task<void> remove_namespace(std::uint32_t nsid);
  // The node's own pool process has the drive at `epoch`: as remove_namespace, and from the first moment on every host is
  // answered Reservation Conflict with this epoch, reads too. Also for an nsid that was never added: then say which drive
  // it is, so that a host that looks for it by its durable id learns that it is fenced.
  block::Task<void> set_fenced_elsewhere(std::uint32_t nsid, Epoch epoch, std::string drive = {});

  TargetCounts counts() const;
  // Ends all controllers and connections, waits for every command in flight.
  block::Task<void> close();

  struct State;  // target_internal.h

 private:
  std::unique_ptr<State> state_;
};

}  // namespace zpair::nvme
