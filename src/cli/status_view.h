#pragma once
// Turns the JSON of GET /v1/status (docs/api.md) into what `zpair status` prints, in the manner of `zpool status`.
// Pure: no terminal, no clock. Missing or null keys print as "-": an older zpaird must still be readable.
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace zpair::cli {

// Lines of prose are broken at `width` columns; 0: never, for whoever reads them by program.
std::string render_status(const nlohmann::json& status, std::size_t width = 0);
std::string render_pool(const nlohmann::json& pool, std::size_t width = 0);

// Columns side by side, each as wide as its widest cell; the first row is the heading.
std::string render_table(const std::vector<std::vector<std::string>>& rows);

// One picture of both nodes' answers: for each pool the answer of its owner, else the one of the highest epoch.
nlohmann::json merge_status(const std::vector<nlohmann::json>& answers);

}  // namespace zpair::cli
