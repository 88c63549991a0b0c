#pragma once
// What both ends of a connection share: reading PDUs out of a byte stream, and sending them in batches.
// Threading: reactor thread only. Errors: invalid (malformed PDU: names what), io (digest, connection).
#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "base/error.h"
#include "block/stream.h"
#include "block/task.h"
#include "nvme/pdu.h"

namespace zpair::nvme {

enum class Side : std::uint8_t { host, controller };  // who reads: a host gets responses, a controller gets commands

// A malformed PDU: what a termination request says of it.
struct PduFault {
  FatalError code = FatalError::invalid_header;
  std::uint32_t info = 0;  // byte offset of the bad field
  const char* what = "";
};

// Buffers a stream and cuts it into PDUs. The loop of a reader:
//   switch (reader.parse(digests)) { need_more: co_await reader.fill(); bad: reader.fault(); header: use it, then read its
//   data with read_data() (always, when data_bytes() > 0) and finish(). }
class PduReader {
 public:
  PduReader(block::Stream& stream, Side side, std::size_t capacity = 128 * 1024);

  enum class Found : std::uint8_t { need_more, header, bad };
  Found parse(Digests digests);
  const PduFault& fault() const { return fault_; }

  const PduHeader& header() const { return header_; }
  template <class Pdu>
  Pdu pdu() const {  // the whole header, by type
    Pdu pdu;
    std::memcpy(&pdu, raw_header_.data(), sizeof pdu);
    return pdu;
  }
  std::size_t data_bytes() const { return data_bytes_; }
  std::span<const std::byte> raw_header() const { return {raw_header_.data(), header_.header_bytes}; }

  block::Task<Result<void>> fill();  // until there is more to parse
  // True when the PDU's whole data (and digest) is buffered already: then take_data() does without a wait.
  bool data_is_buffered() const { return end_ - begin_ >= data_bytes_ + trailer_bytes_; }
  // Copies the data into `into` and checks its digest: false = it is wrong. Empty `into`: throws the data away.
  bool take_data(std::span<const iovec> into);
  // The same, with waiting. An error: the connection ended.
  block::Task<Result<bool>> read_data(std::span<const iovec> into);

  Nanoseconds last_heard_ns() const { return last_heard_ns_; }

 private:
  void consume(std::size_t size);
  std::span<const std::byte> buffered() const { return {buffer_.get() + begin_, end_ - begin_}; }
  block::Task<Result<void>> fill_to(std::size_t size);
  bool digest_matches(std::uint32_t computed);

  block::Stream& stream_;
  Side side_;
  std::size_t capacity_;
  std::unique_ptr<std::byte[]> buffer_;
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::size_t needed_ = sizeof(PduHeader);
  PduHeader header_{};
  std::array<std::byte, max_header_bytes> raw_header_{};
  std::size_t data_bytes_ = 0;
  std::size_t trailer_bytes_ = 0;  // the data's digest
  PduFault fault_;
  Nanoseconds last_heard_ns_ = 0;
};

// One PDU (or a C2HData with its response behind it) on its way out. It, and what `data` names, must live until on_sent.
struct Outgoing {
  std::array<std::byte, max_header_bytes> header;
  std::size_t header_size = 0;
  std::span<const iovec> data;
  std::array<std::byte, 40> trailer;
  std::size_t trailer_size = 0;
  Outgoing* next = nullptr;
  bool on_its_way = false;
  void (*on_sent)(Outgoing&) = nullptr;  // also when the connection ended first: the kernel let go of it

  // Fills the header with `pdu`, digests included; `data` must be set before.
  template <class Pdu>
  void set(Pdu pdu, Digests digests) {
    static_assert(sizeof(Pdu) <= max_header_bytes - digest_bytes || sizeof(Pdu) == max_header_bytes);
    set_header(pdu.header, {reinterpret_cast<const std::byte*>(&pdu), sizeof pdu}, digests);
  }
  void append(const CapsuleResp& response, Digests digests);  // behind the data

 private:
  void set_header(const PduHeader& header, std::span<const std::byte> bytes, Digests digests);
};

// Sends what is pushed, in order, everything that waits in one writev.
class SendQueue {
 public:
  explicit SendQueue(block::Stream& stream) : stream_(stream) {}
  void push(Outgoing& out);  // after close(): on_sent at once
  void close();              // run() ends as soon as the kernel gave back what it holds
  block::Task<void> run();   // on a write error it shuts the stream down

 private:
  block::Stream& stream_;
  block::Signal work_;
  Outgoing* first_ = nullptr;
  Outgoing* last_ = nullptr;
  bool closed_ = false;
  std::vector<iovec> parts_;
};

std::size_t size_of(std::span<const iovec> parts);
// The part [offset, offset + size) of `parts`.
std::vector<iovec> slice(std::span<const iovec> parts, std::size_t offset, std::size_t size);
std::uint32_t digest_of(std::span<const iovec> parts);

// A termination request that names `fault`, with the PDU's header behind it.
std::vector<std::byte> termination(PduType type, const PduFault& fault, std::span<const std::byte> header);

// Sends without waiting for the peer to take it: for goodbyes. The stream must not be written to by anybody else.
void send_and_forget(block::Stream& stream, std::span<const std::byte> bytes);

}  // namespace zpair::nvme
