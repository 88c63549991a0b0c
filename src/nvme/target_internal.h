#pragma once
// The target's parts: namespaces, controllers, connections, commands. See target.h for what they promise.
//
// A command's life at the target:
//   received -> (R2T, data arrives) -> admitted -> at the device -> answered -> sent -> slot free
// "Admitted" and "handed to the device" are one step without a wait in between: only there is it asked whether the
// connection still stands, whose namespace it is now, and whether the host may write. So whatever is not yet at the
// device when a fence, a reset or a removal takes effect never gets there, and a drain has only to wait for the device.
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "block/reactor.h"
#include "nvme/buffer_pool.h"
#include "nvme/commands.h"
#include "nvme/pdu_io_internal.h"
#include "nvme/reservations.h"
#include "nvme/target.h"

namespace zpair::nvme {

class Connection;
struct Controller;
struct Namespace;

// A slot of a connection: one command from its arrival until its answer is sent.
struct TargetCommand : block::Request, Outgoing {
  Connection* connection = nullptr;
  std::uint16_t slot = 0;
  bool in_use = false;
  bool finished = false;  // answered, or thrown away: free as soon as nothing of it is sent
  bool awaits_data = false;
  Command sqe{};
  BufferPool::Buffer buffer;
  iovec part{};
  std::uint32_t expected_bytes = 0;  // from the host
  std::uint32_t received_bytes = 0;
  struct ReadyToTransfer : Outgoing {
    TargetCommand* command = nullptr;
  } r2t;
  std::uint32_t next_range = 0;  // Dataset Management
  std::uint32_t range_count = 0;
  Namespace* name_space = nullptr;  // while at the device
  TargetCommand* next_at_device = nullptr;
  TargetCommand* previous_at_device = nullptr;
};

struct Namespace {
  enum class State : std::uint8_t { absent, serving, elsewhere };
  std::uint32_t nsid = 0;
  State state = State::absent;
  Uuid uuid;
  block::BlockDevice* device = nullptr;
  std::string drive;
  std::uint32_t block_bytes = 4096;
  Reservations reservations;
  Epoch elsewhere_epoch;

  TargetCommand* at_device = nullptr;  // all commands at the device
  block::Signal changed;               // set whenever one of them came back

  void add(TargetCommand& command);
  void remove(TargetCommand& command);
  bool has_older_writes(const Uuid& than_host) const;  // write-class commands of any other host
  bool has_commands_of(const Controller& controller) const;
};

// One association: an admin queue and I/O queues of one host over one path.
struct Controller {
  std::uint16_t cntlid = 0;
  std::uint8_t uniquifier = 0;      // CIU
  std::uint64_t random_number = 0;  // CIRN
  Uuid host_id;
  std::uint32_t keep_alive_ms = 0;
  std::uint32_t configuration = 0;  // CC
  std::uint32_t status = 0;         // CSTS
  bool ended = false;               // for ever
  Nanoseconds last_heard_ns = 0;
  std::vector<Connection*> connections;
  std::size_t busy_count = 0;  // commands at devices, and reservation changes under way
  block::Signal changed;

  bool enabled() const { return (configuration & 1) != 0; }
};

struct Target::State {
  TargetOptions options;
  bool closing = false;
  std::vector<std::unique_ptr<block::Listener>> listeners;
  std::unordered_map<std::uint32_t, std::unique_ptr<Namespace>> namespaces;  // never erased: a state instead
  // Shared with the resets that wait for them: a controller may be forgotten while one looks at it.
  std::map<std::uint16_t, std::shared_ptr<Controller>> controllers;
  std::vector<std::unique_ptr<Connection>> connections;
  std::uint16_t last_cntlid = 0;
  BufferPool buffers;
  block::TaskGroup tasks;
  block::Signal stop;
  bool watching = false;
  TargetCounts counts;

  // One change of a fence file at a time, and a turn of the reactor after each: a dozen legs' fsyncs in a row must not
  // look like a dead path.
  bool storing = false;
  block::Signal stored;
  block::Task<void> begin_store();
  block::Task<void> end_store();

