#include <openssl/evp.h>

#include <algorithm>

#include "base/log.h"
#include "quorum/etcd_state_internal.h"

namespace zpair::quorum {

using block::Task;
using nlohmann::json;

std::string to_base64(std::string_view bytes) {
  std::string text((bytes.size() + 2) / 3 * 4 + 1, '\0');
  int length = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                               reinterpret_cast<const unsigned char*>(bytes.data()), static_cast<int>(bytes.size()));
  text.resize(static_cast<std::size_t>(length));
  return text;
}

std::optional<std::string> from_base64(std::string_view text) {
  std::string bytes(text.size() / 4 * 3, '\0');
  int length = EVP_DecodeBlock(reinterpret_cast<unsigned char*>(bytes.data()),
                               reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()));
  if (length < 0) return std::nullopt;
  bytes.resize(static_cast<std::size_t>(length));
  std::size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;  // decoded as zero bytes
  bytes.resize(bytes.size() - padding);
  return bytes;
}

std::uint64_t number_in(const json& object, const char* key) {
  auto found = object.find(key);
  if (found == object.end()) return 0;
  return found->is_string() ? std::stoull(found->get<std::string>()) : found->get<std::uint64_t>();
}

std::vector<KeyValue> key_values_of(const json& range_response) {
  std::vector<KeyValue> all;
  auto kvs = range_response.find("kvs");
  if (kvs == range_response.end()) return all;
  for (const json& kv : *kvs) {
    auto key = from_base64(kv.at("key").get<std::string>());
    auto value = from_base64(kv.value("value", std::string()));
    if (!key || !value) throw std::runtime_error("a key or value is not base64");
    all.push_back(KeyValue{*key, *value, number_in(kv, "mod_revision")});
  }
  return all;
}

std::vector<std::string> EtcdStore::State::endpoints_by_preference() const {
  std::vector<std::string> order;
  for (const std::string& endpoint : options.endpoints) {
    if (!silent.contains(endpoint)) order.push_back(endpoint);
  }
  for (const std::string& endpoint : options.endpoints) {
    if (silent.contains(endpoint)) order.push_back(endpoint);
  }
  return order;
}

void EtcdStore::State::mark_silent(const std::string& endpoint) {
  if (closing || !silent.insert(endpoint).second) return;
  tasks.spawn(probe(endpoint));
}

Task<bool> EtcdStore::State::pause_ms(std::int64_t ms) {
  co_await block::wait_for(stop, Deadline::in_ms(ms));
  co_return !closing;
}

// Until the member answers and knows a leader.
Task<void> EtcdStore::State::probe(std::string endpoint) {
  while (true) {
    bool go_on = co_await pause_ms(300);
    if (!go_on) co_return;
    auto status = co_await ask_one(endpoint, "/v3/maintenance/status", "{}", Deadline::in_ms(options.try_ms));
    if (status && status->value("leader", "0") != "0") break;
  }
  silent.erase(endpoint);
}

Task<Result<json>> EtcdStore::State::ask_one(std::string endpoint, std::string path, std::string body,
                                             Deadline deadline) {
  HttpAnswer answer =
      co_await http.post(HttpRequest{.url = endpoint + path, .body = std::move(body), .deadline = deadline});
  if (!answer.ok()) co_return fail(ErrorCode::unreachable, "the store's member {}: {}", endpoint, answer.error);
  json value = json::parse(answer.body, nullptr, false);
  if (!value.is_object()) co_return fail(ErrorCode::invalid, "the store's member {} answered no JSON object", endpoint);
  co_return value;
}

