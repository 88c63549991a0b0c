#include "node/api.h"

#include "api/http_client.h"
#include "control/channel.h"
#include "node/api_internal.h"

namespace zpair::node {

namespace {

// /v1/events?since=3&wait_ms=1000 as the partner's agent sends it.
api::Request request_of(const agent::CallRequest& call) {
  api::Request request{call.method, call.path, {}, call.body};
  std::size_t question = call.path.find('?');
  if (question == std::string::npos) return request;
  request.path = call.path.substr(0, question);
  std::string rest = call.path.substr(question + 1);
  while (!rest.empty()) {
    std::size_t end = rest.find('&');
    std::string part = rest.substr(0, end);
    std::size_t equals = part.find('=');
    if (equals != std::string::npos) request.query[part.substr(0, equals)] = part.substr(equals + 1);
    rest = end == std::string::npos ? "" : rest.substr(end + 1);
  }
  return request;
}

constexpr std::int64_t connect_wait_ms = 2000;

bool only_for_partner(const std::string& route) { return route.find(" /v1/node/") != std::string::npos; }

}  // namespace

Api::Api(Daemon& daemon) : daemon_(daemon) {
  add("GET /v1/status", &Api::status);
  add("GET /v1/pools", &Api::pools);
  add("GET /v1/volumes", &Api::volumes);
  add("GET /v1/drives", &Api::drives);
  add("GET /v1/store", &Api::store);
  add("GET /v1/events", &Api::events);
  add("GET /v1/usage", &Api::usage);
  add("POST /v1/pool/create", &Api::pool_create);
  add("POST /v1/pool/add", &Api::pool_add);
  add("POST /v1/pool/destroy", &Api::pool_destroy);
  add("POST /v1/pool/export", &Api::pool_export);
  add("POST /v1/pool/import", &Api::pool_import);
  add("POST /v1/pool/scrub", &Api::pool_scrub);
  for (const char* change : {"create", "resize", "destroy", "snapshot", "destroy_snapshot", "clone", "rollback"})
    add(std::string("POST /v1/volume/") + change, &Api::volume_change);
  add("POST /v1/switchover", &Api::switchover);
  add("POST /v1/takeover", &Api::takeover);
  add("POST /v1/failback", &Api::failback);
  add("POST /v1/drive/replace", &Api::drive_replace);
  add("POST /v1/drive/move", &Api::drive_move);
  add("POST /v1/drive/look", &Api::drive_look);
  add("POST /v1/store/readmit", &Api::store_readmit);
  add("POST /v1/store/rebuild", &Api::store_rebuild);
  add("GET /v1/tunables", &Api::tunables);
  add("POST /v1/tune", &Api::tune);
  add("POST /v1/drill", &Api::drill);
  add("POST /v1/shutdown", &Api::shutdown);
  if (daemon.config().fault.allowed) add("POST /v1/fault", &Api::fault);
  add("GET /v1/node/records", &Api::node_records);
  add("POST /v1/node/inspect", &Api::drive_inspect);
  add("POST /v1/node/register", &Api::drive_register);
  add("POST /v1/node/unregister", &Api::drive_unregister);
  add("POST /v1/node/forget", &Api::pool_forget);
  add("POST /v1/node/side", &Api::pool_side);
}

void Api::add(const std::string& route, Method method) { methods_[route] = method; }

api::Routes Api::routes() {
  api::Routes routes;
  for (const auto& [route, method] : methods_) {
    if (only_for_partner(route)) continue;
    routes[route] = [this, name = route](api::Request request) {
      return dispatch(name, {std::move(request), From::operator_here});
    };
  }
  return routes;
}

Api::Answer Api::dispatch(std::string route, Asked asked) {
  auto found = methods_.find(route);
  if (found == methods_.end()) co_return fail(ErrorCode::not_found, "no such request: {}", route);
  Method method = found->second;
  auto answer = co_await (this->*method)(std::move(asked));
  if (!answer) answer.error().message = daemon_.with_names(std::move(answer.error().message));
  co_return answer;
}

block::Task<agent::CallAnswer> Api::answer_partner(agent::CallRequest call) {
  Asked asked{request_of(call), From::partner};
  std::string route = asked.request.method + " " + asked.request.path;
  auto answer = co_await dispatch(route, std::move(asked));
  if (answer) co_return agent::CallAnswer{200, std::move(*answer)};
  co_return agent::CallAnswer{api::http_status_of(answer.error().code), api::error_body(answer.error())};
}

// --- passing on ------------------------------------------------------------------------------------------------------

Api::Answer Api::call_partner(std::string method, std::string path, std::string body, std::int64_t limit_ms) {
  // An order given right after a start waits for the first connection; a question does not.
  if (method == "POST") (void)co_await daemon_.partner().wait_connected(Deadline::in_ms(connect_wait_ms));
  agent::CallRequest call{std::move(method), std::move(path), std::move(body)};
  auto answer = co_await daemon_.partner().call(std::move(call), Deadline::in_ms(limit_ms));
  if (!answer) co_return fail(answer.error(), "node {}", partner_of(daemon_.config().node));
  if (answer->http_status >= 400) co_return std::unexpected(api::error_from_body(answer->http_status, answer->body));
  co_return std::move(answer->body);
}

Api::Answer Api::call_pool(std::string pool, std::string method, std::string path, std::string body,
                           std::int64_t limit_ms) {
  api::Call call;
  call.socket_path = control::api_path(daemon_.config().run_dir, pool);
  call.method = std::move(method);
  call.target = std::move(path);
  call.body = std::move(body);
  co_return co_await api::call(std::move(call), Deadline::in_ms(limit_ms));
}

Api::Answer Api::to_owner(Asked asked, std::string pool, std::int64_t limit_ms) {
  PoolAgent* agent = daemon_.find_pool(pool);
  if (agent == nullptr) co_return fail(ErrorCode::not_found, "no pool {}: see zpair pool list", pool);
  if (agent->has_process()) {
    co_return co_await call_pool(pool, asked.request.method, asked.request.path, asked.request.body, limit_ms);
  }
  NodeId here = daemon_.config().node;
  if (asked.from == From::partner)
    co_return fail(ErrorCode::unreachable, "pool {} is not served by node {}", pool, here);
  auto answer = co_await call_partner(asked.request.method, asked.request.path, asked.request.body, limit_ms);
  if (!answer && answer.error().code == ErrorCode::unreachable) {
    co_return fail(ErrorCode::unreachable, "pool {} is served by no node in reach: see zpair status ({})", pool,
                   answer.error().message);
  }
  co_return answer;
}

}  // namespace zpair::node
