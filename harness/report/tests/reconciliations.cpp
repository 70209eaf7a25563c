#include "harness/report/tests/reconciliations.h"

#include <cmath>

#include "harness/report/tests/results.h"

namespace qdiff::report::tests {

findings::Reconciliation reconciled() {
  findings::Reconciliation result;
  result.verdict = compare::Verdict::kMatch;
  result.reason = "not a bug: rounding";
  result.command = "qdiff reconcile --model M a b";
  result.model = "M";
  result.honest_verified = 600;
  result.seconds = 1.5;
  for (std::size_t s = 0; s < findings::kNumSides; ++s) {
    findings::ReconciledSide& side = result.sides[s];
    side.trace = s == 0 ? "trainer" : "server";
    side.diagnosis = match();
    side.all = {0.9, 2.5};
    side.worst = {2.5, 7.5};
  }
  for (int i = 0; i < 12; ++i) {
    const double difference = 0.005 * (i + 1);
    result.tokens.push_back({.batch_row = 0,
                             .index = i + 1,
                             .token = 100 + i,
                             .log_probability = {-2.0, -2.0 - difference},
                             .expected = {-2.0, -2.0},
                             .rounding = {1e-6, 0.03},
                             .explained_up_to = 0.2});
  }
  result.streams = {{0, {0.001, 0.004}}, {1, {0.002, 0.006}}};
  return result;
}

findings::Reconciliation parted() {
  findings::Reconciliation result = reconciled();
  result.verdict = compare::Verdict::kDiverged;
  result.reason = "a bug in B, first at model.layers.0.self_attn.attn_output";
  result.logits_alone = true;
  result.notes = {"one trace goes on behind the other's end by 3 tokens, which are not reconciled"};
  result.sides[1].diagnosis = diverged();
  result.sides[1].undeclared = {{"mlp.silu", "bfloat16"}};
  result.sides[1].all.value = result.sides[1].worst.value = HUGE_VAL;
  result.sides[1].worst_token = 3;
  result.streams[1].difference.value = 0.5;
  result.tokens[3].log_probability[1] = std::nan("");
  return result;
}

std::vector<std::pair<std::string, findings::Reconciliation>> all_reconciliations() {
  return {{"reconciled", reconciled()}, {"parted", parted()}};
}

}  // namespace qdiff::report::tests
