#pragma once
// What the NVMe/TCP tests share: a drive in memory whose commands can be held at the device, a switch that holds bytes, a
// host that speaks raw PDUs, and a folder of its own.
#include <gtest/gtest.h>
#include <unistd.h>

#include <deque>
#include <filesystem>
#include <map>
#include <random>

#include "block/block_device.h"
#include "block/reactor.h"
#include "block/stream.h"
#include "fence/fence_file.h"
#include "nvme/commands.h"
#include "nvme/crc32c.h"
#include "nvme/pdu.h"
#include "nvme/remote_drive.h"
#include "nvme/remote_node.h"
#include "nvme/target.h"

namespace zpair::nvme {

inline std::vector<std::byte> pattern(std::size_t size, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// Writes take effect when they complete, so that one held at the device is one that may still land.
class MemoryDevice final : public block::BlockDevice {
 public:
  explicit MemoryDevice(std::uint64_t size, std::string id = "memory-1") : bytes_(size), id_(std::move(id)) {}

  block::Geometry geometry() const override { return {bytes_.size(), 4096}; }
  std::string durable_id() const override { return id_; }
  Verifier verifier() const override { return verifier_; }
  block::Task<void> close() override { co_return; }
  void submit(block::Request& request) override {
    ++count_[request.operation];
    if (request.operation == block::Operation::write && request.durable) ++durable_count;
    queue_.push_back(&request);
    if (!arrived.is_set()) arrived.set();
    if (!holding_) complete_soon();
  }

  void hold() { holding_ = true; }
  void let_go() {
    holding_ = false;
    complete_soon();
  }
  std::size_t held_count() const { return queue_.size(); }
  std::uint64_t count(block::Operation operation) const {
    auto found = count_.find(operation);
    return found == count_.end() ? 0 : found->second;
  }
  std::span<std::byte> at(std::uint64_t offset, std::size_t size) { return std::span(bytes_).subspan(offset, size); }
  bool holds(std::uint64_t offset, std::span<const std::byte> wanted) {
    return std::equal(wanted.begin(), wanted.end(), bytes_.begin() + static_cast<std::ptrdiff_t>(offset));
  }
  void set_verifier(Verifier verifier) { verifier_ = verifier; }
  void fail_next(block::IoStatus status) { next_status_ = status; }
  void change_verifier_after(unsigned completions, Verifier next) {
    change_in_ = completions;
    next_verifier_ = next;
  }

  block::Signal arrived;  // set at every submit
  std::uint64_t durable_count = 0;

 private:
  void complete_soon() {
    block::Reactor::current().call_at(0, [this] {
      std::deque<block::Request*> ready;
      ready.swap(queue_);
      for (block::Request* request : ready) complete(*request);
    });
  }
  void complete(block::Request& request) {
    request.status = std::exchange(next_status_, block::IoStatus::ok);
    request.verifier = verifier_;
    if (request.status == block::IoStatus::ok) apply(request);
    if (change_in_ > 0 && --change_in_ == 0) verifier_ = next_verifier_;
    request.on_done(request);
  }
  void apply(block::Request& request) {
    std::byte* place = bytes_.data() + request.offset_bytes;
    switch (request.operation) {
      case block::Operation::read:
        for (const iovec& part : request.buffers) {
          std::memcpy(part.iov_base, place, part.iov_len);
          place += part.iov_len;
        }
        break;
      case block::Operation::write:
        for (const iovec& part : request.buffers) {
          std::memcpy(place, part.iov_base, part.iov_len);
          place += part.iov_len;
        }
        break;
      case block::Operation::trim:
      case block::Operation::write_zeroes: std::memset(place, 0, request.size_bytes); break;
      case block::Operation::flush:
      case block::Operation::extents: break;
    }
  }

  std::vector<std::byte> bytes_;
  std::string id_;
  Verifier verifier_{0x1111};
  bool holding_ = false;
  std::deque<block::Request*> queue_;
  std::map<block::Operation, std::uint64_t> count_;
  block::IoStatus next_status_ = block::IoStatus::ok;
  unsigned change_in_ = 0;
  Verifier next_verifier_;
};

// A switch between initiator and target. While it holds, it goes on taking bytes, as a dead switch's neighbours go on
// sending, and delivers them when it is let go, whatever became of their sender meanwhile.
class HoldingSwitch {
 public:
  static std::unique_ptr<HoldingSwitch> start(block::Endpoint target) {
    auto made = std::unique_ptr<HoldingSwitch>(new HoldingSwitch);
    auto listener = block::Listener::listen(block::Endpoint{"tcp:127.0.0.1:0"});
    EXPECT_TRUE(listener.has_value());
    made->listener_ = std::move(*listener);
    made->target_ = std::move(target);
    made->open_.set();
    made->tasks_.spawn(made->accept_all());
    return made;
  }
  block::Endpoint endpoint() const { return listener_->local_endpoint(); }
  void hold() { open_.reset(); }
  void let_go() { open_.set(); }
  // Flips a bit in the byte `ahead` bytes from now, towards the target.
  void corrupt_to_target(std::size_t ahead) { corrupt_in_ = ahead; }
  void corrupt_to_host(std::size_t ahead) { corrupt_back_in_ = ahead; }
  std::size_t held_bytes() const { return held_bytes_; }
  block::Signal grew;       // more bytes are held
  block::Signal delivered;  // held bytes went out

  block::Task<void> close() {
    closing_ = true;
    listener_->close();
    open_.set();
    for (auto& flow : flows_) {
      flow->from->shutdown();
      flow->to->shutdown();
    }
    co_await tasks_.close();
  }

 private:
  struct Flow {  // one direction of a connection
    block::Stream* from;
    block::Stream* to;
    bool to_target;
    std::deque<std::vector<std::byte>> bytes;
    bool ended = false;
    block::Signal work;
  };

  block::Task<void> accept_all() {
    while (!closing_) {
      auto host = co_await listener_->accept();
      if (!host) co_return;
      auto target = co_await block::Stream::connect(target_, Deadline::in_ms(2000));
      if (!target) continue;
      streams_.push_back(std::move(*host));
      block::Stream* host_stream = streams_.back().get();
      streams_.push_back(std::move(*target));
      block::Stream* target_stream = streams_.back().get();
      start_flow(host_stream, target_stream, true);
      start_flow(target_stream, host_stream, false);
    }
  }
  void start_flow(block::Stream* from, block::Stream* to, bool to_target) {
    flows_.push_back(std::make_unique<Flow>(Flow{from, to, to_target, {}, false, {}}));
    tasks_.spawn(take(*flows_.back()));
    tasks_.spawn(deliver(*flows_.back()));
  }
  block::Task<void> take(Flow& flow) {
    std::vector<std::byte> buffer(64 * 1024);
    while (true) {
      auto got = co_await flow.from->read_some(buffer);
      if (!got || *got == 0) break;
      std::size_t& corrupt = flow.to_target ? corrupt_in_ : corrupt_back_in_;
      if (corrupt > 0 && corrupt <= *got) {
        buffer[corrupt - 1] ^= std::byte{0x10};
        corrupt = 0;
      } else if (corrupt > 0) {
        corrupt -= *got;
      }
      flow.bytes.emplace_back(buffer.begin(), buffer.begin() + static_cast<std::ptrdiff_t>(*got));
      if (!open_.is_set()) {
        held_bytes_ += *got;
        if (!grew.is_set()) grew.set();
      }
      flow.work.set();
    }
    flow.ended = true;
    flow.work.set();
  }
  block::Task<void> deliver(Flow& flow) {
    while (true) {
      if (flow.bytes.empty()) {
        if (flow.ended) break;
        flow.work.reset();
        co_await flow.work.wait();
        continue;
      }
      co_await open_.wait();
      std::vector<std::byte> bytes = std::move(flow.bytes.front());
      flow.bytes.pop_front();
      auto written = co_await flow.to->write_all(std::span<const std::byte>(bytes));
      if (!written) break;
      if (!delivered.is_set()) delivered.set();
    }
    co_await open_.wait();
    flow.to->shutdown();
  }

  std::unique_ptr<block::Listener> listener_;
  block::Endpoint target_;
  block::Signal open_;
  bool closing_ = false;
  std::size_t corrupt_in_ = 0;
  std::size_t corrupt_back_in_ = 0;
  std::size_t held_bytes_ = 0;
  std::vector<std::unique_ptr<block::Stream>> streams_;
  std::vector<std::unique_ptr<Flow>> flows_;
  block::TaskGroup tasks_;
};

// Bytes by hand: a host that does what no proper initiator does.
class RawHost {
 public:
  explicit RawHost(Uuid host_id, Digests digests = {}) : host_id_(host_id), wanted_(digests) {}

  block::Task<bool> dial(block::Endpoint to) {
    auto stream = co_await block::Stream::connect(to, Deadline::in_ms(2000));
    if (!stream) co_return false;
    stream_ = std::move(*stream);
    co_return true;
  }
  block::Task<bool> greet(block::Endpoint to) {
    bool dialed = co_await dial(to);
    if (!dialed) co_return false;
    IcReq request{};
    request.header = PduHeader{PduType::ic_req, 0, 128, 0, 128};
    request.digests = static_cast<std::uint8_t>((wanted_.header ? 1 : 0) | (wanted_.data ? 2 : 0));
    bool sent = co_await send_struct(request);
    std::vector<std::byte> answer = co_await receive(sizeof(IcResp));
    if (!sent || answer.empty()) co_return false;
    std::memcpy(&ic_resp, answer.data(), sizeof ic_resp);
    digests_ = Digests{(ic_resp.digests & 1) != 0, (ic_resp.digests & 2) != 0};
    co_return true;
  }
  // Fabrics Connect; returns the completion.
  block::Task<Completion> connect(std::uint16_t qid, std::uint16_t cntlid, std::string nqn,
                                  std::uint32_t keep_alive_ms = 0) {
    Command command{};
    command.opcode = 0x7f;
    command.nsid = 1;
    command.flags = 0x40;
    ConnectParameters parameters{};
    parameters.qid = qid;
    parameters.sq_size = 31;
    parameters.keep_alive_ms = keep_alive_ms;
    std::memcpy(reinterpret_cast<char*>(&command) + 40, &parameters, sizeof parameters);
    ConnectData data{};
    std::memcpy(data.host_id, host_id_.bytes.data(), 16);
    data.cntlid = cntlid;
    std::memcpy(data.subsystem_nqn, nqn.data(), nqn.size());
    std::vector<std::byte> bytes(sizeof data);
    std::memcpy(bytes.data(), &data, sizeof data);
    co_return co_await call(command, bytes);
  }
  block::Task<Completion> enable() {
    Command command{};
    command.opcode = 0x7f;
    command.nsid = 0;
    command.cdw11 = 0x14;
    command.cdw12 = 0x460001;
    co_return co_await call(command, {});
  }
  // Sends a command (data in the capsule) and waits for its completion; data that comes back is in `answer_data`.
  block::Task<Completion> call(Command command, std::vector<std::byte> data) {
    co_await post(command, std::move(data));
    co_return co_await completion();
  }
  block::Task<bool> post(Command command, std::vector<std::byte> data) {
    command.cid = next_cid_++;
    if (!data.empty()) {
      command.data.type = sgl_in_capsule;
      command.data.size_bytes = static_cast<std::uint32_t>(data.size());
    }
    std::vector<std::byte> bytes = capsule(command, data);
    co_return co_await send(bytes);
  }
  std::vector<std::byte> capsule(const Command& command, const std::vector<std::byte>& data) const {
    CapsuleCmd pdu{};
    std::size_t before_data = sizeof pdu + digests_.header_bytes();
    std::size_t total = before_data + data.size() + (data.empty() ? 0 : digests_.data_bytes());
    pdu.header =
        PduHeader{PduType::capsule_cmd, 0, sizeof pdu, static_cast<std::uint8_t>(data.empty() ? 0 : before_data),
                  static_cast<std::uint32_t>(total)};
    if (digests_.header) pdu.header.flags |= 1;
    if (digests_.data && !data.empty()) pdu.header.flags |= 2;
    pdu.command = command;
    std::vector<std::byte> bytes(total);
    std::memcpy(bytes.data(), &pdu, sizeof pdu);
    if (digests_.header) {
      std::uint32_t crc = crc32c_by_table(0, {bytes.data(), sizeof pdu});
      std::memcpy(bytes.data() + sizeof pdu, &crc, 4);
    }
    if (!data.empty()) std::memcpy(bytes.data() + before_data, data.data(), data.size());
    if (digests_.data && !data.empty()) {
      std::uint32_t crc = crc32c_by_table(0, data);
      std::memcpy(bytes.data() + before_data + data.size(), &crc, 4);
    }
    return bytes;
  }
  block::Task<Completion> completion() {
    while (true) {
      std::vector<std::byte> pdu = co_await next_pdu();
      if (pdu.empty()) co_return Completion{0, 0, 0, 0, 0xfffe};  // the connection ended
      PduHeader header;
      std::memcpy(&header, pdu.data(), sizeof header);
      if (header.type == PduType::capsule_resp) {
        CapsuleResp response;
        std::memcpy(&response, pdu.data(), sizeof response);
        co_return response.completion;
      }
      if (header.type == PduType::c2h_data) {
        answer_data.assign(pdu.begin() + header.data_offset, pdu.end() - (digests_.data ? 4 : 0));
        if ((header.flags & pdu_flag::success) != 0) co_return Completion{};
      }
      last_other = pdu;
      if (header.type == PduType::r2t || header.type == PduType::c2h_term_req) co_return Completion{0, 0, 0, 0, 0xfffc};
    }
  }
  // Empty: the connection ended.
  block::Task<std::vector<std::byte>> next_pdu() {
    std::vector<std::byte> bytes = co_await receive(sizeof(PduHeader));
    if (bytes.empty()) co_return bytes;
    PduHeader header;
    std::memcpy(&header, bytes.data(), sizeof header);
    std::vector<std::byte> rest = co_await receive(header.total_bytes - sizeof header);
    bytes.insert(bytes.end(), rest.begin(), rest.end());
    co_return bytes;
  }
  block::Task<bool> send(std::vector<std::byte> bytes) {
    auto sent = co_await stream_->write_all(std::span<const std::byte>(bytes));
    co_return sent.has_value();
  }
  template <class T>
  block::Task<bool> send_struct(T value) {
    std::vector<std::byte> bytes(sizeof value);
    std::memcpy(bytes.data(), &value, sizeof value);
    co_return co_await send(bytes);
  }
  block::Task<std::vector<std::byte>> receive(std::size_t size) {
    std::vector<std::byte> bytes(size);
    auto got = co_await stream_->read_exactly(bytes);
    if (!got) bytes.clear();
    co_return bytes;
  }
  // An I/O command of `blocks` blocks.
  static Command io(std::uint8_t opcode, std::uint64_t block, std::uint32_t blocks, std::uint32_t nsid = 1) {
    Command command{};
    command.opcode = opcode;
    command.flags = 0x40;
    command.nsid = nsid;
    command.set_cdw10_11(block);
    command.cdw12 = blocks - 1;
    command.data.type = sgl_transport;
    command.data.size_bytes = blocks * 4096;
    return command;
  }
  void hang_up() { stream_->shutdown(); }

  IcResp ic_resp{};
  std::vector<std::byte> answer_data;
  std::vector<std::byte> last_other;
  std::uint16_t next_cid_ = 100;

 private:
  Uuid host_id_;
  Digests wanted_;
  Digests digests_;
  std::unique_ptr<block::Stream> stream_;
};

template <class T>
std::vector<std::byte> to_bytes(const T& value) {
  std::vector<std::byte> bytes(sizeof value);
  std::memcpy(bytes.data(), &value, sizeof value);
  return bytes;
}

inline std::string node_nqn() { return "nqn.2026-01.io.zpair:node-b"; }

// Every test runs as one coroutine on its own reactor, in its own folder.
class NvmeTest : public ::testing::Test {
 public:
  void SetUp() override {
    std::string pattern = std::filesystem::temp_directory_path() / "zpair-nvme-XXXXXX";
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder = pattern;
    auto made = block::Reactor::create(256);
    ASSERT_TRUE(made.has_value());
    reactor = std::move(*made);
  }
  void TearDown() override { std::filesystem::remove_all(folder); }
  void run(block::Task<void> task) { reactor->run_until_done(std::move(task)); }

  std::unique_ptr<fence::FenceFile> fence_file(const std::string& drive = "memory-1") {
    auto made = fence::FenceFile::create(folder, drive);
    if (!made) made = fence::FenceFile::open(folder, drive);
    EXPECT_TRUE(made.has_value());
    return std::move(*made);
  }

  std::string folder;
  std::unique_ptr<block::Reactor> reactor;
  Uuid host_1 = Uuid::from_name("host of epoch 1");
  Uuid host_2 = Uuid::from_name("host of epoch 2");
};

}  // namespace zpair::nvme
