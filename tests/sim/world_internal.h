#pragma once
// What the .cpp files of the world share.
#include <fmt/format.h>

#include "world.h"

namespace zpair::sim {

template <class... Args>
void World::tell(fmt::format_string<Args...> format, Args&&... args) {
  if (!keep_story_) return;
  story_.push_back(fmt::format("{:9.3f} ms  ", static_cast<double>(now_ns_) / 1e6) +
                   fmt::format(format, std::forward<Args>(args)...));
}

// The bare name of a type: "SwapApplied".
template <class T>
std::string_view type_name() {
  std::string_view text = __PRETTY_FUNCTION__;
  std::size_t end = text.rfind(']');
  std::size_t begin = text.rfind("T = ", end);
  text = text.substr(begin + 4, end - begin - 4);
  std::size_t colon = text.rfind(':');
  return colon == std::string_view::npos ? text : text.substr(colon + 1);
}

template <class Variant>
std::string variant_name(const Variant& variant) {
  return std::visit([](const auto& value) { return std::string(type_name<std::decay_t<decltype(value)>>()); }, variant);
}

template <class... Handlers>
struct Overloaded : Handlers... {
  using Handlers::operator()...;
};

}  // namespace zpair::sim
