#include "state/record_copies.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>
#include <filesystem>

#include "base/unique_fd.h"
#include "block/reactor.h"
#include "state/durable_file.h"

namespace zpair::state {

namespace {

constexpr std::int64_t lock_look_ms = 2;

// Held until the descriptor closes; a process that dies gives it back. Never waited for in the kernel: that would stop the
// reactor for as long as another process is paused in the middle of its write.
block::Task<Result<UniqueFd>> lock_file(std::string path, Deadline deadline) {
  UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd) co_return fail_errno(errno, "cannot open {}", path);
  while (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR) co_return fail_errno(errno, "cannot lock {}", path);
    if (deadline.passed()) co_return fail(ErrorCode::timed_out, "another process of this node holds {}", path);
    co_await block::Reactor::current().after_ms(lock_look_ms);
  }
  co_return std::move(fd);
}

}  // namespace

bool is_older(const record::Record& left, const record::Record& right) {
  return left.pool_guid == right.pool_guid && (left.epoch < right.epoch || left.rev < right.rev);
}

RecordCopies::RecordCopies(std::string state_dir) : folder_(std::move(state_dir) + "/records") {}

Result<void> RecordCopies::make_folder() const { return state::make_folder(folder_); }

Result<std::map<std::string, record::Record>> RecordCopies::load_all() const {
  std::map<std::string, record::Record> records;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder_, error)) {
    if (entry.path().extension() != ".json") continue;
    ZP_TRY(text, load_file(entry.path()));
    auto record = record::parse_record(text);
    if (!record) return fail(record.error(), "the copy of a record, {}", entry.path().string());
    records.emplace(record->name, std::move(*record));
  }
  if (error) return fail_errno(error.value(), "cannot list {}", folder_);
  return records;
}

block::Task<Result<void>> RecordCopies::store(record::Record record, Deadline wait_for_lock) {
  const std::string path = file_of(record.name);
  ZP_CO_TRY(lock, co_await lock_file(path + ".lock", wait_for_lock));
  auto text = load_file(path);
  if (text) {
    ZP_CO_TRY(former, record::parse_record(*text));
    if (is_older(record, former)) {
      ZP_CO_CHECK(co_await sync_file(path));  // its writer may have died between the rename and the folder's sync
      co_return fail(ErrorCode::stale_epoch,
                     "the record of pool {} at epoch {} revision {} is older than this node's copy ({}, {})",
                     record.name, record.epoch, record.rev, former.epoch, former.rev);
    }
  } else if (text.error().code != ErrorCode::not_found) {
    co_return std::unexpected(text.error());
  }
  std::string wanted = record::to_json(record) + "\n";
  co_return co_await store_file(path, std::move(wanted));
}

block::Task<Result<void>> RecordCopies::remove(std::string pool, Deadline wait_for_lock) {
  const std::string path = file_of(pool);
  ZP_CO_TRY(lock, co_await lock_file(path + ".lock", wait_for_lock));
  co_return co_await remove_file(path);
}

}  // namespace zpair::state
