// A connection of the target: bytes to commands and back. One connection is one queue (admin or I/O).
#include "base/log.h"
#include "nvme/target_internal.h"

namespace zpair::nvme {

namespace {
constexpr std::int64_t greeting_timeout_ms = 5000;  // from accept to Connect
constexpr std::size_t admin_data_bytes = 8192;      // in-capsule, admin and Connect
}  // namespace

Connection::Connection(Target::State& target, std::unique_ptr<block::Stream> stream)
    : target_(target), stream_(std::move(stream)), reader_(*stream_, Side::controller), send_queue_(*stream_) {}

block::Task<void> Connection::run() {
  block::Reactor& reactor = block::Reactor::current();
  greeting_timer_ = reactor.call_at(Deadline::in_ms(greeting_timeout_ms).at_ns, [this] {
    greeting_timer_ = 0;
    end();
  });
  auto greeted = co_await greet();
  if (greeted) {
    sender_.spawn(send_queue_.run());
    co_await read_all();
  }
  end();
  if (greeting_timer_ != 0) reactor.cancel_timer(greeting_timer_);
  co_await sender_.close();
  co_await tasks_.close();
  while (at_device_count_ > 0) {
    device_changed_.reset();
    co_await device_changed_.wait();
  }
}

void Connection::end() {
  if (ended_) return;
  ended_ = true;
  send_queue_.close();
  stream_->shutdown();
}

block::Task<Result<void>> Connection::greet() {
  PduReader::Found found;
  while ((found = reader_.parse(Digests{})) == PduReader::Found::need_more) {
    ZP_CO_CHECK(co_await reader_.fill());
  }
  if (found == PduReader::Found::bad || reader_.header().type != PduType::ic_req) {
    PduFault fault =
        found == PduReader::Found::bad ? reader_.fault() : PduFault{FatalError::sequence, 0, "no ICReq first"};
    fail_connection(fault);
    co_return fail(ErrorCode::invalid, "{}", fault.what);
  }
  auto request = reader_.pdu<IcReq>();
  if (request.format != 0 || request.data_alignment != 0) {
    fail_connection(PduFault{FatalError::unsupported_parameter, 8, "an unknown PDU format or alignment"});
    co_return fail(ErrorCode::unsupported, "an unknown PDU format or alignment");
  }
  IcResp response{};
  response.header = PduHeader{PduType::ic_resp, 0, sizeof(IcResp), 0, sizeof(IcResp)};
  response.digests = request.digests & 3;
  response.max_h2c_data = target_.options.max_transfer_bytes;
  std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(&response), sizeof response);
  ZP_CO_CHECK(co_await stream_->write_all(bytes));
  digests_ = Digests{(request.digests & 1) != 0, (request.digests & 2) != 0};
  co_return Result<void>{};
}

block::Task<void> Connection::read_all() {
  while (!ended_) {
    PduReader::Found found = reader_.parse(digests_);
    if (found == PduReader::Found::need_more) {
      auto filled = co_await reader_.fill();
      if (!filled) co_return;
      continue;
    }
    if (found == PduReader::Found::bad) {
      fail_connection(reader_.fault());
      co_return;
    }
    Result<void> handled;
    switch (reader_.header().type) {
      case PduType::capsule_cmd: handled = co_await on_command(); break;
      case PduType::h2c_data: handled = co_await on_data(); break;
      case PduType::h2c_term_req:
        log_warning("nvme target: a host ended its connection: error {}", reader_.pdu<TermReq>().fatal_error);
        co_return;
      default: fail_connection(PduFault{FatalError::sequence, 0, "a PDU that does not belong here"}); co_return;
    }
    if (!handled) co_return;
  }
}

