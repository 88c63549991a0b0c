#pragma once
// The node's API (docs/api.md): JSON over HTTP from the operator's programs, and the same calls forwarded by the partner's
// agent. Either node answers every request: what only the other node or a pool process can do is passed on, once.
// Threading: reactor thread; handlers of api::HttpServer run there.
// Errors:    as docs/api.md; each names the thing, what happened, the mend.
#include <functional>
#include <map>
#include <string>

#include "agent/messages.h"
#include "api/http_server.h"
#include "base/config.h"
#include "block/task.h"

namespace zpair::node {

class Daemon;

class Api {
 public:
  explicit Api(Daemon& daemon);
  api::Routes routes();  // for the operator's programs
  block::Task<agent::CallAnswer> answer_partner(agent::CallRequest request);

 private:
  // Whether the request came over the partner's agent: it is not passed on again.
  enum class From : std::uint8_t { operator_here, partner };
  struct Asked {
    api::Request request;
    From from = From::operator_here;
  };
  using Answer = block::Task<Result<std::string>>;
  using Method = Answer (Api::*)(Asked asked);

  void add(const std::string& route, Method method);
  Answer dispatch(std::string route, Asked asked);

  // api_status.cpp
  Answer status(Asked asked);
  Answer pools(Asked asked);
  Answer volumes(Asked asked);
  Answer drives(Asked asked);
  Answer store(Asked asked);
  Answer events(Asked asked);
  Answer usage(Asked asked);
  // api_pools.cpp
  Answer pool_create(Asked asked);
  Answer pool_add(Asked asked);
  Answer pool_destroy(Asked asked);
  Answer pool_export(Asked asked);
  Answer pool_import(Asked asked);
  Answer pool_scrub(Asked asked);
  Answer volume_change(Asked asked);
  block::Task<void> wait_for_volume(std::string pool, std::string name, std::uint64_t guid, From from);
  Answer switchover(Asked asked);
  Answer takeover(Asked asked);
  Answer failback(Asked asked);
  Answer tunables(Asked asked);
  Answer tune(Asked asked);
  Answer drill(Asked asked);
  // api_drives.cpp
  Answer drive_replace(Asked asked);
  Answer drive_move(Asked asked);
  Answer drive_look(Asked asked);
  Answer fault(Asked asked);
  Answer shutdown(Asked asked);
  block::Task<std::string> sides_of(
      std::string pool);  // both, one line each; the caller passes no pool that is not here
  // Of a drive of either node.
  Answer inspect_at(NodeId node, std::string path);
  Answer register_at(NodeId node, std::string pool, std::string path);
  Answer unregister_at(NodeId node, std::string pool, std::string durable_id);
  block::Task<void> give_here(NodeId node, std::string pool);  // to the pool's process, when it and the drive are here
  block::Task<Result<void>> check_move(std::string pool, std::string path, record::Leg leg, bool node_is_off);
  Answer drive_inspect(Asked asked);  // these five only from the partner
  Answer drive_register(Asked asked);
  Answer drive_unregister(Asked asked);
  Answer pool_forget(Asked asked);
  Answer pool_side(Asked asked);
  // api_store.cpp
  Answer store_readmit(Asked asked);
  Answer store_rebuild(Asked asked);
  Answer node_records(Asked asked);  // only from the partner
  // The pool that a registered drive is a leg of; empty: of none (it was replaced, or its pool is gone).
  std::string pool_using(const std::string& durable_id) const;
  std::string pool_recording(const std::string& durable_id) const;

  // Passing on. `path` and `body` as docs/api.md.
  Answer call_partner(std::string method, std::string path, std::string body, std::int64_t limit_ms);
  Answer call_pool(std::string pool, std::string method, std::string path, std::string body, std::int64_t limit_ms);
  // To the pool's process: here, or through the partner.
  Answer to_owner(Asked asked, std::string pool, std::int64_t limit_ms);

  Answer owner_answer(std::string pool, Nanoseconds ordered_ns, bool with_stall);  // once it serves here

  struct DriveWork;  // api_pools.cpp
  friend struct DriveWork;
  struct Impl;  // helpers that see the JSON library (api_internal.h)
  friend struct Impl;

  Daemon& daemon_;
  std::map<std::string, Method> methods_;
};

}  // namespace zpair::node
