#include "node/pool_agent.h"

#include <algorithm>
#include <ctime>

#include "base/log.h"

namespace zpair::node {

namespace {

namespace brain_agent = brain::agent;

constexpr std::int64_t survey_answer_ms = 2000;
constexpr std::int64_t handover_answer_ms = 20'000;
constexpr std::int64_t yield_answer_ms = 60'000;

brain_agent::Vouch vouch_of(const std::string& text) {
  for (auto vouch : {brain_agent::Vouch::importing, brain_agent::Vouch::serving, brain_agent::Vouch::cannot,
                     brain_agent::Vouch::gave_up}) {
    if (name_of(vouch) == text) return vouch;
  }
  return brain_agent::Vouch::none;
}

// The part of an import's time that ends with this phase.
std::string_view part_of(brain_agent::Takeover::Phase phase) {
  using Phase = brain_agent::Takeover::Phase;
  switch (phase) {
    case Phase::reading: return "read";
    case Phase::surveying: return "survey";
    case Phase::swapping: return "swap";
    case Phase::keeping: return "keep";
    case Phase::closing: return "drives";
    case Phase::starting: return "start";
  }
  return "?";
}

}  // namespace

PoolAgent::PoolAgent(std::string pool, NodeParts& node)
    : pool_(std::move(pool)),
      node_(node),
      sockets_(VolumeSockets::Options{
          .pool = pool_,
          .config = node.config,
          .paths = node.paths,
          .give =
              [this](const std::string& volume, std::uint64_t guid, int fd) {
                if (!process_) return;
                auto sent = process_->send(control::VolumeSocket{volume, guid}, fd);
                if (!sent) log_warning("pool {}: the socket of volume {}: {}", pool_, volume, sent.error().message);
              },
          .give_client =
              [this](const std::string& volume, std::uint64_t guid, int fd) {
                if (process_) (void)process_->send(control::VolumeClient{volume, guid}, fd);
              },
      }) {
  state_.limits = node.limits;
  learn_volumes(node_.folder->load_volumes(pool_));
}

PoolAgent::~PoolAgent() { ZP_ASSERT(tasks_.running() == 0, "a pool's agent was closed"); }

void PoolAgent::start(std::optional<record::Record> kept) {
  brain_agent::Started started{};
  started.now_ns = boot_time_ns();
  started.node = node_.config->node;
  started.pool = pool_;
  if (kept) started.kept = record::Stored{*kept, 0};
  if (process_) started.running = process_epoch_;
  Uuid random = Uuid::random();
  for (int i = 0; i < 8; ++i) started.nonce = started.nonce << 8 | random.bytes[static_cast<std::size_t>(i)];
  started_ = true;
  feed(std::move(started));
  // What an adopted process said before this brain listened.
  if (process_state_ && process_state_->stored.mod_revision > 0) seen(process_state_->stored);
  tick();
}

block::Task<void> PoolAgent::close() {
  closed_ = true;
  closing_.set();
  if (timer_ != 0) node_.reactor->cancel_timer(timer_);
  process_changed_.set();
  for (auto& [id, answer] : surveys_) answer->done.set();
  for (auto& [id, answer] : commands_) answer->done.set();
  for (auto& [epoch, answer] : handovers_) answer->done.set();
  for (auto& [epoch, answer] : yields_) answer->done.set();
  if (process_) co_await process_->close();
  co_await tasks_.close();
  while (visitor_count_ > 0) {
    visitors_left_.reset();
    co_await visitors_left_.wait();
  }
  process_.reset();
  co_await sockets_.close();
}

// --- the brain -------------------------------------------------------------------------------------------------------

void PoolAgent::feed(Event event) {
  if (closed_ || !started_) return;
  waiting_.push_back(std::move(event));
  if (!digesting_) digest();
}

void PoolAgent::digest() {
  digesting_ = true;
  while (!waiting_.empty() && !closed_) {
    Event event = std::move(waiting_.front());
    waiting_.pop_front();
    for (const Action& action : step(state_, event)) {
      std::visit([this](const auto& order_given) { order(order_given); }, action);
    }
  }
  digesting_ = false;
  after_step();
}

void PoolAgent::tick() {
  if (closed_) return;
  feed(brain_agent::Ticked{boot_time_ns()});
  timer_ = node_.reactor->call_at(boot_time_ns() + state_.limits.tick_ns, [this] { tick(); });
}

void PoolAgent::after_step() {
  time_import();
  note_changes();
  settle_sockets();
}

void PoolAgent::note_changes() {
  if (state_.stored) {
    const record::Record& record = state_.stored->record;
    std::string owner = fmt::format("{}@{}", record.owner, record.epoch);
    if (owner != noted_owner_) {
      if (!noted_owner_.empty()) {
        node_.events->add(pool_, "owner-changed",
                          fmt::format("node {} owns the pool at epoch {}: {}", record.owner, record.epoch, record.why));
      }
      noted_owner_ = owner;
      sockets_.owner_changed();
    }
  }
  if (state_.refused != noted_refused_) {
    if (!state_.refused.empty())
      node_.events->add(pool_, "refused", node_.with_names ? node_.with_names(state_.refused) : state_.refused);
    noted_refused_ = state_.refused;
  }
}

void PoolAgent::time_import() {
  using brain_agent::Kind;
  const auto& takeover = state_.takeover;
  if (!takeover) {
    timeline_ = {};
    return;
  }
  const Nanoseconds now_ns = boot_time_ns();
  if (timeline_.since.empty()) {
    if (takeover->phase == brain_agent::Takeover::Phase::starting) return;  // its process has it
    const std::string_view partner = name_of(partner_of(node_.config->node));
    switch (takeover->kind) {
      case Kind::takeover:
        timeline_ = {fmt::format("node {} was last heard", partner), state_.owner_heard_ns, 0, {}};
        timeline_.end_part("detect", now_ns);
        break;
      case Kind::restart:
        timeline_ = {"its former process ended", died_ns_ > 0 ? died_ns_ : now_ns, 0, {}};
        timeline_.end_part("detect", now_ns);
        break;
      case Kind::switchover:
        timeline_ = {"the order", ordered_ns_, 0, {}};
        timeline_.end_part("yield", now_ns);
        break;
      case Kind::cold_start:
      case Kind::command:
      case Kind::import: timeline_ = {"the decision", now_ns, 0, {}}; break;
    }
    timed_phase_ = brain_agent::Takeover::Phase::reading;
  }
  if (takeover->phase == timed_phase_) return;
  timeline_.end_part(part_of(timed_phase_), now_ns);
  timed_phase_ = takeover->phase;
}

void PoolAgent::settle_sockets() {
  bool partner_owns = state_.stored && state_.stored->record.owner != node_.config->node;
  VolumeSockets::Server server = VolumeSockets::Server::nobody;
  if (process_) {
    server = VolumeSockets::Server::process;
  } else if (partner_owns) {
    server = VolumeSockets::Server::relay;
  }
  sockets_.serve_by(server);
}

std::optional<record::Record> PoolAgent::newest_record() const {
  std::optional<record::Record> newest;
  if (state_.stored) newest = state_.stored->record;
  bool process_knows = process_state_ && process_state_->stored.mod_revision > 0;
  if (process_knows && (!newest || process_state_->stored.record.rev > newest->rev))
    newest = process_state_->stored.record;
  return newest;
}

bool PoolAgent::record_changes() const {
  return state_.keeping || state_.keep_next || (state_.takeover && state_.takeover->open_swap);
}

std::uint64_t PoolAgent::newest_mod_revision() const {
  std::uint64_t newest = 0;
  const auto take = [&](const record::Stored& stored) { newest = std::max(newest, stored.mod_revision); };
  if (state_.stored) take(*state_.stored);
  if (state_.keeping) take(*state_.keeping);
  if (state_.keep_next) take(*state_.keep_next);
  if (state_.takeover) take(state_.takeover->base);
  if (state_.takeover) take(state_.takeover->won);
  if (process_state_) take(process_state_->stored);
  return newest;
}

bool PoolAgent::changes_owner() const {
  const bool partner_imports = brain_agent::report(state_).vouch != brain_agent::Vouch::serving && state_.partner &&
                               state_.partner->vouch == brain_agent::Vouch::importing;
  return state_.takeover || state_.switchover || process_ || partner_imports;
}

void PoolAgent::learn_volumes(std::vector<agent::PoolState::Volume> volumes) {
  std::sort(volumes.begin(), volumes.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  if (volumes == volumes_) return;
  volumes_ = std::move(volumes);
  std::map<std::string, std::uint64_t> guids;
  for (const auto& volume : volumes_) guids.emplace(volume.name, volume.guid);
  sockets_.set_volumes(guids);
  if (!started_ && !creating_) return;
  auto store = [](PoolAgent& self, std::vector<agent::PoolState::Volume> list) -> block::Task<void> {
    auto stored = co_await self.node_.folder->store_volumes(self.pool_, std::move(list));
    if (!stored) log_warning("pool {}: {}", self.pool_, stored.error().message);
  };
  tasks_.spawn(store(*this, volumes_));
}

block::Task<void> PoolAgent::forget() {
  learn_volumes({});
  auto removed = co_await node_.folder->remove_record(pool_);
  if (!removed) log_warning("pool {}: {}", pool_, removed.error().message);
}

// --- the partner -----------------------------------------------------------------------------------------------------

void PoolAgent::seen(record::Stored stored) { feed(brain::RecordSeen{boot_time_ns(), std::move(stored)}); }

void PoolAgent::heard(const agent::PoolState& told) {
  feed(brain_agent::PartnerHeard{boot_time_ns(), {vouch_of(told.vouch), told.process_epoch, told.known_epoch}});
  bool owner_there = state_.stored && state_.stored->record.owner != node_.config->node;
  if (told.knows_volumes && owner_there && !process_) learn_volumes(told.volumes);
}

void PoolAgent::heard_nothing_of_it() { feed(brain_agent::PartnerHeard{boot_time_ns(), {}}); }

agent::PoolState PoolAgent::to_tell() const {
  agent::PoolState told;
  told.pool = pool_;
  if (creating_) {
    told.vouch = name_of(brain_agent::Vouch::importing);
    told.process_epoch = told.known_epoch = process_epoch_;
    return told;
  }
  brain_agent::PartnerReport report = brain_agent::report(state_);
  told.vouch = name_of(report.vouch);
  told.process_epoch = report.process_epoch;
  told.known_epoch = report.known_epoch;
  told.knows_volumes = process_serves();
  if (told.knows_volumes) told.volumes = volumes_;
  return told;
}

agent::PromiseAnswer PoolAgent::promise(std::size_t path, const agent::PromiseRequest& request) {
  ZP_ASSERT(!digesting_, "a promise is asked from outside a step");
  promise_answer_.reset();
  feed(brain_agent::PromiseAsked{boot_time_ns(), static_cast<brain::PathIndex>(path), request.epoch, request.nonce,
                                 request.floor});
  if (!promise_answer_) return {false, request.nonce, state_.seen_epoch};
  return {promise_answer_->granted, request.nonce, promise_answer_->known};
}

agent::CanServeAnswer PoolAgent::can_serve(const agent::CanServeRequest& request) {
  ZP_ASSERT(!digesting_, "a question is asked from outside a step");
  can_serve_answer_.reset();
  feed(brain_agent::CanServeAsked{boot_time_ns(), request.epoch});
  if (!can_serve_answer_) return {false, state_.seen_epoch};
  return {can_serve_answer_->can_serve, can_serve_answer_->known};
}

block::Task<Result<agent::SurveyAnswer>> PoolAgent::survey(agent::SurveyRequest request) {
  Visit visit(*this);
  Answer answer;
  std::uint64_t id = ++last_id_;
  surveys_.emplace(id, &answer);
  feed(brain_agent::SurveyAsked{boot_time_ns(), id, request.epoch});
  co_await block::wait_for(answer.done, Deadline::in_ms(survey_answer_ms));
  surveys_.erase(id);
  if (!answer.ok) co_return fail(ErrorCode::timed_out, "pool {}: the survey has no answer yet", pool_);
  co_return std::move(answer.survey);
}

block::Task<Result<agent::HandoverAnswer>> PoolAgent::handover(agent::HandoverRequest request) {
  Visit visit(*this);
  Answer answer;
  Epoch epoch = request.stored.record.epoch;
  auto at = handovers_.emplace(epoch, &answer);
  feed(brain_agent::HandoverAsked{boot_time_ns(), std::move(request.stored)});
  co_await block::wait_for(answer.done, Deadline::in_ms(handover_answer_ms));
  handovers_.erase(at);
  if (!answer.ok) co_return fail(ErrorCode::timed_out, "pool {}: the handover is not done yet", pool_);
  co_return std::move(answer.handover);
}

block::Task<Result<agent::YieldAnswer>> PoolAgent::yield(agent::YieldRequest request) {
  Visit visit(*this);
  Answer answer;
  auto at = yields_.emplace(request.epoch, &answer);
  feed(brain_agent::YieldAsked{boot_time_ns(), request.epoch});
  co_await block::wait_for(answer.done, Deadline::in_ms(yield_answer_ms));
  yields_.erase(at);
  if (!answer.ok) co_return fail(ErrorCode::timed_out, "pool {}: its process has not exported it yet", pool_);
  co_return std::move(answer.yield);
}

agent::RelayAnswer PoolAgent::relay(const agent::RelayHello& hello, UniqueFd& socket) {
  if (!process_) return {false, fmt::format("pool {} is not served by node {}", pool_, node_.config->node)};
  auto sent =
      process_->send(control::RelayLink{hello.volume, hello.session.to_string(), hello.link_number}, socket.get());
  if (!sent) return {false, sent.error().message};
  socket.reset();
  return {true, ""};
}

// --- the operator ----------------------------------------------------------------------------------------------------

block::Task<Result<std::string>> PoolAgent::command(std::function<Event(std::uint64_t)> make, Deadline deadline) {
  Visit visit(*this);
  Answer answer;
  std::uint64_t id = ++last_id_;
  commands_.emplace(id, &answer);
  feed(make(id));
  bool answered = co_await block::wait_for(answer.done, deadline);
  commands_.erase(id);
  if (!answered) co_return fail(ErrorCode::timed_out, "pool {}: not done yet: {}", pool_, brain_agent::why(state_));
  if (closed_) co_return fail(ErrorCode::cancelled, "zpaird stops");
  if (!answer.ok) co_return fail(ErrorCode::refused, "{}", answer.text);
  co_return std::move(answer.text);
}

block::Task<Result<std::string>> PoolAgent::switch_here(Deadline deadline) {
  if (!state_.switchover && !state_.takeover) ordered_ns_ = boot_time_ns();
  auto make = [](std::uint64_t id) -> Event { return brain_agent::SwitchoverOrdered{boot_time_ns(), id}; };
  co_return co_await command(make, deadline);
}

block::Task<Result<std::string>> PoolAgent::take_over(Deadline deadline) {
  auto make = [](std::uint64_t id) -> Event { return brain_agent::TakeoverOrdered{boot_time_ns(), id}; };
  co_return co_await command(make, deadline);
}

block::Task<Result<std::string>> PoolAgent::import(Override accepted, Deadline deadline) {
  if (accepted.accept_data_loss) {
    node_.events->add(pool_, "override",
                      fmt::format("import with accepted data loss{} was ordered: {}",
                                  accepted.accept_corruption ? " and corruption" : "", accepted.sides));
  }
  auto make = [accepted](std::uint64_t id) -> Event {
    return brain_agent::ImportOrdered{boot_time_ns(), id, accepted.accept_data_loss, accepted.accept_corruption};
  };
  co_return co_await command(make, deadline);
}

block::Task<std::string> PoolAgent::side() {
  Visit visit(*this);
  const NodeId here = node_.config->node;
  const auto record = newest_record();
  if (!record) co_return fmt::format("side {}: its record is not known yet", here);
  std::vector<LegId> legs;
  Uberblock newest;
  for (const record::Mirror& mirror : record->mirrors) {
    for (const record::Leg& leg : mirror.legs) {
      if (leg.node != here || !node_.drives->present(leg.drive)) continue;
      legs.push_back(leg.guid);
      const Uberblock of_leg = co_await node_.drives->newest_uberblock(leg.drive);
      if (of_leg.txg > newest.txg) newest = of_leg;
    }
  }
  if (const std::string broken = brain_agent::incomplete(*record, legs); !broken.empty())
    co_return fmt::format("side {}: {}", here, broken);
  if (newest.txg.value == 0) co_return fmt::format("side {}: no txg can be read", here);
  const std::int64_t age_s =
      std::max<std::int64_t>(0, std::time(nullptr) - static_cast<std::int64_t>(newest.written_s));
  co_return fmt::format("side {}: last complete txg {}, {} s old", here, newest.txg, age_s);
}

}  // namespace zpair::node
