// Which tokens the logits of two traces predict, however the traces cut and pad them.
#include "harness/diagnose/reconcile/predictions.h"

#include <cmath>
#include <numeric>

#include "cmake/catch2.h"
#include "harness/contract/error.h"
#include "harness/diagnose/tests/toy_trace.h"

namespace qdiff::diagnose {
namespace {

std::vector<std::int64_t> indices_of(const std::vector<Prediction>& predictions) {
  std::vector<std::int64_t> indices;
  for (const Prediction& prediction : predictions) indices.push_back(prediction.place.index);
  return indices;
}

std::vector<Prediction> common(ToyTrace& a, ToyTrace& b, std::vector<std::string>* notes = nullptr) {
  std::vector<std::string> said;
  std::vector<Prediction> predictions = common_predictions(*a.write(), *b.write(), said);
  if (notes != nullptr) *notes = said;
  return predictions;
}

// The same sequence behind pads.
CaseInput padded(CaseInput input, std::int64_t pads) {
  Step& first = input.steps.front();
  first.tokens[0].insert(first.tokens[0].begin(), static_cast<std::size_t>(pads), 0);
  std::int64_t past = 0;
  for (Step& step : input.steps) {
    step.left_padding = {pads};
    step.past_length = past;
    set_default_positions(step);
    past += step.num_tokens();
  }
  input.capacity += pads;
  return input;
}

TEST_CASE("tokens are matched by row and index, whatever the steps and the padding", "[reconcile]") {
  ToyTrace a(ToyEngine{kF32}, toy_case({5, 1, 1})), b(ToyEngine{kF32}, padded(toy_case({3, 4}), 2));
  const std::vector<Prediction> predictions = common(a, b);
  CHECK(indices_of(predictions) == std::vector<std::int64_t>{1, 2, 3, 4, 5, 6});
  const Prediction& last = predictions.back();
  CHECK(last.token == a.input.steps[2].tokens[0][0]);
  CHECK(last.a.step == 1);
  CHECK(last.a.token_row == 0);
  CHECK(last.b.step == 1);
  CHECK(last.b.token_row == 2);
  CHECK(predictions.front().b.token_row == 2);  // behind two pads
}

TEST_CASE("logits of a step's last token alone predict one token", "[reconcile]") {
  ToyTrace a(ToyEngine{kF32}, toy_case({5, 1, 1})), b(ToyEngine{kF32}, toy_case({5, 2}));
  const TensorKey key{0, {Op::kLmHead}};
  const Tensor all = Tensor::copy_of(b.tensors.get(key));
  const std::vector<double> values = to_doubles(all.view());
  const std::int64_t vocab = all.shape().back();
  replace(b.tensors, key,
          Tensor::rounded(DType::kF32, {1, 1, vocab}, std::span(values).last(static_cast<std::size_t>(vocab))));
  const std::vector<Prediction> predictions = common(a, b);
  CHECK(indices_of(predictions) == std::vector<std::int64_t>{5, 6});
  CHECK(row_at(b.tensors.get(key), predictions[0].b, 5) == row_at(all.view(), predictions[0].b, 5));
}

TEST_CASE("other tokens and other rows are refused by place; a longer trace is told", "[reconcile]") {
  ToyTrace a(ToyEngine{kF32}, toy_case({5, 1})), longer(ToyEngine{kF32}, toy_case({5, 1, 1}));
  std::vector<std::string> notes;
  CHECK(indices_of(common(a, longer, &notes)) == std::vector<std::int64_t>{1, 2, 3, 4, 5});
  REQUIRE(notes.size() == 1);
  CHECK_THAT(notes[0], ContainsSubstring("goes on behind the other's end by 1 tokens"));

  CaseInput changed = toy_case({5, 1});
  changed.steps[0].tokens[0][3] = 11;
  ToyTrace other(ToyEngine{kF32}, changed);
  CHECK_THROWS_WITH(common(a, other), ContainsSubstring("at index 3 of row 0"));
  CaseInput two = toy_case({5, 1});
  for (Step& step : two.steps) {
    step.tokens.push_back(step.tokens[0]);
    step.left_padding.push_back(0);
    set_default_positions(step);
  }
  ToyTrace batch(ToyEngine{kF32}, two);
  CHECK_THROWS_AS(common(a, batch), InputError);
}

TEST_CASE("log-probabilities and how errors of the logits move them", "[reconcile]") {
  const std::vector<double> logits = {1.0, 3.0, -2.0, 3.5};
  double sum = 0.0;
  for (std::int32_t token = 0; token < 4; ++token) sum += std::exp(log_probability(logits, token));
  CHECK(std::abs(sum - 1.0) < 1e-12);
  // Against the differences that errors of one logit at a time make.
  for (std::int32_t token = 0; token < 4; ++token) {
    double square = 0.0;
    for (std::size_t i = 0; i < logits.size(); ++i) {
      std::vector<double> moved = logits;
      moved[i] += 1e-6;
      const double slope = (log_probability(moved, token) - log_probability(logits, token)) / 1e-6;
      square += slope * slope;
    }
    CHECK(std::abs(sensitivity(logits, token) - std::sqrt(square)) < 1e-5);
  }
  CHECK(std::isnan(log_probability(std::vector<double>{0.0, std::nan("")}, 0)));
}

}  // namespace
}  // namespace qdiff::diagnose