block::Task<Result<void>> Connection::on_command() {
  auto pdu = reader_.pdu<CapsuleCmd>();
  std::size_t data_bytes = reader_.data_bytes();
  auto refuse = [this](const PduFault& fault) {
    fail_connection(fault);
    return fail(ErrorCode::invalid, "{}", fault.what);
  };
  bool is_connect = pdu.command.opcode == admin_opcode::fabrics &&
                    static_cast<std::uint8_t>(pdu.command.nsid) == fabrics_type::connect;
  if (controller_ == nullptr && !is_connect) co_return refuse({FatalError::sequence, 0, "a command before Connect"});
  std::size_t limit = controller_ == nullptr || qid_ == 0 ? admin_data_bytes : target_.options.in_capsule_bytes;
  if (data_bytes > limit) co_return refuse({FatalError::data_limit_exceeded, 4, "more data in a capsule than allowed"});
  TargetCommand* command = take_slot();
  if (command == nullptr) co_return refuse({FatalError::sequence, 0, "more commands than the queue holds"});
  command->sqe = pdu.command;
  if (controller_ != nullptr) controller_->last_heard_ns = reader_.last_heard_ns();
  if (data_bytes > 0) {
    command->buffer = target_.buffers.take(data_bytes);
    command->part = iovec{command->buffer.data(), data_bytes};
    std::span<const iovec> into(&command->part, 1);
    bool intact = false;
    if (reader_.data_is_buffered()) {
      intact = reader_.take_data(into);
    } else {
      auto read = co_await reader_.read_data(into);
      if (!read) {
        throw_away(*command);
        co_return std::unexpected(read.error());
      }
      intact = *read;
    }
    if (!intact) {
      answer(*command, Status::transient_transport_error);
      co_return Result<void>{};
    }
    command->received_bytes = static_cast<std::uint32_t>(data_bytes);
  }
  dispatch(*command);
  co_return Result<void>{};
}

block::Task<Result<void>> Connection::on_data() {
  auto pdu = reader_.pdu<DataPdu>();
  TargetCommand* command = pdu.transfer_tag < slots_.size() ? slots_[pdu.transfer_tag].get() : nullptr;
  bool expected = command != nullptr && command->in_use && command->awaits_data && command->sqe.cid == pdu.cid;
  if (!expected) {
    fail_connection(PduFault{FatalError::sequence, 10, "data for a command that waits for none"});
    co_return fail(ErrorCode::invalid, "unexpected data");
  }
  bool in_range = pdu.offset_bytes == command->received_bytes && pdu.size_bytes == reader_.data_bytes() &&
                  pdu.size_bytes > 0 && pdu.size_bytes <= command->expected_bytes - command->received_bytes;
  if (!in_range) {
    fail_connection(PduFault{FatalError::data_out_of_range, 12, "data out of range"});
    co_return fail(ErrorCode::invalid, "data out of range");
  }
  iovec place{command->buffer.data() + command->received_bytes, pdu.size_bytes};
  auto intact = co_await reader_.read_data(std::span<const iovec>(&place, 1));
  if (!intact) co_return std::unexpected(intact.error());
  if (controller_ != nullptr) controller_->last_heard_ns = reader_.last_heard_ns();
  if (!*intact) {
    command->awaits_data = false;
    answer(*command, Status::transient_transport_error);
    co_return Result<void>{};
  }
  command->received_bytes += pdu.size_bytes;
  if (command->received_bytes < command->expected_bytes) co_return Result<void>{};
  command->awaits_data = false;
  submit(*command);
  co_return Result<void>{};
}

// A fatal transport error: says which, and ends the connection.
void Connection::fail_connection(const PduFault& fault) {
  log_warning("nvme target: ends a connection: {}", fault.what);
  std::vector<std::byte> bytes = termination(PduType::c2h_term_req, fault, reader_.raw_header());
  send_and_forget(*stream_, bytes);
  end();
}

