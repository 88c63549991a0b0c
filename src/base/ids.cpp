#include "base/ids.h"

#include <openssl/rand.h>
#include <openssl/sha.h>

#include <algorithm>

#include "base/assert.h"

namespace zpair {

namespace {

// The name space of zpair's version 5 UUIDs; chosen once, at random.
constexpr std::array<std::uint8_t, 16> name_space = {0x5a, 0x70, 0x61, 0x69, 0x72, 0x0d, 0x4e, 0x8e,
                                                     0x9b, 0x21, 0xc4, 0x0f, 0x37, 0xe6, 0x52, 0xd8};

void set_version(Uuid& uuid, std::uint8_t version) {
  uuid.bytes[6] = static_cast<std::uint8_t>((uuid.bytes[6] & 0x0f) | (version << 4));
  uuid.bytes[8] = static_cast<std::uint8_t>((uuid.bytes[8] & 0x3f) | 0x80);
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

std::string_view name_of(NodeId node) { return node == NodeId::a ? "a" : "b"; }

Result<NodeId> parse_node(std::string_view text) {
  if (text == "a") return NodeId::a;
  if (text == "b") return NodeId::b;
  return fail(ErrorCode::invalid, "no node is called '{}': a pair has nodes a and b", text);
}

std::string Uuid::to_string() const {
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", bytes[i]);
  }
  return text;
}

Uuid Uuid::random() {
  Uuid uuid;
  ZP_ASSERT(RAND_bytes(uuid.bytes.data(), static_cast<int>(uuid.bytes.size())) == 1, "the system has random numbers");
  set_version(uuid, 4);
  return uuid;
}

Uuid Uuid::from_name(std::string_view name) {
  std::string text(name_space.begin(), name_space.end());
  text += name;
  std::array<std::uint8_t, SHA_DIGEST_LENGTH> digest{};
  SHA1(reinterpret_cast<const unsigned char*>(text.data()), text.size(), digest.data());
  Uuid uuid;
  std::copy_n(digest.begin(), uuid.bytes.size(), uuid.bytes.begin());
  set_version(uuid, 5);
  return uuid;
}

Result<Uuid> Uuid::parse(std::string_view text) {
  Uuid uuid;
  std::size_t digits = 0;
  for (char c : text) {
    if (c == '-') continue;
    int digit = hex_digit(c);
    if (digit < 0 || digits == 32) return fail(ErrorCode::invalid, "'{}' is not a UUID", text);
    uuid.bytes[digits / 2] = static_cast<std::uint8_t>(uuid.bytes[digits / 2] << 4 | digit);
    ++digits;
  }
  if (digits != 32) return fail(ErrorCode::invalid, "'{}' is not a UUID", text);
  return uuid;
}

Uuid host_id_of(PoolGuid pool, NodeId node, Epoch epoch) {
  return Uuid::from_name(fmt::format("{}/{}/{}", pool, node, epoch));
}

}  // namespace zpair
