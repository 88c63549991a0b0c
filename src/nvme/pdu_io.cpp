#include <sys/socket.h>

#include <algorithm>

#include "nvme/crc32c.h"
#include "nvme/pdu_io_internal.h"

namespace zpair::nvme {

namespace {

constexpr std::size_t max_data_bytes = 16u << 20;       // no PDU of anyone is longer; more is a broken peer
constexpr std::size_t direct_read_bytes = 16 * 1024;    // longer data is read past the buffer, straight into its place
constexpr std::size_t direct_chunk_bytes = 256 * 1024;  // ... in pieces, so that slow progress is seen as progress
constexpr std::size_t max_parts = 512;                  // iovecs a writev

// HLEN of each type that `side` may get; 0: it may not.
std::size_t header_bytes_for(PduType type, Side side) {
  bool host = side == Side::host;
  switch (type) {
    case PduType::ic_req: return host ? 0 : sizeof(IcReq);
    case PduType::ic_resp: return host ? sizeof(IcResp) : 0;
    case PduType::h2c_term_req: return host ? 0 : sizeof(TermReq);
    case PduType::c2h_term_req: return host ? sizeof(TermReq) : 0;
    case PduType::capsule_cmd: return host ? 0 : sizeof(CapsuleCmd);
    case PduType::capsule_resp: return host ? sizeof(CapsuleResp) : 0;
    case PduType::h2c_data: return host ? 0 : sizeof(DataPdu);
    case PduType::c2h_data: return host ? sizeof(DataPdu) : 0;
    case PduType::r2t: return host ? sizeof(DataPdu) : 0;
  }
  return 0;
}

bool carries_digests(PduType type) {
  return type != PduType::ic_req && type != PduType::ic_resp && type != PduType::h2c_term_req &&
         type != PduType::c2h_term_req;
}

bool may_carry_data(PduType type) {
  return type == PduType::capsule_cmd || type == PduType::h2c_data || type == PduType::c2h_data ||
         type == PduType::h2c_term_req || type == PduType::c2h_term_req;
}

}  // namespace

PduReader::PduReader(block::Stream& stream, Side side, std::size_t capacity)
    : stream_(stream),
      side_(side),
      capacity_(capacity),
      buffer_(std::make_unique_for_overwrite<std::byte[]>(capacity)) {}

PduReader::Found PduReader::parse(Digests digests) {
  auto bad = [this](FatalError code, std::uint32_t info, const char* what) {
    fault_ = PduFault{code, info, what};
    return Found::bad;
  };
  if (end_ - begin_ < sizeof(PduHeader)) {
    needed_ = sizeof(PduHeader);
    return Found::need_more;
  }
  std::memcpy(&header_, buffer_.get() + begin_, sizeof header_);
  std::size_t expected = header_bytes_for(header_.type, side_);
  std::memcpy(raw_header_.data(), &header_, sizeof header_);
  if (expected == 0) {
    header_.header_bytes = sizeof(PduHeader);
    return bad(FatalError::invalid_header, 0, "a PDU type that does not belong here");
  }
  if (header_.header_bytes != expected) {
    header_.header_bytes = sizeof(PduHeader);
    return bad(FatalError::invalid_header, 2, "wrong header length");
  }
  bool digested = carries_digests(header_.type);
  if (digested && ((header_.flags & pdu_flag::header_digest) != 0) != digests.header) {
    header_.header_bytes = sizeof(PduHeader);
    return bad(FatalError::invalid_header, 1, "header digest flag does not fit what was agreed");
  }
  std::size_t before_data = expected + (digested ? digests.header_bytes() : 0);
  if (end_ - begin_ < before_data) {
    needed_ = before_data;
    return Found::need_more;
  }
  std::memcpy(raw_header_.data(), buffer_.get() + begin_, expected);
  if (before_data > expected) {
    std::uint32_t sent;
    std::memcpy(&sent, buffer_.get() + begin_ + expected, sizeof sent);
    if (sent != crc32c(0, {raw_header_.data(), expected}))
      return bad(FatalError::header_digest, sent, "wrong header digest");
  }
  data_bytes_ = 0;
  trailer_bytes_ = 0;
  if (header_.total_bytes > before_data) {
    if (!may_carry_data(header_.type)) return bad(FatalError::invalid_header, 4, "data in a PDU without data");
    bool data_digested = digested && digests.data;
    if (digested && ((header_.flags & pdu_flag::data_digest) != 0) != digests.data) {
      return bad(FatalError::invalid_header, 1, "data digest flag does not fit what was agreed");
    }
    std::size_t data_offset = digested ? header_.data_offset : expected;
    std::size_t trailer = data_digested ? digest_bytes : 0;
    if (data_offset < before_data) return bad(FatalError::invalid_header, 3, "data begins inside the header");
    if (header_.total_bytes <= data_offset + trailer) return bad(FatalError::invalid_header, 4, "no room for the data");
    if (header_.total_bytes - data_offset > max_data_bytes)
      return bad(FatalError::data_limit_exceeded, 4, "too much data");
    if (end_ - begin_ < data_offset) {
      needed_ = data_offset;
      return Found::need_more;
    }
    data_bytes_ = header_.total_bytes - data_offset - trailer;
    trailer_bytes_ = trailer;
    before_data = data_offset;
  } else if (header_.total_bytes < before_data) {
    return bad(FatalError::invalid_header, 4, "shorter than its header");
  }
  consume(before_data);
  return Found::header;
}

void PduReader::consume(std::size_t size) {
  begin_ += size;
  if (begin_ == end_) begin_ = end_ = 0;
}

block::Task<Result<void>> PduReader::fill() { return fill_to(needed_); }

block::Task<Result<void>> PduReader::fill_to(std::size_t size) {
  if (begin_ + size > capacity_ || capacity_ - end_ < 4096) {
    std::memmove(buffer_.get(), buffer_.get() + begin_, end_ - begin_);
    end_ -= begin_;
    begin_ = 0;
  }
  while (end_ - begin_ < size) {
    std::span<std::byte> room(buffer_.get() + end_, capacity_ - end_);
    auto got = co_await stream_.read_some(room);
    if (!got) co_return std::unexpected(got.error());
    if (*got == 0) co_return fail(ErrorCode::io, "the peer closed the connection");
    end_ += *got;
    last_heard_ns_ = boot_time_ns();
  }
  co_return Result<void>{};
}

bool PduReader::digest_matches(std::uint32_t computed) {
  if (trailer_bytes_ == 0) return true;
  std::uint32_t sent;
  std::memcpy(&sent, buffer_.get() + begin_, sizeof sent);
  consume(trailer_bytes_);
  return sent == computed;
}

bool PduReader::take_data(std::span<const iovec> into) {
  std::size_t left = data_bytes_;
  std::uint32_t crc = 0;
  if (into.empty()) {
    if (trailer_bytes_ > 0) crc = crc32c(0, buffered().first(left));
    consume(left);
    return digest_matches(crc);
  }
  if (trailer_bytes_ > 0) crc = crc32c(0, buffered().first(left));
  for (const iovec& part : into) {
    std::size_t size = std::min(left, part.iov_len);
    std::memcpy(part.iov_base, buffer_.get() + begin_, size);
    begin_ += size;
    left -= size;
    if (left == 0) break;
  }
  consume(left);  // what does not fit is thrown away: the caller compared the sizes before
  return digest_matches(crc);
}

block::Task<Result<bool>> PduReader::read_data(std::span<const iovec> into) {
  if (into.empty() || data_bytes_ + trailer_bytes_ <= direct_read_bytes) {
    std::size_t left = data_bytes_;
    if (left + trailer_bytes_ <= capacity_) {
      ZP_CO_CHECK(co_await fill_to(left + trailer_bytes_));
      co_return take_data(into);
    }
    std::uint32_t crc = 0;  // longer than the buffer, and thrown away
    while (left > 0) {
      if (buffered().empty()) ZP_CO_CHECK(co_await fill_to(1));
      std::size_t size = std::min(left, end_ - begin_);
      crc = crc32c(crc, buffered().first(size));
      consume(size);
      left -= size;
    }
    if (trailer_bytes_ > 0) ZP_CO_CHECK(co_await fill_to(trailer_bytes_));
    co_return digest_matches(crc);
  }
  std::size_t left = data_bytes_;
  std::uint32_t crc = 0;
  for (const iovec& part : into) {
    std::span<std::byte> place(static_cast<std::byte*>(part.iov_base), std::min(left, part.iov_len));
    left -= place.size();
    std::size_t at_hand = std::min(place.size(), end_ - begin_);
    std::memcpy(place.data(), buffer_.get() + begin_, at_hand);
    consume(at_hand);
    for (std::size_t at = at_hand; at < place.size();) {
      std::size_t size = std::min(place.size() - at, direct_chunk_bytes);
      ZP_CO_CHECK(co_await stream_.read_exactly(place.subspan(at, size)));
      last_heard_ns_ = boot_time_ns();
      at += size;
    }
    if (trailer_bytes_ > 0) crc = crc32c(crc, place);
    if (left == 0) break;
  }
  if (trailer_bytes_ > 0) ZP_CO_CHECK(co_await fill_to(trailer_bytes_));
  co_return digest_matches(crc);
}

void Outgoing::set_header(const PduHeader& given, std::span<const std::byte> bytes, Digests digests) {
  PduHeader final = given;
  bool digested = carries_digests(given.type);
  std::size_t data_size = size_of(data);
  final.header_bytes = static_cast<std::uint8_t>(bytes.size());
  std::size_t total = bytes.size() + (digested ? digests.header_bytes() : 0);
  if (digested && digests.header) final.flags |= pdu_flag::header_digest;
  trailer_size = 0;
  if (data_size > 0) {
    final.data_offset = static_cast<std::uint8_t>(total);
    total += data_size;
    if (digested && digests.data) {
      final.flags |= pdu_flag::data_digest;
      total += digest_bytes;
      std::uint32_t crc = digest_of(data);
      std::memcpy(trailer.data(), &crc, sizeof crc);
      trailer_size = sizeof crc;
    }
  }
  final.total_bytes = static_cast<std::uint32_t>(total);
  std::memcpy(header.data(), bytes.data(), bytes.size());
  std::memcpy(header.data(), &final, sizeof final);
  header_size = bytes.size();
  if (digested && digests.header) {
    std::uint32_t crc = crc32c(0, {header.data(), header_size});
    std::memcpy(header.data() + header_size, &crc, sizeof crc);
    header_size += sizeof crc;
  }
}

void Outgoing::append(const CapsuleResp& response, Digests digests) {
  CapsuleResp final = response;
  final.header =
      PduHeader{PduType::capsule_resp, static_cast<std::uint8_t>(digests.header ? pdu_flag::header_digest : 0),
                sizeof(CapsuleResp), 0, static_cast<std::uint32_t>(sizeof(CapsuleResp) + digests.header_bytes())};
  std::memcpy(trailer.data() + trailer_size, &final, sizeof final);
  if (digests.header) {
    std::uint32_t crc = crc32c(0, {trailer.data() + trailer_size, sizeof final});
    std::memcpy(trailer.data() + trailer_size + sizeof final, &crc, sizeof crc);
    trailer_size += sizeof crc;
  }
  trailer_size += sizeof final;
}

void SendQueue::push(Outgoing& out) {
  ZP_ASSERT(!out.on_its_way, "a PDU is sent once at a time");
  if (closed_) {
    if (out.on_sent != nullptr) out.on_sent(out);
    return;
  }
  out.on_its_way = true;
  out.next = nullptr;
  if (last_ == nullptr) {
    first_ = &out;
  } else {
    last_->next = &out;
  }
  last_ = &out;
  if (!work_.is_set()) work_.set();
}

void SendQueue::close() {
  closed_ = true;
  if (!work_.is_set()) work_.set();
}

block::Task<void> SendQueue::run() {
  while (true) {
    if (first_ == nullptr || closed_) {
      if (closed_) break;
      work_.reset();
      co_await work_.wait();
      continue;
    }
    parts_.clear();
    Outgoing* batch = first_;
    Outgoing* last = nullptr;
    while (first_ != nullptr && parts_.size() < max_parts) {
      Outgoing& out = *first_;
      parts_.push_back(iovec{out.header.data(), out.header_size});
      parts_.insert(parts_.end(), out.data.begin(), out.data.end());
      if (out.trailer_size > 0) parts_.push_back(iovec{out.trailer.data(), out.trailer_size});
      last = &out;
      first_ = out.next;
    }
    last->next = nullptr;
    if (first_ == nullptr) last_ = nullptr;
    auto sent = co_await stream_.write_all(std::span<iovec>(parts_));
    if (!sent) {
      closed_ = true;
      stream_.shutdown();
    }
    while (batch != nullptr) {
      Outgoing* next = batch->next;
      batch->on_its_way = false;
      if (batch->on_sent != nullptr) batch->on_sent(*batch);
      batch = next;
    }
  }
  while (first_ != nullptr) {
    Outgoing* out = first_;
    first_ = out->next;
    out->on_its_way = false;
    if (out->on_sent != nullptr) out->on_sent(*out);
  }
  last_ = nullptr;
}

std::size_t size_of(std::span<const iovec> parts) {
  std::size_t size = 0;
  for (const iovec& part : parts) size += part.iov_len;
  return size;
}

std::vector<iovec> slice(std::span<const iovec> parts, std::size_t offset, std::size_t size) {
  std::vector<iovec> result;
  for (const iovec& part : parts) {
    if (size == 0) break;
    if (offset >= part.iov_len) {
      offset -= part.iov_len;
      continue;
    }
    std::size_t taken = std::min(size, part.iov_len - offset);
    result.push_back(iovec{static_cast<std::byte*>(part.iov_base) + offset, taken});
    offset = 0;
    size -= taken;
  }
  return result;
}

std::uint32_t digest_of(std::span<const iovec> parts) {
  std::uint32_t crc = 0;
  for (const iovec& part : parts) crc = crc32c(crc, {static_cast<const std::byte*>(part.iov_base), part.iov_len});
  return crc;
}

std::vector<std::byte> termination(PduType type, const PduFault& fault, std::span<const std::byte> header) {
  header = header.first(std::min(header.size(), max_header_bytes));
  TermReq request{};
  request.header = PduHeader{type, 0, sizeof(TermReq), 0, static_cast<std::uint32_t>(sizeof(TermReq) + header.size())};
  request.fatal_error = static_cast<std::uint16_t>(fault.code);
  std::memcpy(request.error_info, &fault.info, sizeof fault.info);
  std::vector<std::byte> bytes(sizeof request + header.size());
  std::memcpy(bytes.data(), &request, sizeof request);
  std::memcpy(bytes.data() + sizeof request, header.data(), header.size());
  return bytes;
}

void send_and_forget(block::Stream& stream, std::span<const std::byte> bytes) {
  [[maybe_unused]] ssize_t sent = ::send(stream.fd(), bytes.data(), bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
}

}  // namespace zpair::nvme
