#include "fence/fence_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <map>
#include <optional>

#include "base/assert.h"
#include "base/unique_fd.h"

// The file is text, one `key value` a line, so that a person can read it at night; its last line is a checksum of all
// before it. Example:
//   zpair-fence 1
//   drive 0c5c…
//   epoch 7
//   host 6ba7b810-9dad-51d1-80b4-00c04fd430c8
//   type 1
//   ptpl 1
//   stored-epoch 7
//   stored-rev 12
//   stored-digest 1f0e…
//   sum 9d2c…

namespace zpair::fence {

namespace {

constexpr std::string_view magic = "zpair-fence 1";
constexpr std::size_t max_file_bytes = 4096;

// FNV-1a: against torn and edited files, not against an attacker.
std::uint64_t checksum_of(std::string_view text) {
  std::uint64_t sum = 0xcbf29ce484222325u;
  for (unsigned char byte : text) sum = (sum ^ byte) * 0x100000001b3u;
  return sum;
}

std::string to_text(const Contents& contents) {
  std::string text = fmt::format(
      "{}\ndrive {}\nepoch {}\nhost {}\ntype {}\nptpl {}\nstored-epoch {}\nstored-rev {}\nstored-digest {:016x}\n",
      magic, contents.drive, contents.epoch, contents.host_id.to_string(), static_cast<unsigned>(contents.type),
      contents.persists_through_power_loss ? 1 : 0, contents.stored.epoch, contents.stored.rev, contents.stored.digest);
  text += fmt::format("sum {:016x}\n", checksum_of(text));
  return text;
}

std::optional<std::uint64_t> number(const std::map<std::string, std::string, std::less<>>& fields, std::string_view key,
                                    int base) {
  auto found = fields.find(key);
  if (found == fields.end()) return std::nullopt;
  std::uint64_t value = 0;
  const char* end = found->second.data() + found->second.size();
  auto [last, error] = std::from_chars(found->second.data(), end, value, base);
  if (error != std::errc{} || last != end) return std::nullopt;
  return value;
}

Result<Contents> parse(std::string_view text, const std::string& path, std::string_view drive) {
  auto damaged = [&path](std::string_view what) {
    return fail(ErrorCode::invalid, "fence file {} is damaged ({}): the leg stays closed until it is registered anew",
                path, what);
  };
  std::size_t sum_at = text.rfind("sum ");
  if (sum_at == std::string_view::npos || sum_at == 0 || text[sum_at - 1] != '\n') return damaged("no checksum");
  std::string_view body = text.substr(0, sum_at);
  if (text.substr(sum_at) != fmt::format("sum {:016x}\n", checksum_of(body))) return damaged("wrong checksum");
  if (!body.starts_with(fmt::format("{}\n", magic))) return damaged("unknown version");

  std::map<std::string, std::string, std::less<>> fields;
  body.remove_prefix(magic.size() + 1);
  while (!body.empty()) {
    std::size_t end = body.find('\n');
    std::string_view line = body.substr(0, end);
    body.remove_prefix(end == std::string_view::npos ? body.size() : end + 1);
    std::size_t space = line.find(' ');
    if (space == std::string_view::npos) return damaged("a line without a value");
    fields.emplace(line.substr(0, space), line.substr(space + 1));
  }
  auto epoch = number(fields, "epoch", 10);
  auto type = number(fields, "type", 10);
  auto ptpl = number(fields, "ptpl", 10);
  auto stored_epoch = number(fields, "stored-epoch", 10);
  auto stored_rev = number(fields, "stored-rev", 10);
  auto stored_digest = number(fields, "stored-digest", 16);
  if (!epoch || !type || *type > 1 || !ptpl || !stored_epoch || !stored_rev || !stored_digest)
    return damaged("a number is missing");
  Result<Uuid> host = Uuid::parse(fields["host"]);
  if (!host) return damaged("no host");
  if (fields["drive"] != drive) return damaged("it belongs to another drive");
  return Contents{std::string(drive),
                  Epoch{*epoch},
                  *host,
                  static_cast<ReservationType>(*type),
                  *ptpl == 1,
                  StoredRecord{Epoch{*stored_epoch}, Revision{*stored_rev}, *stored_digest}};
}

Result<std::string> read_file(const std::string& path) {
  UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) {
    if (errno == ENOENT) {
      return fail(ErrorCode::not_found,
                  "fence file {} does not exist: the leg stays closed until its drive is registered", path);
    }
    return fail_errno(errno, "cannot open fence file {}", path);
  }
  std::string text(max_file_bytes, '\0');
  std::size_t size = 0;
  while (size < text.size()) {
    ssize_t got = ::read(file.get(), text.data() + size, text.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail_errno(errno, "cannot read fence file {}", path);
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
  }
  text.resize(size);
  return text;
}

Result<void> sync_folder(const std::string& folder) {
  UniqueFd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0) return fail_errno(errno, "cannot sync folder {}", folder);
  return {};
}

// Durable when it returns: temporary file, fsync, rename, fsync of the folder.
Result<void> write_file(const std::string& folder, const std::string& path, std::string_view text) {
  std::string temporary = path + ".new";
  UniqueFd file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!file) return fail_errno(errno, "cannot make {}", temporary);
  while (!text.empty()) {
    ssize_t put = ::write(file.get(), text.data(), text.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return fail_errno(errno, "cannot write {}", temporary);
    text.remove_prefix(static_cast<std::size_t>(put));
  }
  if (::fsync(file.get()) != 0) return fail_errno(errno, "cannot sync {}", temporary);
  if (::rename(temporary.c_str(), path.c_str()) != 0)
    return fail_errno(errno, "cannot rename {} over {}", temporary, path);
  return sync_folder(folder);
}

// Excludes every other process (and object) that changes the same file, until it is destroyed.
Result<UniqueFd> lock_file(const std::string& path) {
  std::string name = path + ".lock";
  UniqueFd lock(::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!lock) return fail_errno(errno, "cannot open {}", name);
  while (::flock(lock.get(), LOCK_EX) != 0) {
    if (errno != EINTR) return fail_errno(errno, "cannot lock {}", name);
  }
  return lock;
}

Result<void> make_folder(const std::string& folder) {
  for (std::size_t slash = folder.find('/', 1);; slash = folder.find('/', slash + 1)) {
    std::string part = folder.substr(0, slash);
    if (::mkdir(part.c_str(), 0755) == 0) {
      std::size_t parent_end = part.rfind('/');
      std::string parent = ".";
      if (parent_end != std::string::npos) parent = parent_end == 0 ? "/" : part.substr(0, parent_end);
      ZP_CHECK(sync_folder(parent));
    } else if (errno != EEXIST) {
      return fail_errno(errno, "cannot make folder {}", part);
    }
    if (slash == std::string::npos) return {};
  }
}

}  // namespace

