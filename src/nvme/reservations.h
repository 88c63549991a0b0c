#pragma once
// The reservation of one namespace: who may write. NVMe's commands on top of the leg's fence file, with zpair's reading of
// them: the key is the epoch, and every acquire is a compare-and-swap on the key that the file holds (rule 5).
//
//   closed   after a boot, until an acquire succeeds: nobody writes. Also for ever, when the fence file cannot be read.
//   held     one host writes; every other gets Reservation Conflict.
//
// Registrations live in memory only: after a restart of the target a host registers again (the holder stays in the file).
// Threading: reactor thread; acquire and release wait for the file's fsync.
// Source:    NVMe Base 2.0, section 8.19 (Reservations) and 7.2-7.5.
#include <cstdint>
#include <map>
#include <vector>

#include "base/ids.h"
#include "fence/fence_file.h"
#include "nvme/commands.h"

namespace zpair::nvme {

class Reservations {
 public:
  Reservations() = default;                       // of a namespace without a fence: everybody writes
  explicit Reservations(fence::FenceFile& file);  // closed

  Status may_write(const Uuid& host) const;  // success, reservation_conflict or closed
  bool held_by(const Uuid& host) const { return !closed_ && contents_.held_by(host); }
  bool closed() const { return file_ != nullptr && closed_; }
  bool unreadable() const { return unreadable_; }
  Epoch epoch() const { return contents_.epoch; }
  const fence::Contents& contents() const { return contents_; }

  Status register_key(const Uuid& host, std::uint32_t cdw10, const RegisterData& data);
  // Success: stored, and from this moment on only `host` writes; the caller answers after the drain of all others.
  Status acquire(const Uuid& host, std::uint32_t cdw10, const AcquireData& data);
  Status release(const Uuid& host, std::uint32_t cdw10, std::uint64_t current_key);
  Status store_record(const Uuid& host, const fence::StoredRecord& record);
  // ReservationStatus and its registrants, as Reservation Report returns them.
  std::vector<std::byte> report() const;
  void read_again();  // the file, which the pool process may have changed

 private:
  Status status_of(const Error& error);

  fence::FenceFile* file_ = nullptr;
  fence::Contents contents_;
  bool closed_ = true;
  bool unreadable_ = false;
  std::map<Uuid, std::uint64_t> keys_;
  std::uint32_t generation_ = 0;
};

}  // namespace zpair::nvme