Task<Result<json>> EtcdStore::State::ask(std::string path, std::string body, Deadline deadline) {
  std::string last_error = "no member is configured";
  for (std::int64_t try_ms = options.try_ms;; try_ms = std::min<std::int64_t>(try_ms * 2, 2000)) {
    for (const std::string& endpoint : endpoints_by_preference()) {
      if (closing) co_return fail(ErrorCode::cancelled, "the store was closed");
      Deadline one_try{std::min(deadline.at_ns, Deadline::in_ms(try_ms).at_ns)};
      auto answer = co_await ask_one(endpoint, path, body, one_try);
      if (answer) co_return answer;
      last_error = answer.error().message;
      mark_silent(endpoint);
      if (deadline.passed())
        co_return fail(ErrorCode::timed_out, "no majority of the store answered in time; last: {}", last_error);
    }
    bool go_on = co_await pause_ms(30);
    if (!go_on) co_return fail(ErrorCode::cancelled, "the store was closed");
    if (deadline.passed())
      co_return fail(ErrorCode::timed_out, "no majority of the store answered in time; last: {}", last_error);
  }
}

Task<Result<std::vector<KeyValue>>> EtcdStore::State::range(std::string key, bool is_prefix, Deadline deadline,
                                                            std::uint64_t* revision) {
  json body{{"key", to_base64(key)}};
  if (is_prefix) {
    std::string end = key;
    ++end.back();
    body["range_end"] = to_base64(end);
  }
  // Linearizable, because "serializable" is not asked for.
  auto answer = co_await ask("/v3/kv/range", body.dump(), deadline);
  if (!answer) co_return std::unexpected(answer.error());
  try {
    if (revision != nullptr) *revision = number_in(answer->at("header"), "revision");
    co_return key_values_of(*answer);
  } catch (const std::exception& error) {
    co_return fail(ErrorCode::invalid, "the store's answer cannot be read: {}", error.what());
  }
}

Task<EtcdStore::State::TransactionAnswer> EtcdStore::State::transact(Transaction transaction, Deadline deadline) {
  std::string key = to_base64(transaction.key);
  json compare{{"key", key},
               {"target", "MOD"},
               {"result", "EQUAL"},
               {"mod_revision", std::to_string(transaction.expected_mod_revision)}};
  json change;
  if (transaction.value) {
    change = json{{"request_put", {{"key", key}, {"value", to_base64(*transaction.value)}}}};
  } else {
    change = json{{"request_delete_range", {{"key", key}}}};
  }
  json changes = json::array({change});
  if (transaction.beside) {
    const auto& [beside_key, beside_value] = *transaction.beside;
    changes.push_back({{"request_put", {{"key", to_base64(beside_key)}, {"value", to_base64(beside_value)}}}});
  }
  json look{{"request_range", {{"key", key}}}};
  json body{{"compare", json::array({compare})}, {"success", changes}, {"failure", json::array({look})}};
  std::string text = body.dump();

  for (const std::string& endpoint : endpoints_by_preference()) {
    if (closing || deadline.passed()) break;
    HttpRequest request{.url = endpoint + "/v3/kv/txn", .body = text, .deadline = deadline};
    request.connect_ms = options.try_ms;
    request.fresh_connection = true;
    HttpAnswer http_answer = co_await http.post(std::move(request));
    if (http_answer.outcome == HttpAnswer::Outcome::not_sent) {
      mark_silent(endpoint);
      continue;
    }
    TransactionAnswer answer;
    if (!http_answer.ok()) {
      mark_silent(endpoint);
      log_warning("the store's member {} gave no clear answer to a swap of {}: {}", endpoint, transaction.key,
                  http_answer.error);
      co_return answer;
    }
    try {
      json value = json::parse(http_answer.body);
      if (value.value("succeeded", false)) {
        answer.revision = number_in(value.at("header"), "revision");
        answer.outcome = SwapAnswer::Outcome::applied;
      } else {
        std::vector<KeyValue> held = key_values_of(value.at("responses").at(0).at("response_range"));
        if (!held.empty()) answer.held = held.front();
        answer.outcome = SwapAnswer::Outcome::other;
      }
    } catch (const std::exception& error) {
      log_warning("the store's member {} answered a swap of {} with what cannot be read: {}", endpoint, transaction.key,
                  error.what());
      answer = TransactionAnswer{};
    }
    co_return answer;
  }
  TransactionAnswer nobody;
  nobody.surely_not_sent = true;
  co_return nobody;
}

}  // namespace zpair::quorum
