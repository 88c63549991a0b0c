// Fabrics and admin commands at the target: associations, Identify, features, log pages, Cross-Controller Reset.
#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "nvme/target_internal.h"

namespace zpair::nvme {

namespace {

constexpr std::uint32_t cc_shutdown_mask = 3u << 14;
constexpr std::uint32_t csts_ready = 1;
constexpr std::uint32_t csts_shutdown_complete = 2u << 2;
constexpr std::uint8_t max_async_events = 4;
constexpr std::uint8_t max_resets = 4;             // CCRL: what TP8028 recommends
constexpr std::uint64_t immediate_reset_done = 1;  // result bit 0 of Cross-Controller Reset

using Page = std::array<std::byte, identify_bytes>;

template <class T>
void put(std::span<std::byte> page, std::size_t offset, T value) {
  std::memcpy(page.data() + offset, &value, sizeof value);
}

void put_text(std::span<std::byte> page, std::size_t offset, std::string_view text, std::size_t width) {
  std::memset(page.data() + offset, ' ', width);
  std::memcpy(page.data() + offset, text.data(), std::min(text.size(), width));
}

std::string text_of(const char* field, std::size_t size) { return std::string(field, strnlen(field, size)); }

std::uint8_t log2_of(std::uint32_t value) { return static_cast<std::uint8_t>(std::bit_width(value) - 1); }

std::uint64_t capabilities_of(const TargetOptions& options) {
  std::uint64_t entries = options.queue_entries - 1u;
  std::uint64_t contiguous = 1u << 16;
  std::uint64_t ready_timeout = 20u << 24;  // 10 s, in 500 ms
  std::uint64_t nvm_commands = 1ull << 37;
  return entries | contiguous | ready_timeout | nvm_commands;
}

Page identify_controller_page(const Controller& controller, const TargetOptions& options, std::size_t namespace_count) {
  namespace at = identify_controller;
  Page page{};
  put_text(page, at::serial, Uuid::from_name(options.subsystem_nqn).to_string(), 20);
  put_text(page, at::model, zpair_model, 40);
  put_text(page, at::firmware, "1", 8);
  put<std::uint8_t>(page, at::multipath, 0x02);  // several controllers
  put<std::uint8_t>(page, at::mdts, log2_of(options.max_transfer_bytes / 4096));
  put(page, at::cntlid, controller.cntlid);
  put(page, at::version, version_2_0);
  put<std::uint32_t>(page, at::attributes, 1);  // 128-bit Host IDs
  put<std::uint8_t>(page, at::type, 1);         // an I/O controller
  put(page, at::uniquifier, controller.uniquifier);
  put(page, at::random_number, controller.random_number);
  put<std::uint8_t>(page, at::aerl, max_async_events - 1);
  put<std::uint16_t>(page, at::keep_alive_support, 1);  // 100 ms granularity
  put<std::uint8_t>(page, at::sqes, 0x66);
  put<std::uint8_t>(page, at::cqes, 0x44);
  put(page, at::max_commands, options.queue_entries);
  put<std::uint32_t>(page, at::namespace_count,
                     std::max<std::uint32_t>(1024, static_cast<std::uint32_t>(namespace_count)));
  put<std::uint16_t>(page, at::oncs, 1u << 2 | 1u << 3 | 1u << 5);  // DSM, Write Zeroes, reservations
  put<std::uint8_t>(page, at::volatile_cache, 1);
  put<std::uint32_t>(page, at::sgls, 1u | 1u << 20 | 1u << 21);  // in-capsule offsets, transport SGLs
  std::memcpy(page.data() + at::subsystem_nqn, options.subsystem_nqn.data(),
              std::min<std::size_t>(options.subsystem_nqn.size(), 223));
  put<std::uint32_t>(page, at::ioccsz, (sizeof(Command) + options.in_capsule_bytes) / 16);
  put<std::uint32_t>(page, at::iorcsz, sizeof(Completion) / 16);
  put<std::uint8_t>(page, at::msdbd, 1);
  put(page, at::ccr_limit, max_resets);
  return page;
}

Page identify_namespace_page(const Namespace& there) {
  namespace at = identify_namespace;
  Page page{};
  std::uint64_t blocks = there.device->geometry().size_bytes / there.block_bytes;
  put(page, at::size, blocks);
  put(page, at::capacity, blocks);
  put(page, at::use, blocks);
  put<std::uint8_t>(page, at::multipath, 1);
  put<std::uint8_t>(page, at::reservation_capabilities, 0x03);  // persists; write exclusive
  std::memcpy(page.data() + at::nguid, there.uuid.bytes.data(), there.uuid.bytes.size());
  put<std::uint32_t>(page, at::lba_format, std::uint32_t{log2_of(there.block_bytes)} << 16);
  return page;
}

Page descriptors_page(const Namespace& there) {
  Page page{};
  put<std::uint8_t>(page, 0, 3);  // a UUID
  put<std::uint8_t>(page, 1, 16);
  std::memcpy(page.data() + 4, there.uuid.bytes.data(), 16);
  return page;
}

ZpairLog zpair_log_of(const Namespace& there) {
  ZpairLog log{};
  std::memcpy(log.magic, "ZPLG", 4);
  log.version = zpair_log_version;
  const fence::Contents& contents = there.reservations.contents();
  bool elsewhere = there.state == Namespace::State::elsewhere;
  if (elsewhere) log.flags |= zpair_log_flag::fenced_elsewhere;
  if (there.reservations.closed()) log.flags |= zpair_log_flag::closed;
  if (there.reservations.unreadable()) log.flags |= zpair_log_flag::unreadable;
  log.verifier = there.device != nullptr ? there.device->verifier().value : 0;
  log.fence_epoch = elsewhere ? there.elsewhere_epoch.value : contents.epoch.value;
  std::memcpy(log.fence_host, contents.host_id.bytes.data(), sizeof log.fence_host);
  log.stored_epoch = contents.stored.epoch.value;
  log.stored_rev = contents.stored.rev.value;
  log.stored_digest = contents.stored.digest;
  std::memcpy(log.uuid, there.uuid.bytes.data(), sizeof log.uuid);
  std::memcpy(log.drive, there.drive.data(), std::min(there.drive.size(), sizeof log.drive - 1));
  return log;
}

template <class T>
std::span<const std::byte> bytes_of(const T& value) {
  return {reinterpret_cast<const std::byte*>(&value), sizeof value};
}

}  // namespace

void Connection::answer_bytes(TargetCommand& command, std::span<const std::byte> bytes, std::size_t wanted) {
  if (wanted == 0 || wanted > target_.options.max_transfer_bytes) return answer(command, Status::invalid_field);
  command.buffer = target_.buffers.take(wanted);
  std::size_t copied = std::min(bytes.size(), wanted);
  if (copied > 0) std::memcpy(command.buffer.data(), bytes.data(), copied);
  std::memset(command.buffer.data() + copied, 0, wanted - copied);
  answer_with_data(command, wanted);
}

void Connection::on_fabrics(TargetCommand& command) {
  switch (static_cast<std::uint8_t>(command.sqe.nsid)) {
    case fabrics_type::connect: return on_connect(command);
    case fabrics_type::property_get: return on_property_get(command);
    case fabrics_type::property_set: return on_property_set(command);
    default: return answer(command, Status::invalid_opcode);
  }
}

void Connection::on_connect(TargetCommand& command) {
  ConnectParameters parameters;
  std::memcpy(&parameters, reinterpret_cast<const std::byte*>(&command.sqe) + 40, sizeof parameters);
  if (controller_ != nullptr) return answer(command, Status::command_sequence_error);
  if (parameters.record_format != 0) return answer(command, Status::connect_incompatible_format);
  if (command.received_bytes != sizeof(ConnectData)) return answer(command, Status::data_sgl_length_invalid);
  ConnectData data;
  std::memcpy(&data, command.buffer.data(), sizeof data);
  Uuid host;
  std::memcpy(host.bytes.data(), data.host_id, host.bytes.size());
  bool ours = text_of(data.subsystem_nqn, sizeof data.subsystem_nqn) == target_.options.subsystem_nqn;
  bool sized =
      parameters.sq_size > 0 && parameters.sq_size < std::max<std::uint32_t>(target_.options.queue_entries, 32);
  if (!ours || !sized || host == Uuid{}) return answer(command, Status::connect_invalid_parameters);

  std::shared_ptr<Controller> controller;
  if (parameters.qid == 0) {
    if (data.cntlid != any_controller) return answer(command, Status::connect_invalid_parameters);
    if (target_.closing) return answer(command, Status::connect_controller_busy);
    controller = target_.new_controller(host, parameters.keep_alive_ms);
  } else {
    auto found = target_.controllers.find(data.cntlid);
    if (found == target_.controllers.end() || found->second->ended)
      return answer(command, Status::connect_invalid_parameters);
    controller = found->second;
    bool taken =
        std::ranges::any_of(controller->connections, [&](Connection* other) { return other->qid() == parameters.qid; });
    if (controller->host_id != host) return answer(command, Status::connect_invalid_host);
    if (!controller->enabled()) return answer(command, Status::command_sequence_error);
    if (taken || parameters.qid > target_.options.max_io_queues)
      return answer(command, Status::connect_invalid_parameters);
  }
  controller_ = controller;
  qid_ = parameters.qid;
  queue_entries_ = static_cast<std::uint16_t>(parameters.sq_size + 1);
  no_flow_control_ = (parameters.attributes & connect_no_flow_control) != 0;
  controller_->connections.push_back(this);
  if (greeting_timer_ != 0) block::Reactor::current().cancel_timer(greeting_timer_);
  greeting_timer_ = 0;
  answer(command, Status::success, controller_->cntlid);
}

void Connection::on_property_get(TargetCommand& command) {
  if (qid_ != 0) return answer(command, Status::invalid_field);
  bool wide = (command.sqe.cdw10 & 7) == 1;
  switch (command.sqe.cdw11) {
    case property::capabilities:
      return answer(command, wide ? Status::success : Status::invalid_field, capabilities_of(target_.options));
    case property::version: return answer(command, Status::success, version_2_0);
    case property::configuration: return answer(command, Status::success, controller_->configuration);
    case property::status: return answer(command, Status::success, controller_->status);
    default: return answer(command, Status::invalid_field);
  }
}

void Connection::on_property_set(TargetCommand& command) {
  if (qid_ != 0 || command.sqe.cdw11 != property::configuration) return answer(command, Status::invalid_field);
  auto value = static_cast<std::uint32_t>(command.sqe.cdw12);
  bool was_enabled = controller_->enabled();
  controller_->configuration = value;
  controller_->status = controller_->enabled() ? csts_ready : 0;
  if ((value & cc_shutdown_mask) != 0) controller_->status |= csts_shutdown_complete;
  bool stops = (value & cc_shutdown_mask) != 0 || (was_enabled && !controller_->enabled());
  if (stops) {  // the I/O queues end; the admin queue stays to be asked for the status
    for (Connection* connection : controller_->connections) {
      if (connection->qid() != 0) connection->end();
    }
  }
  answer(command, Status::success);
}

void Connection::on_admin(TargetCommand& command) {
  switch (command.sqe.opcode) {
    case admin_opcode::identify: return on_identify(command);
    case admin_opcode::get_log_page: return on_log_page(command);
    case admin_opcode::set_features: return on_set_features(command);
    case admin_opcode::get_features: return on_get_features(command);
    case admin_opcode::keep_alive: return answer(command, Status::success);
    case admin_opcode::cross_controller_reset: return tasks_.spawn(reset_other(command));
    case admin_opcode::reset_progress: return on_reset_progress(command);
    case admin_opcode::async_event_request:
      // Outstanding until the association ends: this target has no events to tell.
      if (++async_event_count_ > max_async_events) return answer(command, static_cast<Status>(0x105));
      return;
    default: return answer(command, Status::invalid_opcode);
  }
}

void Connection::on_identify(TargetCommand& command) {
  auto cns = static_cast<std::uint8_t>(command.sqe.cdw10);
  Namespace* there = target_.find(command.sqe.nsid);
  bool serving = there != nullptr && there->state == Namespace::State::serving;
  switch (cns) {
    case identify_cns::controller:
      return answer_bytes(command, identify_controller_page(*controller_, target_.options, target_.namespaces.size()),
                          identify_bytes);
    case identify_cns::name_space:
      if (!serving) return answer(command, Status::invalid_namespace);
      return answer_bytes(command, identify_namespace_page(*there), identify_bytes);
    case identify_cns::descriptors:
      if (!serving) return answer(command, Status::invalid_namespace);
      return answer_bytes(command, descriptors_page(*there), identify_bytes);
    case identify_cns::active_namespaces: {
      std::vector<std::uint32_t> nsids;
      for (auto& [nsid, name_space] : target_.namespaces) {
        if (name_space->state != Namespace::State::absent && nsid > command.sqe.nsid) nsids.push_back(nsid);
      }
      std::ranges::sort(nsids);
      nsids.resize(std::min<std::size_t>(nsids.size(), identify_bytes / 4));
      return answer_bytes(command, std::as_bytes(std::span(nsids)), identify_bytes);
    }
    default: return answer(command, Status::invalid_field);
  }
}

void Connection::on_log_page(TargetCommand& command) {
  auto id = static_cast<std::uint8_t>(command.sqe.cdw10);
  std::size_t wanted = ((command.sqe.cdw10 >> 16 | (command.sqe.cdw11 & 0xffff) << 16) + std::size_t{1}) * 4;
  std::size_t offset = command.sqe.cdw12_13();
  if (id == zpair_log_page) {
    Namespace* there = target_.find(command.sqe.nsid);
    if (there == nullptr || there->state == Namespace::State::absent) return answer(command, Status::invalid_namespace);
    if (there->state == Namespace::State::serving) command.verifier = there->device->verifier();
    ZpairLog log = zpair_log_of(*there);
    std::span<const std::byte> bytes = bytes_of(log);
    return answer_bytes(command, bytes.subspan(std::min(offset, bytes.size())), wanted);
  }
  bool standard = id >= 1 && id <= 3;  // errors, health, firmware: nothing to tell
  if (standard) return answer_bytes(command, {}, wanted);
  answer(command, Status::invalid_log_page);
}

void Connection::on_set_features(TargetCommand& command) {
  switch (static_cast<std::uint8_t>(command.sqe.cdw10)) {
    case feature::number_of_queues: {
      std::uint32_t asked = std::min(command.sqe.cdw11 & 0xffff, command.sqe.cdw11 >> 16) + 1;
      std::uint32_t granted = std::min<std::uint32_t>(asked, target_.options.max_io_queues) - 1;
      return answer(command, Status::success, granted | granted << 16);
    }
    case feature::keep_alive_timer:
      controller_->keep_alive_ms = command.sqe.cdw11;
      return answer(command, Status::success);
    case feature::async_event_configuration: return answer(command, Status::success);
    default: return answer(command, Status::invalid_field);
  }
}

void Connection::on_get_features(TargetCommand& command) {
  std::uint32_t queues = target_.options.max_io_queues - 1u;
  switch (static_cast<std::uint8_t>(command.sqe.cdw10)) {
    case feature::number_of_queues: return answer(command, Status::success, queues | queues << 16);
    case feature::keep_alive_timer: return answer(command, Status::success, controller_->keep_alive_ms);
    case feature::async_event_configuration: return answer(command, Status::success);
    default: return answer(command, Status::invalid_field);
  }
}

// TP8028: ends another controller of the same host, and answers (with "immediate reset successful") when nothing of it is
// at a device any more. A controller that is not known (any more) has ended, and was forgotten only after its drain.
block::Task<void> Connection::reset_other(TargetCommand& command) {
  ++target_.counts.resets;
  const std::shared_ptr<Controller> other = controller_named(command.sqe);
  if (other != nullptr && (other == controller_ || other->host_id != controller_->host_id)) {
    answer(command, Status::invalid_field);
    co_return;
  }
  if (other != nullptr) {
    target_.end(*other, "its host resets it through another controller");
    co_await wait_until_quiet(other);
  }
  answer(command, Status::success, immediate_reset_done);
}

// Null: not known (any more).
std::shared_ptr<Controller> Connection::controller_named(const Command& sqe) const {
  auto found = target_.controllers.find(static_cast<std::uint16_t>(sqe.cdw10));
  if (found == target_.controllers.end()) return nullptr;
  const bool same = found->second->uniquifier == static_cast<std::uint8_t>(sqe.cdw10 >> 16) &&
                    found->second->random_number == sqe.cdw12_13();
  return same ? found->second : nullptr;
}

// Where commands of a controller that was reset still are: one hanging drive must not hold the commands of the others. Only
// what is at a device counts: an ended controller hands nothing over any more, and changes no fence file.
void Connection::on_reset_progress(TargetCommand& command) {
  const std::shared_ptr<Controller> other = controller_named(command.sqe);
  if (other != nullptr && (other == controller_ || other->host_id != controller_->host_id))
    return answer(command, Status::invalid_field);
  std::vector<std::uint32_t> page = {other == nullptr || other->ended, 0};
  for (const auto& [nsid, name_space] : target_.namespaces) {
    if (page[0] == 0 || other == nullptr || !name_space->has_commands_of(*other)) continue;
    page.push_back(nsid);
    ++page[1];
  }
  if (page.size() * sizeof page[0] > reset_progress_bytes) return answer(command, Status::internal_error);
  answer_bytes(command, std::as_bytes(std::span(page)), reset_progress_bytes);
}

}  // namespace zpair::nvme
