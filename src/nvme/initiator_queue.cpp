#include <sys/socket.h>

#include <algorithm>

#include "base/log.h"
#include "nvme/initiator_queue_internal.h"

namespace zpair::nvme {

// One H2CData PDU on its way.
struct InitiatorQueue::DataOut : Outgoing {
  InitiatorQueue* queue = nullptr;
  QueueCommand* command = nullptr;
  std::vector<iovec> parts;
};

InitiatorQueue::InitiatorQueue(QueueOptions options, block::Signal& dead, std::string& why)
    : options_(std::move(options)), dead_(dead), why_(why) {
  commands_.resize(options_.entries);
  for (std::uint16_t cid = options_.entries; cid > 0; --cid) free_cids_.push_back(static_cast<std::uint16_t>(cid - 1));
}

void InitiatorQueue::shut_down(std::string_view why) {
  if (!dead_.is_set()) {
    why_ = why;
    dead_.set();
  }
  open_ = false;
  if (shut_) return;
  shut_ = true;
  if (send_queue_) send_queue_->close();
  if (stream_) stream_->shutdown();
}

block::Task<void> InitiatorQueue::close() {
  shut_down("closed");
  co_await tasks_.close();
  for (QueueCommand* command : commands_) {
    if (command == nullptr) continue;
    ZP_ASSERT(command->let_go(), "the reader and the sender have ended");
    ZP_ASSERT(!command->abandoned || command->on_let_go == nullptr,
              "an abandoned command's buffers were let go before");
    give_back(*command);
  }
  if (stream_) {
    // What the kernel has not sent yet is of no use any more: drop it, and the connection, at once.
    linger nothing{1, 0};
    ::setsockopt(stream_->fd(), SOL_SOCKET, SO_LINGER, &nothing, sizeof nothing);
  }
  send_queue_.reset();
  reader_.reset();
  stream_.reset();
}

block::Task<Result<std::uint16_t>> InitiatorQueue::open(const PathAddress& address, Deadline deadline) {
  auto stream = co_await block::Stream::connect(address.to, deadline, address.from);
  if (!stream) co_return std::unexpected(stream.error());
  stream_ = std::move(*stream);
  reader_ = std::make_unique<PduReader>(*stream_, Side::host);
  send_queue_ = std::make_unique<SendQueue>(*stream_);
  if (shut_) co_return fail(ErrorCode::cancelled, "closed");
  ZP_CO_CHECK(co_await greet());
  open_ = true;
  tasks_.spawn(send_queue_->run());
  tasks_.spawn(read_all());

  ExchangeRequest connect;
  connect.sqe.opcode = admin_opcode::fabrics;
  connect.sqe.nsid = fabrics_type::connect;
  ConnectParameters parameters{};
  parameters.qid = options_.qid;
  parameters.sq_size = static_cast<std::uint16_t>(options_.entries - 1);
  parameters.attributes = connect_no_flow_control;
  parameters.keep_alive_ms = options_.qid == 0 ? options_.keep_alive_ms : 0;
  std::memcpy(reinterpret_cast<std::byte*>(&connect.sqe) + 40, &parameters, sizeof parameters);
  ConnectData data{};
  std::memcpy(data.host_id, options_.host_id.bytes.data(), sizeof data.host_id);
  data.cntlid = options_.cntlid;
  std::string host_nqn = "nqn.2014-08.org.nvmexpress:uuid:" + options_.host_id.to_string();
  std::memcpy(data.subsystem_nqn, options_.subsystem_nqn.data(),
              std::min<std::size_t>(options_.subsystem_nqn.size(), 223));
  std::memcpy(data.host_nqn, host_nqn.data(), host_nqn.size());
  connect.data.resize(sizeof data);
  std::memcpy(connect.data.data(), &data, sizeof data);
  ZP_CO_TRY(answer, co_await exchange(*this, std::move(connect), deadline));
  if (answer.status() != Status::success) {
    co_return fail(ErrorCode::refused, "target {} refused the connection (status {:#x})", address.to.text,
                   static_cast<unsigned>(answer.status()));
  }
  co_return static_cast<std::uint16_t>(answer.completion.result);
}

block::Task<Result<void>> InitiatorQueue::greet() {
  IcReq request{};
  request.header = PduHeader{PduType::ic_req, 0, sizeof(IcReq), 0, sizeof(IcReq)};
  request.digests = static_cast<std::uint8_t>((options_.header_digest ? 1 : 0) | (options_.data_digest ? 2 : 0));
  std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(&request), sizeof request);
  ZP_CO_CHECK(co_await stream_->write_all(bytes));
  PduReader::Found found;
  while ((found = reader_->parse(Digests{})) == PduReader::Found::need_more) {
    ZP_CO_CHECK(co_await reader_->fill());
  }
  if (found == PduReader::Found::bad || reader_->header().type != PduType::ic_resp) {
    co_return fail(ErrorCode::invalid, "this is no NVMe/TCP target");
  }
  auto response = reader_->pdu<IcResp>();
  if (response.format != 0 || response.data_alignment != 0 || response.max_h2c_data < 4096) {
    co_return fail(ErrorCode::unsupported, "the target wants a PDU format or alignment that zpair does not speak");
  }
  digests_ = Digests{(response.digests & 1) != 0 && options_.header_digest,
                     (response.digests & 2) != 0 && options_.data_digest};
  max_data_out_bytes_ = std::min<std::size_t>(response.max_h2c_data, 1u << 20);
  co_return Result<void>{};
}

