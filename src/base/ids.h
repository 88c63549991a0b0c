#pragma once
// Ids and counters as types, so that swapped arguments do not compile.
#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "base/error.h"

namespace zpair {

// A number with a name: Tagged<struct EpochTag> is Epoch.
template <class Tag>
struct Tagged {
  std::uint64_t value = 0;
  constexpr auto operator<=>(const Tagged&) const = default;
  constexpr Tagged next() const { return Tagged{value + 1}; }
};

using Epoch = Tagged<struct EpochTag>;        // goes up by one at every import
using Revision = Tagged<struct RevisionTag>;  // of a record: goes up by one at every swap, kept inside the record
using Txg = Tagged<struct TxgTag>;            // OpenZFS transaction group
using LegId = Tagged<struct LegIdTag>;        // the leaf's vdev guid
using MirrorId = Tagged<struct MirrorIdTag>;  // the mirror's vdev guid
using PoolGuid = Tagged<struct PoolGuidTag>;
using Verifier = Tagged<struct VerifierTag>;  // changes whenever completed but unflushed writes may be lost

enum class NodeId : std::uint8_t { a, b };

constexpr NodeId partner_of(NodeId node) { return node == NodeId::a ? NodeId::b : NodeId::a; }
std::string_view name_of(NodeId node);
Result<NodeId> parse_node(std::string_view text);

// 128 bits, written as 8-4-4-4-12 hexadecimal digits.
struct Uuid {
  std::array<std::uint8_t, 16> bytes{};
  auto operator<=>(const Uuid&) const = default;
  std::string to_string() const;
  static Uuid random();
  static Uuid from_name(std::string_view name);  // version 5 (SHA-1) in zpair's own name space; RFC 4122, section 4.3
  static Result<Uuid> parse(std::string_view text);
};

// The NVMe Host ID of one import: no two epochs, nodes or pools share one (rule 5).
Uuid host_id_of(PoolGuid pool, NodeId node, Epoch epoch);

}  // namespace zpair

template <class Tag>
struct std::hash<zpair::Tagged<Tag>> {
  std::size_t operator()(zpair::Tagged<Tag> id) const noexcept { return std::hash<std::uint64_t>{}(id.value); }
};

template <class Tag>
struct fmt::formatter<zpair::Tagged<Tag>> : fmt::formatter<std::uint64_t> {
  auto format(zpair::Tagged<Tag> id, fmt::format_context& context) const {
    return fmt::formatter<std::uint64_t>::format(id.value, context);
  }
};

template <>
struct fmt::formatter<zpair::NodeId> : fmt::formatter<std::string_view> {
  auto format(zpair::NodeId node, fmt::format_context& context) const {
    return fmt::formatter<std::string_view>::format(zpair::name_of(node), context);
  }
};
