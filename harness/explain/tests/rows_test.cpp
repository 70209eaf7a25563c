// What the solvers share, by itself: bits, tokens of slots, values that replace others, and names.
#include "harness/explain/rows.h"

#include <cmath>
#include <stdexcept>

#include "cmake/catch2.h"
#include "harness/explain/domain.h"
#include "harness/explain/scores_of_zero.h"
#include "harness/explain/tests/closed_form.h"

namespace qdiff::explain {
namespace {

TEST_CASE("bits are those of a choice, of digits and of an error", "[rows]") {
  CHECK(bits_of_choice(0) == 0.0);
  CHECK(bits_of_choice(1) == 0.0);
  CHECK(bits_of_choice(2) == 1.0);
  CHECK(bits_of_choice(32) == 5.0);
  CHECK(bits_of_digits(3) == Approx(3.0 * std::log2(10.0) + 1.0));
  CHECK(bits_of_error(0.0) == 0.0);
  CHECK(bits_of_error(std::sqrt(3.0)) == Approx(1.0));
  CHECK(bits_of_error(-std::sqrt(15.0)) == Approx(2.0));
}

TEST_CASE("a slot has the token of the step that wrote it", "[rows]") {
  SplitMix64 random(230);
  const ModelConfig config = closed_form_config();
  const std::vector<Step> steps = closed_form_steps(random, config);
  Instance instance;
  instance.steps = &steps;
  for (const std::int64_t b : {0, 1}) {
    const auto row = static_cast<std::size_t>(b);
    CHECK(token_at(instance, b, 0) == steps[0].tokens[row][0]);
    CHECK(token_at(instance, b, 11) == steps[0].tokens[row][11]);
    CHECK(token_at(instance, b, 12) == steps[1].tokens[row][0]);
    CHECK(token_at(instance, b, 15) == steps[4].tokens[row][0]);
    CHECK_THROWS_AS(token_at(instance, b, 16), std::out_of_range);
  }
  const auto first = [&](Op op, const Step& step) {
    const Shape shape = output_shape(op, config, step.batch(), step.num_tokens(), step.valid_length());
    return first_slot(compare::Layout(op, shape, step, config), op, step);
  };
  CHECK(first(Op::kQProj, steps[0]) == 0);
  CHECK(first(Op::kQProj, steps[3]) == 14);
  CHECK(first(Op::kKCache, steps[3]) == 0);
}

TEST_CASE("a value that replaces right code's has deviations of its own size", "[rows]") {
  Expectation right;
  right.shape = {1, 1, 3};
  right.value = {2.0, -4.0, 0.0};
  right.sigma_independent = {0.5F, 0.25F, 0.125F};
  right.sigma_shared = {0.25F, 0.5F, 0.0625F};
  Expectation theory = blank(right);
  CHECK(theory.shape == right.shape);
  CHECK(theory.value == std::vector<double>{0.0, 0.0, 0.0});
  set_scaled(theory, 0, right, -6.0, 1e-3);
  set_scaled(theory, 1, right, 2.0, 0.5);  // the rounding of its own is the larger one
  set_scaled(theory, 2, right, 8.0, 0.25);
  CHECK(theory.value == std::vector<double>{-6.0, 2.0, 8.0});
  CHECK(theory.sigma_independent == std::vector<float>{1.5F, 1.0F, 2.0F});
  CHECK(theory.sigma_shared == std::vector<float>{0.75F, 0.25F, 0.0F});
  right.sigma_independent.clear();
  set_scaled(theory, 0, right, -3.0, 0.125);
  CHECK(theory.sigma_independent[0] == 0.375F);
}

TEST_CASE("tensors are named with their layer where it is another", "[rows]") {
  CHECK(short_name({Op::kKProj, 2}, 2) == "self_attn.k_proj");
  CHECK(short_name({Op::kKProj, 1}, 2) == "self_attn.k_proj of layer 1");
  CHECK(short_name({Op::kLmHead, kNoLayer}, 2) == "lm_head");
  CHECK(number_text(0.5) == "0.5");
  CHECK(number_text(1.0 / 3.0) == "0.333333");
  CHECK(number_text(-2.0) == "-2");
}

// A query's scores of 0: n of them beside a sum Z leave Z / (Z + n).
TEST_CASE("scores of 0 are counted by the rows that show them", "[rows]") {
  const auto said = [](const std::vector<double>& sums, double n) {
    std::vector<ScoresOfZero> rows;
    for (double sum : sums) rows.push_back({sum / (sum + n), sum});
    return rows;
  };
  CHECK(counted_zeros(said({1.0, 5.0, 0.2, 30.0}, 7.0)) == 7);
  CHECK(counted_zeros(said({1.0, 5.0}, 0.0)) == 0);
  CHECK(counted_zeros({}) == 0);
  CHECK(counted_zeros(said({1e9, 1e9, 1e9}, 3.0)) == 0);  // there they do not show
  std::vector<ScoresOfZero> rows = said({1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0}, 4.0);
  rows.push_back({std::nan(""), 1.0});
  rows.push_back({0.5, 900.0});  // one that was spoiled
  CHECK(counted_zeros(rows) == 4);
}

TEST_CASE("a scope says its bounds in words", "[rows]") {
  const auto words = [](Axis axis, Selection selection) {
    Domain domain;
    domain.choices[static_cast<std::size_t>(axis)] = {std::move(selection), 1.0};
    return domain.words(Op::kQRope);
  };
  using Kind = Selection::Kind;
  CHECK(words(Axis::kPhase, {Kind::kOnly, 0, {0}}) == ", in prefill alone");
  CHECK(words(Axis::kPhase, {Kind::kOnly, 0, {1}}) == ", in decode alone");
  CHECK(words(Axis::kStep, {Kind::kFrom, 3, {}}) == ", at step 3 and beyond");
  CHECK(words(Axis::kBatchRow, {Kind::kBelow, 1, {}}) == ", at batch row 0");
  CHECK(words(Axis::kHead, {Kind::kBelow, 4, {}}) == ", at heads 0..3");
  CHECK(words(Axis::kColumn, {Kind::kOnly, 0, {2, 5}}) == ", at columns 2, 5");
  CHECK(Domain().words(Op::kQRope).empty());
}

}  // namespace
}  // namespace qdiff::explain
