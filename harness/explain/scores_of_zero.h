// Scores of 0 that a softmax counts beside those of its slots, and whose values are 0.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace qdiff::explain {

// What a row says of their number n: it is `ratio` times right code's, and ratio = sum / (sum + n), where `sum` is that
// of exp(score) over its slots.
struct ScoresOfZero {
  double ratio, sum;
};

// The number that the rows speak for which show it best, those of the smallest ratios; 0: none.
inline std::int64_t counted_zeros(std::vector<ScoresOfZero> said) {
  constexpr double kLeast = 1e-6, kLargest = 0.9999;  // beyond, the number does not show
  std::erase_if(said, [](const ScoresOfZero& row) { return !(row.ratio > kLeast && row.ratio < kLargest); });
  if (said.empty()) return 0;
  std::ranges::sort(said, {}, &ScoresOfZero::ratio);
  constexpr std::size_t kLeastRows = 16;
  said.resize(std::min(said.size(), std::max(kLeastRows, said.size() / 4)));
  std::vector<double> counts;
  for (const ScoresOfZero& row : said) counts.push_back(row.sum * (1.0 / row.ratio - 1.0));
  const auto middle = counts.begin() + static_cast<std::ptrdiff_t>(counts.size() / 2);
  std::ranges::nth_element(counts, middle);
  constexpr double kMost = 1e7;
  return *middle < kMost ? std::llround(*middle) : 0;
}

}  // namespace qdiff::explain
