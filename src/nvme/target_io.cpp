// I/O commands at the target: admission, the device, reservations. Rules 2 and 5.
#include <algorithm>

#include "base/log.h"
#include "nvme/target_internal.h"

namespace zpair::nvme {

namespace {

Status status_of(block::IoStatus status, std::uint8_t opcode) {
  switch (status) {
    case block::IoStatus::ok: return Status::success;
    case block::IoStatus::media_error: return Status::unrecovered_read_error;
    case block::IoStatus::no_space: return Status::capacity_exceeded;
    case block::IoStatus::invalid: return Status::lba_out_of_range;
    case block::IoStatus::fenced: return Status::reservation_conflict;
    case block::IoStatus::cancelled: return Status::namespace_not_ready;
    case block::IoStatus::io_error: break;
  }
  return opcode == io_opcode::read ? Status::internal_error : Status::write_fault;
}

std::uint64_t block_count(const Command& sqe) { return (sqe.cdw12 & 0xffff) + std::uint64_t{1}; }

}  // namespace

bool is_write_class(std::uint8_t opcode) {
  switch (opcode) {
    case io_opcode::flush:
    case io_opcode::write:
    case io_opcode::write_zeroes:
    case io_opcode::dataset_management: return true;
    default: return false;
  }
}

bool Namespace::has_older_writes(const Uuid& than_host) const {
  for (TargetCommand* command = at_device; command != nullptr; command = command->next_at_device) {
    bool other = command->connection->controller_of()->host_id != than_host;
    if (other && is_write_class(command->sqe.opcode)) return true;
  }
  return false;
}

bool Namespace::has_commands_of(const Controller& controller) const {
  for (TargetCommand* command = at_device; command != nullptr; command = command->next_at_device) {
    if (command->connection->controller_of() == &controller) return true;
  }
  return false;
}

// How many bytes the host sends with this command.
std::uint32_t Connection::host_data_bytes(const Command& sqe, Status& status) {
  status = Status::success;
  switch (sqe.opcode) {
    case io_opcode::write: {
      Namespace* there = target_.find(sqe.nsid);
      std::uint64_t size = block_count(sqe) * (there != nullptr ? there->block_bytes : 4096);
      if (size <= target_.options.max_transfer_bytes) return static_cast<std::uint32_t>(size);
      status = Status::invalid_field;
      return 0;
    }
    case io_opcode::dataset_management: return ((sqe.cdw10 & 0xff) + 1) * sizeof(DsmRange);
    case io_opcode::reservation_register:
    case io_opcode::reservation_acquire: return sizeof(RegisterData);
    case io_opcode::reservation_release: return sizeof(std::uint64_t);
    default: return 0;
  }
}

std::uint64_t Connection::conflict_result(const Namespace* there) const {
  if (there->state == Namespace::State::elsewhere) return there->elsewhere_epoch.value;
  return there->reservations.epoch().value;
}

// May this command go to the device now?
Status Connection::admit(Namespace* there, const Command& sqe) const {
  if (there == nullptr || there->state == Namespace::State::absent) return Status::invalid_namespace;
  if (there->state == Namespace::State::elsewhere) return Status::reservation_conflict;
  if (is_write_class(sqe.opcode)) return there->reservations.may_write(controller_->host_id);
  return Status::success;
}

// A command has arrived, with its data if that travelled in the capsule.
void Connection::on_io(TargetCommand& command) {
  if (command.sqe.opcode == io_opcode::ping) return answer(command, Status::success);
  Status status;
  command.expected_bytes = host_data_bytes(command.sqe, status);
  Namespace* there = target_.find(command.sqe.nsid);
  if (status == Status::success) status = admit(there, command.sqe);
  if (status == Status::success && command.received_bytes != command.expected_bytes && command.received_bytes != 0) {
    status = Status::data_sgl_length_invalid;
  }
  if (status != Status::success) {
    if (status == Status::reservation_conflict) ++target_.counts.conflicts;
    return answer(command, status, status == Status::reservation_conflict ? conflict_result(there) : 0);
  }
  if (command.expected_bytes > command.received_bytes) return request_data(command);
  submit(command);
}

// All data is here. From the admission to the device there is no wait: what a fence finds not at the device never gets there.
void Connection::submit(TargetCommand& command) {
  if (ended_ || controller_->ended) return throw_away(command);
  Namespace* there = target_.find(command.sqe.nsid);
  Status status = admit(there, command.sqe);
  if (status != Status::success) {
    if (status == Status::reservation_conflict) ++target_.counts.conflicts;
    return answer(command, status, status == Status::reservation_conflict ? conflict_result(there) : 0);
  }
  const Command& sqe = command.sqe;
  const std::uint32_t block_bytes = there->block_bytes;
  const block::Geometry geometry = there->device->geometry();
  bool ranged =
      sqe.opcode == io_opcode::read || sqe.opcode == io_opcode::write || sqe.opcode == io_opcode::write_zeroes;
  if (ranged) {
    std::uint64_t blocks = geometry.size_bytes / block_bytes;
    if (sqe.cdw10_11() > blocks || block_count(sqe) > blocks - sqe.cdw10_11())
      return answer(command, Status::lba_out_of_range);
  }
  command.durable = ranged && (sqe.cdw12 & fua) != 0;
  command.offset_bytes = ranged ? sqe.cdw10_11() * block_bytes : 0;
  command.size_bytes = ranged ? block_count(sqe) * block_bytes : 0;
  command.buffers = {};
  command.status = block::IoStatus::ok;
  command.on_done = [](block::Request& request) {
    auto& done = static_cast<TargetCommand&>(request);
    done.connection->at_device_done(done);
  };
  switch (sqe.opcode) {
    case io_opcode::read:
      if (command.size_bytes > target_.options.max_transfer_bytes) return answer(command, Status::invalid_field);
      command.operation = block::Operation::read;
      command.buffer = target_.buffers.take(command.size_bytes);
      command.part = iovec{command.buffer.data(), command.size_bytes};
      command.buffers = std::span<const iovec>(&command.part, 1);
      break;
    case io_opcode::write:
      command.operation = block::Operation::write;
      command.part = iovec{command.buffer.data(), command.size_bytes};
      command.buffers = std::span<const iovec>(&command.part, 1);
      break;
    case io_opcode::flush: command.operation = block::Operation::flush; break;
    case io_opcode::write_zeroes: command.operation = block::Operation::write_zeroes; break;
    case io_opcode::dataset_management:
      if ((sqe.cdw11 & dsm_deallocate) == 0) return answer(command, Status::success, there->device->verifier().value);
      command.operation = block::Operation::trim;
      command.range_count = command.expected_bytes / sizeof(DsmRange);
      command.next_range = 0;
      break;
    case io_opcode::reservation_register:
    case io_opcode::reservation_acquire:
    case io_opcode::reservation_release:
    case io_opcode::reservation_report:
    case io_opcode::store_record: return on_reservation(command, *there);
    default: return answer(command, Status::invalid_opcode);
  }
  there->add(command);
  ++at_device_count_;
  ++controller_->busy_count;
  if (command.operation == block::Operation::trim) {
    Range range = submit_range(command);
    if (range == Range::submitted) return;
    finish_at_device(command);
    return answer(command, range == Range::none_left ? Status::success : Status::lba_out_of_range,
                  there->device->verifier().value);
  }
  there->device->submit(command);
}

// The next non-empty range of a Dataset Management command.
Connection::Range Connection::submit_range(TargetCommand& command) {
  block::BlockDevice& device = *command.name_space->device;
  std::uint64_t block_bytes = command.name_space->block_bytes;
  std::uint64_t blocks = device.geometry().size_bytes / block_bytes;
  while (command.next_range < command.range_count) {
    DsmRange range;
    std::memcpy(&range, command.buffer.data() + command.next_range * sizeof range, sizeof range);
    ++command.next_range;
    if (range.first_block > blocks || range.block_count > blocks - range.first_block) return Range::out_of_range;
    if (range.block_count == 0) continue;
    command.offset_bytes = range.first_block * block_bytes;
    command.size_bytes = range.block_count * block_bytes;
    device.submit(command);
    return Range::submitted;
  }
  return Range::none_left;
}

void Connection::finish_at_device(TargetCommand& command) {
  command.name_space->remove(command);
  if (--controller_->busy_count == 0 && !controller_->changed.is_set()) controller_->changed.set();
  if (--at_device_count_ == 0 && !device_changed_.is_set()) device_changed_.set();
}

void Connection::at_device_done(TargetCommand& command) {
  bool ranges = command.sqe.opcode == io_opcode::dataset_management && command.status == block::IoStatus::ok && !ended_;
  if (ranges) {
    Range range = submit_range(command);
    if (range == Range::submitted) return;
    if (range == Range::out_of_range) command.status = block::IoStatus::invalid;
  }
  finish_at_device(command);
  ++target_.counts.commands;
  if (ended_) return throw_away(command);
  if (command.status == block::IoStatus::ok && command.sqe.opcode == io_opcode::read) {
    return answer_with_data(command, command.size_bytes);
  }
  answer(command, status_of(command.status, command.sqe.opcode), command.verifier.value);
}

void Connection::on_reservation(TargetCommand& command, Namespace& there) {
  const Command& sqe = command.sqe;
  Reservations& reservations = there.reservations;
  const Uuid& host = controller_->host_id;
  auto reply = [this, &command, &there](Status status) {
    if (status == Status::reservation_conflict) ++target_.counts.conflicts;
    answer(command, status,
           status == Status::reservation_conflict ? conflict_result(&there) : there.device->verifier().value);
  };
  switch (sqe.opcode) {
    case io_opcode::reservation_register: {
      RegisterData data;
      std::memcpy(&data, command.buffer.data(), sizeof data);
      return reply(reservations.register_key(host, sqe.cdw10, data));
    }
    case io_opcode::reservation_acquire:
      ++controller_->busy_count;
      return tasks_.spawn(reservation_acquire(command, there));
    case io_opcode::reservation_release: {
      std::uint64_t key;
      std::memcpy(&key, command.buffer.data(), sizeof key);
      return reply(reservations.release(host, sqe.cdw10, key));
    }
    case io_opcode::store_record: ++controller_->busy_count; return tasks_.spawn(store_record(command, there));
    default: {
      if ((sqe.cdw11 & 1) == 0) return reply(Status::host_id_inconsistent);  // only the 128-bit form
      std::vector<std::byte> bytes = reservations.report();
      command.verifier = there.device->verifier();
      return answer_bytes(command, bytes, (std::size_t{sqe.cdw10} + 1) * 4);
    }
  }
}

block::Task<void> Connection::store_record(TargetCommand& command, Namespace& there) {
  const Command sqe = command.sqe;
  co_await target_.begin_store();
  Status status = Status::aborted_queue_deleted;
  if (!ended_) status = admit(&there, sqe);
  if (status == Status::success) {
    fence::StoredRecord record{Epoch{sqe.cdw10_11()}, Revision{sqe.cdw12_13()}, sqe.cdw14_15()};
    status = there.reservations.store_record(controller_->host_id, record);
  }
  co_await target_.end_store();
  if (--controller_->busy_count == 0 && !controller_->changed.is_set()) controller_->changed.set();
  if (status == Status::reservation_conflict) ++target_.counts.conflicts;
  std::uint64_t result = 0;
  if (status == Status::reservation_conflict) result = conflict_result(&there);
  if (status == Status::success && there.device != nullptr) result = there.device->verifier().value;
  answer(command, status, result);
}

// Rule 5: stored first; then no other host's write gets in; answered when none is in flight any more.
block::Task<void> Connection::reservation_acquire(TargetCommand& command, Namespace& there) {
  const Uuid host = controller_->host_id;
  AcquireData data;
  std::memcpy(&data, command.buffer.data(), sizeof data);
  co_await target_.begin_store();
  Status status = Status::aborted_queue_deleted;  // an ended controller changes nothing any more
  if (!ended_) status = admit(&there, command.sqe);
  if (status == Status::success) status = there.reservations.acquire(host, command.sqe.cdw10, data);
  co_await target_.end_store();
  if (status == Status::success) {
    co_await drain_older_writes(there, host);
    bool still = there.state == Namespace::State::serving && there.reservations.held_by(host);
    if (!still) status = Status::reservation_conflict;  // a newer epoch came while we drained
  }
  if (--controller_->busy_count == 0 && !controller_->changed.is_set()) controller_->changed.set();
  if (status == Status::reservation_conflict) ++target_.counts.conflicts;
  std::uint64_t result = 0;
  if (status == Status::reservation_conflict) result = conflict_result(&there);
  if (status == Status::success) result = there.device->verifier().value;
  answer(command, status, result);
}

}  // namespace zpair::nvme