FenceFile::FenceFile(std::string folder, std::string_view drive)
    : folder_(std::move(folder)), drive_(drive), path_(path_of(folder_, drive)) {}

std::string FenceFile::path_of(std::string_view folder, std::string_view drive) {
  return fmt::format("{}/{}.fence", folder, Uuid::from_name(drive).to_string());
}

Result<std::unique_ptr<FenceFile>> FenceFile::create(std::string folder, std::string_view drive) {
  if (drive.empty() || drive.find('\n') != std::string_view::npos) {
    return fail(ErrorCode::invalid, "'{}' is no drive id: it must be one line and not empty", drive);
  }
  ZP_CHECK(make_folder(folder));
  std::unique_ptr<FenceFile> file(new FenceFile(std::move(folder), drive));
  ZP_TRY(lock, lock_file(file->path_));
  (void)lock;
  if (::access(file->path_.c_str(), F_OK) == 0) {
    return fail(ErrorCode::exists, "fence file {} exists: drive {} is registered already", file->path_, drive);
  }
  Contents fresh;
  fresh.drive = drive;
  ZP_CHECK(write_file(file->folder_, file->path_, to_text(fresh)));
  return file;
}

Result<std::unique_ptr<FenceFile>> FenceFile::open(std::string folder, std::string_view drive) {
  std::unique_ptr<FenceFile> file(new FenceFile(std::move(folder), drive));
  ZP_TRY(contents, file->contents());
  (void)contents;
  return file;
}

