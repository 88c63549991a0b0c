#pragma once
// The one logger. Log a change of state once, with pool, leg and epoch; nothing per I/O. Goes to stderr.
// Threading: any thread.
#include <string_view>

#include <fmt/format.h>

namespace zpair {

enum class LogLevel { debug, info, warning, error };

// Call once, before the first line: `name` (zpaird, zpair-pool tank-a) stands before every line.
void start_log(std::string_view name, LogLevel least);
void log_line(LogLevel level, std::string_view line);
bool log_enabled(LogLevel level);

template <class... Args>
void log_debug(fmt::format_string<Args...> format, Args&&... args) {
  if (log_enabled(LogLevel::debug)) log_line(LogLevel::debug, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_warning(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::warning, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_error(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::error, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace zpair
