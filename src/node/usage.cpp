#include "node/usage.h"

#include <unistd.h>

#include <charconv>
#include <fstream>
#include <iterator>
#include <optional>
#include <string>
#include <vector>

namespace zpair::node {

namespace {

// Places in /proc/PID/stat, counted from the state that follows the program's name in brackets.
constexpr std::size_t user_ticks_field = 11;
constexpr std::size_t system_ticks_field = 12;
constexpr std::size_t resident_pages_field = 21;

std::optional<std::uint64_t> number_in(std::string_view word) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
  if (error != std::errc() || end != word.data() + word.size()) return std::nullopt;
  return value;
}

std::vector<std::string_view> words_of(std::string_view text) {
  std::vector<std::string_view> words;
  while (!text.empty()) {
    const std::size_t end = text.find_first_of(" \n");
    if (end != 0) words.push_back(text.substr(0, end));
    text = end == std::string_view::npos ? "" : text.substr(end + 1);
  }
  return words;
}

std::optional<std::uint64_t> after_key(const std::vector<std::string_view>& words, std::string_view key) {
  for (std::size_t i = 0; i + 1 < words.size(); ++i) {
    if (words[i] == key) return number_in(words[i + 1]);
  }
  return std::nullopt;
}

Result<std::string> text_of(pid_t pid, std::string_view name) {
  std::ifstream file(fmt::format("/proc/{}/{}", pid, name));
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (text.empty()) return fail(ErrorCode::not_found, "process {} is gone, or is another user's", pid);
  return text;
}

}  // namespace

std::uint64_t ticks_per_second() { return static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK)); }

Result<Usage> parse_usage(std::string_view stat, std::string_view io) {
  // The name may hold anything, brackets and spaces too: the last bracket ends it.
  const std::size_t bracket = stat.rfind(')');
  const auto fields = words_of(bracket == std::string_view::npos ? "" : stat.substr(bracket + 1));
  if (fields.size() <= resident_pages_field)
    return fail(ErrorCode::internal, "a process's state has {} fields, {} are needed", fields.size(),
                resident_pages_field + 1);
  const auto user_ticks = number_in(fields[user_ticks_field]);
  const auto system_ticks = number_in(fields[system_ticks_field]);
  const auto resident_pages = number_in(fields[resident_pages_field]);
  const auto counters = words_of(io);
  const auto read_bytes = after_key(counters, "read_bytes:");
  const auto written_bytes = after_key(counters, "write_bytes:");
  if (!user_ticks || !system_ticks || !resident_pages || !read_bytes || !written_bytes)
    return fail(ErrorCode::internal, "a process's counters cannot be read: a number is missing");
  return Usage{*user_ticks + *system_ticks, *read_bytes, *written_bytes,
               *resident_pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE))};
}

Result<Usage> usage_of(pid_t pid) {
  ZP_TRY(stat, text_of(pid, "stat"));
  ZP_TRY(io, text_of(pid, "io"));
  return parse_usage(stat, io);
}

}  // namespace zpair::node