TargetCommand* Connection::take_slot() {
  if (free_slots_.empty()) {
    // Twice the queue: a host may send its next command before the kernel told us that the last answer is out.
    if (slots_.size() >= 2u * queue_entries_ + 8u) return nullptr;
    slots_.push_back(std::make_unique<TargetCommand>());
    slots_.back()->slot = static_cast<std::uint16_t>(slots_.size() - 1);
    slots_.back()->connection = this;
    slots_.back()->r2t.command = slots_.back().get();
    free_slots_.push_back(slots_.back().get());
  }
  TargetCommand* command = free_slots_.back();
  free_slots_.pop_back();
  command->in_use = true;
  command->finished = false;
  command->awaits_data = false;
  command->expected_bytes = 0;
  command->received_bytes = 0;
  command->range_count = 0;
  command->next_range = 0;
  command->verifier = Verifier{};
  return command;
}

void Connection::release_if_idle(TargetCommand& command) {
  if (!command.in_use || !command.finished || command.on_its_way || command.r2t.on_its_way) return;
  command.in_use = false;
  command.buffer.reset();
  free_slots_.push_back(&command);
}

void Connection::throw_away(TargetCommand& command) {
  command.finished = true;
  release_if_idle(command);
}

void Connection::request_data(TargetCommand& command) {
  command.buffer = target_.buffers.take(command.expected_bytes);
  command.awaits_data = true;
  command.r2t.data = {};
  command.r2t.on_sent = [](Outgoing& out) {
    TargetCommand& owner = *static_cast<TargetCommand::ReadyToTransfer&>(out).command;
    owner.connection->release_if_idle(owner);
  };
  DataPdu pdu{};
  pdu.header.type = PduType::r2t;
  pdu.cid = command.sqe.cid;
  pdu.transfer_tag = command.slot;
  pdu.size_bytes = command.expected_bytes;
  command.r2t.set(pdu, digests_);
  send_queue_.push(command.r2t);
}

void Connection::answer(TargetCommand& command, Status status, std::uint64_t result) {
  command.finished = true;
  CapsuleResp response{};
  response.header.type = PduType::capsule_resp;
  sq_head_ = static_cast<std::uint16_t>((sq_head_ + 1) % queue_entries_);
  response.completion = Completion{result, sq_head_, qid_, command.sqe.cid, status_field_of(status)};
  command.data = {};
  command.on_sent = [](Outgoing& out) {
    auto& sent = static_cast<TargetCommand&>(out);
    sent.connection->release_if_idle(sent);
  };
  command.set(response, digests_);
  send_queue_.push(command);
}

// Answers with the first `size` bytes of the command's buffer. Without flow control the data's success flag stands for the
// response; else the response follows it.
void Connection::answer_with_data(TargetCommand& command, std::size_t size) {
  command.finished = true;
  command.part = iovec{command.buffer.data(), size};
  command.data = std::span<const iovec>(&command.part, 1);
  command.on_sent = [](Outgoing& out) {
    auto& sent = static_cast<TargetCommand&>(out);
    sent.connection->release_if_idle(sent);
  };
  DataPdu pdu{};
  pdu.header.type = PduType::c2h_data;
  pdu.header.flags = pdu_flag::last;
  if (no_flow_control_) pdu.header.flags |= pdu_flag::success;
  pdu.cid = command.sqe.cid;
  pdu.size_bytes = static_cast<std::uint32_t>(size);
  command.set(pdu, digests_);
  sq_head_ = static_cast<std::uint16_t>((sq_head_ + 1) % queue_entries_);
  if (!no_flow_control_) {
    CapsuleResp response{};
    response.completion =
        Completion{command.verifier.value, sq_head_, qid_, command.sqe.cid, status_field_of(Status::success)};
    command.append(response, digests_);
  }
  send_queue_.push(command);
}

void Connection::dispatch(TargetCommand& command) {
  if (command.sqe.opcode == admin_opcode::fabrics) {
    on_fabrics(command);
  } else if (qid_ == 0) {
    on_admin(command);
  } else {
    on_io(command);
  }
}

}  // namespace zpair::nvme
