#include <curl/curl.h>

#include <algorithm>
#include <atomic>
#include <list>

#include "base/assert.h"
#include "quorum/http_client_internal.h"

namespace zpair::quorum {

using block::Reactor;
using block::Task;

struct HttpClient::Call : std::enable_shared_from_this<Call> {
  HttpRequest request;
  block::Reactor* reactor = nullptr;
  std::atomic<bool> cancelled{false};
  HttpAnswer answer;  // the edge thread's, until `done` was set on the reactor
  block::Signal done;

  // The edge thread's own.
  CURL* easy = nullptr;
  curl_slist* headers = nullptr;
  std::string received;
};

namespace {

std::size_t on_body(char* bytes, std::size_t one, std::size_t count, void* context) {
  auto& call = *static_cast<HttpClient::Call*>(context);
  call.received.append(bytes, one * count);
  if (!call.request.on_line) return one * count;
  for (std::size_t end = 0; (end = call.received.find('\n')) != std::string::npos;) {
    std::string line = call.received.substr(0, end);
    call.received.erase(0, end + 1);
    call.reactor->post([shared = call.shared_from_this(), line = std::move(line)] {
      if (!shared->cancelled.load() && !shared->done.is_set()) shared->request.on_line(line);
    });
  }
  return one * count;
}

void prepare(HttpClient::Call& call) {
  call.easy = curl_easy_init();
  ZP_ASSERT(call.easy != nullptr, "memory for a request");
  call.headers = curl_slist_append(call.headers, "Content-Type: application/json");
  call.headers = curl_slist_append(call.headers, "Expect:");
  CURL* easy = call.easy;
  curl_easy_setopt(easy, CURLOPT_URL, call.request.url.c_str());
  curl_easy_setopt(easy, CURLOPT_HTTPHEADER, call.headers);
  curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE, static_cast<long>(call.request.body.size()));
  curl_easy_setopt(easy, CURLOPT_POSTFIELDS, call.request.body.data());
  curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
  curl_easy_setopt(easy, CURLOPT_WRITEDATA, &call);
  curl_easy_setopt(easy, CURLOPT_PRIVATE, &call);
  curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(easy, CURLOPT_PROXY, "");  // whatever the environment says: the members are ours
  curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  if (call.request.fresh_connection) curl_easy_setopt(easy, CURLOPT_FRESH_CONNECT, 1L);
  if (call.request.deadline.at_ns != INT64_MAX) {
    Nanoseconds left_ms = (call.request.deadline.at_ns - boot_time_ns()) / ns_per_ms;
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, static_cast<long>(std::max<Nanoseconds>(left_ms, 1)));
  }
  curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(call.request.connect_ms));
}

void conclude(HttpClient::Call& call, CURLcode code) {
  long status = 0;
  long sent_bytes = 0;
  curl_easy_getinfo(call.easy, CURLINFO_RESPONSE_CODE, &status);
  curl_easy_getinfo(call.easy, CURLINFO_REQUEST_SIZE, &sent_bytes);
  call.answer.status = static_cast<int>(status);
  call.answer.body = std::move(call.received);
  if (code == CURLE_OK) {
    call.answer.outcome = HttpAnswer::Outcome::answered;
    if (status != 200) call.answer.error = fmt::format("HTTP status {}: {}", status, call.answer.body);
  } else {
    // Nothing of the request had been handed to the kernel.
    call.answer.outcome = sent_bytes == 0 ? HttpAnswer::Outcome::not_sent : HttpAnswer::Outcome::no_answer;
    call.answer.error = curl_easy_strerror(code);
  }
}

}  // namespace

HttpClient::HttpClient(block::Reactor& reactor) : reactor_(reactor) {
  static const CURLcode initialized = curl_global_init(CURL_GLOBAL_DEFAULT);
  ZP_ASSERT(initialized == CURLE_OK, "libcurl starts");
  multi_ = curl_multi_init();
  ZP_ASSERT(multi_ != nullptr, "memory for libcurl");
  thread_ = std::thread([this] { run(); });
}

HttpClient::~HttpClient() { ZP_ASSERT(closed_, "an HTTP client is closed before it ends"); }

void HttpClient::run() {
  auto* multi = static_cast<CURLM*>(multi_);
  std::list<CallPointer> active;
  auto end = [&](std::list<CallPointer>::iterator it, CURLcode code) {
    CallPointer call = *it;
    conclude(*call, code);
    curl_multi_remove_handle(multi, call->easy);
    curl_easy_cleanup(call->easy);
    curl_slist_free_all(call->headers);
    call->easy = nullptr;
    active.erase(it);
    reactor_.post([call] { call->done.set(); });
  };
  for (bool stop = false; !stop || !active.empty();) {
    std::vector<CallPointer> fresh;
    {
      std::lock_guard lock(mutex_);
      fresh.swap(new_);
      stop = stop_;
    }
    for (CallPointer& call : fresh) {
      prepare(*call);
      curl_multi_add_handle(multi, call->easy);
      active.push_back(std::move(call));
    }
    for (auto it = active.begin(); it != active.end();) {
      auto next = std::next(it);
      if (stop || (*it)->cancelled.load()) end(it, CURLE_ABORTED_BY_CALLBACK);
      it = next;
    }
    int running = 0;
    curl_multi_perform(multi, &running);
    int left = 0;
    while (CURLMsg* message = curl_multi_info_read(multi, &left)) {
      if (message->msg != CURLMSG_DONE) continue;
      CURLcode code = message->data.result;
      auto it = std::ranges::find_if(active,
                                     [message](const CallPointer& call) { return call->easy == message->easy_handle; });
      ZP_ASSERT(it != active.end(), "libcurl reports our own requests");
      end(it, code);
    }
    if (!stop) curl_multi_poll(multi, nullptr, 0, 1000, nullptr);
  }
}

HttpClient::CallPointer HttpClient::start(HttpRequest request) {
  auto call = std::make_shared<Call>();
  call->request = std::move(request);
  call->reactor = &reactor_;
  if (closed_) {
    call->answer = HttpAnswer{HttpAnswer::Outcome::not_sent, 0, {}, "the store was closed"};
    call->done.set();
    return call;
  }
  {
    std::lock_guard lock(mutex_);
    new_.push_back(call);
  }
  curl_multi_wakeup(static_cast<CURLM*>(multi_));
  return call;
}

Task<HttpAnswer> HttpClient::finish(CallPointer call) {
  co_await call->done.wait();
  co_return call->answer;
}

Task<bool> HttpClient::ended(CallPointer call, Deadline deadline) {
  co_return co_await block::wait_for(call->done, deadline);
}

void HttpClient::cancel(const CallPointer& call) {
  call->cancelled.store(true);
  if (!closed_) curl_multi_wakeup(static_cast<CURLM*>(multi_));
}

Task<HttpAnswer> HttpClient::post(HttpRequest request) {
  CallPointer call = start(std::move(request));
  co_return co_await finish(call);
}

void HttpClient::close() {
  if (closed_) return;
  closed_ = true;
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  curl_multi_wakeup(static_cast<CURLM*>(multi_));
  thread_.join();
  curl_multi_cleanup(static_cast<CURLM*>(multi_));
}

}  // namespace zpair::quorum
