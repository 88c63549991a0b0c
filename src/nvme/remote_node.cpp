#include "nvme/remote_node.h"

#include <algorithm>

#include "base/log.h"
#include "nvme/initiator_internal.h"

namespace zpair::nvme {

namespace {

constexpr std::int64_t retry_ms = 5;
constexpr std::int64_t reset_progress_ms = 50;  // a reset that takes longer waits for a drive: which?

std::string trimmed(const char* field, std::size_t size) { return std::string(field, strnlen(field, size)); }

Hello hello_of(std::uint32_t nsid, const ZpairLog& log) {
  Hello hello;
  hello.nsid = nsid;
  hello.version = log.version;
  hello.drive = trimmed(log.drive, sizeof log.drive);
  std::memcpy(hello.uuid.bytes.data(), log.uuid, sizeof log.uuid);
  hello.verifier = Verifier{log.verifier};
  hello.fence_epoch = Epoch{log.fence_epoch};
  std::memcpy(hello.fence_host.bytes.data(), log.fence_host, sizeof log.fence_host);
  hello.stored_epoch = Epoch{log.stored_epoch};
  hello.stored_rev = Revision{log.stored_rev};
  hello.stored_digest = log.stored_digest;
  hello.closed = (log.flags & zpair_log_flag::closed) != 0;
  hello.fenced_elsewhere = (log.flags & zpair_log_flag::fenced_elsewhere) != 0;
  hello.unreadable = (log.flags & zpair_log_flag::unreadable) != 0;
  return hello;
}

}  // namespace

RemoteNode::RemoteNode(RemoteNodeOptions options) : state_(std::make_unique<State>()) {
  state_->options = std::move(options);
  ZP_ASSERT(!state_->options.paths.empty() && state_->options.io_queues > 0, "a remote node has paths and queues");
  for (std::size_t i = 0; i < state_->options.paths.size(); ++i)
    state_->paths.push_back(std::make_unique<Path>(*state_, i));
}

RemoteNode::~RemoteNode() { ZP_ASSERT(!state_->started || state_->closing, "a remote node is closed before it ends"); }

void RemoteNode::start() {
  ZP_ASSERT(!state_->started, "a remote node starts once");
  state_->started = true;
  state_->all_down_since_ns = boot_time_ns();
  for (auto& path : state_->paths) state_->tasks.spawn(path->run());
}

block::Task<void> RemoteNode::close() {
  ZP_ASSERT(state_->drives.empty(), "a remote node's drives are closed before it is");
  state_->closing = true;
  state_->stop.set();
  for (auto& path : state_->paths) path->kill("closed");
  co_await state_->tasks.close();
  ZP_ASSERT(state_->waiting.empty(), "no drive, no command");
}

block::Task<bool> RemoteNode::wait_up(Deadline deadline) { co_return co_await block::wait_for(state_->up, deadline); }

std::vector<PathStatus> RemoteNode::paths() const {
  std::vector<PathStatus> result;
  for (const auto& path : state_->paths) result.push_back(path->status());
  return result;
}

std::size_t RemoteNode::up_count() const {
  return static_cast<std::size_t>(std::ranges::count_if(state_->paths, [](const auto& path) { return path->up(); }));
}

Nanoseconds RemoteNode::all_down_since_ns() const { return state_->all_down_since_ns; }

Nanoseconds RemoteNode::last_progress_ns() const {
  Nanoseconds newest = 0;
  for (const auto& path : state_->paths) newest = std::max(newest, path->status().last_progress_ns);
  return newest;
}

block::Task<Result<Hello>> RemoteNode::hello(std::uint32_t nsid, Deadline deadline) {
  co_return co_await state_->hello(nsid, deadline);
}

block::Task<Result<std::vector<Hello>>> RemoteNode::list(Deadline deadline) {
  ExchangeRequest request;
  request.sqe.opcode = admin_opcode::identify;
  request.sqe.cdw10 = identify_cns::active_namespaces;
  request.answer_bytes = identify_bytes;
  ZP_CO_TRY(answer, co_await state_->run(NodeState::Kind::admin, std::move(request), deadline));
  if (answer.status() != Status::success)
    co_return fail(ErrorCode::unsupported, "the target does not list its namespaces");
  std::vector<Hello> result;
  for (std::size_t at = 0; at + 4 <= answer.data.size(); at += 4) {
    std::uint32_t nsid;
    std::memcpy(&nsid, answer.data.data() + at, sizeof nsid);
    if (nsid == 0) break;
    auto hello = co_await state_->hello(nsid, deadline);
    if (!hello && hello.error().code == ErrorCode::not_found) continue;  // removed meanwhile
    if (!hello) co_return std::unexpected(hello.error());
    if (!hello->drive.empty()) state_->nsid_of[hello->drive] = nsid;
    result.push_back(std::move(*hello));
  }
  co_return result;
}

block::Task<Result<std::unique_ptr<RemoteDrive>>> RemoteNode::open_drive(std::uint32_t nsid, Deadline deadline) {
  ZP_CO_TRY(hello, co_await state_->hello(nsid, deadline));
  if (hello.fenced_elsewhere) {
    co_return fail(ErrorCode::fenced, "drive with namespace {} is in use by its own node at epoch {}", nsid,
                   hello.fence_epoch);
  }
  ExchangeRequest request;
  request.sqe.opcode = admin_opcode::identify;
  request.sqe.nsid = nsid;
  request.sqe.cdw10 = identify_cns::name_space;
  request.answer_bytes = identify_bytes;
  ZP_CO_TRY(answer, co_await state_->run(NodeState::Kind::admin, std::move(request), deadline));
  if (answer.status() != Status::success) co_return fail(ErrorCode::not_found, "the target has no namespace {}", nsid);
  std::uint64_t blocks;
  std::memcpy(&blocks, answer.data.data() + identify_namespace::size, sizeof blocks);
  auto block_shift = static_cast<unsigned>(answer.data[identify_namespace::lba_format + 2]);
  if (block_shift < 9 || block_shift > 16 || blocks == 0) {
    co_return fail(ErrorCode::invalid, "namespace {} has blocks of 2^{} bytes, {} of them: zpair cannot use it", nsid,
                   block_shift, blocks);
  }
  auto drive = std::make_unique<RemoteDrive::State>();
  drive->node = state_.get();
  drive->nsid = nsid;
  drive->geometry = block::Geometry{blocks << block_shift, 1u << block_shift};
  drive->durable_id = hello.drive;
  drive->verifier = hello.verifier;
  state_->drives.push_back(drive.get());
  co_return std::make_unique<RemoteDrive>(std::move(drive));
}

block::Task<Result<std::unique_ptr<RemoteDrive>>> RemoteNode::open_drive(std::string durable_id, Deadline deadline) {
  // The pool process opens a dozen drives in a row: one list() serves them all, and a hello proves the hint.
  if (auto known = state_->nsid_of.find(durable_id); known != state_->nsid_of.end()) {
    const std::uint32_t nsid = known->second;
    auto hello = co_await state_->hello(nsid, deadline);
    if (hello && hello->drive == durable_id) co_return co_await open_drive(nsid, deadline);
  }
  ZP_CO_TRY(drives, co_await list(deadline));
  auto found = std::ranges::find(drives, durable_id, &Hello::drive);
  if (found == drives.end()) co_return fail(ErrorCode::not_found, "the partner exports no drive {}", durable_id);
  co_return co_await open_drive(found->nsid, deadline);
}

// --- commands -------------------------------------------------------------------------------------------------------

IoCommand& NodeState::take_command(DriveState& drive, RemoteRequest& owner) {
  if (free_commands.empty()) {
    all_commands.push_back(std::make_unique<IoCommand>());
    free_commands.push_back(all_commands.back().get());
  }
  IoCommand& command = *free_commands.back();
  free_commands.pop_back();
  command.node = this;
  command.nsid = drive.nsid;
  command.owner = &owner;
  command.path = nullptr;
  command.sqe = Command{};
  command.sqe.nsid = drive.nsid;
  command.to_target = {};
  command.from_target = {};
  command.abandoned = false;
  command.on_let_go = nullptr;
  command.on_result = [](QueueCommand& done, const Completion& completion) {
    auto& answered = static_cast<IoCommand&>(done);
    answered.node->command_answered(answered, completion);
  };
  command.on_lost = [](QueueCommand& done) {
    auto& lost = static_cast<IoCommand&>(done);
    lost.node->command_lost(lost);
  };
  return command;
}

void NodeState::free_command(IoCommand& command) {
  command.owner = nullptr;
  command.parts.clear();
  free_commands.push_back(&command);
}

RemoteRequest& NodeState::take_request() {
  if (free_requests.empty()) {
    all_requests.push_back(std::make_unique<RemoteRequest>());
    free_requests.push_back(all_requests.back().get());
  }
  RemoteRequest& request = *free_requests.back();
  free_requests.pop_back();
  request = RemoteRequest{};
  return request;
}

// on_done must not run inside the caller's own call: it runs in the reactor's next turn.
void NodeState::complete_later(block::Request& request, block::IoStatus status, Verifier verifier) {
  request.status = status;
  request.verifier = verifier;
  early.push_back(&request);
  if (early_posted) return;
  early_posted = true;
  block::Reactor::current().call_at(0, [this] {
    early_posted = false;
    std::vector<block::Request*> ready;
    ready.swap(early);
    for (block::Request* request : ready) request->on_done(*request);
  });
}

NodeState::Place NodeState::pick_queue() {
  Place best;
  std::size_t count = paths.size();
  ++turn;
  for (std::size_t i = 0; i < count; ++i) {
    Path& path = *paths[(turn + i) % count];
    if (!path.up()) continue;
    for (auto& queue : path.io_queues()) {
      if (!queue->has_room()) continue;
      if (best.queue == nullptr || queue->outstanding() < best.queue->outstanding()) best = Place{&path, queue.get()};
    }
  }
  return best;
}

Path* NodeState::pick_path() {
  ++turn;
  for (std::size_t i = 0; i < paths.size(); ++i) {
    Path& path = *paths[(turn + i) % paths.size()];
    if (path.up()) return &path;
  }
  return nullptr;
}

std::size_t NodeState::max_transfer_bytes() const {
  std::size_t least = 1u << 20;
  for (const auto& path : paths) {
    if (path->up()) least = std::min(least, path->facts().max_transfer_bytes);
  }
  return least;
}

void NodeState::send(IoCommand& command) {
  waiting.push_back(&command);
  pump();
}

void NodeState::pump() {
  while (!waiting.empty()) {
    Place place = pick_queue();
    if (place.queue == nullptr) return;
    IoCommand& command = *waiting.front();
    waiting.pop_front();
    command.path = place.path;
    place.queue->submit(command);
  }
}

void NodeState::command_lost(IoCommand& command) {
  if (command.abandoned) return abandoned_came_back(command);
  command.path->lost(command);
}

void NodeState::abandoned_came_back(IoCommand& command) {
  std::size_t& count = abandoned[command.nsid];
  ZP_ASSERT(count > 0, "an abandoned command was counted");
  --count;
  free_command(command);
  if (!settled.is_set()) settled.set();
}

void NodeState::command_answered(IoCommand& command, const Completion& completion) {
  if (command.abandoned) {
    abandoned_came_back(command);
    return pump();
  }
  DriveState& drive = *command.owner->drive;
  Status status = status_of_field(completion.status_field);
  block::IoStatus result = block::IoStatus::io_error;
  switch (status) {
    case Status::success:
      // A read that its data's success flag completed carries none.
      if (completion.result != 0) drive.verifier = Verifier{completion.result};
      result = block::IoStatus::ok;
      break;
    case Status::reservation_conflict:
      drive.fenced_by = Epoch{completion.result};
      result = block::IoStatus::fenced;
      break;
    case Status::closed:
    case Status::invalid_namespace:
    case Status::namespace_not_ready: drive.hold(command); return pump();
    case Status::transient_transport_error:
    case Status::aborted_by_request:
    case Status::aborted_queue_deleted:
      if (drive.mode != DriveState::Mode::serving) {
        result = block::IoStatus::cancelled;
        break;
      }
      waiting.push_front(&command);
      return pump();
    case Status::unrecovered_read_error: result = block::IoStatus::media_error; break;
    case Status::capacity_exceeded: result = block::IoStatus::no_space; break;
    case Status::lba_out_of_range:
    case Status::invalid_field: result = block::IoStatus::invalid; break;
    default: break;
  }
  drive.done(command, result, drive.verifier);
  pump();
}

// --- paths and quiescing --------------------------------------------------------------------------------------------

void NodeState::report(std::size_t index, PathChange change, std::string why) {
  if (!options.on_path) return;
  PathEvent event{index, change, boot_time_ns(), std::move(why)};
  block::Reactor::current().call_at(0, [this, event] { options.on_path(event); });
}

void NodeState::on_up(Path& path) {
  std::size_t index = 0;
  while (paths[index].get() != &path) ++index;
  log_info("path {} to {} is up", options.paths[index].name, options.paths[index].to.text);
  all_down_since_ns = 0;
  if (!up.is_set()) up.set();
  report(index, PathChange::up, "connected");
  ask_for_quiesce();
  pump();
}

void NodeState::on_down(std::size_t index, const std::string& why) {
  log_info("path {} to {} is down: {}", options.paths[index].name, options.paths[index].to.text, why);
  if (pick_path() == nullptr) {
    up.reset();
    all_down_since_ns = boot_time_ns();
  }
  report(index, PathChange::down, why);
}

void NodeState::add_quarantine(std::unique_ptr<Quarantine> former) {
#ifdef ZPAIR_MUTATIONS
  if (options.mutations
          .resend_without_quiesce) {  // the lost-write hole that quiescing closes, for the test that shows it
    for (IoCommand* command : former->commands) waiting.push_back(command);
    return pump();
  }
#endif
  quarantine.push_back(std::move(former));
  ask_for_quiesce();
}

void NodeState::ask_for_quiesce() {
  if (closing) return;
  for (auto& former : quarantine) {
    if (former->asking) continue;
    Path* path = pick_path();
    if (path == nullptr) return;
    former->asking = true;
    tasks.spawn(quiesce(*former, *path));
  }
}

// Asks the target, over another association, to end the former one, and sends its commands again when nothing of it is in
// flight there any more.
block::Task<void> NodeState::quiesce(Quarantine& former, Path& path) {
  ExchangeRequest reset;
  reset.sqe.opcode = admin_opcode::cross_controller_reset;
  reset.sqe.cdw10 = former.cntlid | static_cast<std::uint32_t>(former.uniquifier) << 16;
  reset.sqe.set_cdw12_13(former.random_number);
  block::Signal over;
  block::TaskGroup follower;
  follower.spawn(follow_quiesce(former, path, over));
  auto answer = co_await exchange(path.admin(), std::move(reset), Deadline::never());
  over.set();
  co_await follower.close();
  former.asking = false;
  bool quiet = answer && answer->status() == Status::success && (answer->completion.result & 1) != 0;
  if (!quiet) {
    if (answer) {
      log_warning("path {}: the target does not quiesce controller {} (status {:#x}): its commands stay held",
                  former.path, former.cntlid, static_cast<unsigned>(answer->status()));
    }
    bool stopping = co_await block::wait_for(stop, Deadline::in_ms(retry_ms));
    if (!stopping) ask_for_quiesce();
    co_return;
  }
  former.busy.emplace();
  release_quiet(former);
  std::erase_if(quarantine, [&former](const auto& entry) { return entry.get() == &former; });
  if (!settled.is_set()) settled.set();
  pump();
}

// Beside the reset: lets go the commands of every drive at which the target has none left of the former controller.
block::Task<void> NodeState::follow_quiesce(Quarantine& former, Path& path, block::Signal& over) {
  while (true) {
    bool is_over = co_await block::wait_for(over, Deadline::in_ms(reset_progress_ms));
    if (is_over || !path.up() || !path.facts().is_zpair) co_return;
    ExchangeRequest ask;
    ask.sqe.opcode = admin_opcode::reset_progress;
    ask.sqe.cdw10 = former.cntlid | static_cast<std::uint32_t>(former.uniquifier) << 16;
    ask.sqe.set_cdw12_13(former.random_number);
    ask.answer_bytes = reset_progress_bytes;
    auto answer = co_await exchange(path.admin(), std::move(ask), Deadline::never());
    if (!answer || answer->status() != Status::success) continue;
    std::uint32_t page[reset_progress_bytes / sizeof(std::uint32_t)];
    std::memcpy(page, answer->data.data(), sizeof page);
    if (page[0] != 1 || page[1] > std::size(page) - 2) continue;  // the reset has not come there yet
    former.busy.emplace(page + 2, page + 2 + page[1]);
    release_quiet(former);
  }
}

void NodeState::release_quiet(Quarantine& former) {
  std::deque<IoCommand*> kept;
  for (auto command = former.commands.rbegin(); command != former.commands.rend(); ++command) {
    (former.may_reach((*command)->nsid) ? kept : waiting).push_front(*command);
  }
  former.commands.swap(kept);
  if (!settled.is_set()) settled.set();
  pump();
}

bool NodeState::quiesced(std::uint32_t nsid) const {
  return std::ranges::none_of(quarantine, [nsid](const auto& former) { return former->may_reach(nsid); });
}

block::Task<Result<ExchangeAnswer>> NodeState::run(Kind kind, ExchangeRequest request, Deadline deadline) {
  while (true) {
    if (closing) co_return fail(ErrorCode::cancelled, "the connection to the partner is being closed");
    bool is_up = co_await block::wait_for(up, deadline);
    if (!is_up) co_return fail(ErrorCode::unreachable, "no path to {} is up", options.subsystem_nqn);
    InitiatorQueue* queue = nullptr;
    if (Path* path = pick_path(); path != nullptr) queue = kind == Kind::admin ? &path->admin() : pick_queue().queue;
    if (queue == nullptr || !queue->has_room()) {
      if (deadline.passed()) co_return fail(ErrorCode::timed_out, "every queue to {} is full", options.subsystem_nqn);
      co_await block::Reactor::current().after_ms(1);
      continue;
    }
    ExchangeRequest copy = request;
    auto answer = co_await exchange(*queue, std::move(copy), deadline);
    if (!answer && answer.error().code == ErrorCode::unreachable && !deadline.passed()) {
      co_await block::Reactor::current().yield();
      continue;
    }
    if (answer && answer->status() == Status::transient_transport_error && !deadline.passed()) continue;
    co_return answer;
  }
}

block::Task<Result<Hello>> NodeState::hello(std::uint32_t nsid, Deadline deadline) {
  ExchangeRequest request;
  request.sqe.opcode = admin_opcode::get_log_page;
  request.sqe.nsid = nsid;
  request.sqe.cdw10 = zpair_log_page | (sizeof(ZpairLog) / 4 - 1) << 16;
  request.answer_bytes = sizeof(ZpairLog);
  ZP_CO_TRY(answer, co_await run(Kind::admin, std::move(request), deadline));
  if (answer.status() == Status::invalid_namespace)
    co_return fail(ErrorCode::not_found, "the target has no namespace {}", nsid);
  if (answer.status() != Status::success)
    co_return fail(ErrorCode::unsupported, "the target is not zpair's: it has no log page C0h");
  ZpairLog log;
  std::memcpy(&log, answer.data.data(), sizeof log);
  if (std::memcmp(log.magic, "ZPLG", 4) != 0)
    co_return fail(ErrorCode::unsupported, "the target is not zpair's: log page C0h is another");
  co_return hello_of(nsid, log);
}

}  // namespace zpair::nvme
