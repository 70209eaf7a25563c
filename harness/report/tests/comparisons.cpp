#include "harness/report/tests/comparisons.h"

#include <limits>

namespace qdiff::report::tests {
namespace {

using compare::PairOutcome;
using compare::PairwiseResult;
using compare::TensorDifference;
using compare::Verdict;

TensorDifference tensor(int step, Op op, int layer, PairOutcome outcome, double error = 0.0) {
  TensorDifference difference;
  difference.key = {step, {op, layer}};
  difference.outcome = outcome;
  difference.actual_dtype = difference.expected_dtype = DType::kBF16;
  difference.actual_shape = difference.expected_shape = {1, 5, 200};
  difference.elements_compared = 1000;
  difference.bits_equal = outcome == PairOutcome::kEqual ? 1000 : 123;
  difference.max_abs_error = 4 * error;
  difference.relative_rms_error = error;
  if (outcome == PairOutcome::kEqual) return difference;
  difference.worst_index = {0, 4, 17};
  difference.actual = 1.5;
  difference.expected = 1.25;
  return difference;
}

}  // namespace

PairwiseResult equal_traces() {
  PairwiseResult result;
  result.verdict = Verdict::kMatch;
  result.tensors = {tensor(0, Op::kEmbedTokens, kNoLayer, PairOutcome::kEqual),
                    tensor(0, Op::kOutput, 0, PairOutcome::kEqual)};
  return result;
}

PairwiseResult far_apart() {
  PairwiseResult result;
  result.verdict = Verdict::kDiverged;
  result.tensors.push_back(tensor(0, Op::kEmbedTokens, kNoLayer, PairOutcome::kEqual));
  for (int layer = 0; layer < 24; ++layer) {
    result.tensors.push_back(tensor(0, Op::kAttnOutput, layer, PairOutcome::kDiffers, layer < 5 ? 0.002 : 0.25));
    result.tensors.push_back(tensor(0, Op::kOutput, layer, PairOutcome::kDiffers, layer < 5 ? 0.004 : 0.5));
  }
  result.jump = {{0, {Op::kOutput, 4}}, {0, {Op::kOutput, 5}}, 0.004, 0.5, 125.0};
  return result;
}

PairwiseResult of_all_sorts() {
  PairwiseResult result;
  result.verdict = Verdict::kDiverged;
  result.within = 0.01;
  result.notes = {"the traces have 2 and 1 steps", "step 0 had other inputs in each trace: positions"};
  TensorDifference type = tensor(0, Op::kQProj, 0, PairOutcome::kDiffers, 0.02);
  type.actual_dtype = DType::kF32;
  TensorDifference nan = tensor(0, Op::kScores, 0, PairOutcome::kDiffers);
  nan.nan_mismatches = 3;
  nan.inf_mismatches = 1;
  nan.nan_on_both = 2;
  nan.actual = std::numeric_limits<double>::quiet_NaN();
  nan.expected = -std::numeric_limits<double>::infinity();
  TensorDifference shape = tensor(0, Op::kLmHead, kNoLayer, PairOutcome::kDiffers);
  shape.actual_shape = {1, 1, 200};
  shape.elements_compared = shape.bits_equal = 0;
  shape.max_abs_error = shape.relative_rms_error = 0.0;
  shape.worst_index.clear();
  TensorDifference pads = tensor(0, Op::kNorm, kNoLayer, PairOutcome::kNothing);
  pads.elements_compared = pads.bits_equal = 0;
  pads.worst_index.clear();
  result.tensors = {tensor(0, Op::kInputLayernorm, 0, PairOutcome::kWithin, 0.005), type, nan, pads, shape};
  result.only_actual = {{0, {Op::kProbs, 0}}, {1, {Op::kProbs, 0}}, {0, {Op::kProbs, 1}}};
  result.only_expected = {{0, {Op::kKCache, 0}}};
  return result;
}

PairwiseResult in_common_nothing() {
  PairwiseResult result;
  result.only_actual = {{0, {Op::kLmHead, kNoLayer}}};
  return result;
}

std::vector<std::pair<std::string, PairwiseResult>> all_comparisons() {
  return {{"equal", equal_traces()},
          {"far_apart", far_apart()},
          {"of_all_sorts", of_all_sorts()},
          {"nothing", in_common_nothing()}};
}

}  // namespace qdiff::report::tests
