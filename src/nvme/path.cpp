// One path of the initiator: one controller at the target, watched and rebuilt for ever.
#include <algorithm>

#include "base/log.h"
#include "nvme/initiator_internal.h"

namespace zpair::nvme {

namespace {

constexpr std::int64_t watch_ms = 20;
constexpr std::int64_t hiccup_ms = 100;  // this process did not run: silence proves nothing
constexpr std::uint16_t admin_entries = 32;
constexpr std::uint32_t controller_configuration = 1u | 6u << 16 | 4u << 20;  // EN, IOSQES, IOCQES
constexpr std::uint32_t controller_ready = 1;

template <class T>
T field(const std::vector<std::byte>& page, std::size_t offset) {
  T value;
  std::memcpy(&value, page.data() + offset, sizeof value);
  return value;
}

Result<ExchangeAnswer> checked(Result<ExchangeAnswer> answer, std::string_view what) {
  if (answer && answer->status() != Status::success) {
    return fail(ErrorCode::refused, "the target refused {} (status {:#x})", what,
                static_cast<unsigned>(answer->status()));
  }
  return answer;
}

ExchangeRequest property_request(std::uint8_t type, std::uint32_t offset, std::uint64_t value) {
  ExchangeRequest request;
  request.sqe.opcode = admin_opcode::fabrics;
  request.sqe.nsid = type;
  request.sqe.cdw11 = offset;
  request.sqe.set_cdw12_13(value);
  return request;
}

}  // namespace

Path::Path(NodeState& node, std::size_t index) : node_(node), index_(index) {}

void Path::kill(std::string_view why) {
  if (admin_) admin_->shut_down(why);
}

void Path::lost(IoCommand& command) { lost_.push_back(&command); }

PathStatus Path::status() const {
  PathStatus status;
  status.name = node_.options.paths[index_].name;
  status.up = up_;
  status.last_progress_ns = last_progress_ns_;
  status.changed_ns = changed_ns_;
  status.connect_count = connect_count_;
  for (const auto& queue : io_) status.outstanding_count += queue->outstanding();
  if (admin_) {
    status.last_progress_ns = std::max(status.last_progress_ns, admin_->last_heard_ns());
    for (const auto& queue : io_) status.last_progress_ns = std::max(status.last_progress_ns, queue->last_heard_ns());
  }
  return status;
}

block::Task<void> Path::run() {
  std::int64_t pause_ms = node_.options.reconnect_ms;
  while (!node_.closing) {
    auto connected = co_await connect();
    if (connected && !node_.closing) {
      up_ = true;
      ++connect_count_;
      changed_ns_ = boot_time_ns();
      pause_ms = node_.options.reconnect_ms;
      last_reported_.clear();
      node_.on_up(*this);
      co_await watch();
      up_ = false;
      changed_ns_ = boot_time_ns();
      node_.on_down(index_, node_.closing ? "closed" : why_);
      co_await tear_down();
      continue;  // the first attempt at once: most often the other end is back already
    }
    std::string why = connected ? std::string("closed") : connected.error().message;
    if (why != last_reported_) log_debug("path {}: {}", node_.options.paths[index_].name, why);
    last_reported_ = why;
    co_await tear_down();
    if (node_.closing) break;
    bool stopping = co_await block::wait_for(node_.stop, Deadline::in_ms(pause_ms));
    if (stopping) break;
    pause_ms = std::min(pause_ms * 2, node_.options.reconnect_ms * 4);
  }
}

block::Task<Result<void>> Path::connect() {
  dead_.reset();
  why_.clear();
  known_ = false;
  facts_ = TargetFacts{};
  Deadline deadline = Deadline::in_ms(node_.options.connect_timeout_ms);
  QueueOptions options;
  options.subsystem_nqn = node_.options.subsystem_nqn;
  options.host_id = node_.options.host_id;
  options.header_digest = node_.options.header_digest;
  options.data_digest = node_.options.data_digest;
  options.entries = admin_entries;
  admin_ = std::make_unique<InitiatorQueue>(options, dead_, why_);
  block::Reactor& reactor = block::Reactor::current();
  auto timer = reactor.call_at(deadline.at_ns, [this] {
    if (admin_) admin_->shut_down("no answer in time");
    for (auto& queue : io_) queue->shut_down("no answer in time");
  });
  auto started = co_await start_controller(deadline);
  reactor.cancel_timer(timer);
  if (!started && !why_.empty()) co_return fail(started.error(), "{}", why_);
  co_return started;
}

block::Task<Result<void>> Path::start_controller(Deadline deadline) {
  const PathAddress& address = node_.options.paths[index_];
  ZP_CO_TRY(cntlid, co_await admin_->open(address, deadline));
  auto enable = property_request(fabrics_type::property_set, property::configuration, controller_configuration);
  ZP_CO_CHECK(checked(co_await exchange(*admin_, std::move(enable), deadline), "to be enabled"));
  while (true) {
    auto get_status = property_request(fabrics_type::property_get, property::status, 0);
    ZP_CO_TRY(status, checked(co_await exchange(*admin_, std::move(get_status), deadline), "its status"));
    if ((status.completion.result & controller_ready) != 0) break;
    co_await block::Reactor::current().after_ms(2);
  }
  ExchangeRequest identify;
  identify.sqe.opcode = admin_opcode::identify;
  identify.sqe.cdw10 = identify_cns::controller;
  identify.answer_bytes = identify_bytes;
  ZP_CO_TRY(identified, checked(co_await exchange(*admin_, std::move(identify), deadline), "Identify"));
  namespace at = identify_controller;
  const std::vector<std::byte>& page = identified.data;
  auto mdts = field<std::uint8_t>(page, at::mdts);
  facts_.cntlid = cntlid;
  facts_.uniquifier = field<std::uint8_t>(page, at::uniquifier);
  facts_.random_number = field<std::uint64_t>(page, at::random_number);
  facts_.max_transfer_bytes = mdts == 0 || mdts > 8 ? 1u << 20 : std::size_t{4096} << mdts;
  std::size_t capsule = std::size_t{field<std::uint32_t>(page, at::ioccsz)} * 16;
  facts_.in_capsule_bytes = capsule > sizeof(Command) ? capsule - sizeof(Command) : 0;
  facts_.is_zpair = std::memcmp(page.data() + at::model, "zpair ", 6) == 0;
  if (field<std::uint8_t>(page, at::ccr_limit) == 0) {
    co_return fail(ErrorCode::unsupported,
                   "target {} has no Cross-Controller Reset: commands could never be sent again safely",
                   address.to.text);
  }
  known_ = true;

  ExchangeRequest queues;
  queues.sqe.opcode = admin_opcode::set_features;
  queues.sqe.cdw10 = feature::number_of_queues;
  queues.sqe.cdw11 = static_cast<std::uint32_t>((node_.options.io_queues - 1) * 0x10001);
  ZP_CO_TRY(granted, checked(co_await exchange(*admin_, std::move(queues), deadline), "the number of queues"));
  std::size_t queue_count = std::min<std::size_t>(node_.options.io_queues, (granted.completion.result & 0xffff) + 1);
  for (std::size_t i = 0; i < queue_count; ++i) {
    QueueOptions options;
    options.subsystem_nqn = node_.options.subsystem_nqn;
    options.host_id = node_.options.host_id;
    options.header_digest = node_.options.header_digest;
    options.data_digest = node_.options.data_digest;
    options.entries = std::max<std::uint16_t>(node_.options.queue_entries, 8);
    options.qid = static_cast<std::uint16_t>(i + 1);
    options.cntlid = facts_.cntlid;
    options.in_capsule_bytes = std::max<std::size_t>(facts_.in_capsule_bytes, 1);
    io_.push_back(std::make_unique<InitiatorQueue>(options, dead_, why_));
    ZP_CO_CHECK(co_await io_.back()->open(address, deadline));
  }
  if (dead_.is_set()) co_return fail(ErrorCode::unreachable, "{}", why_);
  co_return Result<void>{};
}

// Until something of the path is dead. Silence counts only while a ping is open, and only while this process itself ran.
block::Task<void> Path::watch() {
  window_start_ns_ = boot_time_ns();
  Nanoseconds next_ping_ns = window_start_ns_;
  while (!dead_.is_set() && !node_.closing) {
    Nanoseconds due_ns = boot_time_ns() + watch_ms * ns_per_ms;
    bool dead = co_await block::wait_for(dead_, Deadline{due_ns});
    if (dead || node_.closing) break;
    Nanoseconds now = boot_time_ns();
    if (now - due_ns > hiccup_ms * ns_per_ms) window_start_ns_ = now;
    note_progress();
    std::string_view why = "no answer from the target";
    bool any_silent = silent(*admin_, now);
    for (auto& queue : io_) any_silent = any_silent || silent(*queue, now);
    if (any_silent) {
      admin_->shut_down(why);
      break;
    }
    if (now < next_ping_ns) continue;
    next_ping_ns = now + node_.options.ping_ms * ns_per_ms;
    admin_->ping(admin_opcode::keep_alive);
    for (auto& queue : io_) {
      if (facts_.is_zpair && queue->outstanding() > 0) queue->ping(io_opcode::ping);
    }
  }
  note_progress();
}

bool Path::silent(InitiatorQueue& queue, Nanoseconds now) {
  if (!queue.ping_open()) return false;
  Nanoseconds since = std::max({queue.ping_sent_ns(), queue.last_heard_ns(), window_start_ns_});
  return now - since > node_.options.dead_after_ms * ns_per_ms;
}

void Path::note_progress() {
  last_progress_ns_ = std::max(last_progress_ns_, admin_->last_heard_ns());
  for (auto& queue : io_) last_progress_ns_ = std::max(last_progress_ns_, queue->last_heard_ns());
}

// Ends the connections; whatever was not answered waits in quarantine until the target has quiesced this controller.
block::Task<void> Path::tear_down() {
  auto former = std::make_unique<Quarantine>();
  former->cntlid = facts_.cntlid;
  former->uniquifier = facts_.uniquifier;
  former->random_number = facts_.random_number;
  former->path = node_.options.paths[index_].name;
  for (auto& queue : io_) queue->shut_down("closed");
  if (admin_) admin_->shut_down("closed");
  bool carried_io = known_ && !io_.empty();
  for (auto& queue : io_) co_await queue->close();  // what was not answered comes to lost()
  if (admin_) co_await admin_->close();
  former->commands.swap(lost_);
  io_.clear();
  admin_.reset();
  known_ = false;
  if (!carried_io) {
    ZP_ASSERT(former->commands.empty(), "commands go to queues of a known controller only");
    co_return;
  }
  node_.add_quarantine(std::move(former));
}

}  // namespace zpair::nvme
