// The target's bytes, by a host that speaks raw PDUs: what no stock initiator sends, and what nobody should.
#include "support.h"

namespace zpair::nvme {
namespace {

using block::Task;

constexpr std::uint16_t ended = 0xfffe;      // RawHost: the connection ended
constexpr std::uint16_t other_pdu = 0xfffc;  // RawHost: an R2T or a termination came

Status status_of(const Completion& completion) { return status_of_field(completion.status_field); }

Command reservation(std::uint8_t opcode, std::uint32_t cdw10) {
  Command command{};
  command.opcode = opcode;
  command.flags = 0x40;
  command.nsid = 1;
  command.cdw10 = cdw10;
  return command;
}

std::vector<std::byte> keys(std::uint64_t first, std::uint64_t second) { return to_bytes(RegisterData{first, second}); }

// A target with one drive, and raw hosts with an admin and an I/O queue.
struct Wire {
  MemoryDevice device{1 << 20};
  std::unique_ptr<fence::FenceFile> fence;
  std::unique_ptr<Target> target;
  block::Endpoint address;

  void start(NvmeTest& test, std::uint32_t in_capsule_bytes = 16384) {
    if (!fence) fence = test.fence_file();
    TargetOptions options;
    options.subsystem_nqn = node_nqn();
    options.in_capsule_bytes = in_capsule_bytes;
    target = std::make_unique<Target>(options);
    address = *target->listen(block::Endpoint{"tcp:127.0.0.1:0"});
    target->add_namespace(1, Uuid::from_name("memory-1"), device, *fence);
  }
  struct Host {
    std::unique_ptr<RawHost> admin;
    std::unique_ptr<RawHost> io;
    std::uint16_t cntlid = 0;
    std::uint8_t uniquifier = 0;
    std::uint64_t random_number = 0;
  };
  Task<Host> host(Uuid id, Digests digests = {}, std::uint32_t keep_alive_ms = 0) {
    Host made;
    made.admin = std::make_unique<RawHost>(id, digests);
    co_await made.admin->greet(address);
    Completion connected = co_await made.admin->connect(0, 0xffff, node_nqn(), keep_alive_ms);
    EXPECT_EQ(connected.status_field, 0);
    made.cntlid = static_cast<std::uint16_t>(connected.result);
    co_await made.admin->enable();
    Command identify{};
    identify.opcode = 0x06;
    identify.cdw10 = 1;
    co_await made.admin->call(identify, {});
    made.uniquifier = static_cast<std::uint8_t>(made.admin->answer_data[135]);
    std::memcpy(&made.random_number, made.admin->answer_data.data() + 136, 8);
    made.io = std::make_unique<RawHost>(id, digests);
    co_await made.io->greet(address);
    Completion queue = co_await made.io->connect(1, made.cntlid, node_nqn());
    EXPECT_EQ(queue.status_field, 0);
    co_return made;
  }
  Task<void> fence_by(Host& host, std::uint64_t epoch, std::uint64_t former) {
    Completion registered = co_await host.io->call(reservation(0x0d, 3u << 30), keys(0, epoch));
    EXPECT_EQ(status_of(registered), Status::success);
    Completion acquired = co_await host.io->call(reservation(0x11, 2 | 1 << 8), keys(epoch, former));
    EXPECT_EQ(status_of(acquired), Status::success);
    EXPECT_EQ(acquired.result, device.verifier().value);
  }
  Command reset_of(const Host& other) const {
    Command reset{};
    reset.opcode = 0x38;
    reset.cdw10 = other.cntlid | static_cast<std::uint32_t>(other.uniquifier) << 16;
    reset.cdw12 = static_cast<std::uint32_t>(other.random_number);
    reset.cdw13 = static_cast<std::uint32_t>(other.random_number >> 32);
    return reset;
  }
};

class WireTest : public NvmeTest {};

TEST_F(WireTest, the_greeting_byte_for_byte) {
  run([](WireTest& t) -> Task<void> {
    Wire wire;
    wire.start(t);
    for (std::uint8_t digests : {0, 1, 2, 3}) {
      RawHost host(t.host_1);
      co_await host.dial(wire.address);
      std::vector<std::byte> request(128);
      const std::uint8_t header[] = {0x00, 0x00, 128, 0, 128, 0, 0, 0, 0, 0, 0, digests, 0, 0, 0, 0};
      std::memcpy(request.data(), header, sizeof header);
      co_await host.send(request);
      std::vector<std::byte> answer = co_await host.receive(128);
      std::vector<std::byte> expected(128);
      const std::uint8_t wanted[] = {0x01, 0x00, 128, 0,       128,  0,    0,    0,
                                     0,    0,    0,   digests, 0x00, 0x00, 0x10, 0x00};  // 1 MiB
      std::memcpy(expected.data(), wanted, sizeof wanted);
      EXPECT_EQ(answer, expected);
    }
    co_await wire.target->close();
  }(*this));
}

TEST_F(WireTest, connect_refuses_what_does_not_fit) {
  run([](WireTest& t) -> Task<void> {
    Wire wire;
    wire.start(t);
    struct Case {
      const char* name;
      std::uint16_t qid;
      std::uint16_t cntlid;
      std::string nqn;
      Status expected;
    };
    auto good = co_await wire.host(t.host_1);
    const Case cases[] = {
        {"another subsystem", 0, 0xffff, "nqn.2026-01.io.zpair:node-x", Status::connect_invalid_parameters},
        {"an admin queue of a given controller", 0, good.cntlid, node_nqn(), Status::connect_invalid_parameters},
        {"an I/O queue of no controller", 1, 0x7777, node_nqn(), Status::connect_invalid_parameters},
        {"an I/O queue that is taken", 1, good.cntlid, node_nqn(), Status::connect_invalid_parameters},
        {"an I/O queue beyond the limit", 99, good.cntlid, node_nqn(), Status::connect_invalid_parameters},
    };
    for (const Case& row : cases) {
      RawHost host(t.host_1);
      co_await host.greet(wire.address);
      Completion completion = co_await host.connect(row.qid, row.cntlid, row.nqn);
      EXPECT_EQ(status_of(completion), row.expected) << row.name;
    }
    RawHost stranger(t.host_2);
    co_await stranger.greet(wire.address);
    Completion foreign = co_await stranger.connect(2, good.cntlid, node_nqn());
    EXPECT_EQ(status_of(foreign), Status::connect_invalid_host) << "another host's controller";
    RawHost nobody(Uuid{});
    co_await nobody.greet(wire.address);
    Completion nameless = co_await nobody.connect(0, 0xffff, node_nqn());
    EXPECT_EQ(status_of(nameless), Status::connect_invalid_parameters) << "no Host ID";
    RawHost hasty(t.host_1);
    co_await hasty.greet(wire.address);
    Completion disabled = co_await hasty.connect(0, 0xffff, node_nqn());
    RawHost queue(t.host_1);
    co_await queue.greet(wire.address);
    Completion early = co_await queue.connect(1, static_cast<std::uint16_t>(disabled.result), node_nqn());
    EXPECT_EQ(status_of(early), Status::command_sequence_error) << "not enabled";
    co_await wire.target->close();
  }(*this));
}

TEST_F(WireTest, identify_says_what_hosts_need) {
  run([](WireTest& t) -> Task<void> {
    Wire wire;
    wire.start(t);
    auto host = co_await wire.host(t.host_1);
    const auto& page = host.admin->answer_data;
    auto u8 = [&](std::size_t at) { return static_cast<unsigned>(host.admin->answer_data[at]); };
    auto u32 = [&](std::size_t at) {
      std::uint32_t value;
      std::memcpy(&value, host.admin->answer_data.data() + at, 4);
      return value;
    };
    EXPECT_EQ(page.size(), 4096u);
    EXPECT_EQ(u8(76) & 2, 2u) << "several controllers";
    EXPECT_EQ(u8(77), 8u) << "MDTS 1 MiB";
    EXPECT_EQ(u8(78) | u8(79) << 8, host.cntlid);
    EXPECT_NE(u8(135), 0u) << "CIU";
    EXPECT_EQ(u8(320), 1u) << "KAS";
    EXPECT_EQ(u8(520), 4u | 8u | 32u) << "ONCS: DSM, Write Zeroes, reservations";
    EXPECT_EQ(u32(1792), (64u + 16384u) / 16) << "IOCCSZ";
    EXPECT_EQ(u8(1807), 4u) << "CCRL";
    Command identify{};
    identify.opcode = 0x06;
    identify.nsid = 1;
    identify.cdw10 = 0;
    co_await host.admin->call(identify, {});
    EXPECT_EQ(u32(0), (1u << 20) / 4096);
    EXPECT_EQ(u8(30), 1u) << "shared";
    EXPECT_EQ(u8(31), 3u) << "reservations persist; write exclusive";
    EXPECT_EQ(u8(130), 12u) << "4096-byte blocks";
    Uuid uuid = Uuid::from_name("memory-1");
    EXPECT_EQ(std::memcmp(page.data() + 104, uuid.bytes.data(), 16), 0) << "NGUID";
    identify.cdw10 = 3;
    co_await host.admin->call(identify, {});
    EXPECT_EQ(u8(0), 3u);
    EXPECT_EQ(u8(1), 16u);
    EXPECT_EQ(std::memcmp(page.data() + 4, uuid.bytes.data(), 16), 0);
    identify.cdw10 = 2;
    identify.nsid = 0;
    co_await host.admin->call(identify, {});
    EXPECT_EQ(u32(0), 1u);
    EXPECT_EQ(u32(4), 0u);
    identify.cdw10 = 0;
    identify.nsid = 7;
    Completion missing = co_await host.admin->call(identify, {});
    EXPECT_EQ(status_of(missing), Status::invalid_namespace);
    Command queues{};
    queues.opcode = 0x09;
    queues.cdw10 = 7;
    queues.cdw11 = 0x00630063;
    Completion granted = co_await host.admin->call(queues, {});
    EXPECT_EQ(granted.result, 0x00070007u);
    Command strange{};
    strange.opcode = 0x81;
    Completion unknown = co_await host.admin->call(strange, {});
    EXPECT_EQ(unknown.status_field, 0x8002) << "Invalid Opcode, do not retry";
    Command alive{};
    alive.opcode = 0x18;
    Completion beat = co_await host.admin->call(alive, {});
    EXPECT_EQ(beat.status_field, 0);
    co_await wire.target->close();
  }(*this));
}

TEST_F(WireTest, boots_closed_and_opens_only_for_a_fence_that_is_high_enough) {
  run([](WireTest& t) -> Task<void> {
    Wire wire;
    wire.start(t);
    auto owner = co_await wire.host(t.host_1);
    auto stranger = co_await wire.host(t.host_2);
    auto bytes = pattern(4096, 1);
    Completion before = co_await owner.io->call(RawHost::io(0x01, 0, 1), bytes);
    EXPECT_EQ(before.status_field, 0x8106) << "Reservation Conflict (83h), do not retry";
    EXPECT_EQ(before.result, 0u) << "no epoch yet";
    Completion read = co_await owner.io->call(RawHost::io(0x02, 0, 1), {});
    EXPECT_EQ(read.status_field, 0) << "reads are let in";
    co_await wire.fence_by(owner, 7, 0);
    Completion after = co_await owner.io->call(RawHost::io(0x01, 0, 1), bytes);
    EXPECT_EQ(after.status_field, 0);
    EXPECT_EQ(after.result, 0x1111u) << "Dwords 0 and 1 carry the verifier";
    wire.device.set_verifier(Verifier{0xa1b2c3d4e5f60718});
    Completion changed = co_await owner.io->call(RawHost::io(0x01, 0, 1), bytes);
    EXPECT_EQ(changed.result, 0xa1b2c3d4e5f60718u);
    Completion conflict = co_await stranger.io->call(RawHost::io(0x01, 0, 1), bytes);
    EXPECT_EQ(conflict.status_field, 0x8106);
    EXPECT_EQ(conflict.result, 7u) << "the current epoch";
    co_await wire.target->close();

    // A restart: the reservation is in the file, and the target closed.
    wire.start(t);
    owner = co_await wire.host(t.host_1);
    stranger = co_await wire.host(t.host_2);
    auto log_of = [](Wire::Host& host) -> Task<ZpairLog> {
      Command get{};
      get.opcode = 0x02;
      get.nsid = 1;
      get.cdw10 = 0xc0 | (512 / 4 - 1) << 16;
      Completion got = co_await host.admin->call(get, {});
      EXPECT_EQ(got.status_field, 0);
      ZpairLog log{};
      std::memcpy(&log, host.admin->answer_data.data(), sizeof log);
      co_return log;
    };
    ZpairLog log = co_await log_of(stranger);
    EXPECT_EQ(std::string(log.magic, 4), "ZPLG");
    EXPECT_EQ(log.version, 1u);
    EXPECT_EQ(log.flags, 1u) << "closed";
    EXPECT_EQ(log.fence_epoch, 7u);
    EXPECT_EQ(log.verifier, 0xa1b2c3d4e5f60718u);
    EXPECT_STREQ(log.drive, "memory-1");
    EXPECT_EQ(std::memcmp(log.fence_host, t.host_1.bytes.data(), 16), 0);
    Completion closed = co_await owner.io->call(RawHost::io(0x01, 0, 1), bytes);
    EXPECT_EQ(status_of(closed), Status::closed) << "the holder waits";
    Completion fenced = co_await stranger.io->call(RawHost::io(0x01, 0, 1), bytes);
    EXPECT_EQ(status_of(fenced), Status::reservation_conflict) << "all others have lost";
    // Lower, and with the wrong former key: refused, still closed.
    co_await stranger.io->call(reservation(0x0d, 1 << 3), keys(0, 6));
    Completion lower = co_await stranger.io->call(reservation(0x11, 2 | 1 << 8), keys(6, 7));
    EXPECT_EQ(status_of(lower), Status::reservation_conflict);
    EXPECT_EQ(lower.result, 7u);
    co_await stranger.io->call(reservation(0x0d, 1 << 3), keys(0, 8));
    Completion wrong = co_await stranger.io->call(reservation(0x11, 2 | 1 << 8), keys(8, 6));
    EXPECT_EQ(status_of(wrong), Status::reservation_conflict);
    Completion still = co_await owner.io->call(RawHost::io(0x01, 0, 1), bytes);
    EXPECT_EQ(status_of(still), Status::closed);
    co_await wire.fence_by(owner, 7, 7);
    Completion open = co_await owner.io->call(RawHost::io(0x01, 0, 1), bytes);
    EXPECT_EQ(open.status_field, 0);
    co_await wire.target->close();
  }(*this));
}

TEST_F(WireTest, an_unreadable_fence_file_stays_closed) {
  run([](WireTest& t) -> Task<void> {
    Wire wire;
    wire.fence = t.fence_file();
    EXPECT_TRUE(wire.fence->fence({Epoch{0}, Epoch{7}, t.host_1}).has_value());
    std::filesystem::resize_file(wire.fence->path(), 40);
    wire.start(t);
    auto owner = co_await wire.host(t.host_1);
    co_await owner.io->call(reservation(0x0d, 1 << 3), keys(0, 9));
    Completion acquired = co_await owner.io->call(reservation(0x11, 2 | 1 << 8), keys(9, 7));
    EXPECT_EQ(status_of(acquired), Status::closed);
    Completion write = co_await owner.io->call(RawHost::io(0x01, 0, 1), pattern(4096, 1));
    EXPECT_EQ(status_of(write), Status::closed);
    EXPECT_EQ(wire.device.count(block::Operation::write), 0u);
    co_await wire.target->close();
  }(*this));
}

TEST_F(WireTest, reservations_register_report_and_release) {
  run([](WireTest& t) -> Task<void> {
    Wire wire;
    wire.start(t);
    auto host = co_await wire.host(t.host_1);
    Completion unregistered = co_await host.io->call(reservation(0x11, 0 | 1 << 8), keys(3, 0));
    EXPECT_EQ(status_of(unregistered), Status::reservation_conflict) << "acquire without a registration";
    co_await host.io->call(reservation(0x0d, 0), keys(0, 3));
    Completion twice = co_await host.io->call(reservation(0x0d, 0), keys(0, 4));
    EXPECT_EQ(status_of(twice), Status::reservation_conflict) << "registered with another key";
    Completion ignored = co_await host.io->call(reservation(0x0d, 0 | 1 << 3), keys(0, 4));
    EXPECT_EQ(status_of(ignored), Status::success) << "IEKEY";
    Completion replace_wrong = co_await host.io->call(reservation(0x0d, 2), keys(9, 5));
    EXPECT_EQ(status_of(replace_wrong), Status::reservation_conflict);
    Completion replaced = co_await host.io->call(reservation(0x0d, 2), keys(4, 5));
    EXPECT_EQ(status_of(replaced), Status::success);
    Completion exclusive_access = co_await host.io->call(reservation(0x11, 0 | 2 << 8), keys(5, 0));
    EXPECT_EQ(status_of(exclusive_access), Status::invalid_field) << "only Write Exclusive";
    Completion acquired = co_await host.io->call(reservation(0x11, 0 | 1 << 8), keys(5, 0));
    EXPECT_EQ(status_of(acquired), Status::success);

    Command report = reservation(0x0e, 128 / 4 - 1);
    Completion short_form = co_await host.io->call(report, {});
    EXPECT_EQ(status_of(short_form), Status::host_id_inconsistent);
    report.cdw11 = 1;
    co_await host.io->call(report, {});
    ReservationStatus status;
    Registrant registrant;
    EXPECT_EQ(host.io->answer_data.size(), 128u);
    std::memcpy(&status, host.io->answer_data.data(), sizeof status);
    std::memcpy(&registrant, host.io->answer_data.data() + sizeof status, sizeof registrant);
    EXPECT_EQ(status.type, 1u);
    EXPECT_EQ(status.registrant_count[0] | status.registrant_count[1] << 8, 1);
    EXPECT_EQ(status.persists, 1u);
    EXPECT_EQ(registrant.key, 5u);
    EXPECT_EQ(registrant.status, 1u);
    EXPECT_EQ(std::memcmp(registrant.host_id, t.host_1.bytes.data(), 16), 0);

    Completion wrong_release = co_await host.io->call(reservation(0x15, 0 | 1 << 8), to_bytes(std::uint64_t{4}));
    EXPECT_EQ(status_of(wrong_release), Status::reservation_conflict);
    Completion released = co_await host.io->call(reservation(0x15, 0 | 1 << 8), to_bytes(std::uint64_t{5}));
    EXPECT_EQ(status_of(released), Status::success);
    Completion write = co_await host.io->call(RawHost::io(0x01, 0, 1), pattern(4096, 1));
    EXPECT_EQ(status_of(write), Status::reservation_conflict) << "without a holder nobody writes";
    co_await wire.target->close();
  }(*this));
}

TEST_F(WireTest, cross_controller_reset_ends_another_controller_for_ever) {
  run([](WireTest& t) -> Task<void> {
    Wire wire;
    wire.start(t);
    auto first = co_await wire.host(t.host_1);
    auto second = co_await wire.host(t.host_1);
    auto stranger = co_await wire.host(t.host_2);
    co_await wire.fence_by(first, 1, 0);

    Completion foreign = co_await stranger.admin->call(wire.reset_of(first), {});
    EXPECT_EQ(status_of(foreign), Status::invalid_field) << "another host's controller";
    Wire::Host other_life;
    other_life.cntlid = first.cntlid;
    other_life.uniquifier = first.uniquifier;
    other_life.random_number = first.random_number + 1;
    Completion unknown = co_await second.admin->call(wire.reset_of(other_life), {});
    EXPECT_EQ(unknown.status_field, 0);
    EXPECT_EQ(unknown.result, 1u) << "a controller that is gone is reset at once";
    Completion own = co_await second.admin->call(wire.reset_of(second), {});
    EXPECT_EQ(status_of(own), Status::invalid_field);
    Completion alive = co_await first.io->call(RawHost::io(0x02, 0, 1), {});
    EXPECT_EQ(alive.status_field, 0) << "nothing of it touched the first controller";

    // A write of the first is at the device: the reset is answered after it.
    wire.device.hold();
    co_await first.io->post(RawHost::io(0x01, 0, 1), pattern(4096, 9));
    while (wire.device.held_count() == 0) co_await block::Reactor::current().after_ms(1);
    bool answered = false;
    block::TaskGroup tasks;
    tasks.spawn([](RawHost& admin, Command reset, bool& answered) -> Task<void> {
      Completion done = co_await admin.call(reset, {});
      EXPECT_EQ(done.status_field, 0);
      EXPECT_EQ(done.result, 1u);
      answered = true;
    }(*second.admin, wire.reset_of(first), answered));
    Completion cut = co_await first.io->completion();
    EXPECT_EQ(cut.status_field, ended) << "its connections end at once";
    Completion ping = co_await second.io->call(RawHost::io(0xc4, 0, 1), {});
    EXPECT_EQ(ping.status_field, 0) << "the other controller is not touched";
    EXPECT_FALSE(answered);
    wire.device.let_go();
    co_await tasks.close();
    EXPECT_TRUE(answered);
    RawHost late(t.host_1);
    co_await late.greet(wire.address);
    Completion again = co_await late.connect(2, first.cntlid, node_nqn());
    EXPECT_EQ(status_of(again), Status::connect_invalid_parameters) << "once ended, it stays ended";
    co_await wire.target->close();
  }(*this));
}

TEST_F(WireTest, a_write_beyond_the_capsule_is_asked_for_by_r2t) {
  run([](WireTest& t) -> Task<void> {
    Wire wire;
    wire.start(t, 4096);
    auto host = co_await wire.host(t.host_1);
    co_await wire.fence_by(host, 1, 0);
    auto bytes = pattern(8192, 4);
    Command write = RawHost::io(0x01, 2, 2);
    auto send_data = [](RawHost& io, DataPdu r2t, std::uint32_t offset, std::span<const std::byte> part) -> Task<void> {
      DataPdu data{};
      data.header = PduHeader{PduType::h2c_data, 0, 24, 24, static_cast<std::uint32_t>(24 + part.size())};
      data.cid = r2t.cid;
      data.transfer_tag = r2t.transfer_tag;
      data.offset_bytes = offset;
      data.size_bytes = static_cast<std::uint32_t>(part.size());
      std::vector<std::byte> pdu = to_bytes(data);
      pdu.insert(pdu.end(), part.begin(), part.end());
      co_await io.send(pdu);
    };
    Completion asked = co_await host.io->call(write, {});
    EXPECT_EQ(asked.status_field, other_pdu);
    EXPECT_EQ(host.io->last_other.size(), 24u);
    DataPdu r2t;
    std::memcpy(&r2t, host.io->last_other.data(), sizeof r2t);
    EXPECT_EQ(r2t.header.type, PduType::r2t);
    EXPECT_EQ(r2t.offset_bytes, 0u);
    EXPECT_EQ(r2t.size_bytes, 8192u);
    co_await send_data(*host.io, r2t, 0, std::span(bytes).first(3000));
    co_await send_data(*host.io, r2t, 3000, std::span(bytes).subspan(3000));
    Completion done = co_await host.io->completion();
    EXPECT_EQ(done.status_field, 0);
    EXPECT_TRUE(wire.device.holds(8192, bytes));

    co_await host.io->call(write, {});
    std::memcpy(&r2t, host.io->last_other.data(), sizeof r2t);
    co_await send_data(*host.io, r2t, 4096, std::span(bytes).first(4096));
    Completion fault = co_await host.io->completion();
    EXPECT_EQ(fault.status_field, other_pdu);
    TermReq term;
    std::memcpy(&term, host.io->last_other.data(), sizeof term);
    EXPECT_EQ(term.header.type, PduType::c2h_term_req);
    EXPECT_EQ(term.fatal_error, static_cast<std::uint16_t>(FatalError::data_out_of_range));
    co_await wire.target->close();
  }(*this));
}

TEST_F(WireTest, a_wrong_data_digest_fails_the_command_and_a_wrong_header_digest_the_connection) {
  run([](WireTest& t) -> Task<void> {
    Wire wire;
    wire.start(t);
    auto host = co_await wire.host(t.host_1, Digests{true, true});
    co_await wire.fence_by(host, 1, 0);
    Command write = RawHost::io(0x01, 0, 1);
    write.cid = 77;
    write.data.type = sgl_in_capsule;
    std::vector<std::byte> bytes = host.io->capsule(write, pattern(4096, 1));
    bytes[100] ^= std::byte{1};
    co_await host.io->send(bytes);
    Completion refused = co_await host.io->completion();
    EXPECT_EQ(status_of(refused), Status::transient_transport_error);
    EXPECT_EQ(refused.cid, 77);
    EXPECT_EQ(wire.device.count(block::Operation::write), 0u);
    bytes = host.io->capsule(write, pattern(4096, 1));
    co_await host.io->send(bytes);
    Completion good = co_await host.io->completion();
    EXPECT_EQ(good.status_field, 0);
    bytes[20] ^= std::byte{1};
    co_await host.io->send(bytes);
    Completion fault = co_await host.io->completion();
    EXPECT_EQ(fault.status_field, other_pdu);
    TermReq term;
    std::memcpy(&term, host.io->last_other.data(), sizeof term);
    EXPECT_EQ(term.fatal_error, static_cast<std::uint16_t>(FatalError::header_digest));
    Completion over = co_await host.io->completion();
    EXPECT_EQ(over.status_field, ended);
    co_await wire.target->close();
  }(*this));
}

TEST_F(WireTest, malformed_pdus_end_their_connection_with_the_right_error_and_nothing_else) {
  run([](WireTest& t) -> Task<void> {
    Wire wire;
    wire.start(t);
    struct Case {
      const char* name;
      std::size_t at;
      std::uint8_t value;
      FatalError expected;
    };
    const Case cases[] = {
        {"unknown type", 0, 0x33, FatalError::invalid_header},
        {"a response sent by a host", 0, 0x05, FatalError::invalid_header},
        {"a second ICReq of wrong length", 0, 0x00, FatalError::invalid_header},
        {"a digest nobody agreed to", 1, 0x01, FatalError::invalid_header},
        {"wrong header length", 2, 71, FatalError::invalid_header},
        {"total shorter than the header", 4, 20, FatalError::invalid_header},
        {"data without room", 4, 80, FatalError::invalid_header},
    };
    for (const Case& row : cases) {
      auto host = co_await wire.host(t.host_1);
      Command write = RawHost::io(0x01, 0, 1);
      std::vector<std::byte> bytes = host.io->capsule(write, {});
      bytes[row.at] = std::byte{row.value};
      co_await host.io->send(bytes);
      Completion fault = co_await host.io->completion();
      EXPECT_EQ(fault.status_field, other_pdu) << row.name;
      TermReq term{};
      if (host.io->last_other.size() >= sizeof term) std::memcpy(&term, host.io->last_other.data(), sizeof term);
      EXPECT_EQ(term.fatal_error, static_cast<std::uint16_t>(row.expected)) << row.name;
    }
    auto big = co_await wire.host(t.host_1);
    co_await big.io->post(RawHost::io(0x01, 0, 8), pattern(32768, 1));
    Completion too_much = co_await big.io->completion();
    EXPECT_EQ(too_much.status_field, other_pdu) << "more in the capsule than IOCCSZ allows";
    auto mismatch = co_await wire.host(t.host_1);
    co_await wire.fence_by(mismatch, 1, 0);
    Completion wrong_size = co_await mismatch.io->call(RawHost::io(0x01, 0, 2), pattern(4096, 1));
    EXPECT_EQ(status_of(wrong_size), Status::data_sgl_length_invalid);
    Completion beyond = co_await mismatch.io->call(RawHost::io(0x01, 256, 1), pattern(4096, 1));
    EXPECT_EQ(status_of(beyond), Status::lba_out_of_range);
    Completion huge = co_await mismatch.io->call(RawHost::io(0x02, ~0ull, 1), {});
    EXPECT_EQ(status_of(huge), Status::lba_out_of_range);
    Completion other_namespace = co_await mismatch.io->call(RawHost::io(0x01, 0, 1, 5), pattern(4096, 1));
    EXPECT_EQ(status_of(other_namespace), Status::invalid_namespace);
    std::vector<std::byte> ranges(16 * 2);
    DsmRange good_range{0, 1, 3};
    DsmRange bad_range{0, 2, 255};
    std::memcpy(ranges.data(), &good_range, 16);
    std::memcpy(ranges.data() + 16, &bad_range, 16);
    Command trim = RawHost::io(0x09, 0, 1);
    trim.cdw10 = 1;
    trim.cdw11 = 4;
    trim.cdw12 = 0;
    Completion half = co_await mismatch.io->call(trim, ranges);
    EXPECT_EQ(status_of(half), Status::lba_out_of_range);
    EXPECT_EQ(wire.device.count(block::Operation::trim), 1u);
    co_await wire.target->close();
  }(*this));
}

TEST_F(WireTest, random_bytes_crash_nothing_and_write_nothing) {
  run([](WireTest& t) -> Task<void> {
    Wire wire;
    wire.start(t);
    std::mt19937 random(11);
    for (unsigned round = 0; round < 400; ++round) {
      RawHost host(t.host_1, Digests{round % 2 == 0, round % 4 < 2});
      bool greeted = round % 5 != 0;
      if (greeted) {
        co_await host.greet(wire.address);
        if (round % 3 != 0) co_await host.connect(0, 0xffff, node_nqn());
      } else {
        co_await host.dial(wire.address);
      }
      std::vector<std::byte> bytes;
      for (unsigned i = 0; i < 20; ++i) {
        Command command{};
        std::vector<std::byte> noise = pattern(sizeof command, random());
        std::memcpy(&command, noise.data(), sizeof command);
        if (i % 2 == 0)
          command.opcode = static_cast<std::uint8_t>(std::array{0x7f, 0x06, 0x02, 0x09, 0x38, 0x18}[random() % 6]);
        std::vector<std::byte> capsule = host.capsule(command, pattern(random() % 3 * 512, random()));
        if (round % 2 == 1 && i == 19) capsule[random() % capsule.size()] ^= static_cast<std::byte>(1 + random() % 255);
        bytes.insert(bytes.end(), capsule.begin(), capsule.end());
      }
      if (!greeted) bytes = pattern(300, random());
      co_await host.send(bytes);
      host.hang_up();
    }
    auto survivor = co_await wire.host(t.host_1);
    Completion read = co_await survivor.io->call(RawHost::io(0x02, 0, 1), {});
    EXPECT_EQ(read.status_field, 0);
    EXPECT_EQ(wire.device.count(block::Operation::write), 0u);
    EXPECT_EQ(wire.fence->contents()->epoch, Epoch{0});
    co_await wire.target->close();
  }(*this));
}

TEST_F(WireTest, random_io_commands_crash_nothing) {
  run([](WireTest& t) -> Task<void> {
    Wire wire;
    wire.start(t);
    std::mt19937 random(12);
    for (unsigned round = 0; round < 60; ++round) {
      auto host = co_await wire.host(t.host_1);
      for (unsigned i = 0; i < 30; ++i) {
        Command command{};
        std::vector<std::byte> noise = pattern(sizeof command, random());
        std::memcpy(&command, noise.data(), sizeof command);
        const int opcodes[] = {0x00, 0x01, 0x02, 0x08, 0x09, 0x0d, 0x0e, 0x11, 0x15, 0xc0, 0xc4};
        command.opcode = static_cast<std::uint8_t>(opcodes[random() % std::size(opcodes)]);
        if (i % 4 != 0) command.nsid = 1;
        if (i % 3 != 0) command.cdw10 &= 0xff;
        if (i % 3 != 0) command.cdw11 &= 1;
        if (i % 5 != 0) command.cdw12 &= 0x3;
        const std::size_t sizes[] = {0, 8, 16, 4096, 8192, 48};
        bool sent = co_await host.io->post(command, pattern(sizes[random() % std::size(sizes)], random()));
        if (!sent) break;
      }
      host.io->hang_up();
    }
    auto survivor = co_await wire.host(t.host_2);
    Completion read = co_await survivor.io->call(RawHost::io(0x02, 0, 1), {});
    EXPECT_EQ(read.status_field, 0);
    co_await wire.target->close();
  }(*this));
}

TEST_F(WireTest, a_silent_host_is_ended_by_its_keep_alive) {
  run([](WireTest& t) -> Task<void> {
    Wire wire;
    wire.start(t);
    auto host = co_await wire.host(t.host_1, {}, 200);
    Command event{};
    event.opcode = 0x0c;
    co_await host.admin->post(event, {});
    Completion over = co_await host.admin->completion();
    EXPECT_EQ(over.status_field, ended) << "and the event request was never answered";
    Completion io_over = co_await host.io->completion();
    EXPECT_EQ(io_over.status_field, ended);
    EXPECT_EQ(wire.target->counts().controllers, 0u);
    co_await wire.target->close();
  }(*this));
}

TEST_F(WireTest, only_allowed_peers_are_served) {
  run([](WireTest& t) -> Task<void> {
    TargetOptions options;
    options.subsystem_nqn = node_nqn();
    options.allowed_peers = {"127.0.0.9"};
    Target target(options);
    auto address = target.listen(block::Endpoint{"tcp:127.0.0.1:0"});
    RawHost host(t.host_1);
    bool greeted = co_await host.greet(*address);
    EXPECT_FALSE(greeted);
    co_await target.close();
  }(*this));
}

}  // namespace
}  // namespace zpair::nvme
