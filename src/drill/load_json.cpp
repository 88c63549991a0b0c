#include <nlohmann/json.hpp>

#include "drill/load.h"

namespace zpair::drill {

std::string to_json(const std::vector<LoadReport>& reports) {
  nlohmann::json all{{"acknowledged", 0}, {"lost", 0}, {"corrupt", 0}, {"went_back", 0}, {"failed_operations", 0}};
  nlohmann::json volumes = nlohmann::json::array();
  bool good = !reports.empty();
  auto add = [&all](const char* key, std::uint64_t number) { all[key] = all[key].get<std::uint64_t>() + number; };
  for (const LoadReport& report : reports) {
    good = good && report.good();
    add("acknowledged", report.counts.acknowledged_blocks);
    add("lost", report.counts.lost);
    add("corrupt", report.counts.corrupt + report.counts.unborn);
    add("went_back", report.counts.went_back);
    add("failed_operations", report.failed_operations);
    nlohmann::json events = nlohmann::json::array();
    for (const auto& event : report.events) {
      events.push_back({{"name", event.name},
                        {"stall_ms", event.stall_ms},
                        {"slowest_ms", event.slowest_ms},
                        {"length_ms", event.length_ms},
                        {"operations", event.operations}});
    }
    volumes.push_back({{"export", report.export_name},
                       {"issued_blocks", report.counts.issued_blocks},
                       {"acknowledged_blocks", report.counts.acknowledged_blocks},
                       {"reads_checked_blocks", report.counts.reads_checked_blocks},
                       {"verified_blocks", report.counts.verified_blocks},
                       {"verified", report.verified},
                       {"lost", report.counts.lost},
                       {"corrupt", report.counts.corrupt},
                       {"unborn", report.counts.unborn},
                       {"went_back", report.counts.went_back},
                       {"operations", report.operations},
                       {"write_operations", report.write_operations},
                       {"read_operations", report.read_operations},
                       {"flush_operations", report.flush_operations},
                       {"failed_operations", report.failed_operations},
                       {"first_error", report.first_error},
                       {"reconnects", report.reconnects},
                       {"resent", report.resent},
                       {"seconds", report.seconds},
                       {"operations_per_second", report.operations_per_second},
                       {"stall_ms", report.stall_ms},
                       {"events", events},
                       {"findings", report.findings}});
  }
  all["good"] = good;
  all["volumes"] = std::move(volumes);
  return all.dump(2) + "\n";
}

}  // namespace zpair::drill
