// The pool process's own HTTP API: routes and POST requests. zpaird forwards what concerns this pool; drives that are new to
// the pool come as control::DrivePlace objects (README.md), because zpaird has registered them.
#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "control/channel.h"
#include "pool/process.h"
#include "state/fault_notes.h"

namespace zpair::pool {

namespace owner = brain::owner;

namespace {

using nlohmann::json;

constexpr std::int64_t new_leg_deadline_ms = 5000;
constexpr std::int64_t look_deadline_ms = 1000;  // an engine that holds does not answer
constexpr std::int64_t command_deadline_ms = 60'000;

// Runs `read` over the parsed body; whatever JSON throws is the caller's mistake.
template <class Read>
auto from_body(const std::string& body, Read read) -> Result<decltype(read(json()))> {
  try {
    return read(json::parse(body));
  } catch (const std::exception& error) {
    return fail(ErrorCode::invalid, "the request's body cannot be read: {}", error.what());
  }
}

template <class T>
T value_or(const json& value, const char* key, T otherwise) {
  auto found = value.find(key);
  if (found == value.end() || found->is_null()) return otherwise;
  return found->get<T>();
}

control::DrivePlace place_of(const json& value) {
  auto node = parse_node(value.at("node").get<std::string>());
  if (!node) throw std::invalid_argument(node.error().message);
  return {*node, value.at("durable_id"), value_or<std::string>(value, "path", ""),
          value_or<std::uint32_t>(value, "nsid", 0), value_or<std::uint64_t>(value, "size_bytes", 0)};
}

struct AddBody {
  std::vector<std::vector<control::DrivePlace>> mirrors;
  bool force;
};

AddBody add_body(const json& value) {
  AddBody body{{}, value_or(value, "force", false)};
  for (const json& mirror : value.at("mirrors")) {
    body.mirrors.emplace_back();
    for (const json& place : mirror) body.mirrors.back().push_back(place_of(place));
  }
  return body;
}

struct ReplaceBody {
  NodeId node;
  std::string old_drive;
  control::DrivePlace place;
  bool force;
};

ReplaceBody replace_body(const json& value) {
  auto node = parse_node(value.at("old").at("node").get<std::string>());
  if (!node) throw std::invalid_argument(node.error().message);
  return {*node, value.at("old").at("drive"), place_of(value.at("new")), value_or(value, "force", false)};
}

zfs::VolumeSpec volume_spec(const json& value) {
  zfs::VolumeSpec spec;
  spec.name = value.at("name");
  spec.size_bytes = value.at("size_bytes");
  spec.block_size_bytes = value_or<std::uint32_t>(value, "block_size_bytes", spec.block_size_bytes);
  if (value_or(value, "thin", false)) spec.space = zfs::VolumeSpec::Space::thin;
  spec.compression = value_or<std::string>(value, "compression", "");
  return spec;
}

struct CloneBody {
  std::string name, snapshot, clone;
  zfs::VolumeSpec::Space space;
};

CloneBody clone_body(const json& value) {
  return {value.at("name"), value.at("snapshot"), value.at("clone"),
          value_or(value, "thin", false) ? zfs::VolumeSpec::Space::thin : zfs::VolumeSpec::Space::thick};
}

struct TuneBody {
  Tuning::Wanted set;
  bool undo, try_out;
};

TuneBody tune_body(const json& value) {
  TuneBody body{{}, value_or(value, "undo", false), value_or(value, "try", false)};
  if (body.undo) return body;
  for (const auto& [name, wanted] : value.at("set").items()) {
    if (wanted.is_null()) {
      body.set[name] = std::nullopt;
    } else if (wanted.is_number_unsigned()) {
      body.set[name] = wanted.get<std::uint64_t>();
    } else {
      throw std::invalid_argument(fmt::format("tunable {} takes a whole number, or null", name));
    }
  }
  return body;
}

}  // namespace

Result<void> Process::start_api() {
  using api::Request;
  api::Routes routes;
  routes["GET /v1/pools"] = [this](Request) { return get_pools(); };
  routes["GET /v1/status"] = [this](Request) { return get_pools(); };
  routes["GET /v1/volumes"] = [this](Request) { return get_volumes(); };
  routes["GET /v1/events"] = [this](Request request) { return get_events(std::move(request)); };
  for (const char* verb : {"create", "resize", "destroy", "snapshot", "destroy_snapshot", "clone", "rollback"}) {
    routes[fmt::format("POST /v1/volume/{}", verb)] = [this, verb](Request request) {
      return post_volume(verb, std::move(request.body));
    };
  }
  routes["POST /v1/pool/scrub"] = [this](Request request) { return post_scrub(std::move(request.body)); };
  routes["POST /v1/pool/export"] = [this](Request request) {
    return post_end(owner::End::export_pool, std::move(request.body));
  };
  routes["POST /v1/pool/destroy"] = [this](Request request) {
    return post_end(owner::End::destroy, std::move(request.body));
  };
  routes["POST /v1/pool/add"] = [this](Request request) { return post_add(std::move(request.body)); };
  routes["POST /v1/drive/replace"] = [this](Request request) { return post_replace(std::move(request.body)); };
  routes["GET /v1/tunables"] = [this](Request) { return get_tunables(); };
  routes["POST /v1/tune"] = [this](Request request) { return post_tune(std::move(request.body)); };
  routes["POST /v1/fault"] = [this](Request request) { return post_fault(std::move(request.body)); };
  ZP_TRY(server, api::HttpServer::start(reactor_, control::api_path(options_.config.run_dir, options_.pool),
                                        std::move(routes)));
  api_ = std::move(server);
  return {};
}

Result<void> Process::check_serving() const {
  if (!driver_.started() || driver_.state().phase != owner::Phase::serving) {
    return fail(ErrorCode::unreachable, "pool {} does not serve now ({}): try again", options_.pool,
                driver_.started() ? owner::name_of(driver_.state().phase) : "starting");
  }
  return {};
}

std::uint64_t Process::new_command() { return ++last_command_; }

block::Task<Result<std::string>> Process::await_command(std::uint64_t id) {
  auto& command = commands_[id];
  if (!command) command = std::make_unique<Command>();
  const Deadline deadline = Deadline::in_ms(command_deadline_ms);
  co_await block::wait_for(commands_[id]->signal, deadline);
  const Command ended{commands_[id]->answered, commands_[id]->done, commands_[id]->text, {}};
  commands_.erase(id);
  if (!ended.answered) co_return fail(ErrorCode::timed_out, "no answer yet: look at the status");
  if (!ended.done) co_return fail(ErrorCode::refused, "{}", legs_->readable(ended.text));
  co_return std::string("{}");
}

// ---------------------------------------------------------------- volumes

// A new volume, and where clients find it.
std::string Process::describe(const zfs::VolumeInfo& info) const {
  json nbd = {{"a", nullptr}, {"b", nullptr}};
  nbd[std::string(name_of(options_.config.node))] = options_.config.volume_address(options_.pool, info.name, info.guid);
  return json{{"pool", options_.pool},
              {"name", info.name},
              {"guid", std::to_string(info.guid)},
              {"size_bytes", info.size_bytes},
              {"nbd", nbd}}
      .dump();
}

block::Task<Result<std::string>> Process::post_volume(std::string verb, std::string body) {
  ZP_CO_CHECK(check_serving());
  if (verb == "create") {
    ZP_CO_TRY(spec, from_body(body, volume_spec));
    ZP_CO_CHECK(options_.config.check_volume_socket(options_.pool, spec.name));
    ZP_CO_TRY(info, co_await exports_->create(std::move(spec)));
    co_return describe(info);
  }
  if (verb == "clone") {
    ZP_CO_TRY(wanted, from_body(body, clone_body));
    ZP_CO_CHECK(options_.config.check_volume_socket(options_.pool, wanted.clone));
    ZP_CO_TRY(info, co_await exports_->clone(wanted.name, wanted.snapshot, wanted.clone, wanted.space));
    co_return describe(info);
  }
  ZP_CO_TRY(name, from_body(body, [](const json& value) { return value.at("name").get<std::string>(); }));
  Result<void> done;
  if (verb == "resize") {
    ZP_CO_TRY(size_bytes,
              from_body(body, [](const json& value) { return value.at("size_bytes").get<std::uint64_t>(); }));
    done = co_await exports_->resize(name, size_bytes);
  } else if (verb == "destroy") {
    // Whoever means a snapshot must not lose the volume.
    ZP_CO_TRY(of_snapshot, from_body(body, [](const json& value) { return value.contains("snapshot"); }));
    if (of_snapshot || name.contains('@')) {
      co_return fail(ErrorCode::invalid,
                     "/v1/volume/destroy destroys a volume and names no snapshot: see /v1/volume/destroy_snapshot");
    }
    done = co_await exports_->destroy(name);
  } else {
    ZP_CO_TRY(snapshot, from_body(body, [](const json& value) { return value.at("snapshot").get<std::string>(); }));
    if (snapshot.empty()) co_return fail(ErrorCode::invalid, "the request names no snapshot of volume {}", name);
    if (verb == "rollback") {
      done = co_await exports_->roll_back(name, snapshot);
    } else if (verb == "destroy_snapshot") {
      done = co_await exports_->destroy_snapshot(name, snapshot);
    } else {
      done = co_await exports_->snapshot(name, snapshot);
    }
  }
  if (!done) co_return std::unexpected(done.error());
  co_return std::string("{}");
}

// ---------------------------------------------------------------- the pool

block::Task<Result<std::string>> Process::post_scrub(std::string body) {
  ZP_CO_CHECK(check_serving());
  ZP_CO_TRY(stop, from_body(body, [](const json& value) { return value_or(value, "stop", false); }));
  Result<void> done;
  if (stop) {
    done = co_await pool_->cancel_scrub();
  } else if (driver_.state().returning) {
    co_return fail(ErrorCode::refused, "legs of pool {} are resyncing: scrub when they are back", options_.pool);
  } else {
    done = co_await pool_->start_scrub();
  }
  if (!done) co_return std::unexpected(done.error());
  // Whoever looks at the status next sees it begun, or ended.
  const std::uint64_t wanted = ++looks_asked_;
  const Deadline deadline = Deadline::in_ms(look_deadline_ms);
  look_now_.set();
  while (looks_done_ < wanted && !deadline.passed() && !closing_) {
    looked_.reset();
    co_await block::wait_for(looked_, deadline);
  }
  co_return std::string("{}");
}

block::Task<Result<std::string>> Process::post_end(owner::End end, std::string) {
  if (!driver_.started()) co_return fail(ErrorCode::unreachable, "pool {} has not started yet", options_.pool);
  if (const std::uint32_t clients = exports_ ? exports_->client_count() : 0;
      end == owner::End::destroy && clients > 0) {
    co_return fail(ErrorCode::refused, "the volumes of pool {} have {} client(s): disconnect them first", options_.pool,
                   clients);
  }
  const std::uint64_t id = new_command();
  commands_[id] = std::make_unique<Command>();
  feed(owner::EndOrdered{boot_time_ns(), id, end});
  co_return co_await await_command(id);
}

// Opens and fences a drive that the pool does not know yet, and looks at what is on it.
block::Task<Result<LegId>> Process::prepare_new_leg(control::DrivePlace place, bool force) {
  if (legs_->find_drive(place.node, place.durable_id)) {
    co_return fail(ErrorCode::exists, "drive {}:{} is a leg of pool {} already: name a drive that is free", place.node,
                   place.path, options_.pool);
  }
  const LegId leg = legs_->add_new(place);
  const Deadline deadline = Deadline::in_ms(new_leg_deadline_ms);
  const record::Record& record = driver_.state().stored.record;
  FenceOutcome fenced = co_await legs_->fence(leg, record.epoch, record.rev, record::digest_of(record), deadline);
  if (fenced.kind == FenceOutcome::Kind::done) {
    auto survey = co_await zfs::survey_labels(*legs_->device(leg));
    if (survey && (!*survey || (*survey)->pool_state == 2 || force)) co_return leg;
    co_await legs_->release(leg);
    if (!survey) co_return std::unexpected(survey.error());
    co_return fail(ErrorCode::refused, "drive {} carries pool {}: give --force to destroy what is on it", place.path,
                   (*survey)->pool_name);
  }
  co_await legs_->release(leg);
  co_return fail(ErrorCode::unreachable, "drive {} of node {} cannot be fenced: {}", place.path, place.node,
                 fenced.why);
}

block::Task<Result<std::string>> Process::post_add(std::string body) {
  ZP_CO_CHECK(check_serving());
  ZP_CO_TRY(parsed, from_body(body, add_body));
  for (const std::vector<control::DrivePlace>& drives : parsed.mirrors) {
    record::Mirror mirror;
    for (const control::DrivePlace& place : drives) {
      ZP_CO_TRY(leg, co_await prepare_new_leg(place, parsed.force));
      record::Leg of_record;
      of_record.guid = leg;
      of_record.node = place.node;
      of_record.drive = place.durable_id;
      of_record.in_sync = true;  // a new mirror has nothing to miss; recorded before it is used (rule 1)
      mirror.legs.push_back(std::move(of_record));
      places_.push_back(place);
    }
    if (mirror.legs.empty()) co_return fail(ErrorCode::invalid, "a mirror without drives");
    mirror.guid = provisional_mirror_guid(mirror.legs.front().guid);
    const std::uint64_t id = new_command();
    commands_[id] = std::make_unique<Command>();
    feed(owner::MirrorOffered{boot_time_ns(), id, std::move(mirror)});
    ZP_CO_TRY(answer, co_await await_command(id));
    static_cast<void>(answer);
  }
  co_return std::string("{}");
}

block::Task<Result<std::string>> Process::post_replace(std::string body) {
  ZP_CO_CHECK(check_serving());
  ZP_CO_TRY(parsed, from_body(body, replace_body));
  const std::optional<LegId> old_leg = legs_->find_drive(parsed.node, parsed.old_drive);
  const record::Mirror* mirror = old_leg ? record::mirror_of(driver_.state().stored.record, *old_leg) : nullptr;
  if (mirror == nullptr) {
    co_return fail(ErrorCode::not_found, "pool {} has no drive {} on node {}", options_.pool, parsed.old_drive,
                   parsed.node);
  }
  if (parsed.place.node != parsed.node) {
    co_return fail(ErrorCode::invalid, "drive {}:{} is not on node {}: a drive is replaced by one of its own node",
                   parsed.place.node, parsed.place.path, parsed.node);
  }
  // A leg of the pool takes another one's place only where that was begun before, or is taken back. The brain judges again.
  const record::Record& record = driver_.state().stored.record;
  const record::Leg* there = record::find_drive(record, parsed.place.durable_id);
  const bool in_its_own_place = there != nullptr && there->guid == *old_leg;
  if (there != nullptr && !in_its_own_place &&
      !record::replacement_begun(*there, *record::find_leg(record, *old_leg))) {
    co_return fail(ErrorCode::exists,
                   "drive {}:{} is a leg of pool {} already, and did not come to replace {}: name a drive that is free",
                   parsed.place.node, parsed.place.path, options_.pool, parsed.old_drive);
  }
  const bool attached = there != nullptr;
  const MirrorId into = mirror->guid;
  // Told before anything is recorded: OpenZFS would say so after the swap. The drives of a mirror began with one size.
  std::uint64_t needed_bytes = std::numeric_limits<std::uint64_t>::max();
  for (const record::Leg& one : mirror->legs) {
    const block::BlockDevice* device = legs_->device(one.guid);
    if (device != nullptr) needed_bytes = std::min(needed_bytes, device->geometry().size_bytes);
  }
  if (needed_bytes != std::numeric_limits<std::uint64_t>::max() && parsed.place.size_bytes != 0 &&
      parsed.place.size_bytes < needed_bytes) {
    co_return fail(ErrorCode::invalid, "drive {}:{} is {} bytes, too small: its mirror needs {}", parsed.place.node,
                   parsed.place.path, parsed.place.size_bytes, needed_bytes);
  }
  record::Leg of_record;
  of_record.node = parsed.place.node;
  of_record.drive = parsed.place.durable_id;
  LegId leg;
  if (!attached) {
    ZP_CO_TRY(prepared, co_await prepare_new_leg(parsed.place, parsed.force));
    leg = of_record.guid = prepared;
    places_.push_back(parsed.place);
  }
  const std::uint64_t id = new_command();
  commands_[id] = std::make_unique<Command>();
  feed(owner::LegOffered{boot_time_ns(), id, into, std::move(of_record), old_leg});
  auto answer = co_await await_command(id);
  // Not before the record calls the leg diverged: until then it may come back by what it missed, and must know what it was told.
  if (answer && in_its_own_place) legs_->expect_nothing_of(*old_leg);
  if (!answer && !attached && record::find_leg(driver_.state().stored.record, leg) == nullptr &&
      !driver_.state().change)
    co_await legs_->release(leg);
  co_return answer;
}

block::Task<Result<std::string>> Process::post_fault(std::string body) {
  if (!options_.config.fault.allowed)
    co_return fail(ErrorCode::refused, "faults are for sandboxes: [fault] allowed is not set");
  if (!legs_) co_return fail(ErrorCode::unreachable, "pool {} has not started yet", options_.pool);
  ZP_CO_TRY(drive, from_body(body, [](const json& value) { return value.at("drive").get<std::string>(); }));
  ZP_CO_TRY(command, from_body(body, [](const json& value) { return value.at("command").get<std::string>(); }));
  const std::optional<LegId> leg = legs_->find_drive(options_.config.node, drive);
  block::FaultDevice* device = leg ? legs_->fault_device(*leg) : nullptr;
  if (device == nullptr) {
    co_return fail(ErrorCode::not_found, "pool {} has no open drive {} on node {}", options_.pool, drive,
                   options_.config.node);
  }
  auto applied = state::apply_fault(options_.config.run_dir, *device, command);
  if (!applied) co_return std::unexpected(applied.error());
  co_return std::string("{}");
}

block::Task<Result<std::string>> Process::get_tunables() {
  json list = json::array();
  for (const zfs::Tunable& one : Tuning::known()) {
    const auto kept = tuning_.kept().find(one.name);
    list.push_back({{"name", one.name},
                    {"value", one.value},
                    {"default", tuning_.defaults().at(one.name)},
                    {"kept", kept == tuning_.kept().end() ? json(nullptr) : json(kept->second)},
                    {"least", one.least},
                    {"most", one.most},
                    {"unit", one.unit},
                    {"meaning", one.meaning}});
  }
  co_return json{{"pool", options_.pool}, {"tunables", list}, {"undo_count", tuning_.undo_count()}}.dump();
}

block::Task<Result<std::string>> Process::post_tune(std::string body) {
  ZP_CO_CHECK(check_serving());
  ZP_CO_TRY(wanted, from_body(body, tune_body));
  if (wanted.try_out) {
    ZP_CO_CHECK(tuning_.try_out(wanted.set));
    co_return co_await get_tunables();
  }
  if (wanted.undo) {
    ZP_CO_CHECK(co_await tuning_.undo(*pool_));
  } else {
    ZP_CO_CHECK(co_await tuning_.change(*pool_, std::move(wanted.set)));
  }
  events_.add("tuned", fmt::format("{} settings of OpenZFS are the pool's own", tuning_.kept().size()));
  co_return co_await get_tunables();
}

}  // namespace zpair::pool
