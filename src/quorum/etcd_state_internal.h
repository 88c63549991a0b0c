#pragma once
// What the parts of EtcdStore share: asking members, the single transaction, and JSON with base64.
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "block/reactor.h"
#include "block/task.h"
#include "quorum/etcd_store.h"
#include "quorum/http_client_internal.h"

namespace zpair::quorum {

std::string to_base64(std::string_view bytes);
std::optional<std::string> from_base64(std::string_view text);

struct KeyValue {
  std::string key;
  std::string value;
  std::uint64_t mod_revision = 0;
};

// The gateway writes 64-bit numbers as strings and leaves zeros out.
std::uint64_t number_in(const nlohmann::json& object, const char* key);
std::vector<KeyValue> key_values_of(const nlohmann::json& range_response);

struct EtcdStore::State {
  State(block::Reactor& on, EtcdOptions given) : options(std::move(given)), reactor(on), http(on) {}

  EtcdOptions options;
  block::Reactor& reactor;
  HttpClient http;
  block::TaskGroup tasks;
  bool closing = false;
  bool closed = false;
  block::Signal stop;

  // Members that did not answer, asked last until a probe hears of them again.
  std::set<std::string> silent;
  // Swaps with unknown outcome: pool -> the revisions that they compared with.
  std::map<std::string, std::set<std::uint64_t>> unresolved;

  std::vector<std::function<void(record::Stored)>> watchers;
  bool watching = false;
  std::map<std::string, std::uint64_t> told;  // pool -> mod_revision
  HttpClient::CallPointer watch_call;

  std::vector<std::string> endpoints_by_preference() const;
  void mark_silent(const std::string& endpoint);
  block::Task<void> probe(std::string endpoint);
  block::Task<bool> pause_ms(std::int64_t ms);  // false: the store is closing

  // POSTs to one member after the other until one answers with status 200: only for what may be sent twice.
  block::Task<Result<nlohmann::json>> ask(std::string path, std::string body, Deadline deadline);
  block::Task<Result<nlohmann::json>> ask_one(std::string endpoint, std::string path, std::string body,
                                              Deadline deadline);

  struct Transaction {
    std::string key;
    std::uint64_t expected_mod_revision = 0;
    std::optional<std::string> value;                           // nullopt: delete the key
    std::optional<std::pair<std::string, std::string>> beside;  // put this key and value with it
  };
  struct TransactionAnswer {
    SwapAnswer::Outcome outcome = SwapAnswer::Outcome::unknown;
    bool surely_not_sent = false;  // unknown, and nobody has it
    std::uint64_t revision = 0;    // applied
    std::optional<KeyValue> held;  // other; nullopt: there is no such key
  };
  block::Task<TransactionAnswer> transact(Transaction transaction, Deadline deadline);
  block::Task<Result<std::vector<KeyValue>>> range(std::string key, bool is_prefix, Deadline deadline,
                                                   std::uint64_t* revision = nullptr);

  block::Task<void> watch_loop();
  block::Task<void> follow(std::string endpoint, std::uint64_t from_revision);
  void on_watch_line(const std::string& line);
  void tell(record::Stored stored, std::uint64_t revision);
  void tell_all(const std::vector<KeyValue>& all);

  block::Task<void> leader_loop(EtcdStore& store, std::string name, std::int64_t every_ms);
};

}  // namespace zpair::quorum
