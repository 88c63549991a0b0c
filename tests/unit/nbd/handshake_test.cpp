#include "nbd/handshake.h"

#include <gtest/gtest.h>

#include <random>

#include "host.h"
#include "nbd/link.h"
#include "nbd/transmission.h"

namespace zpair::nbd {
namespace {

using test::Bytes;
using Next = HandshakeStep::Next;

Directory one_volume() {
  Directory directory;
  directory.find = [](const std::string& name) -> std::optional<ExportFacts> {
    if (name != "tank/vm1") return std::nullopt;
    return ExportFacts{"tank/vm1", 1 << 20, 4096, false, 7};
  };
  directory.list = [] { return std::vector<std::string>{"tank/vm1"}; };
  return directory;
}

std::uint32_t reply_type(const HandshakeStep& step) {
  return step.answer.size() < 20 ? 0 : wire::load<std::uint32_t>(step.answer.data() + 12);
}
std::string reply_text(const HandshakeStep& step) { return test::text_of(std::span(step.answer).subspan(20)); }

TEST(Handshake, greeting_is_fixed_newstyle_byte_by_byte) {
  Bytes expected = test::bytes_of("NBDMAGICIHAVEOPT");
  expected.push_back(std::byte{0});
  expected.push_back(std::byte{3});
  EXPECT_EQ(greeting(), expected);
}

TEST(Handshake, unknown_or_missing_client_flags_end_the_session) {
  for (std::uint32_t flags : {0u, 2u, 4u, 7u, 0x80000001u}) {
    Handshake handshake;
    EXPECT_EQ(on_client_flags(handshake, flags).next, Next::end) << flags;
  }
  Handshake handshake;
  EXPECT_EQ(on_client_flags(handshake, 1).next, Next::option);
  EXPECT_FALSE(handshake.no_zeroes);
  EXPECT_EQ(on_client_flags(handshake, 3).next, Next::option);
  EXPECT_TRUE(handshake.no_zeroes);
}

TEST(Handshake, export_name_answers_size_flags_and_zeroes_unless_declined) {
  Handshake handshake;
  HandshakeStep step = on_option(handshake, one_volume(), wire::opt_export_name, test::bytes_of("tank/vm1"));
  EXPECT_EQ(step.next, Next::transmit);
  ASSERT_EQ(step.answer.size(), 10u + 124u);
  EXPECT_EQ(wire::load<std::uint64_t>(step.answer.data()), 1u << 20);
  EXPECT_EQ(wire::load<std::uint16_t>(step.answer.data() + 8), transmission_flags(handshake.chosen, handshake));
  Handshake brief;
  (void)on_client_flags(brief, 3);
  EXPECT_EQ(on_option(brief, one_volume(), wire::opt_export_name, test::bytes_of("tank/vm1")).answer.size(), 10u);
}

TEST(Handshake, export_name_of_nothing_ends_the_session) {
  Handshake handshake;
  HandshakeStep step = on_option(handshake, one_volume(), wire::opt_export_name, test::bytes_of("tank/vm2"));
  EXPECT_EQ(step.next, Next::end);
  EXPECT_TRUE(step.answer.empty());
}

struct OptionCase {
  const char* name;
  std::uint32_t option;
  Bytes data;
  std::uint32_t type;
  Next next;
};

TEST(Handshake, every_option_has_its_answer) {
  Bytes cut = test::RawClient::go_data("tank/vm1");
  cut.pop_back();
  Bytes too_long = test::RawClient::go_data("tank/vm1");
  too_long[3] = std::byte{200};
  const OptionCase cases[] = {
      {"list", wire::opt_list, {}, wire::rep_server, Next::option},
      {"list with data", wire::opt_list, test::bytes_of("x"), wire::rep_err_invalid, Next::option},
      {"abort", wire::opt_abort, {}, wire::rep_ack, Next::end},
      {"starttls", wire::opt_starttls, {}, wire::rep_err_unsup, Next::option},
      {"unknown", 4711, test::bytes_of("x"), wire::rep_err_unsup, Next::option},
      {"set meta context without structured replies", wire::opt_set_meta_context,
       test::RawClient::context_data("tank/vm1", {"base:allocation"}), wire::rep_err_invalid, Next::option},
      {"structured replies", wire::opt_structured_reply, {}, wire::rep_ack, Next::option},
      {"structured replies with data", wire::opt_structured_reply, test::bytes_of("x"), wire::rep_err_invalid,
       Next::option},
      {"go", wire::opt_go, test::RawClient::go_data("tank/vm1"), wire::rep_info, Next::transmit},
      {"go with a slash", wire::opt_go, test::RawClient::go_data("/tank/vm1"), wire::rep_info, Next::transmit},
      {"info", wire::opt_info, test::RawClient::go_data("tank/vm1"), wire::rep_info, Next::option},
      {"go to nothing", wire::opt_go, test::RawClient::go_data("tank/vm2"), wire::rep_err_unknown, Next::option},
      {"go without a default", wire::opt_go, test::RawClient::go_data(""), wire::rep_err_unknown, Next::option},
      {"go cut short", wire::opt_go, cut, wire::rep_err_invalid, Next::option},
      {"go with a name beyond the end", wire::opt_go, too_long, wire::rep_err_invalid, Next::option},
      {"go with an empty client name", wire::opt_go, test::RawClient::go_data("tank/vm1@"), wire::rep_err_invalid,
       Next::option},
      {"go with a bad client name", wire::opt_go, test::RawClient::go_data("tank/vm1@a b"), wire::rep_err_invalid,
       Next::option},
  };
  for (const OptionCase& test_case : cases) {
    Handshake handshake;
    HandshakeStep step = on_option(handshake, one_volume(), test_case.option, test_case.data);
    EXPECT_EQ(reply_type(step), test_case.type) << test_case.name;
    EXPECT_EQ(step.next, test_case.next) << test_case.name;
  }
}

TEST(Handshake, the_allocation_context_is_listed_and_chosen) {
  struct Row {
    const char* name;
    std::uint32_t option;
    Bytes data;
    std::uint32_t type;  // of the first reply
    bool chosen;
  };
  auto data = test::RawClient::context_data;
  Bytes cut = data("tank/vm1", {"base:allocation"});
  cut.pop_back();
  Bytes many = data("tank/vm1", {});
  many.back() = std::byte{200};
  const Row rows[] = {
      {"list all", wire::opt_list_meta_context, data("tank/vm1", {}), wire::rep_meta_context, false},
      {"list it", wire::opt_list_meta_context, data("tank/vm1", {"base:allocation"}), wire::rep_meta_context, false},
      {"list its kind", wire::opt_list_meta_context, data("tank/vm1", {"base:"}), wire::rep_meta_context, false},
      {"list others", wire::opt_list_meta_context, data("tank/vm1", {"qemu:"}), wire::rep_ack, false},
      {"list of nothing", wire::opt_list_meta_context, data("tank/vm2", {}), wire::rep_err_unknown, false},
      {"set", wire::opt_set_meta_context, data("tank/vm1", {"qemu:x", "base:allocation"}), wire::rep_meta_context,
       true},
      {"set of nothing", wire::opt_set_meta_context, data("tank/vm2", {"base:allocation"}), wire::rep_err_unknown,
       false},
      {"set none", wire::opt_set_meta_context, data("tank/vm1", {}), wire::rep_ack, false},
      {"set others", wire::opt_set_meta_context, data("tank/vm1", {"base:", "base:x"}), wire::rep_ack, false},
      {"set cut short", wire::opt_set_meta_context, cut, wire::rep_err_invalid, false},
      {"set with queries beyond the end", wire::opt_set_meta_context, many, wire::rep_err_invalid, false},
  };
  for (const Row& row : rows) {
    Handshake handshake;
    (void)on_option(handshake, one_volume(), wire::opt_structured_reply, {});
    HandshakeStep step = on_option(handshake, one_volume(), row.option, row.data);
    EXPECT_EQ(reply_type(step), row.type) << row.name;
    EXPECT_EQ(step.next, Next::option) << row.name;
    EXPECT_EQ(on_option(handshake, one_volume(), wire::opt_go, test::RawClient::go_data("tank/vm1")).next,
              Next::transmit);
    EXPECT_EQ(tells_allocation(handshake), row.chosen) << row.name;
  }
  Handshake another;
  (void)on_option(another, one_volume(), wire::opt_structured_reply, {});
  (void)on_option(another, one_volume(), wire::opt_set_meta_context, data("tank/vm1", {"base:allocation"}));
  another.allocation_of = "tank/vm2";  // chosen for another export than the one that is opened then
  (void)on_option(another, one_volume(), wire::opt_go, test::RawClient::go_data("tank/vm1"));
  EXPECT_FALSE(tells_allocation(another));
}

TEST(Handshake, over_tcp_a_client_name_is_required_and_the_refusal_says_so) {
  Directory directory = one_volume();
  directory.client_name = Directory::ClientName::required;
  Handshake handshake;
  HandshakeStep refused = on_option(handshake, directory, wire::opt_go, test::RawClient::go_data("tank/vm1"));
  EXPECT_EQ(reply_type(refused), wire::rep_err_policy);
  EXPECT_EQ(reply_text(refused), "over TCP a client name is required: ask for tank/vm1@CLIENT");
  HandshakeStep accepted = on_option(handshake, directory, wire::opt_go, test::RawClient::go_data("tank/vm1@vm-100"));
  EXPECT_EQ(accepted.next, Next::transmit);
  EXPECT_EQ(handshake.client, "vm-100");
  EXPECT_EQ(handshake.chosen.name, "tank/vm1");
}

TEST(Handshake, a_client_that_names_an_id_is_not_served_another_volume_of_that_name) {
  struct Row {
    const char* name;
    std::uint32_t reply;
    const char* says;
  };
  for (const Row& row : {Row{"tank/vm1~7", wire::rep_ack, ""}, Row{"tank/vm1~7@vm-100", wire::rep_ack, ""},
                         Row{"tank/vm1@vm-100~7", wire::rep_ack, ""}, Row{"tank/vm1", wire::rep_ack, ""},
                         Row{"tank/vm1~8", wire::rep_err_unknown, "volume 'tank/vm1' with id 8 is no more"},
                         Row{"tank/vm1~8@vm-100", wire::rep_err_unknown, "is another volume, with id 7"},
                         Row{"tank/vm1@vm-100~8", wire::rep_err_unknown, "volume 'tank/vm1' with id 8 is no more"},
                         Row{"tank/vm1@vm-100~", wire::rep_err_invalid, "no volume's id"},
                         Row{"tank/vm1@~7", wire::rep_err_invalid, "no client name"},
                         Row{"tank/vm1~7~7", wire::rep_err_unknown, "no volume 'tank/vm1~7' is served here"},
                         Row{"tank/vm1~", wire::rep_err_invalid, "no volume's id"},
                         Row{"tank/vm1~0", wire::rep_err_invalid, "no volume's id"},
                         Row{"tank/vm1~7x", wire::rep_err_invalid, "no volume's id"},
                         Row{"tank/vm1~99999999999999999999", wire::rep_err_invalid, "no volume's id"}}) {
    Handshake handshake;
    const HandshakeStep step = on_option(handshake, one_volume(), wire::opt_go, test::RawClient::go_data(row.name));
    EXPECT_EQ(step.next == Next::transmit, row.reply == wire::rep_ack) << row.name;
    if (row.reply == wire::rep_ack) {
      EXPECT_EQ(handshake.client, std::string_view(row.name).contains('@') ? "vm-100" : "") << row.name;
      continue;
    }
    EXPECT_EQ(reply_type(step), row.reply) << row.name;
    EXPECT_NE(reply_text(step).find(row.says), std::string::npos) << row.name << ": " << reply_text(step);
  }
}

TEST(Handshake, several_connections_are_offered_only_without_a_name) {
  ExportFacts facts{"tank/vm1", 1 << 20, 4096, false, 7};
  Handshake unnamed;
  Handshake named;
  named.client = "vm-100";
  EXPECT_TRUE(transmission_flags(facts, unnamed) & wire::flag_can_multi_conn);
  EXPECT_FALSE(transmission_flags(facts, named) & wire::flag_can_multi_conn);
}

TEST(Handshake, a_socket_of_one_volume_serves_it_under_the_empty_name) {
  Directory directory = one_volume();
  directory.default_name = "tank/vm1";
  Handshake handshake;
  EXPECT_EQ(on_option(handshake, directory, wire::opt_go, test::RawClient::go_data("")).next, Next::transmit);
  EXPECT_EQ(on_option(handshake, directory, wire::opt_go, test::RawClient::go_data("@vm-7")).next, Next::transmit);
  EXPECT_EQ(handshake.client, "vm-7");
}

TEST(Handshake, a_client_that_only_asks_is_ended) {
  Handshake handshake;
  int asked = 0;
  while (on_option(handshake, one_volume(), wire::opt_list, {}).next == Next::option) ASSERT_LT(++asked, 10'000);
}

TEST(Handshake, changed_bytes_never_do_harm) {  // worth most in the asan build
  std::mt19937_64 random(11);
  const Bytes whole = test::RawClient::go_data("tank/vm1@vm-100");
  for (int i = 0; i < 50'000; ++i) {
    Bytes data = whole;
    for (std::uint64_t changes = random() % 4; changes > 0; --changes)
      data[random() % data.size()] = static_cast<std::byte>(random());
    data.resize(random() % 3 == 0 ? random() % (data.size() + 1) : data.size());
    Handshake handshake;
    handshake.structured_replies = i % 2 != 0;
    HandshakeStep step = on_option(handshake, one_volume(), static_cast<std::uint32_t>(random() % 12), data);
    if (step.next == Next::transmit) {
      EXPECT_EQ(handshake.chosen.name, "tank/vm1");
    }
    Bytes link = encode({LinkKind::client, NodeId::b, Uuid{}, 42, "tank/vm1", {1, 2, 3}});
    link[random() % link.size()] = static_cast<std::byte>(random());
    (void)decode_link_header(link);
  }
}

struct RequestCase {
  const char* name;
  WireRequest request;
  wire::Errno error;
};

TEST(Transmission, every_request_is_checked) {
  constexpr std::uint64_t size = 1 << 20;
  const RequestCase cases[] = {
      {"read", {0, wire::cmd_read, 1, 0, 4096}, wire::err_none},
      {"read anywhere", {0, wire::cmd_read, 1, 3, 5}, wire::err_none},
      {"read to the end", {0, wire::cmd_read, 1, size - 1, 1}, wire::err_none},
      {"read of nothing", {0, wire::cmd_read, 1, 0, 0}, wire::err_inval},
      {"read past the end", {0, wire::cmd_read, 1, size, 1}, wire::err_inval},
      {"read that wraps", {0, wire::cmd_read, 1, ~0ull, 4096}, wire::err_inval},
      {"write", {0, wire::cmd_write, 1, 4096, 4096}, wire::err_none},
      {"write with FUA", {wire::cmd_flag_fua, wire::cmd_write, 1, 4096, 4096}, wire::err_none},
      {"write past the end", {0, wire::cmd_write, 1, size - 4096, 8192}, wire::err_nospc},
      {"write off the blocks", {0, wire::cmd_write, 1, 512, 4096}, wire::err_inval},
      {"write of half a block", {0, wire::cmd_write, 1, 0, 512}, wire::err_inval},
      {"write with an unknown flag", {1 << 7, wire::cmd_write, 1, 0, 4096}, wire::err_inval},
      {"write zeroes",
       {wire::cmd_flag_no_hole | wire::cmd_flag_fast_zero, wire::cmd_write_zeroes, 1, 0, 1 << 20},
       wire::err_none},
      {"write zeroes past the end", {0, wire::cmd_write_zeroes, 1, 4096, 1 << 20}, wire::err_nospc},
      {"trim", {0, wire::cmd_trim, 1, 0, 1 << 20}, wire::err_none},
      {"trim past the end", {0, wire::cmd_trim, 1, 4096, 1 << 20}, wire::err_inval},
      {"flush", {0, wire::cmd_flush, 1, 0, 0}, wire::err_none},
      {"flush of a range", {0, wire::cmd_flush, 1, 0, 4096}, wire::err_inval},
      {"cache", {0, 5, 1, 0, 4096}, wire::err_inval},
      {"block status that was not chosen", {0, wire::cmd_block_status, 1, 0, 4096}, wire::err_inval},
      {"unknown", {0, 99, 1, 0, 4096}, wire::err_inval},
      {"do not fragment without structure", {wire::cmd_flag_df, wire::cmd_read, 1, 0, 4096}, wire::err_inval},
  };
  ExportFacts facts{"tank/vm1", size, 4096, false};
  Handshake plain;
  for (const RequestCase& test_case : cases) {
    EXPECT_EQ(check_request(test_case.request, facts, plain), test_case.error) << test_case.name;
  }
  Handshake structured;
  structured.structured_replies = true;
  structured.chosen = facts;
  EXPECT_EQ(check_request({wire::cmd_flag_df, wire::cmd_read, 1, 0, 4096}, facts, structured), wire::err_none);
  const WireRequest block_status{wire::cmd_flag_req_one, wire::cmd_block_status, 1, 0, size};
  EXPECT_EQ(check_request(block_status, facts, structured), wire::err_inval);
  structured.allocation_of = facts.name;
  EXPECT_EQ(check_request(block_status, facts, structured), wire::err_none);
  EXPECT_EQ(check_request({0, wire::cmd_block_status, 1, 0, 0}, facts, structured), wire::err_inval);
  EXPECT_EQ(check_request({0, wire::cmd_block_status, 1, 512, 4096}, facts, structured), wire::err_inval);
  EXPECT_EQ(check_request({0, wire::cmd_block_status, 1, 4096, size}, facts, structured), wire::err_inval);
  facts.size_bytes = 1ull << 40;
  EXPECT_EQ(check_request({0, wire::cmd_read, 1, 0, (32u << 20) + 1}, facts, structured), wire::err_inval);
  facts.read_only = true;
  for (std::uint16_t command : {wire::cmd_write, wire::cmd_trim, wire::cmd_write_zeroes}) {
    EXPECT_EQ(check_request({0, command, 1, 0, 4096}, facts, plain), wire::err_perm);
  }
}

TEST(Transmission, a_stream_that_cannot_be_followed_is_an_error) {
  Bytes bytes(wire::request_bytes);
  EXPECT_FALSE(parse_request(std::span<const std::byte, wire::request_bytes>(bytes.data(), bytes.size())));
  wire::store(bytes.data(), wire::request_magic);
  wire::store(bytes.data() + 6, std::uint16_t{wire::cmd_write});
  wire::store(bytes.data() + 24, std::uint32_t{(32u << 20) + 1});
  EXPECT_FALSE(parse_request(std::span<const std::byte, wire::request_bytes>(bytes.data(), bytes.size())));
}

TEST(LinkHeader, survives_the_wire) {
  LinkHeader header{LinkKind::client, NodeId::b, Uuid::random(), 42, "tank/vm1", {1, 2, 3}};
  auto back = decode_link_header(encode(header));
  ASSERT_TRUE(back);
  EXPECT_EQ(*back, header);
}

TEST(LinkHeader, cut_or_changed_bytes_are_refused) {
  Bytes good = encode({LinkKind::client, NodeId::b, Uuid::random(), 42, "tank/vm1", {1, 2, 3}});
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_FALSE(decode_link_header(std::span(good).first(size))) << size;
  }
  for (std::size_t at : {0u, 11u, 12u, 13u}) {
    Bytes changed = good;
    changed[at] ^= std::byte{0x40};
    EXPECT_FALSE(decode_link_header(changed)) << at;
  }
}

}  // namespace
}  // namespace zpair::nbd
