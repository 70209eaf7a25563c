#include "optimized/cpu/rope_table.h"

#include <cmath>

namespace qdiff::optimized::cpu {

std::vector<double> rope_frequencies(double theta, std::int64_t size, std::int64_t pairs) {
  std::vector<double> frequencies;
  for (std::int64_t i = 0; i < pairs; ++i) {
    frequencies.push_back(std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(size)));
  }
  return frequencies;
}

RopeTable::RopeTable(std::vector<double> frequencies)
    : pairs_(static_cast<std::int64_t>(frequencies.size())), frequencies_(std::move(frequencies)) {}

void RopeTable::prepare(const std::vector<std::vector<std::int64_t>>& positions) {
  for (const auto& row_positions : positions) {
    for (std::int64_t position : row_positions) {
      std::vector<float>& row = rows_[position];
      if (!row.empty()) continue;
      row.resize(static_cast<std::size_t>(2 * pairs_));
      for (std::int64_t i = 0; i < pairs_; ++i) {
        const double angle = static_cast<double>(position) * frequencies_[static_cast<std::size_t>(i)];
        row[static_cast<std::size_t>(i)] = static_cast<float>(std::cos(angle));
        row[static_cast<std::size_t>(pairs_ + i)] = static_cast<float>(std::sin(angle));
      }
    }
  }
}

RopeTable::Row RopeTable::row(std::int64_t position) const {
  const std::vector<float>& values = rows_.at(position);
  return {values.data(), values.data() + pairs_};
}

}  // namespace qdiff::optimized::cpu
