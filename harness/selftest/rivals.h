// What other projects would say of the same tensors: their rules, with their own thresholds, on the elements that
// count. `actual` is the candidate's tensor, `expected` gold.
#pragma once

#include <span>

#include "harness/contract/dtype.h"

namespace qdiff::selftest {

enum class Rival : unsigned char { kCosine, kNmse, kAssertClose, kTwiceNaive };
inline constexpr std::size_t kNumRivals = 4;
constexpr const char* name(Rival rival) {
  constexpr const char* kNames[] = {"cosine > 0.999", "NMSE < 1e-4", "assert_close", "2x naive"};
  return kNames[static_cast<std::size_t>(rival)];
}

// Cosine similarity of the flattened tensors at most 0.999.
bool cosine_finds(std::span<const double> actual, std::span<const double> expected);
// ||actual - expected||^2 / ||expected||^2 of 1e-4 or more (llama.cpp, tests/test-backend-ops.cpp, allows 1e-7 to
// 5e-4).
bool nmse_finds(std::span<const double> actual, std::span<const double> expected);
// torch.testing.assert_close with its defaults for the dtype: |actual - expected| <= atol + rtol |expected|, expected
// in that dtype.
bool assert_close_finds(std::span<const double> actual, std::span<const double> expected, DType dtype);
// flash-attention's tests: the largest error beyond twice that of a naive implementation in low precision.
bool twice_naive_finds(std::span<const double> actual, std::span<const double> expected, std::span<const double> naive);

// By that rule. `naive` is what an implementation computes that rounds everywhere to the dtype.
bool finds(Rival rival, std::span<const double> actual, std::span<const double> expected, std::span<const double> naive,
           DType dtype);

}  // namespace qdiff::selftest
