// What is tested: an RMSNorm in float32 that sums eight lanes apart, as a vectorised kernel does, and its inputs. With
// EXAMPLE_WITH_A_BUG in the environment it takes the epsilon of another model.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <vector>

inline constexpr int kNumTokens = 5, kHidden = 896;

// [kNumTokens, kHidden]; token 3 is of tiny norm, where epsilon shows.
inline std::vector<float> example_input() {
  std::vector<float> x;
  for (int t = 0; t < kNumTokens; ++t) {
    for (int c = 0; c < kHidden; ++c) {
      x.push_back(std::sin(0.37F * static_cast<float>(c) + static_cast<float>(t)) * (t == 3 ? 2e-3F : 1.0F));
    }
  }
  return x;
}

inline std::vector<float> rms_norm_kernel(const std::vector<float>& x) {
  const float epsilon = std::getenv("EXAMPLE_WITH_A_BUG") != nullptr ? 1e-5F : 1e-6F;
  std::vector<float> y(x.size());
  for (int t = 0; t < kNumTokens; ++t) {
    const float* row = x.data() + static_cast<std::size_t>(t) * kHidden;
    float lanes[8] = {};
    for (int c = 0; c < kHidden; ++c) lanes[c % 8] += row[c] * row[c];
    float sum = 0.0F;
    for (const float lane : lanes) sum += lane;
    const float scale = 1.0F / std::sqrt(sum / kHidden + epsilon);
    for (int c = 0; c < kHidden; ++c)
      y[static_cast<std::size_t>(t) * kHidden + static_cast<std::size_t>(c)] = row[c] * scale;
  }
  return y;
}
