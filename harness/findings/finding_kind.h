// What kind of finding it is.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace qdiff::findings {

// kPrecision: a rounding that the engine did not declare. kRecording: the engine computed with the right value, and its
// trace holds another, which is no divergence.
enum class FindingKind : std::uint8_t { kLogic, kPrecision, kRecording };
inline constexpr std::array<std::string_view, 3> kFindingKindNames = {"logic", "precision", "recording"};
constexpr std::string_view name(FindingKind kind) { return kFindingKindNames[static_cast<std::size_t>(kind)]; }

}  // namespace qdiff::findings
