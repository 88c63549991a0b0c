#pragma once
// What nodes say to each other, as plain values, and their JSON. A frame is a 32-bit little-endian length and that many
// bytes of JSON: {"type": ..., "id": N, "body": {...}}; an answer repeats the id. Bytes that do not parse end the connection.
// Source: design, section 2 (the table of messages).
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "record/record.h"

namespace zpair::agent {

inline constexpr int protocol_version = 1;
inline constexpr std::size_t longest_frame_bytes = 4 << 20;  // a status with many volumes; a record takes a few KiB

enum class Role : std::uint8_t { zpaird, pool };

// First frame in each direction of a connection.
struct Hello {
  int version = protocol_version;
  NodeId node = NodeId::a;
  Role role = Role::zpaird;
  Uuid start;        // changes with every start of the process that says it
  std::string path;  // the sender's name of the path: for logs
};

// What a node says about one pool, every 100 ms on each path and at once when it changes.
struct PoolState {
  std::string pool;
  std::string vouch;    // brain::agent::name_of(Vouch): none, importing, serving, cannot, gave_up
  Epoch process_epoch;  // of its pool process; 0: none
  Epoch known_epoch;    // highest that it knows
  struct Volume {
    std::string name;
    std::uint64_t size_bytes = 0;
    std::uint64_t guid = 0;
    bool operator==(const Volume&) const = default;
  };
  bool knows_volumes = false;  // its process has the pool imported: `volumes` is the whole list
  std::vector<Volume> volumes;
  bool operator==(const PoolState&) const = default;
};

struct Heartbeat {
  std::uint64_t sequence = 0;
  std::vector<PoolState> pools;
};

// Rule 6. Asked every 100 ms on each path; counted from before the request was sent.
struct PromiseRequest {
  std::string pool;
  Epoch epoch;
  std::uint64_t nonce = 0;
  record::Floor floor;  // a lower bound that the partner keeps in memory for its own import
};
struct PromiseAnswer {
  bool granted = false;
  std::uint64_t nonce = 0;
  Epoch epoch;  // highest epoch that the partner knows of this pool
};

// Rule 3, from an owner that holds: could you serve every mirror?
struct CanServeRequest {
  std::string pool;
  Epoch epoch;
};
struct CanServeAnswer {
  bool can_serve = false;
  Epoch epoch;  // highest epoch that the partner knows
};

// Rule 4: to which of its legs does the answering node agree, for an import at `epoch`?
struct SurveyRequest {
  std::string pool;
  Epoch epoch;
};
struct SurveyAnswer {
  bool agreed = false;
  std::vector<LegId> legs;  // drives that are there and answer
  std::string why;          // not agreed: one line
};

// Rule 5: kill the former process and drain the node's legs; answered when that is so. Idempotent.
struct HandoverRequest {
  record::Stored stored;  // what the swap wrote
};
struct HandoverAnswer {
  Epoch epoch;
  bool done = false;  // every leg of the node is drained and no older process lives
  std::vector<LegId> cannot;
};

// Planned switchover: drain and export; answered when the process has exited.
struct YieldRequest {
  std::string pool;
  Epoch epoch;
};
struct YieldAnswer {
  bool done = false;
  std::string why;
};

// An API call forwarded to the other node.
struct CallRequest {
  std::string method;  // GET, POST
  std::string path;    // /v1/...
  std::string body;
};
struct CallAnswer {
  int http_status = 500;
  std::string body;
};

// The first frame on a connection that carries a relayed NBD client instead of further frames: after the server's answer
// `accepted` the bytes are NBD. A link with the same session and a higher number ends the former one (rule 10).
struct RelayHello {
  std::string pool;
  std::string volume;
  Uuid session;
  std::uint64_t link_number = 0;
};
struct RelayAnswer {
  bool accepted = false;
  std::string why;
};

struct Frame {
  std::string type;  // hello, heartbeat, promise, can_serve, survey, handover, yield, call, relay; answer, error
  std::uint64_t id = 0;
  std::string body;  // JSON of one of the above
};

std::string to_json(const Hello& value);
std::string to_json(const Heartbeat& value);
std::string to_json(const PromiseRequest& value);
std::string to_json(const PromiseAnswer& value);
std::string to_json(const CanServeRequest& value);
std::string to_json(const CanServeAnswer& value);
std::string to_json(const SurveyRequest& value);
std::string to_json(const SurveyAnswer& value);
std::string to_json(const HandoverRequest& value);
std::string to_json(const HandoverAnswer& value);
std::string to_json(const YieldRequest& value);
std::string to_json(const YieldAnswer& value);
std::string to_json(const CallRequest& value);
std::string to_json(const CallAnswer& value);
std::string to_json(const RelayHello& value);
std::string to_json(const RelayAnswer& value);
std::string to_json(const Error& value);

// parse<Hello>(text): `invalid` names the message and the key.
template <class Message>
Result<Message> parse(std::string_view json);

Error parse_error(std::string_view json);  // what cannot be read is an `internal` error

std::string to_bytes(const Frame& frame);          // length and JSON
Result<Frame> parse_frame(std::string_view json);  // without the length

}  // namespace zpair::agent
