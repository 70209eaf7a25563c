// From findings and exercised variants to one verdict for each of the ten hypotheses.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "harness/contract/oracle.h"
#include "harness/findings/result.h"

namespace qdiff::diagnose {

// What the inputs of a run could have shown. A variant is exercised where planting it in the reference, on the
// candidate's own inputs, moves a judged tensor by more than rounding.
struct Detectability {
  std::map<FaultId, std::set<std::string>> cases_that_show;  // ids of the cases
  std::set<FaultId> tried;                                   // variants evaluated at least once
  std::map<FaultId, std::string> not_evaluable;              // what was not recorded
  std::set<TensorId> never_judged;                           // recorded, and unjudged in every step
};

std::vector<findings::HypothesisResult> judge_hypotheses(const std::vector<findings::Finding>& findings,
                                                         const std::vector<VariantFacts>& catalogue,
                                                         const Detectability& detectability);

// The verdicts again, from other findings; what was exercised and what is blind stays.
void judge_again(std::vector<findings::HypothesisResult>& results, const std::vector<findings::Finding>& findings,
                 const std::vector<VariantFacts>& catalogue);

// Hypotheses that these inputs could not judge, for the report's coverage.
std::vector<std::string> blind_hypotheses(const std::vector<findings::HypothesisResult>& results);

// Adds what a run on another model exercised of a hypothesis; judge_again() gives it its verdict.
void join(findings::HypothesisResult& result, findings::HypothesisResult&& other);

}  // namespace qdiff::diagnose
