#pragma once
// One client of a Server: handshake, then a reader and a writer side by side, many requests in flight at the device.
// Ownership: the server owns connections; one dies when its run() has returned. A Slot (request, buffer, reply) belongs
//            to the connection from the read of its header until its reply was sent or dropped.
// Threading: reactor thread only.
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "block/stream.h"
#include "nbd/buffer_pool.h"
#include "nbd/handshake.h"
#include "nbd/link.h"
#include "nbd/server.h"
#include "nbd/transmission.h"

namespace zpair::nbd {

struct Server::Export {
  ExportOptions options;
  ExportFacts facts;
  bool removing = false;
  std::uint64_t read_count = 0, write_count = 0, flush_count = 0, other_count = 0;
  std::uint64_t read_bytes = 0, written_bytes = 0;
  Nanoseconds client_lost_ns = 0;
};

class Connection {
 public:
  Connection(Server& server, std::unique_ptr<block::Stream> stream, ListenOptions options, std::uint64_t sequence);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  block::Task<void> run();
  // Takes no further request and answers nothing more; run() returns when the requests in flight have completed. Its
  // socket closes only then, so that its end tells the peer that nothing of it will land any more.
  void end();
  void recheck_reads();
  void wake();

  bool ending() const { return ending_; }
  bool peer_is_gone() const;
  std::uint32_t in_flight() const { return in_flight_; }
  std::uint32_t reads_held() const { return static_cast<std::uint32_t>(held_.size()); }
  Server::Export* export_served() const { return export_; }
  const std::string& volume_asked_for() const {
    return options_.volume;
  }  // by its socket or link; empty: its name says it
  const std::string& client() const { return handshake_.client; }
  Transport transport() const { return options_.transport; }

 private:
  struct Slot;

  // handshake (connection_handshake.cpp)
  class TimeBound;
  block::Task<bool> admit_link();
  block::Task<bool> negotiate();
  Directory directory() const;
  bool enter_export();
  void end_former_links(const LinkHeader& header);
  bool is_former_link(const Connection& other, const LinkHeader& header) const;
  block::Task<void> echo_probes();

  // transmission (connection.cpp)
  block::Task<void> read_requests();
  block::Task<bool> fill(std::size_t wanted);
  block::Task<bool> receive_payload(Slot& slot);
  block::Task<bool> skip_payload(std::uint32_t size);
  block::Task<void> wait_until_allowed(const WireRequest& request);
  block::Task<void> write_replies();
  bool older_of_my_name() const;
  bool someone_is_gone();
  bool is_mutating(const WireRequest& request) const;
  bool has_room(const WireRequest& request) const;
  Slot& take_slot(const WireRequest& asked, wire::Errno error);
  void free_slot(Slot& slot);
  void submit(Slot& slot);
  void completed(Slot& slot);
  void queue_reply(Slot& slot, wire::Errno error);
  void count(const Slot& slot);
  void drop_replies();

  Server& server_;
  std::unique_ptr<block::Stream> stream_;
  ListenOptions options_;
  std::uint64_t sequence_;     // the order of connecting
  std::uint64_t entered_ = 0;  // the order of choosing an export
  Handshake handshake_;
  std::optional<LinkHeader> link_;
  Server::Export* export_ = nullptr;

  std::vector<std::byte> received_;  // [taken_, filled_) is not looked at yet
  std::size_t taken_ = 0;
  std::size_t filled_ = 0;

  std::vector<std::unique_ptr<Slot>> slots_;
  std::vector<Slot*> free_slots_;
  std::deque<Slot*> replies_;
  std::vector<Slot*> held_;  // reads that wait for the promise (rule 6)
  std::uint32_t in_flight_ = 0;
  std::uint32_t slots_in_use_ = 0;  // in flight, held or waiting to be sent
  std::uint64_t bytes_in_use_ = 0;
  block::Signal changed_;
  block::TaskGroup tasks_;
  bool first_write_done_ = false;
  bool negotiating_ = false;
  bool ending_ = false;
  bool disconnected_ = false;  // the client said goodbye: what is left is answered
  bool writer_stops_ = false;
};

}  // namespace zpair::nbd
