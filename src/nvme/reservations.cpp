#include "nvme/reservations.h"

#include <cstring>

#include "base/log.h"

namespace zpair::nvme {

Reservations::Reservations(fence::FenceFile& file) : file_(&file) { read_again(); }

void Reservations::read_again() {
  if (file_ == nullptr) return;
  auto contents = file_->contents();
  unreadable_ = !contents;
  if (contents) {
    contents_ = *contents;
  } else {
    closed_ = true;
    log_error("drive {} stays closed: {}", file_->drive(), contents.error().message);
  }
}

Status Reservations::may_write(const Uuid& host) const {
  if (file_ == nullptr) return Status::success;
  if (unreadable_) return Status::closed;
  if (!contents_.held_by(host))
    return Status::reservation_conflict;  // closed or not: this host has lost, or never had it
  return closed_ ? Status::closed : Status::success;
}

Status Reservations::status_of(const Error& error) {
  if (error.code == ErrorCode::fenced || error.code == ErrorCode::stale_epoch) {
    read_again();
    return Status::reservation_conflict;
  }
  log_error("drive {}: {}", file_->drive(), error.message);
  if (error.code == ErrorCode::invalid && file_->contents())
    return Status::invalid_field;  // the request was bad, not the file
  closed_ = true;
  unreadable_ = !file_->contents();
  return unreadable_ ? Status::closed : Status::internal_error;
}

Status Reservations::register_key(const Uuid& host, std::uint32_t cdw10, const RegisterData& data) {
  if (file_ == nullptr) return Status::invalid_opcode;
  bool ignore_existing = (cdw10 & reservation::ignore_existing_key) != 0;
  auto known = keys_.find(host);
  switch (cdw10 & 7) {
    case reservation::register_key:
      if (known != keys_.end() && known->second != data.new_key && !ignore_existing)
        return Status::reservation_conflict;
      keys_[host] = data.new_key;
      break;
    case reservation::replace_key:
      if (!ignore_existing && (known == keys_.end() || known->second != data.current_key))
        return Status::reservation_conflict;
      keys_[host] = data.new_key;
      break;
    case reservation::unregister_key:
      if (known == keys_.end() || (!ignore_existing && known->second != data.current_key))
        return Status::reservation_conflict;
      if (held_by(host)) {  // unregistering the holder releases
        Status released = release(host, reservation::release, known->second);
        if (released != Status::success) return released;
      }
      keys_.erase(host);
      break;
    default: return Status::invalid_field;
  }
  ++generation_;
  return Status::success;
}

Status Reservations::acquire(const Uuid& host, std::uint32_t cdw10, const AcquireData& data) {
  if (file_ == nullptr) return Status::invalid_opcode;
  if ((cdw10 & 7) > reservation::preempt_and_abort) return Status::invalid_field;
  if (((cdw10 >> reservation::type_shift) & 0xff) != reservation::write_exclusive) return Status::invalid_field;
  auto known = keys_.find(host);
  if (known == keys_.end() || known->second != data.current_key) {
    read_again();
    return Status::reservation_conflict;
  }
  auto fenced = file_->fence({Epoch{data.preempted_key}, Epoch{data.current_key}, host});
  if (!fenced) return status_of(fenced.error());
  bool news = closed_ || contents_ != *fenced;
  contents_ = *fenced;
  closed_ = false;
  unreadable_ = false;
  std::erase_if(keys_, [&host](const auto& entry) { return entry.first != host; });  // preempted: all others
  ++generation_;
  if (news) log_info("drive {} is fenced at epoch {} for host {}", file_->drive(), contents_.epoch, host.to_string());
  return Status::success;
}

Status Reservations::release(const Uuid& host, std::uint32_t cdw10, std::uint64_t current_key) {
  if (file_ == nullptr) return Status::invalid_opcode;
  if ((cdw10 & 7) > reservation::clear) return Status::invalid_field;
  auto known = keys_.find(host);
  if (known == keys_.end() || known->second != current_key) return Status::reservation_conflict;
  if (!contents_.held_by(host)) return Status::success;  // NVMe: releasing what one does not hold does nothing
  auto released = file_->release(host);
  if (!released) return status_of(released.error());
  contents_ = *released;
  if ((cdw10 & 7) == reservation::clear) keys_.clear();
  ++generation_;
  log_info("drive {} is released at epoch {}: nobody writes", file_->drive(), contents_.epoch);
  return Status::success;
}

Status Reservations::store_record(const Uuid& host, const fence::StoredRecord& record) {
  if (file_ == nullptr) return Status::invalid_opcode;
  Status allowed = may_write(host);
  if (allowed != Status::success) return allowed;
  auto stored = file_->store_record(record);
  if (!stored)
    return stored.error().code == ErrorCode::stale_epoch ? Status::command_sequence_error : status_of(stored.error());
  contents_ = *stored;
  return Status::success;
}

std::vector<std::byte> Reservations::report() const {
  ReservationStatus header{};
  header.generation = generation_;
  header.type = static_cast<std::uint8_t>(contents_.type);
  auto count = static_cast<std::uint16_t>(keys_.size());
  std::memcpy(header.registrant_count, &count, sizeof count);
  header.persists = 1;
  std::vector<std::byte> bytes(sizeof header + keys_.size() * sizeof(Registrant));
  std::memcpy(bytes.data(), &header, sizeof header);
  std::size_t at = sizeof header;
  for (const auto& [host, key] : keys_) {
    Registrant entry{};
    entry.cntlid = any_controller;  // dynamic controllers
    entry.status = held_by(host) ? 1 : 0;
    entry.key = key;
    std::memcpy(entry.host_id, host.bytes.data(), sizeof entry.host_id);
    std::memcpy(bytes.data() + at, &entry, sizeof entry);
    at += sizeof entry;
  }
  return bytes;
}

}  // namespace zpair::nvme
