#include "api/http_client.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <charconv>
#include <cstring>

#include <httplib.h>

#include "api/errors.h"
#include "block/stream.h"

namespace zpair::api {
namespace {

constexpr std::size_t max_answer_bytes = std::size_t{64} << 20;

Result<std::string> outcome(int http_status, std::string body) {
  if (http_status >= 200 && http_status < 300) return body;
  return std::unexpected(error_from_body(http_status, body));
}

std::string head_of(const Call& call) {
  return fmt::format(
      "{} {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: "
      "{}\r\n\r\n",
      call.method, call.target, call.body.size());
}

// The server's answer, read until it closes the connection: a status line, headers, and a body of Content-Length.
Result<std::string> parse_answer(std::string_view text, const std::string& socket_path) {
  const auto broken = [&](std::string_view what) {
    return fail(ErrorCode::io, "the answer at {} {}: the outcome is unknown", socket_path, what);
  };
  const auto head_end = text.find("\r\n\r\n");
  if (head_end == std::string_view::npos) return broken("ended in the middle");
  const std::string_view head = text.substr(0, head_end);
  if (!head.starts_with("HTTP/1.1 ") || head.size() < 12) return broken("is no HTTP");
  int http_status = 0;
  std::from_chars(head.data() + 9, head.data() + 12, http_status);
  std::string lower(head);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  const std::string_view length_key = "\r\ncontent-length:";
  const auto at = lower.find(length_key);
  if (at == std::string::npos) return broken("has no length");
  std::size_t begin = at + length_key.size();
  while (begin < lower.size() && lower[begin] == ' ') ++begin;
  std::size_t length_bytes = 0;
  const auto [end, error] = std::from_chars(lower.data() + begin, lower.data() + lower.size(), length_bytes);
  if (error != std::errc{}) return broken("has no length");
  const std::string_view body = text.substr(head_end + 4);
  if (body.size() < length_bytes) return broken("ended in the middle");
  return outcome(http_status, std::string(body.substr(0, length_bytes)));
}

block::Task<Result<std::string>> exchange(block::Stream& stream, const Call& call) {
  const std::string request = head_of(call) + call.body;
  auto written = co_await stream.write_all(std::as_bytes(std::span(request)));
  if (!written) co_return fail(written.error(), "the request to {} broke off", call.socket_path);
  std::string answer;
  std::array<std::byte, 16384> piece;
  while (answer.size() < max_answer_bytes) {
    auto count = co_await stream.read_some(piece);
    if (!count)
      co_return fail(ErrorCode::io, "the answer at {} broke off ({}): the outcome is unknown", call.socket_path,
                     count.error().message);
    if (*count == 0) break;
    answer.append(reinterpret_cast<const char*>(piece.data()), *count);
  }
  co_return parse_answer(answer, call.socket_path);
}

auto nobody_answers(const std::string& socket_path) {
  if (socket_path.size() >= sizeof(sockaddr_un::sun_path)) {
    return fail(ErrorCode::unreachable, "'{}' is {} bytes long, a socket's path holds {}", socket_path,
                socket_path.size(), sizeof(sockaddr_un::sun_path) - 1);
  }
  if (::access(socket_path.c_str(), W_OK) != 0 && errno == EACCES) {
    return fail(ErrorCode::unreachable, "no permission to ask at {}: do it as the user that zpaird runs as (sudo)",
                socket_path);
  }
  return fail(ErrorCode::unreachable, "nobody answers at {}: is zpaird running there?", socket_path);
}

}  // namespace

Result<std::string> call_and_wait(const Call& call, std::int64_t timeout_ms) {
  httplib::Client http(call.socket_path);
  http.set_address_family(AF_UNIX);
  http.set_socket_options([](int) {});
  http.set_connection_timeout(0, 500'000);
  http.set_read_timeout(timeout_ms / 1000, (timeout_ms % 1000) * 1000);
  const httplib::Headers headers{{"Connection", "close"}};
  auto result = call.method == "GET" ? http.Get(call.target, headers)
                                     : http.Post(call.target, headers, call.body, "application/json");
  if (result) return outcome(result->status, std::move(result->body));
  if (result.error() == httplib::Error::Connection || result.error() == httplib::Error::ConnectionTimeout) {
    return nobody_answers(call.socket_path);
  }
  if (result.error() == httplib::Error::Read) {
    return fail(ErrorCode::timed_out, "no answer at {} within {} ms, or it broke off: the outcome is unknown",
                call.socket_path, timeout_ms);
  }
  return fail(ErrorCode::io, "the request to {} failed ({}): the outcome is unknown", call.socket_path,
              httplib::to_string(result.error()));
}

block::Task<Result<std::string>> call(Call call, Deadline deadline) {
  auto to = block::Endpoint::parse("unix:" + call.socket_path);
  if (!to) co_return std::unexpected(to.error());
  auto stream = co_await block::Stream::connect(*to, deadline);
  if (!stream)
    co_return fail(ErrorCode::unreachable, "nobody answers at {} ({})", call.socket_path, stream.error().message);
  // A stream has no deadline of its own: the timer shuts it down, and what waits ends.
  bool timed_out = false;
  auto& reactor = block::Reactor::current();
  block::Stream* raw = stream->get();
  const auto timer = reactor.call_at(deadline.at_ns, [&timed_out, raw] {
    timed_out = true;
    raw->shutdown();
  });
  auto answer = co_await exchange(*raw, call);
  reactor.cancel_timer(timer);
  if (timed_out && !answer)
    co_return fail(ErrorCode::timed_out, "no answer at {} in time: the outcome is unknown", call.socket_path);
  co_return answer;
}

}  // namespace zpair::api
