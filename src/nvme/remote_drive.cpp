#include "nvme/remote_drive.h"

#include <algorithm>

#include "base/log.h"
#include "nvme/initiator_internal.h"

namespace zpair::nvme {

namespace {

constexpr std::int64_t recovery_pause_ms = 10;
constexpr std::uint64_t max_trim_bytes = 1ull
                                         << 30;  // one command, so that a slow trim does not look like a dead drive

template <class T>
std::vector<std::byte> bytes_of(const T& value) {
  std::vector<std::byte> bytes(sizeof value);
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

std::uint8_t opcode_of(block::Operation operation) {
  switch (operation) {
    case block::Operation::read: return io_opcode::read;
    case block::Operation::write: return io_opcode::write;
    case block::Operation::flush: return io_opcode::flush;
    case block::Operation::trim: return io_opcode::dataset_management;
    case block::Operation::write_zeroes: return io_opcode::write_zeroes;
    case block::Operation::extents: break;  // start() refuses it
  }
  return io_opcode::flush;
}

}  // namespace

RemoteDrive::RemoteDrive(std::unique_ptr<State> state) : state_(std::move(state)) {}
RemoteDrive::~RemoteDrive() { ZP_ASSERT(state_->mode == DriveState::Mode::closed, "a drive is closed before it ends"); }

block::Geometry RemoteDrive::geometry() const { return state_->geometry; }
std::string RemoteDrive::durable_id() const { return state_->durable_id; }
Verifier RemoteDrive::verifier() const { return state_->verifier; }
std::uint32_t RemoteDrive::nsid() const { return state_->nsid; }
Epoch RemoteDrive::fenced_by() const { return state_->fenced_by; }
Nanoseconds RemoteDrive::oldest_request_ns() const {
  return state_->oldest != nullptr ? state_->oldest->submitted_ns : 0;
}
void RemoteDrive::submit(block::Request& request) { state_->start(request); }
void RemoteDrive::fail_all() { state_->fail_all(); }

block::Task<Result<Hello>> RemoteDrive::hello(Deadline deadline) {
  auto hello = co_await state_->node->hello(state_->nsid, deadline);
  if (hello && !hello->fenced_elsewhere) state_->verifier = hello->verifier;
  co_return hello;
}

block::Task<Result<Verifier>> RemoteDrive::fence(Epoch epoch, Epoch expected_former, Deadline deadline) {
  co_return co_await state_->fence(epoch, expected_former, deadline);
}

block::Task<Result<void>> RemoteDrive::store_record(Epoch epoch, Revision rev, std::uint64_t digest,
                                                    Deadline deadline) {
  while (true) {
    ExchangeRequest request;
    request.sqe.opcode = io_opcode::store_record;
    request.sqe.nsid = state_->nsid;
    request.sqe.set_cdw10_11(epoch.value);
    request.sqe.set_cdw12_13(rev.value);
    request.sqe.set_cdw14_15(digest);
    ZP_CO_TRY(answer, co_await state_->node->run(NodeState::Kind::io, std::move(request), deadline));
    switch (answer.status()) {
      case Status::success: co_return Result<void>{};
      case Status::reservation_conflict:
        state_->fenced_by = Epoch{answer.completion.result};
        co_return fail(ErrorCode::fenced, "drive {} is fenced at epoch {}", state_->durable_id, state_->fenced_by);
      case Status::command_sequence_error:
        co_return fail(ErrorCode::stale_epoch, "drive {} has stored a newer record than epoch {} revision {}",
                       state_->durable_id, epoch, rev);
      case Status::closed:
      case Status::invalid_namespace: {  // the target restarted: fence again, and once more
        if (deadline.passed())
          co_return fail(ErrorCode::timed_out, "drive {} is closed at its target", state_->durable_id);
        if (state_->fence_epoch.value != 0) {
          auto fenced = co_await state_->fence(state_->fence_epoch, state_->fence_epoch, deadline);
          if (!fenced && fenced.error().code == ErrorCode::fenced) co_return std::unexpected(fenced.error());
        }
        co_await block::Reactor::current().after_ms(recovery_pause_ms);
        continue;
      }
      default:
        co_return fail(ErrorCode::io, "drive {} does not store the record (status {:#x})", state_->durable_id,
                       static_cast<unsigned>(answer.status()));
    }
  }
}

block::Task<void> RemoteDrive::close() {
  DriveState& state = *state_;
  while (state.oldest != nullptr) {
    state.changed.reset();
    co_await state.changed.wait();
  }
  while (state.node->early_posted) co_await block::Reactor::current().yield();  // on_done of what fail_all completed
  state.mode = DriveState::Mode::closed;
  state.stop_recovery.set();
  co_await state.tasks.close();
  std::erase(state.node->drives, &state);
}

bool RemoteDrive::quiesced() const { return state_->node->quiesced(state_->nsid); }

block::Task<bool> RemoteDrive::wait_quiesced(Deadline deadline) {
  while (!quiesced()) {
    state_->node->settled.reset();
    bool set = co_await block::wait_for(state_->node->settled, deadline);
    if (!set) co_return false;
  }
  co_return true;
}

block::Task<Result<void>> RemoteDrive::rejoin(Deadline deadline) {
  DriveState& state = *state_;
  NodeState& node = *state.node;
  ZP_ASSERT(state.mode == DriveState::Mode::failed, "a drive rejoins after fail_all");
  while (node.abandoned[state.nsid] > 0 || !node.quiesced(state.nsid) || state.oldest != nullptr) {
    // A command whose data the target still asks for will never be answered: only ending its controller settles it.
    for (auto& path : node.paths) {
      bool starved = false;
      for (auto& queue : path->io_queues()) {
        queue->each([&](QueueCommand& command) { starved = starved || command.starved; });
      }
      if (starved && path->up()) path->kill("to quiesce the commands of a failed leg");
    }
    if (deadline.passed())
      co_return fail(ErrorCode::timed_out, "drive {}: former commands are not quiesced yet", state.durable_id);
    node.settled.reset();
    Deadline soon = Deadline::in_ms(recovery_pause_ms);
    soon.at_ns = std::min(soon.at_ns, deadline.at_ns);
    co_await block::wait_for(node.settled, soon);
  }
  state.mode = DriveState::Mode::serving;
  co_return Result<void>{};
}

// --- requests -------------------------------------------------------------------------------------------------------

void DriveState::link(RemoteRequest& owner) {
  owner.previous = newest;
  owner.next = nullptr;
  (newest != nullptr ? newest->next : oldest) = &owner;
  newest = &owner;
}

void DriveState::unlink(RemoteRequest& owner) {
  (owner.previous != nullptr ? owner.previous->next : oldest) = owner.next;
  (owner.next != nullptr ? owner.next->previous : newest) = owner.previous;
}

void DriveState::start(block::Request& request) {
  ZP_ASSERT(mode != Mode::closed, "nothing is submitted to a closed drive");
  if (mode == Mode::failed) return node->complete_later(request, block::IoStatus::cancelled, verifier);
  bool is_flush = request.operation == block::Operation::flush;
  bool aligned =
      request.offset_bytes % geometry.block_size_bytes == 0 && request.size_bytes % geometry.block_size_bytes == 0;
  bool in_range =
      request.offset_bytes <= geometry.size_bytes && request.size_bytes <= geometry.size_bytes - request.offset_bytes;
  bool has_data = request.operation == block::Operation::read || request.operation == block::Operation::write;
  bool known = request.operation != block::Operation::extents;
  bool sized = is_flush || (request.size_bytes > 0 && (!has_data || size_of(request.buffers) == request.size_bytes));
  if (!is_flush && !(aligned && in_range && sized && known))
    return node->complete_later(request, block::IoStatus::invalid, verifier);

  RemoteRequest& owner = node->take_request();
  owner.request = &request;
  owner.drive = this;
  owner.submitted_ns = boot_time_ns();
  link(owner);
  split(owner);
}

void DriveState::split(RemoteRequest& owner) {
  const block::Request& request = *owner.request;
  bool has_data = request.operation == block::Operation::read || request.operation == block::Operation::write;
  std::uint64_t largest = 0;
  switch (request.operation) {
    case block::Operation::read:
    case block::Operation::write: largest = node->max_transfer_bytes(); break;
    case block::Operation::write_zeroes: largest = max_blocks_a_command * geometry.block_size_bytes; break;
    case block::Operation::trim: largest = max_trim_bytes; break;
    case block::Operation::flush:
    case block::Operation::extents: break;
  }
  std::uint64_t at = 0;
  std::vector<IoCommand*> commands;
  IoCommand* only = nullptr;
  do {
    std::uint64_t size = std::min(request.size_bytes - at, largest);
    IoCommand& command = node->take_command(*this, owner);
    command.sqe.opcode = opcode_of(request.operation);
    std::uint64_t block = (request.offset_bytes + at) / geometry.block_size_bytes;
    std::uint64_t blocks = size / geometry.block_size_bytes;
    if (request.operation == block::Operation::trim) {
      command.range = DsmRange{0, static_cast<std::uint32_t>(blocks), block};
      command.range_part = iovec{&command.range, sizeof command.range};
      command.to_target = std::span<const iovec>(&command.range_part, 1);
      command.sqe.cdw11 = dsm_deallocate;
    } else if (request.operation != block::Operation::flush) {
      command.sqe.set_cdw10_11(block);
      command.sqe.cdw12 = static_cast<std::uint32_t>(blocks - 1) | (request.durable ? fua : 0);
    }
    if (has_data) {
      std::span<const iovec> parts = request.buffers;
      if (size != request.size_bytes) {
        command.parts = slice(request.buffers, at, size);
        parts = command.parts;
      }
      (request.operation == block::Operation::read ? command.from_target : command.to_target) = parts;
    }
    ++owner.open_count;
    ++owner.command_count;
    at += size;
    if (at == request.size_bytes && only == nullptr && commands.empty()) {
      only = &command;
    } else {
      commands.push_back(&command);
    }
  } while (at < request.size_bytes);
  auto put = [this](IoCommand& command) {
    if (recovering) {
      held.push_back(&command);
    } else {
      node->send(command);
    }
  };
  if (only != nullptr) put(*only);
  for (IoCommand* command : commands) put(*command);
}

void DriveState::done(IoCommand& command, block::IoStatus status, Verifier seen) {
  RemoteRequest& owner = *command.owner;
  // A split request whose parts saw different verifiers has none: 0 is unlike any that a flush will show (rule 2).
  bool first = owner.open_count == owner.command_count;
  owner.verifier = first || owner.verifier == seen ? seen : Verifier{0};
  node->free_command(command);
  if (status != block::IoStatus::ok && owner.status == block::IoStatus::ok) owner.status = status;
  if (status == block::IoStatus::fenced) owner.status = status;
  if (--owner.open_count == 0) finish(owner);
}

void DriveState::finish(RemoteRequest& owner) {
  unlink(owner);
  block::Request& request = *owner.request;
  request.status = owner.status;
  request.verifier = owner.verifier;
  node->free_requests.push_back(&owner);
  if (!changed.is_set()) changed.set();
  request.on_done(request);
}

// --- a target that is closed, or has the namespace not yet -----------------------------------------------------------

void DriveState::hold(IoCommand& command) {
  if (mode != Mode::serving) return done(command, block::IoStatus::cancelled, verifier);
  held.push_back(&command);
  if (recovering) return;
  recovering = true;
  tasks.spawn(recover());
}

void DriveState::let_held_go() {
  std::deque<IoCommand*> ready;
  ready.swap(held);
  for (IoCommand* command : ready) node->waiting.push_back(command);
  node->pump();
}

// Until the target serves this drive to us again, or says that somebody else has it.
block::Task<void> DriveState::recover() {
  while (mode == Mode::serving) {
    auto hello = co_await node->hello(nsid, Deadline::in_ms(1000));
    if (mode != Mode::serving) break;
    if (hello && hello->drive != durable_id && !hello->fenced_elsewhere) {
      log_error("namespace {} is drive {} now, not {}: its commands stay held", nsid, hello->drive, durable_id);
    } else if (hello && hello->fenced_elsewhere) {
      break;  // the held commands are answered with the conflict when they are sent again
    } else if (hello) {
      bool may_serve = true;
      if (hello->closed && fence_epoch.value != 0) {
        auto fenced = co_await fence(fence_epoch, fence_epoch, Deadline::in_ms(5000));
        may_serve = fenced || fenced.error().code == ErrorCode::fenced || fenced.error().code == ErrorCode::stale_epoch;
      }
      if (may_serve && !hello->unreadable) break;
    }
    bool stopping = co_await block::wait_for(stop_recovery, Deadline::in_ms(recovery_pause_ms));
    if (stopping) break;
  }
  recovering = false;
  if (mode == Mode::serving) let_held_go();
}

block::Task<Result<Verifier>> DriveState::fence(Epoch epoch, Epoch expected_former, Deadline deadline) {
  // Sent again on another path without quiescing: each of the two commands is a compare-and-swap at one epoch for one host.
  ExchangeRequest registration;
  registration.sqe.opcode = io_opcode::reservation_register;
  registration.sqe.nsid = nsid;
  registration.sqe.cdw10 = reservation::register_key | reservation::ignore_existing_key | reservation::persist;
  registration.data = bytes_of(RegisterData{0, epoch.value});
  ExchangeRequest acquisition;
  acquisition.sqe.opcode = io_opcode::reservation_acquire;
  acquisition.sqe.nsid = nsid;
  std::uint32_t action = expected_former.value == 0 ? reservation::acquire : reservation::preempt_and_abort;
  acquisition.sqe.cdw10 = action | reservation::write_exclusive << reservation::type_shift;
  acquisition.data = bytes_of(AcquireData{epoch.value, expected_former.value});

  ZP_CO_TRY(registered, co_await node->run(NodeState::Kind::io, std::move(registration), deadline));
  ExchangeAnswer answer = registered;
  if (registered.status() == Status::success) {
    ZP_CO_TRY(acquired, co_await node->run(NodeState::Kind::io, std::move(acquisition), deadline));
    answer = acquired;
  }
  switch (answer.status()) {
    case Status::success:
      fence_epoch = std::max(fence_epoch, epoch);
      verifier = Verifier{answer.completion.result};
      co_return verifier;
    case Status::reservation_conflict: {
      fenced_by = Epoch{answer.completion.result};
      ErrorCode code = fenced_by > epoch ? ErrorCode::stale_epoch : ErrorCode::fenced;
      co_return fail(code, "drive {} is fenced at epoch {}, not at {} as expected: it cannot be fenced at {}",
                     durable_id, fenced_by, expected_former, epoch);
    }
    case Status::closed:
      co_return fail(ErrorCode::refused, "drive {} stays closed: its fence file at the target is unreadable",
                     durable_id);
    case Status::invalid_namespace:
      co_return fail(ErrorCode::not_found, "the target does not export drive {} (namespace {})", durable_id, nsid);
    default:
      co_return fail(ErrorCode::io, "drive {} cannot be fenced (status {:#x})", durable_id,
                     static_cast<unsigned>(answer.status()));
  }
}

// --- off the record -------------------------------------------------------------------------------------------------

void DriveState::fail_all() {
  if (mode != Mode::serving) return;
  mode = Mode::failed;
  stop_recovery.set();
  stop_recovery.reset();
  auto ours = [this](IoCommand* command) { return command->owner != nullptr && command->owner->drive == this; };
  // The command is done with (`free_command` or the queue keeps it); the request completes with its last command.
  auto give_up = [this](RemoteRequest& owner) {
    owner.status = block::IoStatus::cancelled;
    if (--owner.open_count > 0) return;
    unlink(owner);
    node->complete_later(*owner.request, block::IoStatus::cancelled, verifier);
    node->free_requests.push_back(&owner);
    if (!changed.is_set()) changed.set();
  };
  auto drop = [&](std::deque<IoCommand*>& list) {
    std::deque<IoCommand*> kept;
    for (IoCommand* command : list) {
      if (!ours(command)) {
        kept.push_back(command);
        continue;
      }
      RemoteRequest& owner = *command->owner;
      node->free_command(*command);
      give_up(owner);
    }
    list.swap(kept);
  };
  drop(node->waiting);
  drop(held);
  for (auto& former : node->quarantine) drop(former->commands);
  for (auto& path : node->paths) {
    path->drop_lost(drop);
    for (auto& queue : path->io_queues()) {
      std::vector<IoCommand*> mine;
      queue->each([&](QueueCommand& command) {
        bool is_io = command.sqe.nsid == nsid && command.on_lost != nullptr && command.keeper == nullptr;
        if (is_io && ours(static_cast<IoCommand*>(&command))) mine.push_back(static_cast<IoCommand*>(&command));
      });
      for (IoCommand* command : mine) {
        if (command->answered) continue;  // its on_result comes by itself
        ++node->abandoned[nsid];
        command->on_let_go = [](QueueCommand& let_go) {
          auto& command = static_cast<IoCommand&>(let_go);
          RemoteRequest& owner = *command.owner;
          DriveState& drive = *owner.drive;
          command.owner = nullptr;
          owner.status = block::IoStatus::cancelled;
          if (--owner.open_count > 0) return;
          drive.unlink(owner);
          drive.node->complete_later(*owner.request, block::IoStatus::cancelled, drive.verifier);
          drive.node->free_requests.push_back(&owner);
          if (!drive.changed.is_set()) drive.changed.set();
        };
        queue->abandon(*command);
      }
    }
  }
}

}  // namespace zpair::nvme
