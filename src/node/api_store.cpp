// Orders about the quorum store: a member that lost its data, and a store that lost its memory.
#include "node/api_internal.h"
#include "state/rebuild.h"
#include "state/record_copies.h"

namespace zpair::node {

namespace {

// How many changes somebody may have made in the lost store after the newest that is known here.
constexpr std::uint64_t unseen_changes = 1000;
constexpr std::int64_t store_ms = 3000;

// What a node knows of the pools' records.
struct Known {
  state::NodeCopies copies;
  std::uint64_t mod_revision = 0;  // the highest that anybody here may compare with
};

Result<Known> known_in(const json& answer, NodeId node) {
  Known known;
  known.copies.node = node;
  try {
    known.mod_revision = answer.at("mod_revision");
    for (const json& text : answer.at("records")) {
      ZP_TRY(record, record::parse_record(text.dump()));
      known.copies.records.push_back(std::move(record));
    }
  } catch (const json::exception& error) {
    return fail(ErrorCode::internal, "node {} told its records in words that cannot be read: {}", node, error.what());
  }
  return known;
}

}  // namespace

Api::Answer Api::store_readmit(Asked asked) {
  ZP_CO_TRY(body, Impl::body_of(asked));
  ZP_CO_TRY(member, Impl::text_in(body, "member"));
  const std::string peer_url = Impl::text_or(body, "peer_url");
  if (!peer_url.empty() && !peer_url.starts_with("http://"))
    co_return fail(ErrorCode::invalid, "'{}' is no peer address of etcd: write http://ADDRESS:2380", peer_url);
  ZP_CO_TRY(readmitted, co_await daemon_.store().readmit(member, peer_url, Deadline::in_ms(10'000)));
  co_return Impl::dump(
      {{"member", member}, {"id", readmitted.member_id}, {"initial_cluster", readmitted.initial_cluster}});
}

// To the partner: the newest copies that this node has, in memory or on its disk. Nothing while one of them is on its way.
Api::Answer Api::node_records(Asked) {
  ZP_CO_TRY(copies, daemon_.folder().load_records());
  std::uint64_t mod_revision = 0;
  for (const std::string& pool : daemon_.pools()) {
    PoolAgent* agent = daemon_.find_pool(pool);
    if ((agent->has_process() && !agent->process_state()) || agent->record_changes()) {
      co_return fail(ErrorCode::unreachable, "the record of pool {} is changing on node {}: try again in a moment",
                     pool, daemon_.config().node);
    }
    mod_revision = std::max(mod_revision, agent->newest_mod_revision());
    auto record = agent->newest_record();
    if (!record) continue;
    const auto copy = copies.find(pool);
    if (copy == copies.end() || state::is_older(copy->second, *record)) copies[pool] = std::move(*record);
  }
  json records = json::array();
  for (const auto& [pool, record] : copies) records.push_back(json::parse(record::to_json(record)));
  co_return Impl::dump({{"mod_revision", mod_revision}, {"records", records}});
}

// The records as they were: a pool that serves goes on by its own, and its next swap fits.
Api::Answer Api::store_rebuild(Asked asked) {
  ZP_CO_TRY(body, Impl::body_of(asked));
  std::vector<std::string> named;
  for (const json& pool : Impl::list_in(body, "pools")) {
    if (!pool.is_string()) co_return fail(ErrorCode::invalid, "`pools` is a list of names");
    named.push_back(pool.get<std::string>());
  }
  const NodeId here = daemon_.config().node;
  auto in_store = co_await daemon_.store().list(Deadline::in_ms(store_ms));
  if (!in_store) {
    co_return fail(ErrorCode::unreachable, "the store does not answer, so nothing can be written to it: {}",
                   in_store.error().message);
  }
  std::vector<Known> nodes;
  ZP_CO_TRY(own_answer, Impl::parsed(co_await node_records(asked)));
  ZP_CO_TRY(own, known_in(own_answer, here));
  nodes.push_back(std::move(own));
  const bool accept_data_loss = Impl::flag_in(body, "accept_data_loss");
  auto partner_answer = co_await call_partner("GET", "/v1/node/records", "", Impl::quick_ms);
  if (!partner_answer && (daemon_.partner_alive() || !accept_data_loss)) {
    co_return fail(ErrorCode::refused,
                   "node {} cannot be asked for its copies of the records, which may be newer ({}). With "
                   "--accept-data-loss, when it is gone for good: what it acknowledged alone is lost",
                   partner_of(here), partner_answer.error().message);
  }
  if (partner_answer) {
    ZP_CO_TRY(value, Impl::parsed(partner_answer));
    ZP_CO_TRY(theirs, known_in(value, partner_of(here)));
    nodes.push_back(std::move(theirs));
  }

  std::vector<state::NodeCopies> copies;
  std::uint64_t mod_revision = 0;
  for (Known& known : nodes) {
    mod_revision = std::max(mod_revision, known.mod_revision);
    std::erase_if(known.copies.records, [&](const record::Record& record) {
      return std::ranges::any_of(*in_store, [&](const auto& stored) { return stored.record.name == record.name; });
    });
    copies.push_back(std::move(known.copies));
  }
  ZP_CO_TRY(plan, state::plan_rebuild(copies, named, accept_data_loss));
  for (const state::Rebuilt& one : plan) {  // before anything is written
    ZP_CO_TRY(destroyed, co_await daemon_.store().destroyed(one.record.name, Deadline::in_ms(store_ms)));
    if (!destroyed || destroyed->pool_guid != one.record.pool_guid || destroyed->rev < one.record.rev) continue;
    co_return fail(ErrorCode::refused, "pool {} was destroyed: node {} is about to forget it", one.record.name,
                   one.from);
  }
  json rebuilt = json::array();
  if (!plan.empty()) {
    ZP_CO_CHECK(co_await daemon_.store().raise_revision(mod_revision + unseen_changes, Deadline::in_ms(Impl::slow_ms)));
  }
  for (state::Rebuilt& one : plan) {
    const record::Record record = one.record;
    auto answer = co_await daemon_.store().swap(0, std::move(one.record), Deadline::in_ms(store_ms));
    if (answer.outcome != quorum::SwapAnswer::Outcome::applied) {
      co_return fail(ErrorCode::timed_out, "the record of pool {} could not be written: repeat the command, it goes on",
                     record.name);
    }
    daemon_.events().add(record.name, "store-rebuilt",
                         fmt::format("the store has the record of epoch {} revision {} again, from node {}'s copy{}",
                                     record.epoch, record.rev, one.from,
                                     one.with_loss ? " alone: what the other node acknowledged alone is lost" : ""));
    rebuilt.push_back(
        {{"pool", record.name}, {"epoch", record.epoch.value}, {"rev", record.rev.value}, {"from", name_of(one.from)}});
  }
  co_return Impl::dump({{"pools", rebuilt}});
}

}  // namespace zpair::node
