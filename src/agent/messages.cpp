#include "agent/messages.h"

#include <nlohmann/json.hpp>

namespace zpair::agent {

namespace {

using nlohmann::json;

// 64-bit guids travel as decimal text, as in the record.
std::string text_of(std::uint64_t value) { return std::to_string(value); }

std::uint64_t number_of(const json& value) {
  if (value.is_string()) return std::stoull(value.get<std::string>());
  if (!value.is_number_unsigned()) throw std::invalid_argument("a number below zero or none at all");
  return value.get<std::uint64_t>();
}

template <class Id>
Id id_of(const json& value) {
  return Id{number_of(value)};
}

NodeId node_of(const json& value) {
  auto node = parse_node(value.get<std::string>());
  if (!node) throw std::invalid_argument(node.error().message);
  return *node;
}

Uuid uuid_of(const json& value) {
  auto uuid = Uuid::parse(value.get<std::string>());
  if (!uuid) throw std::invalid_argument(uuid.error().message);
  return *uuid;
}

json legs_to_json(const std::vector<LegId>& legs) {
  json list = json::array();
  for (LegId leg : legs) list.push_back(text_of(leg.value));
  return list;
}

std::vector<LegId> legs_of(const json& value) {
  std::vector<LegId> legs;
  for (const json& leg : value) legs.push_back(id_of<LegId>(leg));
  return legs;
}

template <class Value>
Value unwrap(Result<Value> value) {
  if (!value) throw std::invalid_argument(value.error().message);
  return std::move(*value);
}

void read(const json& from, Hello& to) {
  to.version = from.at("version");
  to.node = node_of(from.at("node"));
  std::string role = from.at("role");
  if (role != "zpaird" && role != "pool") throw std::invalid_argument("role is neither zpaird nor pool");
  to.role = role == "pool" ? Role::pool : Role::zpaird;
  to.start = uuid_of(from.at("start"));
  to.path = from.at("path");
}

void read(const json& from, PoolState& to) {
  to.pool = from.at("pool");
  to.vouch = from.at("vouch");
  to.process_epoch = id_of<Epoch>(from.at("process_epoch"));
  to.known_epoch = id_of<Epoch>(from.at("known_epoch"));
  to.knows_volumes = from.at("knows_volumes");
  for (const json& volume : from.at("volumes")) {
    to.volumes.push_back({volume.at("name"), number_of(volume.at("size_bytes")), number_of(volume.at("guid"))});
  }
}

void read(const json& from, Heartbeat& to) {
  to.sequence = number_of(from.at("sequence"));
  for (const json& pool : from.at("pools")) read(pool, to.pools.emplace_back());
}

void read(const json& from, PromiseRequest& to) {
  to.pool = from.at("pool");
  to.epoch = id_of<Epoch>(from.at("epoch"));
  to.nonce = number_of(from.at("nonce"));
  to.floor = unwrap(record::parse_floor(from.at("floor").dump()));
}

void read(const json& from, PromiseAnswer& to) {
  to.granted = from.at("granted");
  to.nonce = number_of(from.at("nonce"));
  to.epoch = id_of<Epoch>(from.at("epoch"));
}

void read(const json& from, CanServeRequest& to) {
  to.pool = from.at("pool");
  to.epoch = id_of<Epoch>(from.at("epoch"));
}

void read(const json& from, CanServeAnswer& to) {
  to.can_serve = from.at("can_serve");
  to.epoch = id_of<Epoch>(from.at("epoch"));
}

void read(const json& from, SurveyRequest& to) {
  to.pool = from.at("pool");
  to.epoch = id_of<Epoch>(from.at("epoch"));
}

void read(const json& from, SurveyAnswer& to) {
  to.agreed = from.at("agreed");
  to.legs = legs_of(from.at("legs"));
  to.why = from.at("why");
}

void read(const json& from, HandoverRequest& to) {
  to.stored.record = unwrap(record::parse_record(from.at("record").dump()));
  to.stored.mod_revision = number_of(from.at("mod_revision"));
}

void read(const json& from, HandoverAnswer& to) {
  to.epoch = id_of<Epoch>(from.at("epoch"));
  to.done = from.at("done");
  to.cannot = legs_of(from.at("cannot"));
}

void read(const json& from, YieldRequest& to) {
  to.pool = from.at("pool");
  to.epoch = id_of<Epoch>(from.at("epoch"));
}

void read(const json& from, YieldAnswer& to) {
  to.done = from.at("done");
  to.why = from.at("why");
}

void read(const json& from, CallRequest& to) {
  to.method = from.at("method");
  to.path = from.at("path");
  to.body = from.at("body");
}

void read(const json& from, CallAnswer& to) {
  to.http_status = from.at("http_status");
  to.body = from.at("body");
}

void read(const json& from, RelayHello& to) {
  to.pool = from.at("pool");
  to.volume = from.at("volume");
  to.session = uuid_of(from.at("session"));
  to.link_number = number_of(from.at("link_number"));
}

void read(const json& from, RelayAnswer& to) {
  to.accepted = from.at("accepted");
  to.why = from.at("why");
}

constexpr std::string_view name_of_message(const Hello*) { return "hello"; }
constexpr std::string_view name_of_message(const Heartbeat*) { return "heartbeat"; }
constexpr std::string_view name_of_message(const PromiseRequest*) { return "promise request"; }
constexpr std::string_view name_of_message(const PromiseAnswer*) { return "promise answer"; }
constexpr std::string_view name_of_message(const CanServeRequest*) { return "can-serve request"; }
constexpr std::string_view name_of_message(const CanServeAnswer*) { return "can-serve answer"; }
constexpr std::string_view name_of_message(const SurveyRequest*) { return "survey request"; }
constexpr std::string_view name_of_message(const SurveyAnswer*) { return "survey answer"; }
constexpr std::string_view name_of_message(const YieldRequest*) { return "yield request"; }
constexpr std::string_view name_of_message(const YieldAnswer*) { return "yield answer"; }
constexpr std::string_view name_of_message(const HandoverRequest*) { return "handover request"; }
constexpr std::string_view name_of_message(const HandoverAnswer*) { return "handover answer"; }
constexpr std::string_view name_of_message(const CallRequest*) { return "call request"; }
constexpr std::string_view name_of_message(const CallAnswer*) { return "call answer"; }
constexpr std::string_view name_of_message(const RelayHello*) { return "relay hello"; }
constexpr std::string_view name_of_message(const RelayAnswer*) { return "relay answer"; }

json json_of(const PoolState& state) {
  json volumes = json::array();
  for (const auto& volume : state.volumes) {
    volumes.push_back({{"name", volume.name}, {"size_bytes", volume.size_bytes}, {"guid", text_of(volume.guid)}});
  }
  return {{"pool", state.pool},
          {"vouch", state.vouch},
          {"process_epoch", state.process_epoch.value},
          {"known_epoch", state.known_epoch.value},
          {"knows_volumes", state.knows_volumes},
          {"volumes", volumes}};
}

// Text that is not UTF-8 (a body of an API call) must not throw: such bytes are replaced.
std::string dump(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

}  // namespace

std::string to_json(const Hello& value) {
  return dump({{"version", value.version},
               {"node", name_of(value.node)},
               {"role", value.role == Role::pool ? "pool" : "zpaird"},
               {"start", value.start.to_string()},
               {"path", value.path}});
}

std::string to_json(const Heartbeat& value) {
  json pools = json::array();
  for (const PoolState& pool : value.pools) pools.push_back(json_of(pool));
  return dump({{"sequence", value.sequence}, {"pools", pools}});
}

std::string to_json(const PromiseRequest& value) {
  return dump({{"pool", value.pool},
               {"epoch", value.epoch.value},
               {"nonce", value.nonce},
               {"floor", json::parse(record::to_json(value.floor))}});
}

std::string to_json(const PromiseAnswer& value) {
  return dump({{"granted", value.granted}, {"nonce", value.nonce}, {"epoch", value.epoch.value}});
}

std::string to_json(const CanServeRequest& value) { return dump({{"pool", value.pool}, {"epoch", value.epoch.value}}); }

std::string to_json(const CanServeAnswer& value) {
  return dump({{"can_serve", value.can_serve}, {"epoch", value.epoch.value}});
}

std::string to_json(const SurveyRequest& value) { return dump({{"pool", value.pool}, {"epoch", value.epoch.value}}); }

std::string to_json(const SurveyAnswer& value) {
  return dump({{"agreed", value.agreed}, {"legs", legs_to_json(value.legs)}, {"why", value.why}});
}

std::string to_json(const HandoverRequest& value) {
  return dump(
      {{"record", json::parse(record::to_json(value.stored.record))}, {"mod_revision", value.stored.mod_revision}});
}

std::string to_json(const HandoverAnswer& value) {
  return dump({{"epoch", value.epoch.value}, {"done", value.done}, {"cannot", legs_to_json(value.cannot)}});
}

std::string to_json(const YieldRequest& value) { return dump({{"pool", value.pool}, {"epoch", value.epoch.value}}); }

std::string to_json(const YieldAnswer& value) { return dump({{"done", value.done}, {"why", value.why}}); }

std::string to_json(const CallRequest& value) {
  return dump({{"method", value.method}, {"path", value.path}, {"body", value.body}});
}

std::string to_json(const CallAnswer& value) {
  return dump({{"http_status", value.http_status}, {"body", value.body}});
}

std::string to_json(const RelayHello& value) {
  return dump({{"pool", value.pool},
               {"volume", value.volume},
               {"session", value.session.to_string()},
               {"link_number", value.link_number}});
}

std::string to_json(const RelayAnswer& value) { return dump({{"accepted", value.accepted}, {"why", value.why}}); }

std::string to_json(const Error& value) { return dump({{"code", name_of(value.code)}, {"message", value.message}}); }

Error parse_error(std::string_view text) {
  try {
    json value = json::parse(text);
    std::string code = value.at("code");
    for (int i = 0; i <= static_cast<int>(ErrorCode::internal); ++i) {
      if (name_of(static_cast<ErrorCode>(i)) == code) return {static_cast<ErrorCode>(i), value.at("message")};
    }
    return {ErrorCode::internal, value.at("message")};
  } catch (const std::exception&) {
    return {ErrorCode::internal, "an error that cannot be read"};
  }
}

template <class Message>
Result<Message> parse(std::string_view text) {
  Message message;
  try {
    read(json::parse(text), message);
  } catch (const std::exception& error) {
    return fail(ErrorCode::invalid, "a {} does not parse: {}", name_of_message(&message), error.what());
  }
  return message;
}

template Result<Hello> parse(std::string_view);
template Result<Heartbeat> parse(std::string_view);
template Result<PromiseRequest> parse(std::string_view);
template Result<PromiseAnswer> parse(std::string_view);
template Result<CanServeRequest> parse(std::string_view);
template Result<CanServeAnswer> parse(std::string_view);
template Result<SurveyRequest> parse(std::string_view);
template Result<SurveyAnswer> parse(std::string_view);
template Result<YieldRequest> parse(std::string_view);
template Result<YieldAnswer> parse(std::string_view);
template Result<HandoverRequest> parse(std::string_view);
template Result<HandoverAnswer> parse(std::string_view);
template Result<CallRequest> parse(std::string_view);
template Result<CallAnswer> parse(std::string_view);
template Result<RelayHello> parse(std::string_view);
template Result<RelayAnswer> parse(std::string_view);

std::string to_bytes(const Frame& frame) {
  // The body is JSON already: it goes in as it is.
  std::string text = R"({"type":)" + dump(json(frame.type)) + R"(,"id":)" + std::to_string(frame.id) + R"(,"body":)" +
                     (frame.body.empty() ? "null" : frame.body) + "}";
  std::string bytes(4, '\0');
  for (int i = 0; i < 4; ++i) bytes[static_cast<std::size_t>(i)] = static_cast<char>((text.size() >> (8 * i)) & 0xff);
  return bytes + text;
}

Result<Frame> parse_frame(std::string_view text) {
  Frame frame;
  try {
    json value = json::parse(text);
    frame.type = value.at("type");
    frame.id = number_of(value.at("id"));
    frame.body = value.at("body").dump();
  } catch (const std::exception& error) {
    return fail(ErrorCode::invalid, "a frame does not parse: {}", error.what());
  }
  return frame;
}

}  // namespace zpair::agent
