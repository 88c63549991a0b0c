// The members of the store: who leads, moving the leader, replacing a member that lost its data (rule 9).
#include "base/ids.h"
#include "base/log.h"
#include "quorum/etcd_state_internal.h"

namespace zpair::quorum {

using block::Task;
using nlohmann::json;

namespace {

std::string ticket_key(const std::string& name) { return "/zpair/members/" + name; }

const Member* member_named(const std::vector<Member>& members, const std::string& name) {
  for (const Member& member : members) {
    if (member.name == name) return &member;
  }
  return nullptr;
}

const Member* member_at(const std::vector<Member>& members, const std::vector<std::string>& peer_urls) {
  for (const Member& member : members) {
    if (member.peer_urls == peer_urls) return &member;
  }
  return nullptr;
}

}  // namespace

Task<Result<std::vector<Member>>> EtcdStore::members(Deadline deadline) {
  auto answer = co_await state_->ask("/v3/cluster/member/list", "{}", deadline);
  if (!answer) co_return std::unexpected(answer.error());
  try {
    std::vector<Member> all;
    for (const json& value : answer->at("members")) {
      Member member;
      member.id = std::to_string(number_in(value, "ID"));
      member.name = value.value("name", "");
      member.peer_urls = value.value("peerURLs", std::vector<std::string>());
      member.client_urls = value.value("clientURLs", std::vector<std::string>());
      all.push_back(std::move(member));
    }
    co_return all;
  } catch (const std::exception& error) {
    co_return fail(ErrorCode::invalid, "the store's member list cannot be read: {}", error.what());
  }
}

Task<std::vector<MemberStatus>> EtcdStore::status(Deadline deadline) {
  std::vector<HttpClient::CallPointer> calls;
  for (const std::string& endpoint : state_->options.endpoints) {
    Deadline one{std::min(deadline.at_ns, Deadline::in_ms(2 * state_->options.try_ms).at_ns)};
    calls.push_back(
        state_->http.start(HttpRequest{.url = endpoint + "/v3/maintenance/status", .body = "{}", .deadline = one}));
  }
  std::vector<MemberStatus> all;
  for (std::size_t i = 0; i < calls.size(); ++i) {
    HttpAnswer answer = co_await state_->http.finish(calls[i]);
    MemberStatus status;
    status.endpoint = state_->options.endpoints[i];
    status.error = answer.error;
    json value = json::parse(answer.body, nullptr, false);
    if (answer.ok() && value.is_object()) {
      status.answers = true;
      status.id = value.value("header", json::object()).value("member_id", "0");
      status.leader_id = value.value("leader", "0");
      status.version = value.value("version", "");
    }
    all.push_back(std::move(status));
  }
  co_return all;
}

Task<Result<void>> EtcdStore::move_leader(std::string name, Deadline deadline) {
  auto known = co_await members(deadline);
  if (!known) co_return std::unexpected(known.error());
  const Member* target = member_named(*known, name);
  if (target == nullptr) co_return fail(ErrorCode::not_found, "the store has no member {}", name);
  std::vector<MemberStatus> statuses = co_await status(deadline);
  bool target_answers = false;
  for (const MemberStatus& member : statuses)
    target_answers = target_answers || (member.answers && member.id == target->id);
  if (!target_answers) co_return fail(ErrorCode::unreachable, "the store's member {} does not answer", name);
  for (const MemberStatus& member : statuses) {
    if (!member.answers || member.leader_id == "0" || member.leader_id != member.id) continue;
    if (member.id == target->id) co_return Result<void>{};
    auto moved = co_await state_->ask_one(member.endpoint, "/v3/maintenance/transfer-leadership",
                                          json{{"targetID", target->id}}.dump(), deadline);
    if (!moved) co_return fail(moved.error(), "cannot move the store's leader to {}", name);
    co_return Result<void>{};
  }
  co_return fail(ErrorCode::unreachable, "the store's leader does not answer");
}

void EtcdStore::keep_leader_on(std::string name, std::int64_t every_ms) {
  state_->reactor.post([this, name = std::move(name), every_ms] {
    if (!state_->closing) state_->tasks.spawn(state_->leader_loop(*this, name, every_ms));
  });
}

// A failure needs no word here: an unreachable member is reported by what needs it, and the next round tries again.
Task<void> EtcdStore::State::leader_loop(EtcdStore& store, std::string name, std::int64_t every_ms) {
  while (!closing) {
    (void)co_await store.move_leader(name, Deadline::in_ms(1000));
    co_await pause_ms(every_ms);
  }
}

Task<Result<void>> EtcdStore::raise_revision(std::uint64_t revision, Deadline deadline) {
  const std::string key = "/zpair/revision";
  std::uint64_t reached = 0;
  auto looked = co_await state_->range(key, false, deadline, &reached);
  if (!looked) co_return std::unexpected(looked.error());
  const std::string body = json{{"key", to_base64(key)}, {"value", to_base64("-")}}.dump();
  while (reached < revision) {
    auto answer = co_await state_->ask("/v3/kv/put", body, deadline);
    if (!answer)
      co_return fail(answer.error(), "the store's revision is {} and has to reach {}: repeat the command, it goes on",
                     reached, revision);
    reached = number_in(answer->value("header", json::object()), "revision");
  }
  co_return Result<void>{};
}

Task<Result<Readmitted>> EtcdStore::readmit(std::string name, std::string peer_url, Deadline deadline) {
  State& state = *state_;
  auto found = co_await state.range(ticket_key(name), false, deadline);
  if (!found) co_return std::unexpected(found.error());
  json ticket = found->empty() ? json::object() : json::parse(found->front().value, nullptr, false);
  if (!ticket.is_object()) ticket = json::object();
  std::uint64_t ticket_revision = found->empty() ? 0 : found->front().mod_revision;

  auto before = co_await members(deadline);
  if (!before) co_return std::unexpected(before.error());
  const Member* former = member_named(*before, name);
  const auto former_urls =
      former != nullptr ? former->peer_urls : ticket.value("peer_urls", std::vector<std::string>());
  if (former_urls.empty()) co_return fail(ErrorCode::not_found, "the store has no member {}, and never had", name);
  const auto peer_urls = peer_url.empty() ? former_urls : std::vector<std::string>{peer_url};
  if (const Member* there = member_at(*before, peer_urls);
      there != nullptr && !there->name.empty() && there->name != name)
    co_return fail(ErrorCode::exists, "{} is the address of the store's member {}", peer_url, there->name);
  if (former != nullptr) {
    std::vector<MemberStatus> statuses = co_await status(deadline);
    for (const MemberStatus& member : statuses) {
      if (!member.answers || member.id != former->id) continue;
      co_return fail(ErrorCode::refused, "the store's member {} answers at {}, so it has its data: nothing to readmit",
                     name, member.endpoint);
    }
    for (const std::string& url :
         former->client_urls) {  // where it says that it is; our own configuration may be older
      auto answers =
          co_await state.ask_one(url, "/v3/maintenance/status", "{}", Deadline::in_ms(2 * state.options.try_ms));
      if (answers) {
        co_return fail(ErrorCode::refused,
                       "the store's member {} answers at {}, so it has its data: nothing to readmit", name, url);
      }
    }
  }

  // Kept first, so that a second try knows the addresses although the member is gone from the list.
  ticket["state"] = "replacing";
  ticket["peer_urls"] = peer_urls;
  State::Transaction keep{ticket_key(name), ticket_revision, ticket.dump()};
  State::TransactionAnswer kept = co_await state.transact(keep, deadline);
  if (kept.outcome != SwapAnswer::Outcome::applied) {
    co_return fail(ErrorCode::timed_out, "cannot note the replacement of member {} in the store: try again", name);
  }

  // Each step looks first, so that a step whose answer was lost is not done twice.
  std::string member_id;
  std::vector<Member> members_now;
  std::string last_error = "no time";
  while (member_id.empty()) {
    if (deadline.passed())
      co_return fail(ErrorCode::timed_out, "cannot replace the store's member {}: {}", name, last_error);
    auto now = co_await members(deadline);
    if (!now) co_return std::unexpected(now.error());
    const Member* old = member_named(*now, name);
    if (old == nullptr && former_urls != peer_urls)
      old = member_at(*now, former_urls);  // added by an earlier try, elsewhere
    const Member* fresh = old == nullptr ? member_at(*now, peer_urls) : nullptr;
    if (fresh != nullptr) {
      member_id = fresh->id;
      members_now = *now;
      break;
    }
    std::string path = old != nullptr ? "/v3/cluster/member/remove" : "/v3/cluster/member/add";
    json body = old != nullptr ? json{{"ID", old->id}} : json{{"peerURLs", peer_urls}};
    std::string endpoint = state.endpoints_by_preference().front();
    auto done = co_await state.ask_one(endpoint, path, body.dump(),
                                       Deadline{std::min(deadline.at_ns, Deadline::in_ms(3000).at_ns)});
    if (done) continue;
    last_error = done.error().message;  // `unhealthy cluster` for some seconds after a member went
    if (last_error.find("HTTP status") == std::string::npos) state.mark_silent(endpoint);
    bool go_on = co_await state.pause_ms(200);
    if (!go_on) co_return fail(ErrorCode::cancelled, "the store was closed");
  }

  std::string initial_cluster;
  for (const Member& member : members_now) {
    for (const std::string& url : member.peer_urls) {
      initial_cluster +=
          fmt::format("{}{}={}", initial_cluster.empty() ? "" : ",", member.id == member_id ? name : member.name, url);
    }
  }
  json fresh_ticket{{"state", "readmitted"},
                    {"token", Uuid::random().to_string()},
                    {"member_id", member_id},
                    {"peer_urls", peer_urls},
                    {"initial_cluster", initial_cluster}};
  State::Transaction grant{ticket_key(name), kept.revision, fresh_ticket.dump()};
  State::TransactionAnswer granted = co_await state.transact(grant, deadline);
  if (granted.outcome != SwapAnswer::Outcome::applied) {
    co_return fail(ErrorCode::timed_out,
                   "member {} is replaced, but its ticket could not be written to the store: try again", name);
  }
  log_info("the store's member {} is readmitted as {}: start it through etcd-start", name, member_id);
  co_return Readmitted{member_id, initial_cluster};
}

}  // namespace zpair::quorum
