#include "cli/sizes.h"

#include <array>
#include <charconv>
#include <cmath>

namespace zpair::cli {
namespace {
constexpr std::string_view units = "BKMGTP";
}

Result<std::uint64_t> parse_size(std::string_view text) {
  const auto bad = [&] { return fail(ErrorCode::invalid, "'{}' is no size: write it as 256M, 10G or 1.5T", text); };
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  if (error != std::errc{} || number <= 0) return bad();
  std::string_view rest = text.substr(static_cast<std::size_t>(end - text.data()));
  double factor = 1;
  if (!rest.empty()) {
    const auto unit = units.find(static_cast<char>(std::toupper(static_cast<unsigned char>(rest[0]))));
    if (unit == std::string_view::npos) return bad();
    factor = std::pow(1024.0, static_cast<double>(unit));
    std::string after(rest.substr(1));
    for (char& c : after) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
    if (!after.empty() && after != "B" && after != "IB") return bad();
  }
  const double bytes = number * factor;
  if (bytes < 1 || bytes > 9.2e18 || bytes != std::floor(bytes)) return bad();
  return static_cast<std::uint64_t>(bytes);
}

std::string format_size(std::uint64_t size_bytes) {
  double number = static_cast<double>(size_bytes);
  std::size_t unit = 0;
  while (number >= 1024 && unit + 1 < units.size()) {
    number /= 1024;
    ++unit;
  }
  if (unit == 0 || number == std::floor(number)) return fmt::format("{:.0f}{}", number, units[unit]);
  return fmt::format("{:.{}f}{}", number, number < 10 ? 2 : number < 100 ? 1 : 0, units[unit]);
}

std::string count_of(std::uint64_t count, std::string_view noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

std::string quoted(const std::string& word) {
  constexpr std::string_view plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_@%+=:,./-";
  if (!word.empty() && word.find_first_not_of(plain) == std::string::npos) return word;
  std::string out = "'";
  for (char c : word) out += c == '\'' ? "'\\''" : std::string(1, c);
  return out + "'";
}

std::string format_duration(std::int64_t seconds) {
  if (seconds < 60) return fmt::format("{} s", seconds);
  if (seconds < 3600)
    return seconds % 60 == 0 ? fmt::format("{} min", seconds / 60)
                             : fmt::format("{} min {} s", seconds / 60, seconds % 60);
  return fmt::format("{} h {} min", seconds / 3600, seconds / 60 % 60);
}

}  // namespace zpair::cli
