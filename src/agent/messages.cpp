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
  to.epoch = id_of<Epoch>(from.at("epoch"));
  to.rev = id_of<Revision>(from.at("rev"));
  to.process_alive = from.at("process_alive");
  to.serving = from.at("serving");
  to.process_epoch = id_of<Epoch>(from.at("process_epoch"));
  to.holding = from.at("holding");
  to.can_serve = from.at("can_serve");
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
  to.rev = id_of<Revision>(from.at("rev"));
}

void read(const json& from, PromiseAnswer& to) {
  to.granted = from.at("granted");
  to.nonce = number_of(from.at("nonce"));
  to.epoch = id_of<Epoch>(from.at("epoch"));
  to.can_serve = from.at("can_serve");
}

void read(const json& from, AgreeRequest& to) {
  to.pool = from.at("pool");
  to.epoch = id_of<Epoch>(from.at("epoch"));
  to.record = unwrap(record::parse_record(from.at("record").dump()));
}

void read(const json& from, AgreeAnswer& to) {
  to.legs = legs_of(from.at("legs"));
  to.epoch = id_of<Epoch>(from.at("epoch"));
  to.rev = id_of<Revision>(from.at("rev"));
  to.process_alive = from.at("process_alive");
}

void read(const json& from, HandoverRequest& to) {
  to.pool = from.at("pool");
  to.epoch = id_of<Epoch>(from.at("epoch"));
}

void read(const json& from, HandoverAnswer& to) {
  to.done = from.at("done");
  to.cannot = legs_of(from.at("cannot"));
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
constexpr std::string_view name_of_message(const AgreeRequest*) { return "agree request"; }
constexpr std::string_view name_of_message(const AgreeAnswer*) { return "agree answer"; }
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
          {"epoch", state.epoch.value},
          {"rev", state.rev.value},
          {"process_alive", state.process_alive},
          {"serving", state.serving},
          {"process_epoch", state.process_epoch.value},
          {"holding", state.holding},
          {"can_serve", state.can_serve},
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
               {"floor", json::parse(record::to_json(value.floor))},
               {"rev", value.rev.value}});
}

std::string to_json(const PromiseAnswer& value) {
  return dump({{"granted", value.granted},
               {"nonce", value.nonce},
               {"epoch", value.epoch.value},
               {"can_serve", value.can_serve}});
}

std::string to_json(const AgreeRequest& value) {
  return dump({{"pool", value.pool},
               {"epoch", value.epoch.value},
               {"record", json::parse(record::to_json(value.record))}});
}

std::string to_json(const AgreeAnswer& value) {
  return dump({{"legs", legs_to_json(value.legs)},
               {"epoch", value.epoch.value},
               {"rev", value.rev.value},
               {"process_alive", value.process_alive}});
}

std::string to_json(const HandoverRequest& value) {
  return dump({{"pool", value.pool}, {"epoch", value.epoch.value}});
}

std::string to_json(const HandoverAnswer& value) {
  return dump({{"done", value.done}, {"cannot", legs_to_json(value.cannot)}});
}

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

std::string to_json(const Error& value) {
  return dump({{"code", name_of(value.code)}, {"message", value.message}});
}

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
template Result<AgreeRequest> parse(std::string_view);
template Result<AgreeAnswer> parse(std::string_view);
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
