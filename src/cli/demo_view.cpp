#include "cli/demo_view.h"

#include <unistd.h>

#include <cstdio>

#include <nlohmann/json.hpp>

#include "cli/answers.h"
#include "cli/commands.h"

namespace zpair::cli {

using nlohmann::json;

namespace {

// One letter a leg: # in sync, ~ resyncing, . not in sync.
std::string legs_of(const json& pool, const char* node) {
  std::string row;
  for (const json& mirror : pool.value("mirrors", json::array())) {
    for (const json& leg : mirror.value("legs", json::array())) {
      if (text_of(leg, "node") != node) continue;
      row += leg.value("in_sync", false) ? '#' : text_of(leg, "state") == "resyncing" ? '~' : '.';
    }
  }
  return row;
}

// A line that a terminal would break cannot be drawn over: its end goes. All of it is ASCII.
std::string fit(const std::string& line) {
  const std::size_t width = terminal_width();
  return width == 0 ? line : line.substr(0, width);
}

// Those that took a millisecond or more.
std::string parts_line(const std::vector<TimePart>& parts) {
  std::string line = "    ms:";
  for (const TimePart& part : parts) {
    if (part.took_ns >= ns_per_ms) line += fmt::format(" {} {}", part.name, part.took_ns / ns_per_ms);
  }
  return line;
}

}  // namespace

DemoView::DemoView() : terminal_(::isatty(STDOUT_FILENO) == 1), began_ns_(boot_time_ns()) {}

void DemoView::clear() {
  if (drawn_lines_ > 0) std::printf("\033[%dA\033[J", drawn_lines_);
  drawn_lines_ = 0;
  std::fflush(stdout);
}

void DemoView::step(const std::string& text) {
  step_ = text;
  clear();
  std::printf("%s\n",
              fit(fmt::format("{:5.0f} s  {}", static_cast<double>(boot_time_ns() - began_ns_) / 1e9, text)).c_str());
  std::fflush(stdout);
  if (terminal_) drawn_lines_ = 1;  // the next picture shows it
}

void DemoView::show_event(const DemoEvent& event, std::uint64_t ordinary_ms) {
  std::string line = fmt::format("  {:<20} ", event.name);
  if (!event.goal_ms) {
    line += event.done ? "refused, as it must" : "DID NOT REFUSE";
  } else if (event.stall_ms) {
    line += fmt::format("clients waited {:>5} ms at most (goal {} ms){}", *event.stall_ms, *event.goal_ms,
                        event.missed(ordinary_ms) ? "  MISSED" : "");
  }
  clear();
  std::printf("%s\n", line.c_str());
  if (!event.parts.empty()) std::printf("%s\n", fit(parts_line(event.parts)).c_str());
  std::fflush(stdout);
}

void DemoView::draw(const json& state, const std::vector<DemoLoad::Now>& clients) {
  if (!terminal_) return;
  const Nanoseconds now = boot_time_ns();
  std::vector<std::string> lines = {"",
                                    fmt::format("{:5.0f} s  {}", static_cast<double>(now - began_ns_) / 1e9, step_)};
  std::string nodes;
  for (const json& node : state.value("nodes", json::array()))
    nodes += fmt::format("  {} {}", text_of(node, "name"), text_of(node, "state"));
  for (const json& link : state.value("links", json::array())) {
    if (text_of(link, "name").starts_with("path"))
      nodes += fmt::format("  {} {}", text_of(link, "name"), text_of(link, "state"));
  }
  lines.push_back(nodes);
  for (const json& pool : state.value("pools", json::array())) {
    lines.push_back(fmt::format("  {:<8} {:<9} owner {} epoch {:<3} a {}  b {}", text_of(pool, "name"),
                                text_of(pool, "state"), text_of(pool, "owner"), text_of(pool, "epoch"),
                                legs_of(pool, "a"), legs_of(pool, "b")));
  }
  for (std::size_t i = 0; i < clients.size(); ++i) {
    double rate = 0;
    if (former_.size() == clients.size() && now > former_ns_) {
      rate = static_cast<double>(clients[i].operations - former_[i].operations) * 1e9 /
             static_cast<double>(now - former_ns_);
    }
    std::string waits;
    if (clients[i].stalled_ms > 200)
      waits = fmt::format("  waits {:.1f} s", static_cast<double>(clients[i].stalled_ms) / 1e3);
    lines.push_back(fmt::format("  client of {:<8} {:>5.0f} operations/s, {} blocks acknowledged{}", clients[i].pool,
                                rate, clients[i].acknowledged_blocks, waits));
  }
  former_ = clients;
  former_ns_ = now;
  clear();
  for (const auto& line : lines) std::printf("%s\n", fit(line).c_str());
  drawn_lines_ = static_cast<int>(lines.size());
  std::fflush(stdout);
}

}  // namespace zpair::cli
