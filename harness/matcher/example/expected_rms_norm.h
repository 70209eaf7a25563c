// The operation once more, in double, with a word for each place where the kernel rounds.
#pragma once

#include <qdiff/expected.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "rms_norm.h"

inline qdiff::matcher::Expected expected_rms_norm(const std::vector<float>& x) {
  return qdiff::matcher::expect(kNumTokens, kHidden, {}, [&](qdiff::matcher::Rounding& rounding) {
    std::vector<double> y;
    for (int t = 0; t < kNumTokens; ++t) {
      const float* row = x.data() + static_cast<std::size_t>(t) * kHidden;
      const double sum = rounding.sum(kHidden, [&](std::int64_t c) { return double{row[c]} * row[c]; });
      const double mean = rounding.once(rounding.once(sum / kHidden) + 1e-6);
      const double scale = rounding.function(1.0 / std::sqrt(mean));  // once for the row
      for (int c = 0; c < kHidden; ++c) y.push_back(rounding.once(row[c] * scale));
    }
    return y;
  });
}
