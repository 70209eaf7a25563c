#include "harness/explain/weight_levels.h"

#include <algorithm>
#include <cmath>

namespace qdiff::explain {

std::string WeightRounding::words() const {
  if (type) return "rounded to " + std::string(name(*type));
  const std::string shared = group > 0    ? "each " + std::to_string(group) + " inputs"
                             : group == 0 ? "each output"
                                          : "the whole matrix";
  const std::string what = levels == Levels::kE4M3 ? "float8_e4m3" : std::to_string(bits) + "-bit levels";
  const std::string kept = scale == DType::kF32 ? "" : " in " + std::string(name(scale));
  const bool has_zero = levels == Levels::kAffine || levels == Levels::kZeroPoint;
  return "rounded to " + what + " with a scale" + (has_zero ? " and a zero" : "") + kept + " for " + shared;
}

std::vector<WeightRounding> roundings_of(std::int64_t width) {
  std::vector<WeightRounding> all = {{DType::kBF16}, {DType::kF16}};
  for (const DType scale : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const std::int64_t group : {0, -1, 32, 64, 128, 256}) {
      if (group >= width || (group > 0 && width % group != 0)) continue;
      for (const int bits : {8, 4}) {
        for (const Levels levels : {Levels::kSymmetric, Levels::kFull, Levels::kAffine, Levels::kZeroPoint}) {
          all.push_back({{}, bits, levels, group, scale});
        }
      }
      all.push_back({{}, 8, Levels::kE4M3, group, scale});
    }
  }
  return all;
}

void WeightRange::add(std::span<const double> weights) {
  const auto [least, most] = std::ranges::minmax(weights);
  smallest = std::min(smallest, least);
  largest = std::max(largest, most);
}

double WeightRange::magnitude() const { return std::max(std::fabs(smallest), std::fabs(largest)); }

namespace {

// A rounded weight, and how far off it lies where it is the next level, for it stood in the middle of two.
struct Level {
  double value, other = 0.0;
};

// The quotient of weight and scale is one of float32, and lies on either side of the middle by its rounding.
Level nearest(double quotient, double scale, double low, double high) {
  const double rounded = std::nearbyint(quotient);
  const double from_middle = 0.5 - std::fabs(quotient - rounded);
  const double unsure = 4.0 * unit_roundoff(DType::kF32) * std::max(std::fabs(quotient), 1.0);
  return {std::clamp(rounded, low, high) * scale, from_middle < unsure ? scale : 0.0};
}

Level nearest_e4m3(double quotient, double scale) {
  constexpr int kLeastExponent = -6, kMantissaBits = 3;
  constexpr double kLargest = 448.0;
  const int exponent = quotient == 0.0 ? kLeastExponent : std::max(std::ilogb(quotient), kLeastExponent);
  const double step = std::ldexp(1.0, exponent - kMantissaBits);
  return nearest(quotient / step, scale * step, -kLargest / step, kLargest / step);
}

Level to_level(double value, const WeightRounding& how, WeightRange range) {
  const double steps = std::ldexp(1.0, how.bits) - 1.0, half = std::ldexp(1.0, how.bits - 1);
  const auto scale_of = [&](double scale) { return round_to(how.scale, round_to(DType::kF32, scale)); };
  if (how.levels == Levels::kE4M3) {
    const double scale = scale_of(range.magnitude() / 448.0);
    return scale > 0.0 ? nearest_e4m3(value / scale, scale) : Level{value};
  }
  if (how.levels == Levels::kSymmetric || how.levels == Levels::kFull) {
    const double scale = scale_of(range.magnitude() / (how.levels == Levels::kFull ? half - 0.5 : half - 1.0));
    return scale > 0.0 ? nearest(value / scale, scale, -half, half - 1.0) : Level{value};
  }
  if (how.levels == Levels::kZeroPoint) {
    range.smallest = std::min(range.smallest, 0.0);
    range.largest = std::max(range.largest, 0.0);
  }
  const double scale = scale_of((range.largest - range.smallest) / steps);
  if (!(scale > 0.0)) return {value};
  const double low = how.levels == Levels::kZeroPoint ? scale * std::nearbyint(range.smallest / scale)
                                                      : round_to(how.scale, range.smallest);
  Level level = nearest((value - low) / scale, scale, 0.0, steps);
  level.value += low;
  return level;
}

}  // namespace

WeightChange change_by_rounding(std::span<const double> row, const WeightRounding& how, const WeightRange& whole,
                                DType kept_as) {
  WeightChange change{std::vector<double>(row.size()), std::vector<double>(row.size())};
  const std::size_t group = how.group > 0 ? static_cast<std::size_t>(how.group) : row.size();
  for (std::size_t start = 0; start < row.size(); start += group) {
    WeightRange range = whole;
    if (how.group >= 0) {
      range = {};
      range.add(row.subspan(start, group));
    }
    for (std::size_t k = start; k < start + group; ++k) {
      const Level level = how.type ? Level{round_to(*how.type, row[k])} : to_level(row[k], how, range);
      change.by[k] = round_to(kept_as, level.value) - row[k];
      change.unsure[k] = level.other;
    }
  }
  return change;
}

}  // namespace qdiff::explain
