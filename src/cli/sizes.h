#pragma once
// Sizes, counts and words as people write them: 256M, 10G, 1.5T, 4096. Units are powers of 1024, as in zpool.
// Errors: invalid, naming the text and a form that would do.
#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"

namespace zpair::cli {

Result<std::uint64_t> parse_size(std::string_view text);           // bytes; not zero
std::string format_size(std::uint64_t size_bytes);                 // 1.50G, 256M, 512B
std::string count_of(std::uint64_t count, std::string_view noun);  // 1 mirror, 2 mirrors
std::string quoted(const std::string& word);                       // as a shell takes it for one word, to be copied
std::string format_duration(std::int64_t seconds);                 // 12 s, 3 min 5 s, 2 h 10 min

}  // namespace zpair::cli
