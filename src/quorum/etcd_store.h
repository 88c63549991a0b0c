#pragma once
// The quorum store on etcd, through its v3 JSON gateway. One key a pool, /zpair/pools/NAME.
// Ownership: runs one edge thread (libcurl), which ends in close().
// Threading: reactor thread only.
// Errors:    timed_out when no member gave a linearizable answer in time; invalid or unsupported when a record cannot be read.
// Source:    etcd 3.4 API (KV, Watch, Cluster, Maintenance); rule 9.
//
// Unknown outcomes. A swap is sent to one member. If surely nothing of it was sent (no connection), the next member is
// tried; once sent, anything but a clear answer is `unknown`. Such a swap may wait in a queue and be applied *after* a
// linearizable read that still shows the old record: a leg that a late grow names would then be trusted without having the
// writes. So the first read() after an unknown swap writes the record it found back unchanged, guarded by its mod_revision:
// whatever was under way compares with the former one and can never be applied any more. Only then does read() answer.
// (A late create has no record to write back; it can only bring up a pool that somebody asked for.)
#include <memory>
#include <string>
#include <vector>

#include "block/reactor.h"
#include "quorum/quorum_store.h"

namespace zpair::quorum {

struct EtcdOptions {
  std::vector<std::string> endpoints;  // http://127.0.0.1:2379, own member first
  std::int64_t try_ms = 250;           // how long one member may take for a read before the next is asked
};

struct Member {
  std::string id;    // decimal, as the gateway writes it
  std::string name;  // empty until it first started
  std::vector<std::string> peer_urls;
  std::vector<std::string> client_urls;
};

struct MemberStatus {
  std::string endpoint;
  bool answers = false;
  std::string id;
  std::string leader_id;  // "0": it knows no leader
  std::string version;
  std::string error;  // why it does not answer
};

struct Readmitted {
  std::string member_id;        // the new one
  std::string initial_cluster;  // NAME=URL,..., as etcd's --initial-cluster takes it
};

class EtcdStore final : public QuorumStore {
 public:
  EtcdStore(block::Reactor& reactor, EtcdOptions options);
  ~EtcdStore() override;  // asserts that close() ran

  block::Task<Result<std::optional<record::Stored>>> read(std::string pool, Deadline deadline) override;
  block::Task<Result<std::vector<record::Stored>>> list(Deadline deadline) override;
  block::Task<SwapAnswer> swap(std::uint64_t expected_mod_revision, record::Record record, Deadline deadline) override;
  block::Task<SwapAnswer> remove(std::string pool, std::uint64_t expected_mod_revision, Deadline deadline) override;
  block::Task<Result<std::optional<record::Record>>> destroyed(std::string pool, Deadline deadline) override;
  void watch(std::function<void(record::Stored)> changed) override;  // a removed pool: its name, and mod_revision 0
  block::Task<void> close() override;

  block::Task<Result<std::vector<Member>>> members(Deadline deadline);
  block::Task<std::vector<MemberStatus>> status(Deadline deadline);  // of each endpoint, in their order
  // Asks the leader to hand over to the member `name`. Nothing to do when it leads already.
  block::Task<Result<void>> move_leader(std::string name, Deadline deadline);
  // From now on looks every `every_ms`, and moves the leader to `name` while that member answers.
  void keep_leader_on(std::string name, std::int64_t every_ms = 2000);
  // A member that lost its data comes back as a new one: removes it, adds it under a new id, with the same peer URLs unless
  // `peer_url` names another, and leaves a ticket at /zpair/members/NAME, with which its start wrapper (packaging/etcd-start)
  // starts it once. refused: the member answers, so it has its data. Can be repeated after any failure.
  block::Task<Result<Readmitted>> readmit(std::string name, std::string peer_url, Deadline deadline);
  // Changes a key that means nothing until the store's revision is `revision` at least: then no mod_revision below it, which
  // somebody holds from a store that was lost, ever fits a record of this one.
  block::Task<Result<void>> raise_revision(std::uint64_t revision, Deadline deadline);

 private:
  struct State;  // etcd_state_internal.h
  std::unique_ptr<State> state_;
};

}  // namespace zpair::quorum
