#pragma once
// A folder of one test's own, on the file system of the build (O_DIRECT works there, not always in /tmp), and drives in it.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/ids.h"
#include "block/reactor.h"

namespace zpair::block {

class Scratch {
 public:
  Scratch() : folder_(std::filesystem::current_path() / ("scratch-" + Uuid::random().to_string())) {
    std::filesystem::create_directory(folder_);
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  std::string drive(const std::string& name, std::uint64_t size_bytes) const {
    std::ofstream(path(name)).close();
    std::filesystem::resize_file(path(name), size_bytes);
    return path(name);
  }

 private:
  std::filesystem::path folder_;
};

inline std::vector<std::byte> pattern(std::size_t size_bytes, unsigned seed = 7) {
  std::vector<std::byte> bytes(size_bytes);
  for (std::size_t i = 0; i < size_bytes; ++i) bytes[i] = static_cast<std::byte>((i * seed + i / 4096 + seed) & 0xff);
  return bytes;
}

inline std::vector<std::byte> bytes_of_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<char> text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::vector<std::byte> bytes(text.size());
  std::transform(text.begin(), text.end(), bytes.begin(), [](char c) { return static_cast<std::byte>(c); });
  return bytes;
}

}  // namespace zpair::block
