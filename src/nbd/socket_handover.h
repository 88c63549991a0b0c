#pragma once
// Passes sockets from one process to another over a Unix socket (SCM_RIGHTS), each with a label.
// Ownership: send_sockets() duplicates: the sender keeps its descriptors. What receive_sockets() returns is the caller's.
// Threading: any thread; both calls block until done or the deadline (the messages are tiny; the peer is a child or a
//            parent on the same machine). In a reactor thread use them with a peer that is known to be there.
// Errors:    io, timed_out, invalid (a message that is none of ours, or cut short).
// Source:    unix(7), cmsg(3).
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/unique_fd.h"

namespace zpair::nbd {

struct SocketToSend {
  std::string label;  // e.g. the volume, POOL/VOLUME; at most 1000 bytes
  int fd = -1;
};

struct ReceivedSocket {
  std::string label;
  UniqueFd fd;
};

// One batch; an empty one is fine. `over` is a connected Unix stream socket.
Result<void> send_sockets(int over, std::span<const SocketToSend> sockets, Deadline deadline);
Result<std::vector<ReceivedSocket>> receive_sockets(int over, Deadline deadline);

// A second descriptor of the same socket, e.g. to keep one in a Relay and one to hand over.
Result<UniqueFd> duplicate(int fd);

}  // namespace zpair::nbd
