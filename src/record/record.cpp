#include "record/record.h"

#include <algorithm>

#include <nlohmann/json.hpp>

namespace zpair::record {

namespace {

using nlohmann::json;

// 64-bit guids travel as decimal text: JSON numbers lose bits in other programs' hands.
std::string text_of(std::uint64_t value) { return std::to_string(value); }

template <class Id>
Id id_of(const json& value) {
  return Id{value.is_string() ? std::stoull(value.get<std::string>()) : value.get<std::uint64_t>()};
}

json json_of(const Leg& leg) {
  json value = {{"guid", text_of(leg.guid.value)},
                {"node", name_of(leg.node)},
                {"drive", leg.drive},
                {"in_sync", leg.in_sync},
                {"resyncing", leg.resyncing},
                {"since", leg.since.value},
                {"full", leg.full},
                {"off_rev", leg.off_rev.value}};
  if (!leg.replaces.empty())
    value["replaces"] = leg.replaces;  // else the digest is the one of records before it had one
  return value;
}

json json_of(const Mirror& mirror) {
  json legs = json::array();
  for (const Leg& leg : mirror.legs) legs.push_back(json_of(leg));
  return {{"guid", text_of(mirror.guid.value)}, {"class", mirror.vdev_class}, {"legs", legs}};
}

NodeId node_of(const json& value) {
  auto node = parse_node(value.get<std::string>());
  if (!node) throw std::invalid_argument(node.error().message);
  return *node;
}

Leg leg_of(const json& value) {
  Leg leg;
  leg.guid = id_of<LegId>(value.at("guid"));
  leg.node = node_of(value.at("node"));
  leg.drive = value.at("drive");
  leg.in_sync = value.at("in_sync");
  leg.resyncing = value.at("resyncing");
  leg.since = id_of<Txg>(value.at("since"));
  leg.full = value.at("full");
  leg.replaces = value.value("replaces", "");
  leg.off_rev = Revision{value.value("off_rev", std::uint64_t{0})};  // records before it had one: not known
  return leg;
}

Mirror mirror_of_json(const json& value) {
  Mirror mirror;
  mirror.guid = id_of<MirrorId>(value.at("guid"));
  mirror.vdev_class = value.at("class");
  for (const json& leg : value.at("legs")) mirror.legs.push_back(leg_of(leg));
  return mirror;
}

Wanted wanted_of(const std::string& text) {
  if (text == "serving") return Wanted::serving;
  if (text == "exported") return Wanted::exported;
  throw std::invalid_argument("wanted is neither serving nor exported");
}

}  // namespace

const Leg* find_leg(const Record& record, LegId guid) {
  for (const Mirror& mirror : record.mirrors) {
    for (const Leg& leg : mirror.legs) {
      if (leg.guid == guid) return &leg;
    }
  }
  return nullptr;
}

Leg* find_leg(Record& record, LegId guid) {
  return const_cast<Leg*>(find_leg(static_cast<const Record&>(record), guid));
}

const Leg* find_drive(const Record& record, std::string_view drive) {
  for (const Mirror& mirror : record.mirrors) {
    for (const Leg& leg : mirror.legs) {
      if (leg.drive == drive) return &leg;
    }
  }
  return nullptr;
}

bool replacement_begun(const Leg& one, const Leg& other) {
  return one.node == other.node && (one.replaces == other.drive || other.replaces == one.drive);
}

const Mirror* mirror_of(const Record& record, LegId guid) {
  for (const Mirror& mirror : record.mirrors) {
    for (const Leg& leg : mirror.legs) {
      if (leg.guid == guid) return &mirror;
    }
  }
  return nullptr;
}

int in_sync_count(const Mirror& mirror, NodeId node) {
  return static_cast<int>(
      std::ranges::count_if(mirror.legs, [node](const Leg& leg) { return leg.in_sync && leg.node == node; }));
}

bool only_on(const Record& record, NodeId node) {
  return std::ranges::any_of(record.mirrors, [node](const Mirror& mirror) {
    return in_sync_count(mirror, node) > 0 && in_sync_count(mirror, partner_of(node)) == 0;
  });
}

bool serves_alone(const Record& record, NodeId node) {
  return std::ranges::all_of(record.mirrors, [node](const Mirror& mirror) { return in_sync_count(mirror, node) > 0; });
}

std::string to_json(const Record& record) {
  json mirrors = json::array();
  for (const Mirror& mirror : record.mirrors) mirrors.push_back(json_of(mirror));
  json value = {{"v", record.version},
                {"name", record.name},
                {"pool_guid", text_of(record.pool_guid.value)},
                {"home", name_of(record.home)},
                {"wanted", record.wanted == Wanted::serving ? "serving" : "exported"},
                {"zfs_host_ids", record.zfs_host_ids},
                {"epoch", record.epoch.value},
                {"rev", record.rev.value},
                {"op", record.op},
                {"owner", name_of(record.owner)},
                {"floor_txg", record.floor_txg.value},
                {"why", record.why},
                {"mirrors", mirrors}};
  return value.dump();
}

Result<Record> parse_record(std::string_view text) {
  try {
    json value = json::parse(text);
    Record record;
    record.version = value.at("v");
    if (record.version > format_version) {
      return fail(ErrorCode::unsupported, "the record has format {}, this program knows {}: upgrade zpair on this node",
                  record.version, format_version);
    }
    record.name = value.at("name");
    record.pool_guid = id_of<PoolGuid>(value.at("pool_guid"));
    record.home = node_of(value.at("home"));
    record.wanted = wanted_of(value.at("wanted"));
    record.zfs_host_ids = value.at("zfs_host_ids").get<std::vector<std::uint32_t>>();
    record.epoch = id_of<Epoch>(value.at("epoch"));
    record.rev = id_of<Revision>(value.at("rev"));
    record.op = value.at("op");
    record.owner = node_of(value.at("owner"));
    record.floor_txg = id_of<Txg>(value.at("floor_txg"));
    record.why = value.at("why");
    for (const json& mirror : value.at("mirrors")) record.mirrors.push_back(mirror_of_json(mirror));
    return record;
  } catch (const std::exception& error) {
    return fail(ErrorCode::invalid, "the record cannot be read: {}", error.what());
  }
}

std::uint64_t digest_of(const Record& record) {
  // FNV-1a, 64 bits: it tells two records of one revision apart; nobody attacks it.
  std::uint64_t digest = 0xcbf29ce484222325;
  for (unsigned char c : to_json(record)) digest = (digest ^ c) * 0x100000001b3;
  return digest;
}

std::string to_json(const Floor& floor) {
  json logs = json::array();
  for (const Floor::Log& log : floor.logs)
    logs.push_back({{"volume", text_of(log.volume_guid)}, {"sequence", log.sequence}});
  return json{{"txg", floor.txg.value}, {"logs", logs}}.dump();
}

Result<Floor> parse_floor(std::string_view text) {
  try {
    json value = json::parse(text);
    Floor floor;
    floor.txg = id_of<Txg>(value.at("txg"));
    for (const json& log : value.at("logs")) {
      floor.logs.push_back({std::stoull(log.at("volume").get<std::string>()), log.at("sequence").get<std::uint64_t>()});
    }
    return floor;
  } catch (const std::exception& error) {
    return fail(ErrorCode::invalid, "the floor cannot be read: {}", error.what());
  }
}

}  // namespace zpair::record
