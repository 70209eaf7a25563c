// Hand-made comparisons: gold, its expected rounding and a candidate, with no oracle needed.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "harness/compare/judge.h"
#include "harness/contract/splitmix64.h"

namespace qdiff::compare {

inline constexpr double kInf = std::numeric_limits<double>::infinity();
inline constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

class Random : public SplitMix64 {
 public:
  using SplitMix64::SplitMix64;
  double gaussian();  // Irwin-Hall of twelve: within +-6
};

struct Sample {
  Op op = Op::kOProj;
  ModelConfig config;
  Step step;
  Precision precision;
  Expectation expected;
  Tensor actual;

  Judgement judge() const;
  // Element by index, in expected (and in actual, where it has all rows).
  std::int64_t at(std::vector<std::int64_t> index) const;
};

struct SampleOptions {
  Op op = Op::kOProj;
  DType dtype = DType::kBF16;
  std::int64_t num_tokens = 5;
  std::int64_t past_length = 0;
  std::vector<std::int64_t> left_padding = {0, 0};  // its length is B
  double sigma = 0x1p-20;                           // of every element, relative to gold's typical size 1
  double sigma_shared = 0.0;
  std::uint64_t seed = 1;
};

// hidden 100 (no multiple of a tile), 6 query heads and 2 key/value heads of 32.
ModelConfig sample_config();

// Gaussian gold; the candidate is gold plus honest Gaussian noise, rounded. Masked scores are -inf, masked
// probabilities 0. For exact rows (embedding, caches) gold is representable and the candidate equals it.
Sample honest_sample(const SampleOptions& options);

}  // namespace qdiff::compare
