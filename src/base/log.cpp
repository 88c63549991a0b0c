#include "base/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

namespace zpair {

namespace {

spdlog::level::level_enum level_of(LogLevel level) {
  switch (level) {
    case LogLevel::debug: return spdlog::level::debug;
    case LogLevel::info: return spdlog::level::info;
    case LogLevel::warning: return spdlog::level::warn;
    case LogLevel::error: return spdlog::level::err;
  }
  return spdlog::level::info;
}

spdlog::logger& logger() {
  static std::shared_ptr<spdlog::logger> instance = [] {
    auto made = spdlog::stderr_logger_mt("zpair");
    made->set_pattern("%Y-%m-%d %H:%M:%S.%e %n %L %v");
    made->flush_on(spdlog::level::debug);
    return made;
  }();
  return *instance;
}

}  // namespace

void start_log(std::string_view name, LogLevel least) {
  logger().set_pattern(fmt::format("%Y-%m-%d %H:%M:%S.%e {} %L %v", name));
  logger().set_level(level_of(least));
}

void log_line(LogLevel level, std::string_view line) { logger().log(level_of(level), "{}", line); }

bool log_enabled(LogLevel level) { return logger().should_log(level_of(level)); }

}  // namespace zpair
