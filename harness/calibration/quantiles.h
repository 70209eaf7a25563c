// Measurements in one line of text.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "harness/contract/number_text.h"

namespace qdiff::calibration {

inline double quantile(std::vector<double> values, double share) {
  if (values.empty()) return 0.0;
  std::ranges::sort(values);
  return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1))];
}

inline std::string quantiles(const std::string& what, const std::vector<double>& values) {
  std::string text = "  " + what + ':';
  for (const double share : {0.5, 0.9, 0.99, 1.0}) {
    text += (share == 0.5 ? " " : ", ") + digits(quantile(values, share), 4) + " (" + digits(100 * share, 3) + " %)";
  }
  return text + " of " + std::to_string(values.size()) + '\n';
}

}  // namespace qdiff::calibration
