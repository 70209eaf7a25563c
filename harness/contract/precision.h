// What an engine declares about its own precision, so that honest rounding is expected and nothing else is.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "harness/contract/dtype.h"
#include "harness/contract/float8.h"
#include "harness/contract/operation_table.h"

namespace qdiff {

// In which blocks of 8-bit numbers GEMMs take their inputs, as ggml's kernels do (`activations.quantized`).
enum class QuantizedInputs : std::uint8_t {
  kNone,
  kQ8_0,  // 32 elements with one scale
  kQ8_K,  // 256 elements with one scale
  kGgml,  // by each weight's type as it is stored: vec_dot_type in ggml/src/ggml-cpu/ggml-cpu.c
};
inline constexpr std::array<std::string_view, 4> kQuantizedInputsNames = {"none", "q8_0", "q8_k", "ggml"};
inline constexpr std::string_view kQuantizedInputsPoint = "activations.quantized";
constexpr std::string_view name(QuantizedInputs quantized) {
  return kQuantizedInputsNames[static_cast<std::size_t>(quantized)];
}

// In which 8 bits a cache holds k and v, where it does (`kv_cache`).
enum class QuantizedCache : std::uint8_t {
  kNone,
  kInt8,  // round(x / a) for each vector of a slot and head, handed out times a = max |x| / 127 in float32
  kE4M3,  // x / a rounded to that type, handed out times a, which is a constant of the tensor or of each head
  kE5M2,
};
inline constexpr std::array<std::string_view, 4> kQuantizedCacheNames = {"none", "int8", "float8_e4m3fn",
                                                                         "float8_e5m2"};
constexpr std::string_view name(QuantizedCache quantized) {
  return kQuantizedCacheNames[static_cast<std::size_t>(quantized)];
}

// Where the 8 bits are a floating-point number.
constexpr const Float8Facts* float8_of(QuantizedCache quantized) {
  if (quantized == QuantizedCache::kE4M3) return &kFloat8E4M3;
  return quantized == QuantizedCache::kE5M2 ? &kFloat8E5M2 : nullptr;
}
// By what a float8 cache multiplies its numbers: one factor for the tensor, or one for each head. 1 where there is
// none.
using CacheScales = std::map<TensorId, std::vector<double>>;

// The manifest's `compute` block. Every intermediate is in `accumulate` precision unless `points` names it.
struct Precision {
  DType weights = DType::kBF16;      // rounded once to this, nearest even, when loaded
  DType activations = DType::kBF16;  // in which named tensors are stored
  DType accumulate = DType::kF32;    // dot products, softmax and norm sums
  std::map<RoundingPoint, DType> points;
  // Fused engines: the precision in which the *next* operation took a tensor of the table, where it is not the stored
  // one. The tensor handed out is then a rounded copy of the one that was used.
  std::map<Op, DType> taken_as;
  QuantizedInputs quantized = QuantizedInputs::kNone;
  QuantizedCache cache = QuantizedCache::kNone;
  // Of types that are not declared too, for a cache may fit them.
  std::map<QuantizedCache, CacheScales> cache_scales = {};

  // Of `cache`; empty where all are 1.
  std::vector<double> scales_of(const TensorId& id) const {
    const auto of_type = cache_scales.find(cache);
    if (of_type == cache_scales.end()) return {};
    const auto found = of_type->second.find(id);
    return found == of_type->second.end() ? std::vector<double>() : found->second;
  }
  DType at(RoundingPoint point) const {
    const auto found = points.find(point);
    return found == points.end() ? accumulate : found->second;
  }
  bool operator==(const Precision&) const = default;
};

// The type in which an engine keeps a row's output. A row that it need not materialise is kept as it comes out of the
// arithmetic, or of its own last rounding point where that is declared.
inline DType kept_as(Op op, const Precision& precision) {
  if (!row(op).optional) return precision.activations;
  const RoundingPoint last = *(row(op).points.end() - 1);
  const auto declared = precision.points.find(last);
  if (declared != precision.points.end()) return declared->second;
  return only_moves(op) ? precision.activations : precision.accumulate;
}

// An entry of `compute.points`, as the explanation of a finding of kind precision.
struct DeclarablePoint {
  std::optional<RoundingPoint> point;  // none: `activations.quantized`
  DType dtype = DType::kF32;           // at a point
  QuantizedInputs quantized = QuantizedInputs::kNone;
  QuantizedCache cache = QuantizedCache::kNone;  // at kKvCache, in the place of a type

  bool operator==(const DeclarablePoint&) const = default;
  std::string key() const { return std::string(point ? name(*point) : kQuantizedInputsPoint); }
  std::string value() const {
    if (cache != QuantizedCache::kNone) return std::string(name(cache));
    return std::string(point ? name(dtype) : name(quantized));
  }
  // With this value or another.
  bool is_declared(const Precision& precision) const {
    if (!point) return precision.quantized != QuantizedInputs::kNone;
    const bool in_8_bits = *point == RoundingPoint::kKvCache && precision.cache != QuantizedCache::kNone;
    return in_8_bits || precision.points.contains(*point);
  }
  void declare(Precision& precision) const {
    if (cache != QuantizedCache::kNone) {
      precision.cache = cache;
    } else if (point) {
      precision.points[*point] = dtype;
    } else {
      precision.quantized = quantized;
    }
  }
};

// The entries of `compute.points`, by name: "attention.probs": "bfloat16".
inline std::map<std::string, std::string> declared_points(const Precision& precision) {
  std::map<std::string, std::string> points;
  const auto add = [&](const DeclarablePoint& point) { points[point.key()] = point.value(); };
  for (const auto& [point, dtype] : precision.points) add({point, dtype});
  for (const auto& [op, dtype] : precision.taken_as) points[std::string(row(op).name)] = name(dtype);
  if (precision.quantized != QuantizedInputs::kNone) add({std::nullopt, DType::kF32, precision.quantized});
  if (precision.cache != QuantizedCache::kNone) {
    add({RoundingPoint::kKvCache, DType::kF32, QuantizedInputs::kNone, precision.cache});
  }
  return points;
}

// What an ordinary engine of this storage type does: weights and activations in `dtype`, accumulation in float32.
inline Precision plain_precision(DType dtype) {
  return {.weights = dtype,
          .activations = dtype,
          .accumulate = DType::kF32,
          .points = {},
          .taken_as = {},
          .quantized = {},
          .cache = {}};
}

// Gold: everything in float64, but the weights are those that the candidate was given.
inline Precision gold_precision(DType weights) {
  return {.weights = weights,
          .activations = DType::kF64,
          .accumulate = DType::kF64,
          .points = {},
          .taken_as = {},
          .quantized = {},
          .cache = {}};
}

}  // namespace qdiff