  block::Task<void> accept_all(block::Listener& listener);
  block::Task<void> serve(Connection& connection);
  block::Task<void> watch_keep_alives();
  bool peer_allowed(const block::Stream& stream) const;

  Namespace* find(std::uint32_t nsid);
  Namespace& make(std::uint32_t nsid);
  std::shared_ptr<Controller> new_controller(const Uuid& host, std::uint32_t keep_alive_ms);
  void end(Controller& controller, std::string_view why);
};

block::Task<void> wait_until_quiet(std::shared_ptr<Controller> controller);
block::Task<void> drain_older_writes(Namespace& name_space, Uuid than_host);
block::Task<void> drain(Namespace& name_space);

class Connection {
 public:
  Connection(Target::State& target, std::unique_ptr<block::Stream> stream);

  block::Task<void> run();  // until the connection ended and nothing of it is at a device
  void end();               // for ever: nothing that arrives from now on is looked at
  bool ended() const { return ended_; }
  std::uint16_t qid() const { return qid_; }
  const Controller* controller_of() const { return controller_.get(); }

  void at_device_done(TargetCommand& command);

 private:
  // target_queue.cpp: the byte side
  block::Task<Result<void>> greet();
  block::Task<void> read_all();
  block::Task<Result<void>> on_command();
  block::Task<Result<void>> on_data();
  void fail_connection(const PduFault& fault);
  TargetCommand* take_slot();
  void release_if_idle(TargetCommand& command);
  void request_data(TargetCommand& command);
  void answer(TargetCommand& command, Status status, std::uint64_t result = 0);
  void answer_with_data(TargetCommand& command, std::size_t size);
  void throw_away(TargetCommand& command);
  void dispatch(TargetCommand& command);

  // target_controller.cpp: fabrics and admin commands
  void on_fabrics(TargetCommand& command);
  void on_connect(TargetCommand& command);
  void on_property_get(TargetCommand& command);
  void on_property_set(TargetCommand& command);
  void on_admin(TargetCommand& command);
  void on_identify(TargetCommand& command);
  void on_log_page(TargetCommand& command);
  void on_set_features(TargetCommand& command);
  void on_get_features(TargetCommand& command);
  block::Task<void> reset_other(TargetCommand& command);
  void on_reset_progress(TargetCommand& command);
  std::shared_ptr<Controller> controller_named(const Command& sqe) const;
  void answer_bytes(TargetCommand& command, std::span<const std::byte> bytes, std::size_t wanted);

  // target_io.cpp: I/O commands
  std::uint32_t host_data_bytes(const Command& sqe, Status& status);
  void on_io(TargetCommand& command);
  void submit(TargetCommand& command);
  enum class Range : std::uint8_t { submitted, none_left, out_of_range };
  Range submit_range(TargetCommand& command);
  Status admit(Namespace* name_space, const Command& sqe) const;
  std::uint64_t conflict_result(const Namespace* name_space) const;
  void finish_at_device(TargetCommand& command);
  block::Task<void> reservation_acquire(TargetCommand& command, Namespace& name_space);
  block::Task<void> store_record(TargetCommand& command, Namespace& name_space);
  void on_reservation(TargetCommand& command, Namespace& name_space);

  friend struct Target::State;

  Target::State& target_;
  std::unique_ptr<block::Stream> stream_;
  PduReader reader_;
  SendQueue send_queue_;
  block::TaskGroup sender_;
  block::TaskGroup tasks_;  // resets and acquires
  Digests digests_;
  bool ended_ = false;
  bool greeted_ = false;
  bool no_flow_control_ = false;
  std::shared_ptr<Controller> controller_;  // shared with the target's map and waiting resets
  std::uint16_t qid_ = 0;
  std::uint16_t queue_entries_ = 32;
  std::uint16_t sq_head_ = 0;
  std::size_t at_device_count_ = 0;
  block::Signal device_changed_;
  std::vector<std::unique_ptr<TargetCommand>> slots_;
  std::vector<TargetCommand*> free_slots_;
  std::size_t async_event_count_ = 0;
  block::Reactor::TimerId greeting_timer_ = 0;
};

bool is_write_class(std::uint8_t opcode);

}  // namespace zpair::nvme
