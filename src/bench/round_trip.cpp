// zpair-round-trip: how long the shortest conversation takes, which no acknowledgement of a pair can beat. Without --to: one
// request and its answer over TCP between two threads of this machine. With --to ADDRESS: one round trip of the kernels on that
// path, by connections to a port where nobody listens, which the other kernel refuses at once: it needs no privilege and
// disturbs no service. Prints JSON: {"kind": "loopback" or "path", "round_trips", "latency_us": {"mean", "p50", "p99", "p99_9"}}.
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstddef>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "latency.h"

namespace {

using namespace zpair;
using namespace zpair::bench;

constexpr std::size_t answer_bytes = 16;  // as long as a completion of NVMe
constexpr const char* quiet_port = "9";   // discard: nobody listens there, and who does takes no harm
constexpr int answer_limit_s = 1;
constexpr unsigned between_us = 2000;  // a stream of refused connections would look like an attack

struct Options {
  std::string to;
  double seconds = 1;
  std::size_t request_bytes = 4096;
};

bool carry_all(const UniqueFd& socket, std::vector<std::byte>& bytes, ssize_t (*carry)(int, std::byte*, std::size_t)) {
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t count = carry(socket.get(), bytes.data() + done, bytes.size() - done);
    if (count <= 0) return false;
    done += static_cast<std::size_t>(count);
  }
  return true;
}
ssize_t take(int fd, std::byte* bytes, std::size_t size) { return ::recv(fd, bytes, size, 0); }
ssize_t give(int fd, std::byte* bytes, std::size_t size) { return ::send(fd, bytes, size, MSG_NOSIGNAL); }

void no_delay(const UniqueFd& socket) {
  const int yes = 1;
  (void)::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
}

void answer_all(UniqueFd socket, std::size_t request_bytes) {
  no_delay(socket);
  std::vector<std::byte> request(request_bytes);
  std::vector<std::byte> answer(answer_bytes);
  while (carry_all(socket, request, take) && carry_all(socket, answer, give)) {
  }
}

Error last_error(const char* what) { return {ErrorCode::io, fmt::format("{}: {}", what, ::strerror(errno))}; }

Result<Latencies> loopback(const Options& options) {
  UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = ::htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  auto* place = reinterpret_cast<sockaddr*>(&address);
  if (::bind(listener.get(), place, size) != 0 || ::listen(listener.get(), 1) != 0 ||
      ::getsockname(listener.get(), place, &size) != 0)
    return std::unexpected(last_error("cannot listen on the loopback"));
  UniqueFd client(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (::connect(client.get(), place, size) != 0) return std::unexpected(last_error("cannot connect over the loopback"));
  no_delay(client);
  std::thread server(answer_all, UniqueFd(::accept(listener.get(), nullptr, nullptr)), options.request_bytes);
  std::vector<std::byte> request(options.request_bytes);
  std::vector<std::byte> answer(answer_bytes);
  Latencies latencies;
  const Nanoseconds end_ns = boot_time_ns() + static_cast<Nanoseconds>(options.seconds * 1e9);
  bool good = true;
  while (good && boot_time_ns() < end_ns) {
    const Nanoseconds begin_ns = boot_time_ns();
    good = carry_all(client, request, give) && carry_all(client, answer, take);
    if (good) latencies.add(boot_time_ns() - begin_ns);
  }
  client.reset();  // the server's read ends
  server.join();
  if (!good) return fail(ErrorCode::io, "the loopback connection broke");
  return latencies;
}

Result<Latencies> path(const Options& options) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST;
  addrinfo* found = nullptr;
  if (::getaddrinfo(options.to.c_str(), quiet_port, &hints, &found) != 0)
    return fail(ErrorCode::invalid, "'{}' is no address: give the partner's on a path, as zpair status --json has it",
                options.to);
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> address(found, ::freeaddrinfo);
  Latencies latencies;
  const Nanoseconds end_ns = boot_time_ns() + static_cast<Nanoseconds>(options.seconds * 1e9);
  while (boot_time_ns() < end_ns) {
    UniqueFd socket(::socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const timeval limit{answer_limit_s, 0};
    (void)::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    const Nanoseconds begin_ns = boot_time_ns();
    const int connected = ::connect(socket.get(), address->ai_addr, address->ai_addrlen);
    if (connected != 0 && errno != ECONNREFUSED)
      return fail(ErrorCode::unreachable, "{} neither takes nor refuses a connection to port {} (a firewall?): {}",
                  options.to, quiet_port, ::strerror(errno));
    latencies.add(boot_time_ns() - begin_ns);
    ::usleep(between_us);
  }
  return latencies;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{"The shortest conversation: over this machine's loopback, or to the partner's kernel."};
  app.add_option("--to", options.to, "the partner's address on a path");
  app.add_option("--seconds", options.seconds);
  app.add_option("--request-size", options.request_bytes, "bytes (loopback)")->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);

  auto latencies = options.to.empty() ? loopback(options) : path(options);
  if (!latencies) {
    fmt::print(stderr, "zpair-round-trip: {}\n", latencies.error().message);
    return 1;
  }
  const std::size_t count = latencies->count();
  const nlohmann::json result = {{"kind", options.to.empty() ? "loopback" : "path"},
                                 {"round_trips", count},
                                 {"latency_us", latencies->summary_us()}};
  fmt::print("{}\n", result.dump());
  return 0;
}
