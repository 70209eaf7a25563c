// Cosines and sines of the rotary embedding (Su et al., "RoFormer", 2021; the half-split pairing (i, i + d/2) is that
// of transformers' rotate_half).
//
// Pair i at position p turns by p * theta^(-2i/d). The frequency, the angle, its sine and its cosine are computed in
// double and rounded once to float: in float the angle alone would be off by 2^-24 * p, which at position 4096 is a
// hundred times the rounding of the products.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

namespace qdiff::optimized::cpu {

// theta^(-2i/size), [pairs].
std::vector<double> rope_frequencies(double theta, std::int64_t size, std::int64_t pairs);

class RopeTable {
 public:
  explicit RopeTable(std::vector<double> frequencies);  // [d/2]

  // Computes what is missing; afterwards row() of these positions may be called from any thread.
  void prepare(const std::vector<std::vector<std::int64_t>>& positions);

  struct Row {
    const float* cosine;  // [d/2]
    const float* sine;    // [d/2]
  };
  Row row(std::int64_t position) const;

 private:
  std::int64_t pairs_;
  std::vector<double> frequencies_;                            // [d/2]
  std::unordered_map<std::int64_t, std::vector<float>> rows_;  // position -> [2][d/2]
};

}  // namespace qdiff::optimized::cpu
