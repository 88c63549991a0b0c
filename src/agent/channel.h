#pragma once
// Frames over one Stream: receive() reads one, send() queues one; a single writer task sends the queue in order.
// Ownership: owns the stream; run() is the writer, awaited by whoever owns the channel, and ends after shutdown().
// Errors:    io, cancelled; invalid: a frame that is too long or does not parse (end the connection then).
#include <deque>
#include <memory>
#include <string>

#include "agent/messages.h"
#include "block/stream.h"
#include "block/task.h"

namespace zpair::agent {

class Channel {
 public:
  explicit Channel(std::unique_ptr<block::Stream> stream) : stream_(std::move(stream)) {}

  block::Task<Result<Frame>> receive();
  void send(const Frame& frame);  // never blocks; a peer that does not read is cut off at 16 MiB
  block::Task<void> run_writer();
  void shutdown();
  bool is_shut_down() const { return shut_down_; }
  block::Stream& stream() { return *stream_; }
  std::unique_ptr<block::Stream> release_stream() { return std::move(stream_); }

 private:
  std::unique_ptr<block::Stream> stream_;
  std::deque<std::string> queue_;
  std::size_t queued_bytes_ = 0;
  bool shut_down_ = false;
  block::Signal wake_up_;
};

}  // namespace zpair::agent
