// Ways in which an engine holds a matrix otherwise than the file: rounded to a 16-bit type, or to levels of 8 or 4 bits
// with a scale for each row, for each group of inputs or for all, and dequantised, as quantising loaders do.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "harness/contract/dtype.h"

namespace qdiff::explain {

// How the levels of a group of weights lie.
enum class Levels : std::uint8_t {
  kSymmetric,  // integers, scale = largest / (2^(bits-1) - 1): bitsandbytes, ggml, ONNX
  kFull,       // integers, scale = largest / (2^(bits-1) - 1/2): torchao
  kAffine,     // from the smallest to the largest in 2^bits - 1 steps: mlx
  kZeroPoint,  // the same with 0 among them: ONNX, GPTQ, AWQ
  kE4M3,       // numbers of 4 bits of exponent and 3 of mantissa, scale = largest / 448
};

// A way to round a matrix.
struct WeightRounding {
  std::optional<DType> type = {};  // to this type; else to levels
  int bits = 8;
  Levels levels = Levels::kSymmetric;
  std::int64_t group = 0;  // inputs that share a scale; 0: a row, -1: the whole matrix
  DType scale = DType::kF32;

  std::string words() const;  // "rounded to 8-bit levels with a scale for each output"
};

// All that are known, of a matrix with rows of `width` elements.
std::vector<WeightRounding> roundings_of(std::int64_t width);

// The smallest and the largest of the weights that share a scale.
struct WeightRange {
  double smallest = std::numeric_limits<double>::infinity(), largest = -smallest;
  void add(std::span<const double> weights);
  double magnitude() const;
};

// How the elements of a row change, and in which of them by a step more or less.
struct WeightChange {
  std::vector<double> by, unsure;
};

// Of a row of the file's matrix, whose weights all lie in `whole`; what results is stored in `kept_as`.
WeightChange change_by_rounding(std::span<const double> row, const WeightRounding& how, const WeightRange& whole,
                                DType kept_as);

}  // namespace qdiff::explain
