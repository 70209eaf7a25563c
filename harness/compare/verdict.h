// What is said in the end, of a run and of two traces side by side.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace qdiff::compare {

enum class Verdict : std::uint8_t { kMatch, kDiverged, kInconclusive };
constexpr std::string_view name(Verdict verdict) {
  constexpr std::array<std::string_view, 3> kNames = {"match", "diverged", "inconclusive"};
  return kNames[static_cast<std::size_t>(verdict)];
}

}  // namespace qdiff::compare
