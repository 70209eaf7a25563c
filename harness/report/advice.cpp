#include "harness/report/advice.h"

#include <algorithm>
#include <array>
#include <set>

#include "harness/contract/wording.h"
#include "harness/report/sentences.h"

namespace qdiff::report {
namespace {

// q and k as attention reads them, v, what attention gives, and the residual stream between it and the MLP.
constexpr std::array kWhereALayersPartsMeet = {Op::kQRope, Op::kKRope, Op::kVProj, Op::kAttnOutput, Op::kResidMid};
// A bug that acts on more operations than these tells nothing of where to look.
constexpr std::size_t kMostOpsOfABug = 4;

std::set<Op> acted_on(const findings::Explanation& explanation, const std::vector<VariantFacts>& catalogue) {
  std::set<Op> ops;
  for (const VariantFacts& facts : catalogue) {
    const bool named = explanation.variant == facts.id ||
                       std::ranges::find(explanation.alternatives, facts.id) != explanation.alternatives.end();
    if (named && facts.ops.size() <= kMostOpsOfABug) ops.insert(facts.ops.begin(), facts.ops.end());
  }
  return ops;
}

}  // namespace

std::optional<RecordAdvice> what_to_record(const findings::RunResult& result) {
  const findings::Finding* first = result.first_divergence();
  if (!result.of_trace || result.ranking || first == nullptr) return std::nullopt;
  if (first->explanation.verdict == findings::HypothesisVerdict::kConfirmed) return std::nullopt;
  std::set<Op> wanted = acted_on(first->explanation, result.catalogue);
  wanted.insert(kWhereALayersPartsMeet.begin(), kWhereALayersPartsMeet.end());
  RecordAdvice advice{first->step, {}, false};
  std::set<Op> known = {first->tensor.op};  // a span may hold an operation in several steps
  const auto ask_for = [&](const auto& asks) {
    for (const Op op : first->operations) {
      if (!asks(op) || !known.insert(op).second) continue;
      const bool in_layer = row(op).scope == Scope::kLayer;
      if (in_layer && first->tensor.layer == kNoLayer) continue;
      advice.tensors.push_back(tensor_name({op, in_layer ? first->tensor.layer : kNoLayer}));
    }
  };
  ask_for([&](Op op) { return !row(op).optional && wanted.contains(op); });
  if (advice.tensors.empty()) {
    advice.if_held = true;
    ask_for([](Op op) { return row(op).optional; });
  }
  if (advice.tensors.empty()) return std::nullopt;
  return advice;
}

std::string sentence_of(const RecordAdvice& advice) {
  return joined(advice.tensors, 12) + " of step " + std::to_string(advice.step) +
         (advice.if_held ? ", where the engine holds them" : "") + ", to see which operation is wrong";
}

std::vector<std::string> where_else_to_look(const findings::RunResult& result) {
  if (!result.of_trace || result.verdict != compare::Verdict::kMatch || !result.findings.empty()) return {};
  if (result.some_layers_alone) {
    return {"the layers that were left out may be wrong, so that nothing is said of garbage text"};
  }
  if (std::ranges::count(result.coverage.tensors_missing, tensor_name({Op::kLmHead, kNoLayer})) > 0) {
    return {"lm_head was not recorded, so that the logits themselves were not judged"};
  }
  std::vector<std::string> lines = {
      "the forward pass is right on these inputs: garbage text then comes from behind the logits (sampler, "
      "detokenizer) or from before the tokens (tokenizer, prompt template, special tokens)"};
  const auto& fed = result.fed_tokens;
  if (!fed || fed->not_chosen == 0) return lines;
  const auto token = [](std::int64_t number, const std::optional<std::string>& word) {
    const std::string numbered = "token " + std::to_string(number);
    return word ? '"' + *word + "\" (" + numbered + ')' : numbered;
  };
  lines.push_back("of " + counted(fed->compared, "token") + " that decode steps were fed, " +
                  std::to_string(fed->not_chosen) + (fed->not_chosen == 1 ? " is" : " are") +
                  " not the one with the largest logit before: the first in step " + std::to_string(fed->step) +
                  ", row " + std::to_string(fed->row) + ", was " + token(fed->fed, fed->fed_word) + " where " +
                  token(fed->chosen, fed->chosen_word) +
                  " has the largest. If the engine writes greedily, what picks the token is wrong");
  return lines;
}

}  // namespace qdiff::report
