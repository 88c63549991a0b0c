#include "state/durable_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "base/unique_fd.h"
#include "block/uring_await.h"

namespace zpair::state {

namespace {

// All of it by io_uring: where the file system is busy, a create or a rename takes as long as an fsync, and nobody waits with it.
block::Task<Result<UniqueFd>> open(std::string path, int flags) {
  auto prepare = [&path, flags](io_uring_sqe* entry) {
    io_uring_prep_openat(entry, AT_FDCWD, path.c_str(), flags | O_CLOEXEC, 0600);
  };
  int result = co_await block::UringAwait(prepare);
  if (result < 0) co_return fail_errno(-result, "cannot open {}", path);
  co_return UniqueFd(result);
}

block::Task<Result<void>> write_all(int fd, std::string path, std::string text) {
  for (std::size_t done = 0; done < text.size();) {
    auto prepare = [&](io_uring_sqe* entry) {
      io_uring_prep_write(entry, fd, text.data() + done, static_cast<unsigned>(text.size() - done), done);
    };
    int result = co_await block::UringAwait(prepare);
    if (result < 0) co_return fail_errno(-result, "cannot write {}", path);
    done += static_cast<std::size_t>(result);
  }
  co_return Result<void>{};
}

block::Task<Result<void>> rename(std::string from, std::string to) {
  auto prepare = [&](io_uring_sqe* entry) {
    io_uring_prep_renameat(entry, AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), 0);
  };
  int result = co_await block::UringAwait(prepare);
  if (result < 0) co_return fail_errno(-result, "cannot rename {} to {}", from, to);
  co_return Result<void>{};
}

block::Task<Result<void>> sync(int fd, std::string path) {
  auto prepare = [fd](io_uring_sqe* entry) { io_uring_prep_fsync(entry, fd, 0); };
  int result = co_await block::UringAwait(prepare);
  if (result < 0) co_return fail_errno(-result, "cannot sync {}", path);
  co_return Result<void>{};
}

block::Task<Result<void>> sync_folder_of(std::string path) {
  std::string folder = std::filesystem::path(path).parent_path();
  ZP_CO_TRY(fd, co_await open(folder, O_RDONLY | O_DIRECTORY));
  co_return co_await sync(fd.get(), folder);
}

}  // namespace

block::Task<Result<void>> store_file(std::string path, std::string text) {
  // Two writers of one file take turns by their own means; the name aside is still each one's own, in each process.
  static std::uint64_t last_number = 0;
  std::string aside = fmt::format("{}.new-{}-{}", path, ::getpid(), ++last_number);
  ZP_CO_TRY(fd, co_await open(aside, O_WRONLY | O_CREAT | O_TRUNC));
  auto stored = co_await write_all(fd.get(), aside, std::move(text));
  if (stored) stored = co_await sync(fd.get(), aside);
  if (stored) stored = co_await rename(aside, path);
  if (!stored) {
    ::unlink(aside.c_str());
    co_return stored;
  }
  co_return co_await sync_folder_of(path);
}

block::Task<Result<void>> remove_file(std::string path) {
  if (::unlink(path.c_str()) != 0) {
    if (errno == ENOENT) co_return Result<void>{};
    co_return fail_errno(errno, "cannot remove {}", path);
  }
  co_return co_await sync_folder_of(path);
}

block::Task<Result<void>> sync_file(std::string path) {
  ZP_CO_TRY(fd, co_await open(path, O_RDONLY));
  ZP_CO_CHECK(co_await sync(fd.get(), path));
  co_return co_await sync_folder_of(path);
}

Result<std::string> load_file(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return fail_errno(errno, "cannot read {}", path);
  std::string text;
  char buffer[16384];
  for (;;) {
    ssize_t count = ::read(fd.get(), buffer, sizeof buffer);
    if (count < 0) return fail_errno(errno, "cannot read {}", path);
    if (count == 0) return text;
    text.append(buffer, static_cast<std::size_t>(count));
  }
}

Result<void> make_folder(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return fail_errno(error.value(), "cannot make the folder {}", path);
  return {};
}

}  // namespace zpair::state
