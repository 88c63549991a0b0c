#pragma once
// One queue of the initiator: one TCP connection, admin or I/O, with its commands in flight.
//
// A command is given back exactly once: by on_result when the target answered *and* the kernel let go of what it sent, or
// by on_lost after the queue ended without an answer. Until then its buffers are in use, unless it was abandoned and
// let_go() is true: then nothing of it will be read or written any more.
// Threading: reactor thread only.
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "block/reactor.h"
#include "block/stream.h"
#include "nvme/commands.h"
#include "nvme/pdu_io_internal.h"
#include "nvme/remote_node.h"

namespace zpair::nvme {

class InitiatorQueue;

struct QueueCommand : Outgoing {
  Command sqe{};
  std::span<const iovec> to_target;    // what the host sends
  std::span<const iovec> from_target;  // where the answer's data goes
  void (*on_result)(QueueCommand&, const Completion&) = nullptr;
  void (*on_lost)(QueueCommand&) = nullptr;
  void (*on_let_go)(QueueCommand&) = nullptr;  // once, after abandon(), when let_go() became true

  InitiatorQueue* queue = nullptr;  // while in flight
  std::shared_ptr<void> keeper;     // an Exchange keeps itself alive while in flight
  bool answered = false;
  bool abandoned = false;
  bool starved = false;  // abandoned, and the target waits for its data: never answered
  bool receiving = false;
  unsigned data_on_its_way = 0;
  std::size_t send_bytes = 0;  // the sizes of both, which outlive the caller's buffers
  std::size_t receive_bytes = 0;
  std::size_t received_bytes = 0;
  Completion completion{};

  bool let_go() const { return !on_its_way && !receiving && data_on_its_way == 0; }
};

// A command that a coroutine waits for: an admin command, a reservation, a log page.
struct Exchange : QueueCommand {
  std::vector<std::byte> data;
  iovec part{};
  block::Signal done;
  bool lost = false;
};

struct QueueOptions {
  std::string subsystem_nqn;
  Uuid host_id;
  bool header_digest = true;
  bool data_digest = true;
  std::uint16_t entries = 128;
  std::uint16_t qid = 0;
  std::uint16_t cntlid = any_controller;
  std::uint32_t keep_alive_ms = 5000;
  std::size_t in_capsule_bytes = 0;  // 0: admin
};

class InitiatorQueue {
 public:
  InitiatorQueue(QueueOptions options, block::Signal& dead, std::string& why);

  // Connects, greets, and does the Fabrics Connect; returns the controller id. Ends early when shut_down() is called.
  block::Task<Result<std::uint16_t>> open(const PathAddress& address, Deadline deadline);
  void shut_down(std::string_view why);  // sets `dead` with the reason, the first one stays
  // Waits until nothing of this queue is in use, and gives back what was not answered.
  block::Task<void> close();

  bool has_room() const { return open_ && outstanding_ + 2 < options_.entries; }  // one is kept for the ping
  std::size_t outstanding() const { return outstanding_; }
  void submit(QueueCommand& command);  // only when has_room()
  void abandon(QueueCommand& command);
  template <class Visit>
  void each(Visit visit) {
    for (QueueCommand* command : commands_) {
      if (command != nullptr) visit(*command);
    }
  }

  void ping(std::uint8_t opcode);  // nothing when one is open
  bool ping_open() const { return ping_.queue != nullptr; }
  Nanoseconds ping_sent_ns() const { return ping_sent_ns_; }
  Nanoseconds last_heard_ns() const { return reader_ ? reader_->last_heard_ns() : 0; }

 private:
  struct DataOut;
  block::Task<Result<void>> greet();
  block::Task<void> read_all();
  void on_response();
  block::Task<Result<void>> on_data();
  void on_ready_to_transfer();
  QueueCommand* find(std::uint16_t cid);
  void answer(QueueCommand& command, const Completion& completion);
  void settle(QueueCommand& command);  // gives it back, or tells that it is let go, if it may
  void give_back(QueueCommand& command);

  QueueOptions options_;
  block::Signal& dead_;
  std::string& why_;
  std::unique_ptr<block::Stream> stream_;
  std::unique_ptr<PduReader> reader_;
  std::unique_ptr<SendQueue> send_queue_;
  block::TaskGroup tasks_;
  Digests digests_;
  std::size_t max_data_out_bytes_ = 128 * 1024;
  bool open_ = false;
  bool shut_ = false;
  std::vector<QueueCommand*> commands_;  // by command id
  std::vector<std::uint16_t> free_cids_;
  std::size_t outstanding_ = 0;
  QueueCommand ping_;
  Nanoseconds ping_sent_ns_ = 0;
};

// Sends `command` with `data` and waits; on return `data` holds what came back (`answer_bytes` of it).
// unreachable: the queue ended first; timed_out: no answer yet, the outcome is unknown.
struct ExchangeRequest {
  Command sqe{};
  std::vector<std::byte> data;
  std::size_t answer_bytes = 0;
};
struct ExchangeAnswer {
  Completion completion{};
  std::vector<std::byte> data;
  Status status() const { return status_of_field(completion.status_field); }
};
block::Task<Result<ExchangeAnswer>> exchange(InitiatorQueue& queue, ExchangeRequest request, Deadline deadline);

}  // namespace zpair::nvme
