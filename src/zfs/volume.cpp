#include "zfs/volume.h"

#include <algorithm>
#include <cerrno>

#include "base/assert.h"
#include "zfs/volume_internal.h"

namespace zpair::zfs {

namespace {

constexpr unsigned most_committers = 3;
constexpr unsigned most_readers = 16;
constexpr std::size_t reads_a_reader = 4;  // waiting: then those that start reads are held up, and one more is called
constexpr std::uint32_t sector_bytes = 512;

block::IoStatus status_of(int error) {
  switch (error) {
    case 0: return block::IoStatus::ok;
    case ENOSPC:
    case EDQUOT: return block::IoStatus::no_space;
    default: return block::IoStatus::io_error;
  }
}

// What tells a client something of the volume: rule 10 holds it.
bool tells(const block::Request& request) {
  return request.operation == block::Operation::read || request.operation == block::Operation::extents;
}

bool overlap(const block::Request& a, const block::Request& b) {
  return a.offset_bytes < b.offset_bytes + b.size_bytes && b.offset_bytes < a.offset_bytes + a.size_bytes;
}

}  // namespace

// ---- on the reactor

void Volume::State::submit(block::Request& request) {
  using block::Operation;
  ZP_ASSERT(!closing, "nothing is submitted to a volume that closes");
  ++in_flight;
  request.verifier = Verifier{1};
  if (request.operation == Operation::flush) {  // nothing that was answered is unflushed
    answer_soon(request, block::IoStatus::ok);
    return;
  }
  std::uint64_t size = zp_volume_size(handle);
  if (request.offset_bytes % sector_bytes != 0 || request.size_bytes % sector_bytes != 0 ||
      request.offset_bytes > size || request.size_bytes > size - request.offset_bytes) {
    answer_soon(request, block::IoStatus::invalid);
    return;
  }
  if (request.size_bytes == 0) {
    answer_soon(request, block::IoStatus::ok);
    return;
  }
  bool start_thread = false;
  if (tells(request)) {
    std::lock_guard lock(mutex);
    waiting_reads.push_back(&request);
    start_thread = readers == 0 || (readers < most_readers && waiting_reads.size() > readers * reads_a_reader);
    if (start_thread) ++readers;
  } else {
    unanswered_writes.push_back(Write{&request, ++last_write_number});
    std::lock_guard lock(mutex);
    waiting_writes.push_back(&request);
    start_thread = committers < most_committers;
    if (start_thread) ++committers;
  }
  if (!start_thread) return;
  if (tells(request)) {
    engine.volume_threads().run([](void* self) { static_cast<State*>(self)->start_reads(); }, this);
  } else {
    engine.volume_threads().run([](void* self) { static_cast<State*>(self)->commit_batches(); }, this);
  }
}

void Volume::State::answer_soon(block::Request& request, block::IoStatus status) {
  request.status = status;
  immediate.push_back(&request);
  if (immediate.size() > 1) return;
  engine.reactor().post([this] {
    for (block::Request* each : std::exchange(immediate, {})) answer(*each);
  });
}

void Volume::State::answer(block::Request& request) {
  bool last = --in_flight == 0 && closing;
  request.on_done(request);  // may submit the next one
  if (last) idle.set();
}

// Rule 10: what the read saw may have come from a write that is not committed yet.
bool Volume::State::must_wait(const block::Request& read, std::uint64_t newest_write) const {
  for (const Write& write : unanswered_writes) {
    if (write.number <= newest_write && overlap(*write.request, read)) return true;
  }
  return false;
}

void Volume::State::answer_done() {
  {
    std::lock_guard lock(mutex);
    answering.swap(done);
  }
  bool a_write = false;
  std::vector<block::Request*> finished_now;
  finished_now.swap(answering);
  for (block::Request* request : finished_now) {
    if (tells(*request)) continue;
    a_write = true;
    std::erase_if(unanswered_writes, [request](const Write& write) { return write.request == request; });
  }
  for (block::Request* request : finished_now) {
    if (tells(*request) && must_wait(*request, last_write_number)) {
      held_reads.push_back(HeldRead{request, last_write_number});
    } else {
      answer(*request);
    }
  }
  if (a_write && !held_reads.empty()) {
    std::vector<block::Request*> free_reads;
    std::erase_if(held_reads, [&](const HeldRead& read) {
      if (must_wait(*read.request, read.newest_write)) return false;
      free_reads.push_back(read.request);
      return true;
    });
    for (block::Request* read : free_reads) answer(*read);
  }
  finished_now.clear();
  answering.swap(finished_now);  // keeps the capacity
}

// ---- on the engine's threads

// Nothing of the volume may be touched after it: the last answer lets it close.
void Volume::State::finished(std::span<block::Request* const> requests) {
  bool first;
  {
    std::lock_guard lock(mutex);
    first = done.empty();
    done.insert(done.end(), requests.begin(), requests.end());
  }
  if (first) engine.reactor().post([this] { answer_done(); });
}

void Volume::State::commit_batches() {
  std::vector<block::Request*> batch;
  std::vector<int> errors;
  for (;;) {
    batch.clear();
    {
      std::lock_guard lock(mutex);
      if (waiting_writes.empty()) {
        --committers;
        return;
      }
      batch.swap(waiting_writes);
    }
    zp_batch written;
    zp_batch_begin(handle, &written);
    errors.assign(batch.size(), 0);
    for (std::size_t i = 0; i < batch.size(); ++i) {
      block::Request& request = *batch[i];
      if (request.operation == block::Operation::write) {
        zp_volume_write(handle, &written, request.buffers.data(), request.offset_bytes, request.size_bytes, &errors[i]);
      } else {
        errors[i] = zp_volume_free(handle, &written, request.offset_bytes, request.size_bytes);
      }
    }
    zp_batch_commit(handle, &written);
    for (std::size_t i = 0; i < batch.size(); ++i) batch[i]->status = status_of(errors[i]);
    finished(batch);
  }
}

void Volume::State::start_reads() {
  for (;;) {
    block::Request* request;
    {
      std::lock_guard lock(mutex);
      if (waiting_reads.empty()) {
        --readers;
        return;
      }
      request = waiting_reads.front();
      waiting_reads.pop_front();
    }
    if (request->operation == block::Operation::extents) {
      find_extents(*request);
      continue;
    }
    auto done = [](void* self, void* request, int error) {
      block::Request* read = static_cast<block::Request*>(request);
      read->status = status_of(error);
      static_cast<State*>(self)->finished(std::span(&read, 1));
    };
    zp_volume_read(handle, request->buffers.data(), request->offset_bytes, request->size_bytes, done, this, request);
  }
}

void Volume::State::find_extents(block::Request& request) {
  std::vector<zp_extent> found(request.most_extents);
  int count = 0;
  int error = zp_volume_extents(handle, request.offset_bytes, request.size_bytes, found.data(),
                                static_cast<int>(found.size()), &count);
  for (int i = 0; i < count; ++i) request.extents->push_back({found[i].size_bytes, found[i].is_hole != 0});
  request.status = status_of(error);
  block::Request* done = &request;
  finished(std::span(&done, 1));
}

// ---- the device

Volume::Volume(std::unique_ptr<State> state) : state_(std::move(state)) {}

Volume::~Volume() { ZP_ASSERT(state_->handle == nullptr, "a volume is closed before it ends"); }

block::Geometry Volume::geometry() const { return block::Geometry{state_->size_bytes(), sector_bytes}; }

void Volume::submit(block::Request& request) { state_->submit(request); }

const VolumeInfo& Volume::info() const {
  state_->info.size_bytes = state_->size_bytes();
  return state_->info;
}

VolumeLog Volume::log() const { return VolumeLog{state_->info.guid, state_->sequence()}; }

Volume::Direct Volume::direct() const {
  if (state_->handle == nullptr) return {};
  const zp_direct direct = zp_volume_direct(state_->handle);
  return {direct.written_bytes, direct.read_bytes};
}

std::uint64_t Volume::partial_writes() const {
  return state_->handle == nullptr ? 0 : zp_volume_partial_writes(state_->handle);
}

block::Task<void> Volume::close() {
  if (state_->handle == nullptr) co_return;
  state_->closing = true;
  if (state_->in_flight > 0) co_await state_->idle.wait();
  State* state = state_.get();
  state->info.size_bytes = state->size_bytes();
  state->last_sequence = state->sequence();
  zp_volume* handle = std::exchange(state->handle, nullptr);  // whoever asks meanwhile gets what was
  // The threads leave their loops a moment after their last answer.
  auto threads_left = [state] {
    for (;;) {
      {
        std::lock_guard lock(state->mutex);
        if (state->committers == 0 && state->readers == 0) return true;
      }
      std::this_thread::yield();
    }
  };
  auto close_handle = [handle, threads_left] {
    threads_left();
    zp_volume_close(handle);
    return true;
  };
  co_await state_->engine.blocking(close_handle);
  if (state_->on_closed) state_->on_closed();
}

}  // namespace zpair::zfs
