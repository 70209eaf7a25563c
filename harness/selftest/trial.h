// One planted fault as plain data: what it could have shown, and what the diagnosis made of it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "harness/contract/dtype.h"
#include "harness/contract/engine.h"
#include "harness/contract/operation_table.h"
#include "harness/findings/result.h"

namespace qdiff::selftest {

// A fault is detectable where it moves some recorded element by more than this many deviations of a correct engine's
// error, the rounding to the stored type included. Of a million honest elements the largest stands at five.
inline constexpr double kDetectable = 8.0;

// Where in a model the fault is planted. Models of two layers have no middle. A fault that lies between layers is
// planted in all of them.
enum class Site : std::uint8_t { kFirst, kMiddle, kLast, kOutside, kAll };
constexpr const char* name(Site site) {
  constexpr const char* kNames[] = {"first", "middle", "last", "outside", "all"};
  return kNames[static_cast<std::size_t>(site)];
}

// What planting a fault moves, by the reference in float64 on a clean engine's own tensors.
struct Shift {
  double deviations = 0.0;         // of the first tensor moved far enough; else the largest of all
  std::optional<TensorKey> first;  // the first in execution order to be moved by more than kDetectable
};

// What was concluded, of a run that saw the fault.
struct Conclusion {
  compare::Verdict verdict = compare::Verdict::kMatch;
  std::optional<findings::Finding> first;  // the first finding of either kind, in the order of the report
  std::string closest;                     // of a match: the statistic that came nearest to its bound
};

struct Trial {
  std::string planted_in;  // "cpu", "reference"
  DType dtype = DType::kBF16;
  Fault fault;  // with the layer of the case's model
  Site site = Site::kFirst;
  std::vector<Op> ops;                // of the recorded tensors whose value the fault changes
  std::optional<double> right_value;  // of a continuous parameter
  std::vector<std::string> cases;     // that were run; empty where no case shows it
  Shift shift;                        // in the first of them, or the largest in any
  Conclusion conclusion;
  std::string failure;  // the engine could not run with it
  std::string note;     // of a miss: what tells the fault from what was named
  bool tied = false;    // it is among the alternatives, and on these inputs computes what the variant named does

  bool detectable() const { return shift.first.has_value(); }
};

}  // namespace qdiff::selftest
