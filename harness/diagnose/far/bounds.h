// How far rows and elements of a correct engine's far tensors may stray: the worst value of each figure of rows.h that
// was seen on honest twins (harness/calibration/far.h), times a margin. bounds_table.inc holds what was measured and
// names the command that measured it; `--verify` of the same program judges other twins.
#pragma once

#include <algorithm>
#include <array>
#include <string_view>

#include "harness/contract/precision.h"
#include "harness/diagnose/far/rows.h"

namespace qdiff::diagnose {

// An engine in float32 that rounds some values to 16 bits errs by what few of them flip, now and then: its errors have
// a longer tail than those of one that does not.
enum class RowPrecision : std::uint8_t { kFloat32, kFloat32RoundsCoarser, kBfloat16, kFloat16 };
inline constexpr std::size_t kNumRowPrecisions = 4;
constexpr std::string_view name(RowPrecision precision) {
  constexpr std::array<std::string_view, kNumRowPrecisions> kNames = {"float32", "float32, some of it coarser",
                                                                      "bfloat16", "float16"};
  return kNames[static_cast<std::size_t>(precision)];
}
inline RowPrecision row_precision(const Precision& precision) {
  if (precision.activations == DType::kBF16) return RowPrecision::kBfloat16;
  if (precision.activations == DType::kF16) return RowPrecision::kFloat16;
  const bool coarser =
      size_of(precision.accumulate) == 2 ||
      std::ranges::any_of(precision.points, [](const auto& point) { return size_of(point.second) < 4; });
  return coarser ? RowPrecision::kFloat32RoundsCoarser : RowPrecision::kFloat32;
}

using WorstHonestRows = std::array<double, kNumRowStatistics>;  // by RowStatistic

// kWorstHonestRows, by RowPrecision.
#include "harness/diagnose/far/bounds_table.inc"

// Room above the worst honest value, by RowPrecision and RowStatistic. Whole rows have a long tail, for a few of them
// see what no pass did (a softmax that prefers another key); the largest of many elements hardly varies. A row's factor
// has most room where rounding moves it least: a mistake of a thousandth stays far beyond that.
inline constexpr std::array<std::array<double, kNumRowStatistics>, kNumRowPrecisions> kRowMargin = {
    {{2.0, 4.0, 1.25}, {2.0, 4.0, 1.25}, {2.0, 1.5, 1.25}, {2.0, 2.5, 1.25}}};

inline double row_bound(RowStatistic statistic, RowPrecision precision) {
  const auto p = static_cast<std::size_t>(precision), s = static_cast<std::size_t>(statistic);
  return kRowMargin[p][s] * kWorstHonestRows[p][s];
}

}  // namespace qdiff::diagnose
