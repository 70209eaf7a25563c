// What has to stay the same while a failing case is made smaller.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "harness/contract/mistake.h"
#include "harness/findings/result.h"

namespace qdiff::reduce {

// A failure by what it says: at which operation, of which kind, and what explains it how well. Where it is (layer,
// step, row) changes with the case.
struct Failure {
  Op op = Op::kEmbedTokens;
  findings::FindingKind kind = findings::FindingKind::kLogic;
  std::string cause;  // findings::cause_name; empty: unexplained
  std::optional<findings::HypothesisVerdict> verdict;
  std::vector<FaultId> alternatives;
};

Failure failure_of(const findings::Finding& finding);

// Whether the finding shows the failure: the same operation, kind and cause, explained no worse, and with no other
// bug that fits as well beside those that did.
bool shows(const findings::Finding& finding, const Failure& failure);

// What an engine with these layers alone is told to compute wrongly, where one with all of them is told `injection`.
// None where the layers in which it is planted are gone.
std::optional<Injection> in_layers(const Injection& injection, const std::vector<int>& layers);

}  // namespace qdiff::reduce