Result<void> FenceFile::remove(const std::string& folder, std::string_view drive) {
  std::string path = path_of(folder, drive);
  ZP_TRY(lock, lock_file(path));
  (void)lock;
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return fail_errno(errno, "cannot remove {}", path);
  return sync_folder(folder);
}

Result<Contents> FenceFile::contents() const {
  ZP_TRY(text, read_file(path_));
  return parse(text, path_, drive_);
}

// The one way to change the file: under its lock, from what is in it now. `decide` changes the contents or returns an error.
template <class Decide>
Result<Contents> FenceFile::change(Decide decide) {
  ZP_TRY(lock, lock_file(path_));
  (void)lock;
  ZP_TRY(contents, this->contents());
  const Contents before = contents;
  ZP_CHECK(decide(contents));
  ZP_ASSERT(contents.epoch >= before.epoch, "rule 9: a leg's epoch never goes back");
  ZP_ASSERT(contents.stored.epoch >= before.stored.epoch, "rule 9: a leg's stored epoch never goes back");
  if (contents == before) return contents;
  ZP_CHECK(write_file(folder_, path_, to_text(contents)));
  return contents;
}

Result<void> FenceFile::decide_fence(Contents& now, const FenceRequest& request) const {
  if (request.epoch.value == 0) return fail(ErrorCode::invalid, "drive {} cannot be fenced at epoch 0", drive_);
  if (request.epoch < now.epoch || request.epoch < now.stored.epoch) {
    return fail(ErrorCode::stale_epoch,
                "drive {} is fenced at epoch {} and has stored epoch {}: epoch {} comes too late", drive_, now.epoch,
                now.stored.epoch, request.epoch);
  }
  bool again = request.epoch == now.epoch && now.held_by(request.host_id);
  if (again) return {};
  if (request.epoch == now.epoch) {
    return fail(ErrorCode::fenced, "drive {} is fenced at epoch {} already, by host {}", drive_, now.epoch,
                now.host_id.to_string());
  }
  if (request.expected_former != now.epoch) {
    return fail(ErrorCode::fenced,
                "drive {} is fenced at epoch {}, not at {} as expected: somebody else fenced it meanwhile", drive_,
                now.epoch, request.expected_former);
  }
  now.epoch = request.epoch;
  now.host_id = request.host_id;
  now.type = ReservationType::write_exclusive;
  return {};
}

Result<void> FenceFile::decide_record(Contents& now, const StoredRecord& record) const {
  bool lower = record.epoch < now.stored.epoch || (record.epoch == now.stored.epoch && record.rev < now.stored.rev) ||
               record.rev < now.stored.rev;
  if (lower) {
    return fail(ErrorCode::stale_epoch, "drive {} has stored epoch {} revision {}: epoch {} revision {} comes too late",
                drive_, now.stored.epoch, now.stored.rev, record.epoch, record.rev);
  }
  if (record.rev == now.stored.rev && record.epoch == now.stored.epoch && record.digest != now.stored.digest &&
      now.stored != StoredRecord{}) {
    return fail(ErrorCode::invalid, "drive {} has stored another record as epoch {} revision {}", drive_, record.epoch,
                record.rev);
  }
  now.stored = record;
  return {};
}

Result<Contents> FenceFile::fence(const FenceRequest& request) {
  return change([&](Contents& now) { return decide_fence(now, request); });
}

Result<Contents> FenceFile::fence(const FenceRequest& request, const StoredRecord& record) {
  return change([&](Contents& now) -> Result<void> {
    ZP_CHECK(decide_fence(now, request));
    return decide_record(now, record);
  });
}

Result<Contents> FenceFile::release(const Uuid& host_id) {
  return change([this, &host_id](Contents& now) -> Result<void> {
    if (!now.held_by(host_id)) {
      return fail(ErrorCode::fenced, "drive {} is not held by host {}", drive_, host_id.to_string());
    }
    now.type = ReservationType::none;
    now.host_id = Uuid{};
    return {};
  });
}

Result<Contents> FenceFile::store_record(const StoredRecord& record) {
  return change([&](Contents& now) { return decide_record(now, record); });
}

}  // namespace zpair::fence
