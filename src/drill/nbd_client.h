#pragma once
// An NBD client that never gives up: when its connection ends it connects to the same address again, for ever, and sends
// every unanswered request again in the order in which it was issued. So it sees a takeover as a slow answer.
// Ownership: buffers stay the caller's and must live until the await returns. close() it before it is destroyed.
// Threading: reactor thread only. Any number of requests may be under way.
// Errors:    only what the server answers: io, no_space, invalid, unsupported; cancelled after close().
// Source:    NBD protocol, doc/proto.md (fixed newstyle, NBD_OPT_GO, simple and structured replies).
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "block/reactor.h"
#include "block/stream.h"
#include "block/task.h"

namespace zpair::drill {

struct NbdTarget {
  // One address is the normal case. With several (the volume's sockets on both nodes) they are tried in turn, a second
  // each; that is safe only for a client with a name (rule 10), so parse and connect refuse it without.
  std::vector<block::Endpoint> addresses;
  std::string export_name;  // POOL/VOLUME or POOL/VOLUME@CLIENT

  // nbd+unix:///EXPORT?socket=/PATH or nbd://ADDRESS:PORT/EXPORT; several alternatives separated by ','.
  static Result<NbdTarget> parse(std::string_view uri);
};

struct NbdClientOptions {
  std::int64_t retry_ms = 20;
  // Called at each change, for a log or a test.
  std::function<void(bool connected)> on_connection;
};

struct ExportInfo {
  std::uint64_t size_bytes = 0;
  std::uint16_t flags = 0;             // NBD_FLAG_*
  std::uint32_t block_size_bytes = 1;  // the least
  std::uint32_t greatest_payload_bytes = 32u << 20;
};

class NbdClient {
 public:
  explicit NbdClient(NbdTarget target, NbdClientOptions options = {});
  ~NbdClient();
  NbdClient(const NbdClient&) = delete;
  NbdClient& operator=(const NbdClient&) = delete;

  // Starts; returns when the first handshake succeeded (or the deadline passed; it goes on trying until close()).
  block::Task<Result<ExportInfo>> open(Deadline deadline);

  block::Task<Result<void>> read(std::uint64_t offset_bytes, std::span<std::byte> into);
  block::Task<Result<void>> write(std::uint64_t offset_bytes, std::span<const std::byte> from);
  block::Task<Result<void>> write_durable(std::uint64_t offset_bytes, std::span<const std::byte> from);
  block::Task<Result<void>> flush();
  block::Task<Result<void>> trim(std::uint64_t offset_bytes, std::uint32_t size_bytes);
  block::Task<Result<void>> write_zeroes(std::uint64_t offset_bytes, std::uint32_t size_bytes);

  block::Task<void> close();  // requests under way end with `cancelled`

  const ExportInfo& info() const { return info_; }
  bool connected() const { return connected_; }
  std::uint64_t connection_count() const { return connection_count_; }  // handshakes that succeeded
  std::uint64_t resent_count() const { return resent_count_; }
  const std::string& last_failure() const { return last_failure_; }  // why the last connection ended or failed

 private:
  struct Command;
  struct Line;  // one connection

  block::Task<Result<void>> run(Command& command);
  block::Task<void> stay_connected();
  block::Task<void> serve_line(Line& line);
  block::Task<void> hang_up_unless(block::Signal& answered, Line& line);
  block::Task<Result<void>> negotiate(Line& line);
  block::Task<Result<void>> ask(Line& line, std::uint32_t option, std::span<const std::byte> data);
  block::Task<void> send_commands(Line& line);
  block::Task<Result<void>> receive_replies(Line& line);
  block::Task<Result<void>> receive_simple(Line& line);
  block::Task<Result<void>> receive_chunk(Line& line);
  void queue_all_again();
  void say_goodbye();
  Command* unanswered(std::uint64_t cookie);
  void finish(Command& command, Result<void> result);

  NbdTarget target_;
  NbdClientOptions options_;
  ExportInfo info_;
  block::TaskGroup tasks_;
  block::Signal opened_;
  block::Signal to_send_changed_;
  Line* line_ = nullptr;
  std::map<std::uint64_t, Command*> commands_;  // unanswered, by cookie, which counts up: the order of issue
  std::deque<std::uint64_t> to_send_;
  std::uint64_t next_cookie_ = 1;
  std::size_t next_address_ = 0;
  bool connected_ = false;
  bool started_ = false;
  bool closing_ = false;
  std::uint64_t connection_count_ = 0;
  std::uint64_t resent_count_ = 0;
  std::string last_failure_;
};

}  // namespace zpair::drill
