#include "pool/legs.h"

#include <algorithm>
#include <random>
#include <utility>

#include "base/assert.h"
#include "base/log.h"
#include "block/file_device.h"
#include "control/channel.h"
#include "state/fault_notes.h"

namespace zpair::pool {

namespace {

constexpr std::int64_t reopen_every_ms = 100;
constexpr std::int64_t open_deadline_ms = 400;

std::vector<nvme::PathAddress> addresses_of(const NodeConfig& config) {
  std::vector<nvme::PathAddress> addresses;
  for (const PathConfig& path : config.paths) {
    addresses.push_back(
        {path.name, block::Endpoint{fmt::format("tcp:{}:{}", path.partner, path.partner_nvme_port)}, path.listen});
  }
  return addresses;
}

nvme::RemoteNodeOptions partner_options(const Legs::Options& options) {
  nvme::RemoteNodeOptions partner;
  partner.subsystem_nqn = node_nqn(partner_of(options.config.node));
  partner.host_id = options.host_id;
  partner.paths = addresses_of(options.config);
  partner.on_path = options.on_path;
  return partner;
}

LegId random_guid() {
  std::random_device device;
  std::uint64_t high = device();
  return LegId{(high << 32) | device() | 1};
}

std::string last_part(std::string_view path) {
  const auto slash = path.rfind('/');
  return std::string(slash == std::string_view::npos ? path : path.substr(slash + 1));
}

FenceOutcome fence_failed(std::string why) { return {FenceOutcome::Kind::failed, std::move(why), Epoch{}}; }
FenceOutcome fenced_out(Epoch by, std::string why) { return {FenceOutcome::Kind::fenced_out, std::move(why), by}; }

}  // namespace

std::string node_nqn(NodeId node) { return fmt::format("nqn.2026-01.io.zpair:node-{}", node); }

Legs::Legs(Options options) : options_(std::move(options)), partner_(partner_options(options_)) {}

Legs::~Legs() { ZP_ASSERT(!started_ || closing_, "legs are closed before they end"); }

void Legs::start() {
  started_ = true;
  partner_.start();
  tasks_.spawn(keep_opening());
}

block::Task<void> Legs::close() {
  closing_ = true;
  closed_.set();
  co_await tasks_.close();
  for (auto& drive : drives_) {
    if (drive->remote) {
      drive->remote->fail_all();
      co_await drive->remote->close();
    }
    if (drive->local) co_await drive->local->close();
    drive->remote.reset();
    drive->fault = nullptr;
    drive->local.reset();
  }
  co_await partner_.close();
}

// ---------------------------------------------------------------- which legs there are

const Legs::Seat* Legs::find(LegId leg) const {
  auto renamed = renamed_.find(leg);
  auto found = seats_.find(renamed == renamed_.end() ? leg : renamed->second);
  return found == seats_.end() ? nullptr : &found->second;
}

Legs::Drive* Legs::drive_of(LegId leg) const {
  const Seat* seat = find(leg);
  return seat == nullptr ? nullptr : seat->drive;
}

Legs::Drive& Legs::drive_at(const control::DrivePlace& place) {
  for (auto& drive : drives_) {
    if (drive->place.node == place.node && drive->place.durable_id == place.durable_id) return *drive;
  }
  drives_.push_back(std::make_unique<Drive>());
  drives_.back()->place = place;
  return *drives_.back();
}

std::string Legs::Drive::name() const {
  return fmt::format("{}@{}", place.path.empty() ? place.durable_id : last_part(place.path), place.node);
}

void Legs::know(const record::Record& record, std::span<const control::DrivePlace> places) {
  for (const record::Mirror& mirror : record.mirrors) {
    for (const record::Leg& leg : mirror.legs) {
      if (find(leg.guid) != nullptr) continue;
      Drive& drive = drive_at({leg.node, leg.drive, "", 0, 0});
      seats_[leg.guid] = {leg.guid, leg.guid, &drive};
    }
  }
  for (auto& drive : drives_) {
    for (const control::DrivePlace& place : places) {
      if (place.node == drive->place.node && place.durable_id == drive->place.durable_id) drive->place = place;
    }
  }
}

LegId Legs::add_new(const control::DrivePlace& place) {
  Drive& drive = drive_at(place);
  drive.place = place;
  const LegId guid = random_guid();
  seats_[guid] = {guid, guid, &drive};
  expect_nothing_of(guid);
  return guid;
}

void Legs::expect_nothing_of(LegId leg) {
  if (Drive* drive = drive_of(leg)) drive->told = {};
}

void Legs::forget(LegId leg) {
  const Seat* seat = find(leg);
  if (seat != nullptr) seats_.erase(seat->guid);
}

bool Legs::is_used(const Drive& drive) const {
  return std::any_of(seats_.begin(), seats_.end(), [&](const auto& seat) { return seat.second.drive == &drive; });
}

block::Task<void> Legs::release(LegId leg) {
  Drive* drive = drive_of(leg);
  forget(leg);
  if (drive == nullptr || is_used(*drive)) co_return;
  drive->fenced = false;  // keep() leaves it alone from here on
  while (drive->opening || drive->keeping_count > 0) co_await block::Reactor::current().after_ms(2);
  if (is_used(*drive)) co_return;  // a later command took it meanwhile
  drive->opening = true;           // ... and one that comes now opens it again when we are done
  if (drive->remote) {
    drive->remote->fail_all();
    co_await drive->remote->close();
  }
  if (drive->local) co_await drive->local->close();
  drive->remote.reset();
  drive->fault = nullptr;
  drive->local.reset();
  drive->fence_file.reset();
  drive->failed = false;
  drive->opening = false;
}

void Legs::set_engine_guid(LegId leg, LegId engine_guid) {
  const Seat* seat = find(leg);
  if (seat != nullptr) seats_[seat->guid].engine_guid = engine_guid;
}

void Legs::rename(LegId leg, LegId built) {
  const Seat* seat = find(leg);
  if (seat == nullptr || seat->guid == built) return;
  Drive* drive = seat->drive;
  seats_.erase(seat->guid);
  seats_[built] = {built, built, drive};
  renamed_[leg] = built;
}

LegLink Legs::link(LegId leg) const {
  const Drive* drive = drive_of(leg);
  if (drive == nullptr || drive->device() == nullptr) return {};
  if (drive->local) return {true, true, boot_time_ns()};
  return {true, partner_.up_count() > 0, partner_.last_progress_ns()};
}

block::BlockDevice* Legs::device(LegId leg) const {
  const Drive* drive = drive_of(leg);
  return drive == nullptr ? nullptr : drive->device();
}

block::FaultDevice* Legs::fault_device(LegId leg) const {
  const Drive* drive = drive_of(leg);
  return drive == nullptr ? nullptr : drive->fault;
}

zfs::LegSpec Legs::spec(LegId leg) const {
  const Seat* seat = find(leg);
  ZP_ASSERT(seat != nullptr && seat->drive->device() != nullptr,
            "only a leg whose drive is open is offered to the engine");
  return {seat->engine_guid, seat->drive->place.node, seat->drive->device(), engine_name(*seat->drive),
          seat->drive->remote ? zfs::LegSpec::Place::remote : zfs::LegSpec::Place::local};
}

// OpenZFS's name for the leg: the drive's short name, unique on its node.
std::string Legs::engine_name(const Drive& drive) const {
  auto short_name = [](const Drive& one) {
    std::string name = one.place.path.empty() ? one.place.durable_id : last_part(one.place.path);
    for (char& c : name) {
      const bool fine = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
                        c == '_' || c == '.';
      if (!fine) c = '-';
    }
    return "d-" + name;
  };
  const std::string name = short_name(drive);
  const bool taken = std::any_of(drives_.begin(), drives_.end(), [&](const std::unique_ptr<Drive>& other) {
    return other.get() != &drive && other->place.node == drive.place.node && short_name(*other) == name;
  });
  return taken ? fmt::format("{}-{}", name, drive.place.nsid) : name;
}

zfs::LegSpec Legs::spec_of_new(LegId leg) const {
  zfs::LegSpec of_leg = spec(leg);
  of_leg.guid = LegId{};
  return of_leg;
}

LegId Legs::engine_guid(LegId leg) const {
  const Seat* seat = find(leg);
  return seat == nullptr ? leg : seat->engine_guid;
}

LegId Legs::leg_of_engine(LegId engine_guid) const {
  for (const auto& [guid, seat] : seats_) {
    if (seat.engine_guid == engine_guid) return guid;
  }
  return LegId{};
}

const control::DrivePlace* Legs::place(LegId leg) const {
  const Drive* drive = drive_of(leg);
  return drive == nullptr ? nullptr : &drive->place;
}

std::optional<LegId> Legs::find_drive(NodeId node, std::string_view drive) const {
  for (const auto& [guid, seat] : seats_) {
    const control::DrivePlace& place = seat.drive->place;
    if (place.node != node) continue;
    if (place.durable_id == drive || (!place.path.empty() && (place.path == drive || last_part(place.path) == drive)))
      return guid;
  }
  return std::nullopt;
}

std::vector<LegId> Legs::all() const {
  std::vector<LegId> legs;
  for (const auto& [guid, seat] : seats_) legs.push_back(guid);
  return legs;
}

std::string Legs::name(LegId leg) const {
  const Drive* drive = drive_of(leg);
  return drive == nullptr ? fmt::format("leg {}", leg) : drive->name();
}

std::string Legs::readable(std::string text) const {
  for (const auto& drive : drives_) {
    const std::string& id = drive->place.durable_id;
    if (id.empty() || drive->place.path.empty()) continue;
    for (auto at = text.find(id); at != std::string::npos; at = text.find(id))
      text.replace(at, id.size(), last_part(drive->place.path));
  }
  return text;
}

std::vector<nvme::PathStatus> Legs::paths() const { return partner_.paths(); }
bool Legs::partner_reachable() const { return partner_.up_count() > 0; }

Epoch Legs::fenced_by(LegId leg) const {
  const Drive* drive = drive_of(leg);
  if (drive == nullptr) return Epoch{};
  return drive->remote ? std::max(drive->remote->fenced_by(), drive->fenced_by) : drive->fenced_by;
}

// ---------------------------------------------------------------- opening

block::Task<Result<void>> Legs::open(LegId leg, Deadline deadline) {
  Drive* drive = drive_of(leg);
  if (drive == nullptr) co_return zpair::fail(ErrorCode::not_found, "the pool has no leg {}", leg);
  co_return co_await open(*drive, deadline);
}

block::Task<Result<void>> Legs::open(Drive& drive, Deadline deadline) {
  while (drive.opening) {  // somebody else does it just now
    if (deadline.passed()) co_return zpair::fail(ErrorCode::timed_out, "drive {} is being opened", drive.name());
    co_await block::Reactor::current().after_ms(2);
  }
  if (drive.device() != nullptr) co_return Result<void>{};
  if (closing_) co_return zpair::fail(ErrorCode::cancelled, "the pool closes");
  drive.opening = true;
  Result<void> opened;
  if (drive.place.node == options_.config.node) {
    opened = co_await open_local(drive, deadline);
  } else {
    opened = co_await open_remote(drive, deadline);
  }
  drive.opening = false;
  co_return opened;
}

block::Task<Result<void>> Legs::open_local(Drive& drive, Deadline deadline) {
  if (drive.place.path.empty()) {
    co_return zpair::fail(ErrorCode::not_found, "the drive {} of a leg is not registered on this node",
                          drive.place.durable_id);
  }
  ZP_CO_TRY(fence_file,
            fence::FenceFile::open(control::fence_folder(options_.config.state_dir), drive.place.durable_id));
  block::FileDeviceOptions options{.path = drive.place.path, .wait_for_lock = deadline};
  ZP_CO_TRY(file, co_await block::FileDevice::open(std::move(options)));
  std::unique_ptr<block::BlockDevice> device = std::move(file);
  if (device->durable_id() != drive.place.durable_id) {
    const std::string there = device->durable_id();
    co_await device->close();
    co_return zpair::fail(ErrorCode::refused, "{} is drive {}, the leg's is {}: another drive or a copy lies there",
                          drive.place.path, there, drive.place.durable_id);
  }
  if (options_.config.fault.allowed) {
    auto wrapped = state::wrap_with_faults(options_.config.run_dir, std::move(device), options_.config.fault);
    if (!wrapped) co_return std::unexpected(wrapped.error());
    drive.fault = wrapped->get();
    device = std::move(*wrapped);
  }
  drive.fence_file = std::move(fence_file);
  drive.local = std::move(device);
  co_return Result<void>{};
}

block::Task<Result<void>> Legs::open_remote(Drive& drive, Deadline deadline) {
  const bool up = co_await partner_.wait_up(deadline);
  if (!up) co_return zpair::fail(ErrorCode::unreachable, "no path to node {}", drive.place.node);
  auto remote = co_await partner_.open_drive(drive.place.durable_id, deadline);
  if (!remote) co_return std::unexpected(remote.error());
  drive.remote = std::move(*remote);
  co_return Result<void>{};
}

// Drives that come later: the partner's after its return, a local one that was plugged in again.
block::Task<void> Legs::keep_opening() {
  while (!closing_) {
    for (std::size_t index = 0; index < drives_.size() && !closing_; ++index) {
      Drive& drive = *drives_[index];
      if (drive.device() != nullptr || drive.opening || !is_used(drive)) continue;
      if (drive.place.node != options_.config.node && partner_.up_count() == 0) continue;
      const Deadline deadline = Deadline::in_ms(open_deadline_ms);
      auto opened = co_await open(drive, deadline);
      if (opened) log_info("drive {} is open", drive.name());
    }
    const Deadline pause = Deadline::in_ms(reopen_every_ms);
    co_await block::wait_for(closed_, pause);
  }
}

// ---------------------------------------------------------------- fence, copies

block::Task<Result<Epoch>> Legs::stored_epoch(LegId leg, Deadline deadline) {
  Drive* drive = drive_of(leg);
  ZP_ASSERT(drive != nullptr && drive->device() != nullptr, "only an open leg is asked for its epoch");
  if (drive->local) {
    ZP_CO_TRY(contents, drive->fence_file->contents());
    co_return std::max(contents.epoch, contents.stored.epoch);
  }
  ZP_CO_TRY(hello, co_await drive->remote->hello(deadline));
  co_return std::max(hello.fence_epoch, hello.stored_epoch);
}

block::Task<FenceOutcome> Legs::fence(LegId leg, Epoch epoch, Revision rev, std::uint64_t digest, Deadline deadline) {
  auto opened = co_await open(leg, deadline);
  if (!opened) co_return fence_failed(opened.error().message);
  Drive* drive = drive_of(leg);
  const fence::StoredRecord stored{epoch, rev, digest};
  FenceOutcome outcome;
  if (drive->local) {
    outcome = fence_local(*drive, epoch, stored);
  } else {
    outcome = co_await fence_remote(*drive, epoch, stored, deadline);
  }
  drive->fenced = outcome.kind == FenceOutcome::Kind::done;
  if (drive->fenced) drive->told = stored;
  if (outcome.kind == FenceOutcome::Kind::fenced_out) drive->fenced_by = outcome.by;
  co_return outcome;
}

// Rule 9: what a leg's node has confirmed as stored never goes back. Where it does, the node's disk (and with it, often, the
// drive) was put back to an earlier day: what the leg missed since then nobody knows, so it may not come back by a resync
// from `since`.
std::optional<FenceOutcome> Legs::rolled_back(const Drive& drive, Epoch epoch, Revision rev) {
  if (epoch >= drive.told.epoch && rev >= drive.told.rev) return std::nullopt;
  std::string why = fmt::format(
      "{} was told epoch {} revision {} and now knows epoch {} revision {} only: its node or drive was put back to an "
      "earlier state. Replace the leg (zpair drive replace), it is copied as a whole then",
      drive.name(), drive.told.epoch, drive.told.rev, epoch, rev);
  return FenceOutcome{FenceOutcome::Kind::rolled_back, std::move(why), Epoch{}};
}

// The drive's lock is ours (open_local), so nothing of another process is in flight there.
FenceOutcome Legs::fence_local(Drive& drive, Epoch epoch, const fence::StoredRecord& stored) {
  auto before = drive.fence_file->contents();
  if (!before) return fence_failed(before.error().message);
  const Epoch highest = std::max(before->epoch, before->stored.epoch);
  if (highest > epoch) return fenced_out(highest, fmt::format("{} is fenced at epoch {}", drive.name(), highest));
  auto back = rolled_back(drive, before->stored.epoch, before->stored.rev);
  if (back) return std::move(*back);
  auto fenced = drive.fence_file->fence({before->epoch, epoch, options_.host_id}, stored);
  if (!fenced) return fence_failed(fenced.error().message);
  return {FenceOutcome::Kind::done, "", Epoch{}};
}

block::Task<FenceOutcome> Legs::fence_remote(Drive& drive, Epoch epoch, fence::StoredRecord stored, Deadline deadline) {
  auto hello = co_await drive.remote->hello(deadline);
  if (!hello) co_return fence_failed(hello.error().message);
  if (hello->drive != drive.place.durable_id) {
    co_return fence_failed(fmt::format("namespace {} is drive {}, not {}", hello->nsid, hello->drive, drive.name()));
  }
  const Epoch highest = std::max(hello->fence_epoch, hello->stored_epoch);
  if (highest > epoch) co_return fenced_out(highest, fmt::format("{} is fenced at epoch {}", drive.name(), highest));
  if (hello->unreadable)
    co_return fence_failed(fmt::format("the fence file of {} cannot be read: it stays closed", drive.name()));
  if (hello->fenced_elsewhere)
    co_return fence_failed(fmt::format("a pool process of its node still has {}", drive.name()));

  auto back = rolled_back(drive, hello->stored_epoch, hello->stored_rev);
  if (back) co_return std::move(*back);

  auto fenced = co_await drive.remote->fence(epoch, hello->fence_epoch, deadline);
  if (!fenced) {
    const Epoch by = drive.remote->fenced_by();
    if (by > epoch) co_return fenced_out(by, fenced.error().message);
    co_return fence_failed(fenced.error().message);
  }
  auto kept = co_await drive.remote->store_record(stored.epoch, stored.rev, stored.digest, deadline);
  if (!kept) co_return fence_failed(kept.error().message);
  co_return FenceOutcome{FenceOutcome::Kind::done, "", Epoch{}};
}

block::Task<Result<void>> Legs::keep(record::Record record, Deadline deadline) {
  const fence::StoredRecord stored{record.epoch, record.rev, record::digest_of(record)};
  block::TaskGroup remote_ones;
  std::optional<Error> failed;
  // A drive that is only looked at, or no leg any more, has no fence file to keep it in.
  auto named = [&](const Drive& drive) {
    for (const record::Mirror& mirror : record.mirrors) {
      for (const record::Leg& leg : mirror.legs) {
        if (leg.node == drive.place.node && leg.drive == drive.place.durable_id) return true;
      }
    }
    return false;
  };
  for (auto& drive : drives_) {
    if (!drive->remote || !drive->fenced || partner_.up_count() == 0 || !named(*drive)) continue;
    ++drive->keeping_count;
    remote_ones.spawn(keep_remote(*drive, stored, deadline));
  }
  // Each is synced here, on the reactor: one a turn, so that clients wait for one and not for all.
  for (std::size_t index = 0; index < drives_.size(); ++index) {
    Drive& drive = *drives_[index];
    if (!drive.local || !drive.fenced || !named(drive)) continue;
    auto kept = drive.fence_file->store_record(stored);
    if (kept) drive.told = stored;
    if (!kept && !failed) failed = kept.error();
    co_await block::Reactor::current().yield();
  }
  co_await remote_ones.close();
  if (failed) co_return zpair::fail(*failed, "cannot keep the record's copy");
  co_return Result<void>{};
}

block::Task<void> Legs::keep_remote(Drive& drive, fence::StoredRecord stored, Deadline deadline) {
  auto kept = co_await drive.remote->store_record(stored.epoch, stored.rev, stored.digest, deadline);
  --drive.keeping_count;
  if (kept)
    drive.told = std::max(drive.told, stored, [](const auto& left, const auto& right) { return left.rev < right.rev; });
  if (!kept) log_debug("{}: revision {} is not kept there: {}", drive.name(), stored.rev, kept.error().message);
}

// ---------------------------------------------------------------- fail and return

void Legs::fail(LegId leg) {
  Drive* drive = drive_of(leg);
  if (drive == nullptr || !drive->remote) return;  // not open yet: opens without anything in flight
  drive->failed = true;
  drive->remote->fail_all();
}

block::Task<Result<void>> Legs::quiesce(LegId leg, Deadline deadline) {
  Drive* drive = drive_of(leg);
  if (drive == nullptr || drive->device() == nullptr) {
    co_return zpair::fail(ErrorCode::unreachable, "the drive of leg {} is not open", leg);
  }
  if (drive->remote && drive->failed) {
    ZP_CO_CHECK(co_await drive->remote->rejoin(deadline));
  } else if (drive->remote) {
    const bool quiet = co_await drive->remote->wait_quiesced(deadline);
    if (!quiet)
      co_return zpair::fail(ErrorCode::timed_out, "former connections of {} are not confirmed quiesced", drive->name());
  }
  drive->failed = false;
  co_return Result<void>{};
}

}  // namespace zpair::pool
