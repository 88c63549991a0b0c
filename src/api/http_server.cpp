#include "api/http_server.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <future>
#include <set>
#include <thread>

#include <httplib.h>

#include "api/errors.h"
#include "base/unique_fd.h"

namespace zpair::api {
namespace {

constexpr int listen_queue = 128;
constexpr std::size_t max_body_bytes = std::size_t{8} << 20;

Result<void> remove_dead_socket(const std::string& path) {
  sockaddr_un address{};
  if (path.size() >= sizeof(address.sun_path)) {
    return fail(ErrorCode::invalid, "the socket path {} is longer than {} bytes: choose a shorter folder", path,
                sizeof(address.sun_path) - 1);
  }
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.c_str(), path.size());
  UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!probe) return fail_errno(errno, "cannot make a socket");
  if (::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
    return fail(ErrorCode::exists, "another process already serves {}: stop it first", path);
  }
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return fail_errno(errno, "cannot replace the socket {}", path);
  return {};
}

Request request_of(const httplib::Request& from) {
  Request request{from.method, from.path, {}, from.body};
  for (const auto& [key, value] : from.params) request.query[key] = value;
  return request;
}

}  // namespace

struct HttpServer::Impl {
  block::Reactor& reactor;
  std::string socket_path;
  Routes routes;
  httplib::Server http;
  std::thread edge;
  block::TaskGroup running;  // reactor thread
  bool closed = false;       // reactor thread

  explicit Impl(block::Reactor& reactor_in) : reactor(reactor_in) {}

  Result<Handler> find(const Request& request) const {
    auto route = routes.find(request.method + " " + request.path);
    if (route != routes.end()) return route->second;
    for (const char* method : {"GET ", "POST "}) {
      if (routes.contains(method + request.path))
        return fail(ErrorCode::invalid, "{} is not a {} request", request.path, request.method);
    }
    return fail(ErrorCode::not_found, "no such request: {}", request.path);
  }

  // Edge thread: hands the request to the reactor and blocks until its answer is there.
  Result<std::string> answer(Request request) {
    ZP_TRY(handler, find(request));
    std::promise<Result<std::string>> promise;
    auto future = promise.get_future();
    reactor.post([this, &handler, &request, &promise] {
      if (closed) {
        promise.set_value(fail(ErrorCode::cancelled, "this process is stopping: ask again"));
        return;
      }
      running.spawn(run(handler, std::move(request), promise));
    });
    return future.get();
  }

  static block::Task<void> run(Handler handler, Request request, std::promise<Result<std::string>>& promise) {
    auto result = co_await handler(std::move(request));
    promise.set_value(std::move(result));  // the edge thread goes on: nothing of it is touched from here
  }

  void serve(const httplib::Request& from, httplib::Response& to) {
    auto result = answer(request_of(from));
    if (!result) {
      to.status = http_status_of(result.error().code);
      to.set_content(error_body(result.error()), "application/json");
      return;
    }
    to.set_content(*result, "application/json");
  }
};

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

HttpServer::~HttpServer() { ZP_ASSERT(!impl_->edge.joinable(), "an HTTP server is closed before it ends"); }

Result<std::unique_ptr<HttpServer>> HttpServer::start(block::Reactor& reactor, std::string socket_path, Routes routes) {
  ZP_CHECK(remove_dead_socket(socket_path));
  auto impl = std::make_unique<Impl>(reactor);
  impl->socket_path = socket_path;
  impl->routes = std::move(routes);
  auto& http = impl->http;
  http.new_task_queue = [] { return new httplib::ThreadPool(max_requests); };
  http.set_address_family(AF_UNIX);
  int listener = -1;
  http.set_socket_options([&listener](int socket) { listener = socket; });  // the default sets TCP options
  http.set_keep_alive_max_count(1);  // an idle connection must not hold an edge thread
  http.set_payload_max_length(max_body_bytes);
  auto serve = [raw = impl.get()](const httplib::Request& from, httplib::Response& to) { raw->serve(from, to); };
  http.Get(".*", serve);
  http.Post(".*", serve);
  const mode_t former_mask = ::umask(0177);
  const bool bound = http.bind_to_port(socket_path, 1);  // the port is not used
  ::umask(former_mask);
  if (!bound) return fail_errno(errno, "cannot listen at {}", socket_path);
  // The library's queue holds five: the sixth client that comes at once would find nobody there.
  if (::listen(listener, listen_queue) != 0) return fail_errno(errno, "cannot listen at {}", socket_path);
  http.set_socket_options([](int) {});
  impl->edge = std::thread([raw = impl.get()] { raw->http.listen_after_bind(); });
  while (!http.is_running()) std::this_thread::yield();  // stop() before that would be lost
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

block::Task<void> HttpServer::close() {
  impl_->closed = true;
  ::unlink(impl_->socket_path.c_str());
  impl_->http.stop();
  co_await impl_->running.close();
  // Requests that came after `closed` was set are answered by calls on the reactor: join elsewhere, stay on the loop.
  block::Signal joined;
  std::thread joiner([this, &joined] {
    impl_->edge.join();
    impl_->reactor.post([&joined] { joined.set(); });
  });
  co_await joined.wait();
  joiner.join();
}

}  // namespace zpair::api