void InitiatorQueue::submit(QueueCommand& command) {
  ZP_ASSERT(open_ && !free_cids_.empty(), "a command is given to a queue that has room");
  ZP_ASSERT(command.queue == nullptr && !command.on_its_way, "a command is in flight once");
  command.queue = this;
  command.answered = command.abandoned = command.starved = false;
  command.received_bytes = 0;
  command.sqe.cid = free_cids_.back();
  free_cids_.pop_back();
  commands_[command.sqe.cid] = &command;
  ++outstanding_;

  command.send_bytes = size_of(command.to_target);
  command.receive_bytes = size_of(command.from_target);
  bool in_capsule =
      command.send_bytes > 0 && (options_.in_capsule_bytes == 0 || command.send_bytes <= options_.in_capsule_bytes);
  command.sqe.flags = command_uses_sgl;
  command.sqe.data = SglDescriptor{};
  command.sqe.data.size_bytes = static_cast<std::uint32_t>(command.send_bytes + command.receive_bytes);
  command.sqe.data.type = in_capsule ? sgl_in_capsule : sgl_transport;
  command.data = in_capsule ? command.to_target : std::span<const iovec>{};
  command.on_sent = [](Outgoing& out) {
    auto& sent = static_cast<QueueCommand&>(out);
    sent.queue->settle(sent);
  };
  CapsuleCmd pdu{};
  pdu.header.type = PduType::capsule_cmd;
  pdu.command = command.sqe;
  command.set(pdu, digests_);
  send_queue_->push(command);
}

void InitiatorQueue::abandon(QueueCommand& command) {
  if (command.abandoned || command.answered) return;  // answered: on_result comes as soon as it is let go
  command.abandoned = true;
  settle(command);
}

void InitiatorQueue::settle(QueueCommand& command) {
  if (!command.let_go()) return;
  if (command.abandoned && command.on_let_go != nullptr) {
    auto let_go = std::exchange(command.on_let_go, nullptr);
    let_go(command);
  }
  if (command.answered) give_back(command);
}

void InitiatorQueue::give_back(QueueCommand& command) {
  commands_[command.sqe.cid] = nullptr;
  free_cids_.push_back(command.sqe.cid);
  --outstanding_;
  command.queue = nullptr;
  auto keeper = std::move(command.keeper);
  if (command.answered) {
    if (command.on_result != nullptr) command.on_result(command, command.completion);
  } else if (command.on_lost != nullptr) {
    command.on_lost(command);
  }
}

void InitiatorQueue::answer(QueueCommand& command, const Completion& completion) {
  command.answered = true;
  command.completion = completion;
  settle(command);
}

QueueCommand* InitiatorQueue::find(std::uint16_t cid) {
  QueueCommand* command = cid < commands_.size() ? commands_[cid] : nullptr;
  return command != nullptr && !command->answered ? command : nullptr;
}

block::Task<void> InitiatorQueue::read_all() {
  while (!shut_) {
    PduReader::Found found = reader_->parse(digests_);
    if (found == PduReader::Found::need_more) {
      auto filled = co_await reader_->fill();
      if (!filled) {
        shut_down(filled.error().message);
        co_return;
      }
      continue;
    }
    if (found == PduReader::Found::bad) {
      send_and_forget(*stream_, termination(PduType::h2c_term_req, reader_->fault(), reader_->raw_header()));
      shut_down(reader_->fault().what);
      co_return;
    }
    switch (reader_->header().type) {
      case PduType::capsule_resp: on_response(); break;
      case PduType::r2t: on_ready_to_transfer(); break;
      case PduType::c2h_data: {
        auto handled = co_await on_data();
        if (!handled) shut_down(handled.error().message);
        break;
      }
      case PduType::c2h_term_req:
        shut_down(fmt::format("the target ended the connection: error {}", reader_->pdu<TermReq>().fatal_error));
        break;
      default: shut_down("the target sent a PDU that does not belong here");
    }
  }
}

void InitiatorQueue::on_response() {
  auto pdu = reader_->pdu<CapsuleResp>();
  QueueCommand* command = find(pdu.completion.cid);
  if (command == nullptr) return shut_down("the target answered a command that nobody sent");
  bool good = status_of_field(pdu.completion.status_field) == Status::success;
  bool complete = command->received_bytes == command->receive_bytes || command->abandoned;
  if (good && !complete) return shut_down("the target sent less data than was asked for");
  answer(*command, pdu.completion);
}

