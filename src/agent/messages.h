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
inline constexpr std::size_t longest_frame_bytes = 4 << 20;   // a status with many volumes; a record takes a few KiB

enum class Role : std::uint8_t { zpaird, pool };

// First frame in each direction of a connection.
struct Hello {
  int version = protocol_version;
  NodeId node = NodeId::a;
  Role role = Role::zpaird;
  Uuid start;                       // changes with every start of the process that says it
  std::string path;                 // the sender's name of the path: for logs
};

// What a node says about one pool, every 100 ms on each path and at once when it changes.
struct PoolState {
  std::string pool;
  Epoch epoch;                      // highest that the node knows
  Revision rev;
  bool process_alive = false;       // a pool process of this node has the pool, or is about to
  bool serving = false;             // ... and acknowledges clients
  Epoch process_epoch;              // the epoch that it was started with, or the last one that died
  bool holding = false;             // ... and holds: some mirror has no in-sync leg that it reaches (rule 3)
  bool can_serve = false;           // this node could serve every mirror by itself, as far as it knows
  struct Volume {
    std::string name;
    std::uint64_t size_bytes = 0;
    std::uint64_t guid = 0;
    bool operator==(const Volume&) const = default;
  };
  std::vector<Volume> volumes;      // only from the node whose process serves; empty otherwise
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
  record::Floor floor;              // a lower bound that the partner keeps in memory for its own import
  Revision rev;                     // newest revision that the owner knows
};
struct PromiseAnswer {
  bool granted = false;
  std::uint64_t nonce = 0;
  Epoch epoch;                      // highest epoch that the partner knows of this pool
  bool can_serve = false;           // the partner could serve every mirror itself (rule 3: a holding owner may then exit)
};

// Rule 4: which legs of the answering node may the asking node name as reached for `epoch`?
struct AgreeRequest {
  std::string pool;
  Epoch epoch;
  record::Record record;            // as the asking node read it
};
struct AgreeAnswer {
  std::vector<LegId> legs;          // drives that are there and answer
  Epoch epoch;                      // highest that the answering node knows
  Revision rev;
  bool process_alive = false;       // it has a living process of the pool itself
};

// Rule 5: kill the former process and drain the node's legs; answered when that is so. Idempotent.
struct HandoverRequest {
  std::string pool;
  Epoch epoch;
};
struct HandoverAnswer {
  bool done = false;                // every leg of the node is drained and no older process lives
  std::vector<LegId> cannot;
};

// An API call forwarded to the other node.
struct CallRequest {
  std::string method;               // GET, POST
  std::string path;                 // /v1/...
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
  std::string type;                 // hello, heartbeat, promise, agree, handover, call, relay; "answer"; "error"
  std::uint64_t id = 0;
  std::string body;                 // JSON of one of the above
};

std::string to_json(const Hello& value);
std::string to_json(const Heartbeat& value);
std::string to_json(const PromiseRequest& value);
std::string to_json(const PromiseAnswer& value);
std::string to_json(const AgreeRequest& value);
std::string to_json(const AgreeAnswer& value);
std::string to_json(const HandoverRequest& value);
std::string to_json(const HandoverAnswer& value);
std::string to_json(const CallRequest& value);
std::string to_json(const CallAnswer& value);
std::string to_json(const RelayHello& value);
std::string to_json(const RelayAnswer& value);
std::string to_json(const Error& value);

// parse<Hello>(text): `invalid` names the message and the key.
template <class Message>
Result<Message> parse(std::string_view json);

Error parse_error(std::string_view json);                 // what cannot be read is an `internal` error

std::string to_bytes(const Frame& frame);                 // length and JSON
Result<Frame> parse_frame(std::string_view json);         // without the length

}  // namespace zpair::agent
