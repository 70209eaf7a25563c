// The findings of a run grouped by what explains them: one line for each cause, tensor and phase.
#pragma once

#include <cstddef>
#include <set>
#include <string>
#include <vector>

#include "harness/findings/result.h"

namespace qdiff::report {

struct Cause {
  std::string what;  // "H05.modulo (confirmed)", "unexplained: no catalogued bug reproduces it"
  bool explained = false;
  std::string meaning;  // what such an engine computes, where the bug is known; else the evidence
  std::string tensor;   // without its layer: "self_attn.attn_output"
  std::set<int> layers = {};
  std::set<Phase> phases = {};
  std::vector<std::size_t> findings = {};  // indices into RunResult::findings, in the order found
  std::size_t worst = 0;                   // the one furthest beyond its bound

  // "layers 0-2, prefill and decode"
  std::string where() const;
};

// In the order in which the first finding of each stands: by case, step and execution order.
std::vector<Cause> causes_of(const findings::RunResult& result);

// The findings by the name of what explains them, over all tensors; unexplained ones by the tensor that is wrong.
struct NamedCause {
  std::string name;                        // "H05.modulo", "heads.layout", "unexplained: self_attn.q_rope"
  std::vector<std::size_t> findings = {};  // indices into RunResult::findings
};

// That of the first divergence first: those of kind logic before the others, and else in the order found.
std::vector<NamedCause> named_causes_of(const findings::RunResult& result);
std::string name_of_cause(const findings::Finding& finding);

// What such an engine computes, in the bug's own line; where no bug is named, why the pattern speaks for a hypothesis.
std::string meaning_of(const findings::RunResult& result, const findings::Explanation& explanation);

// Why the judge takes it for wrong, without the worst element, where that stands beside it.
std::string error_alone(const compare::Judgement& judgement);
// "1.8e+08 times its bound"; where a gate decided, what it found ("shape", "NaN or infinity").
std::string distance_from_bound(const compare::Judgement& judgement);

// The verdict in one sentence for somebody who never saw a report of this program.
std::string verdict_sentence(const findings::RunResult& result);

}  // namespace qdiff::report