block::Task<Result<void>> InitiatorQueue::on_data() {
  auto pdu = reader_->pdu<DataPdu>();
  std::size_t size = reader_->data_bytes();
  QueueCommand* command = find(pdu.cid);
  if (command == nullptr) co_return fail(ErrorCode::invalid, "the target sent data that nobody asked for");
  std::size_t wanted = command->receive_bytes;
  bool fits =
      pdu.size_bytes == size && pdu.offset_bytes == command->received_bytes && size <= wanted - command->received_bytes;
  if (!fits) co_return fail(ErrorCode::invalid, "the target sent data out of range");
  bool whole = size == wanted;
  std::vector<iovec> part;
  if (!whole && !command->abandoned) part = slice(command->from_target, command->received_bytes, size);
  std::span<const iovec> into = whole ? command->from_target : std::span<const iovec>(part);
  if (command->abandoned) into = {};
  bool intact = false;
  if (reader_->data_is_buffered()) {
    intact = reader_->take_data(into);
  } else {
    command->receiving = true;
    auto read = co_await reader_->read_data(into);
    command->receiving = false;
    if (!read || !*read) {
      settle(*command);
      co_return fail(ErrorCode::io, "{}", read ? std::string("wrong data digest") : read.error().message);
    }
    intact = true;
  }
  if (!intact) co_return fail(ErrorCode::io, "wrong data digest");
  command->received_bytes += size;
  bool done = (pdu.header.flags & pdu_flag::success) != 0;
  if (done && command->received_bytes < wanted)
    co_return fail(ErrorCode::invalid, "the target sent less data than was asked for");
  if (done) {
    answer(*command, Completion{0, 0, options_.qid, pdu.cid, 0});
  } else {
    settle(*command);
  }
  co_return Result<void>{};
}

void InitiatorQueue::on_ready_to_transfer() {
  auto pdu = reader_->pdu<DataPdu>();
  QueueCommand* command = find(pdu.cid);
  if (command == nullptr) return shut_down("the target asked for the data of a command that nobody sent");
  std::size_t total = command->send_bytes;
  bool fits = pdu.size_bytes > 0 && pdu.offset_bytes <= total && pdu.size_bytes <= total - pdu.offset_bytes;
  if (!fits) return shut_down("the target asked for data out of range");
  if (command->abandoned) {
    command->starved = true;
    return;
  }
  for (std::size_t at = 0; at < pdu.size_bytes;) {
    std::size_t size = std::min<std::size_t>(pdu.size_bytes - at, max_data_out_bytes_);
    auto* out = new DataOut;  // deleted by on_sent, which always comes
    out->queue = this;
    out->command = command;
    out->parts = slice(command->to_target, pdu.offset_bytes + at, size);
    out->data = out->parts;
    out->on_sent = [](Outgoing& sent) {
      std::unique_ptr<DataOut> done(&static_cast<DataOut&>(sent));
      --done->command->data_on_its_way;
      done->queue->settle(*done->command);
    };
    DataPdu data{};
    data.header.type = PduType::h2c_data;
    if (at + size == pdu.size_bytes) data.header.flags = pdu_flag::last;
    data.cid = pdu.cid;
    data.transfer_tag = pdu.transfer_tag;
    data.offset_bytes = static_cast<std::uint32_t>(pdu.offset_bytes + at);
    data.size_bytes = static_cast<std::uint32_t>(size);
    out->set(data, digests_);
    ++command->data_on_its_way;
    send_queue_->push(*out);
    at += size;
  }
}

void InitiatorQueue::ping(std::uint8_t opcode) {
  if (!open_ || ping_open() || free_cids_.empty()) return;
  ping_.sqe = Command{};
  ping_.sqe.opcode = opcode;
  ping_sent_ns_ = boot_time_ns();
  submit(ping_);
}

block::Task<Result<ExchangeAnswer>> exchange(InitiatorQueue& queue, ExchangeRequest request, Deadline deadline) {
  if (!queue.has_room()) co_return fail(ErrorCode::unreachable, "the queue is closed or full");
  // Shared with the queue, which may have to keep it longer than this call waits.
  auto sent = std::make_shared<Exchange>();
  sent->sqe = request.sqe;
  sent->data = std::move(request.data);
  bool sends = !sent->data.empty();
  if (!sends) sent->data.resize(request.answer_bytes);
  sent->part = iovec{sent->data.data(), sent->data.size()};
  std::span<const iovec> parts(&sent->part, sent->data.empty() ? 0 : 1);
  (sends ? sent->to_target : sent->from_target) = parts;
  sent->keeper = sent;
  sent->on_result = [](QueueCommand& command, const Completion&) { static_cast<Exchange&>(command).done.set(); };
  sent->on_lost = [](QueueCommand& command) {
    auto& lost = static_cast<Exchange&>(command);
    lost.lost = true;
    lost.done.set();
  };
  queue.submit(*sent);
  bool done = co_await block::wait_for(sent->done, deadline);
  if (!done) co_return fail(ErrorCode::timed_out, "the target has not answered yet");
  if (sent->lost) co_return fail(ErrorCode::unreachable, "the connection ended before the answer");
  ExchangeAnswer answer{sent->completion, {}};
  if (!sends) answer.data = std::move(sent->data);
  co_return answer;
}

}  // namespace zpair::nvme
