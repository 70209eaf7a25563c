// The smallest dose of each parametric fault that is found on one tensor, by the judge and by other projects' rules.
//
// The candidate is the emulated reference under the fault, on a clean engine's own inputs: right in everything but
// that.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "harness/cases/case.h"
#include "harness/selftest/bench.h"
#include "harness/selftest/rivals.h"

namespace qdiff::selftest {

struct SmallestDose {
  std::string parameter;  // "rope_theta"
  std::string unit;       // "relative", "positions", "bits kept"
  std::string tensor;
  DType dtype = DType::kBF16;
  double largest_tried = 0.0;   // of bits the fewest
  std::optional<double> found;  // none: not even the largest; of bits the most that are still found
  struct OfRival {
    std::optional<double> found;
    bool alarms_on_right_code = false;  // then it finds nothing
  };
  std::array<OfRival, kNumRivals> rivals;
};

// Engine 0 of the makers records; the tensors are layer 0's of the first step.
std::vector<SmallestDose> smallest_doses(const std::vector<cases::Case>& suite, const Makers& makers, DType dtype);

}  // namespace qdiff::selftest
