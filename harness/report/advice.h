// What to record next, where a trace of few tensors leaves open which operation is wrong.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "harness/findings/result.h"

namespace qdiff::report {

struct RecordAdvice {
  int step = 0;
  std::vector<std::string> tensors;  // in execution order
};

// Of the first divergence's span, tensors that were not recorded and would divide it: those that the bugs act on which
// explain it in doubt, and those at which a layer's parts meet. Nothing where the span is one operation, where its
// explanation is confirmed, where whole forward passes say what to record (FreeRanking), and for engines that hand all
// tensors out.
std::optional<RecordAdvice> what_to_record(const findings::RunResult& result);

}  // namespace qdiff::report
