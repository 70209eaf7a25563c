// Where to look next: what to record, where a trace of few tensors leaves open which operation is wrong, and where else
// garbage comes from, where the forward pass is right.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "harness/findings/result.h"

namespace qdiff::report {

struct RecordAdvice {
  int step = 0;
  std::vector<std::string> tensors;  // in execution order
  bool if_held = false;              // fused engines have none of them
};

// Of the first divergence's span, tensors that were not recorded and would divide it: those that the bugs act on which
// explain it in doubt, and those at which a layer's parts meet, or else those that a fused engine does not hold.
// Nothing where the span is one operation, where its explanation is confirmed, where whole forward passes say what to
// record (FreeRanking), and for engines that hand all tensors out.
std::optional<RecordAdvice> what_to_record(const findings::RunResult& result);
// "model.layers.3.self_attn.v_proj and 2 more of step 0, to see which operation is wrong"
std::string sentence_of(const RecordAdvice& advice);

// After a trace's match, in sentences: what a user who sees garbage text has to look at, with what these steps show of
// it, or why nothing is said of that.
std::vector<std::string> where_else_to_look(const findings::RunResult& result);

}  // namespace qdiff::report
