#include "agent/channel.h"

#include <array>

#include "base/log.h"

namespace zpair::agent {

namespace {
constexpr std::size_t longest_queue_bytes = 16 << 20;
}

block::Task<Result<Frame>> Channel::receive() {
  std::array<std::byte, 4> header;
  auto got_header = co_await stream_->read_exactly(header);
  if (!got_header) co_return std::unexpected(got_header.error());
  std::size_t size_bytes = 0;
  for (std::size_t i = 0; i < 4; ++i) size_bytes |= std::to_integer<std::size_t>(header[i]) << (8 * i);
  if (size_bytes == 0 || size_bytes > longest_frame_bytes) {
    co_return fail(ErrorCode::invalid, "a frame of {} bytes (1 to {} are allowed)", size_bytes, longest_frame_bytes);
  }
  std::string text(size_bytes, '\0');
  auto got_text = co_await stream_->read_exactly(std::as_writable_bytes(std::span(text)));
  if (!got_text) co_return std::unexpected(got_text.error());
  co_return parse_frame(text);
}

void Channel::send(const Frame& frame) {
  if (shut_down_) return;
  std::string bytes = to_bytes(frame);
  if (queued_bytes_ + bytes.size() > longest_queue_bytes) {
    log_warning("a peer does not read its messages, {} bytes wait: cutting it off", queued_bytes_);
    shutdown();
    return;
  }
  queued_bytes_ += bytes.size();
  queue_.push_back(std::move(bytes));
  wake_up_.set();
}

block::Task<void> Channel::run_writer() {
  while (!shut_down_) {
    if (queue_.empty()) {
      wake_up_.reset();
      co_await wake_up_.wait();
      continue;
    }
    std::string bytes = std::move(queue_.front());
    queue_.pop_front();
    auto written = co_await stream_->write_all(std::as_bytes(std::span(bytes)));
    queued_bytes_ -= bytes.size();
    if (!written) shutdown();
  }
}

void Channel::shutdown() {
  if (shut_down_) return;
  shut_down_ = true;
  stream_->shutdown();
  wake_up_.set();
}

}  // namespace zpair::agent
