#include "harness/compare/distinct.h"

#include <cmath>
#include <limits>

#include "cmake/catch2.h"

namespace qdiff::compare {
namespace {

using Catch::Matchers::WithinAbs;

// Of one batch row, its first `padding` token rows pads.
struct Rows {
  Tensor tensor;
  Layout layout;

  Rows(std::int64_t num_rows, const std::vector<double>& values, std::int64_t padding = 0)
      : tensor(
            Tensor::rounded(DType::kF64, {1, num_rows, static_cast<std::int64_t>(values.size()) / num_rows}, values)),
        layout(Op::kOutput, tensor.shape(), step_of(num_rows, padding), config_of(tensor.shape()[2])) {}

  double probability(const Block& block) const { return probability_of_equal(block, layout, tensor.view()); }
  double probability() const { return probability({0, 1, layout.num_rows(), 0, 1, layout.num_columns()}); }

 private:
  static ModelConfig config_of(std::int64_t hidden) {
    ModelConfig config;
    config.hidden = hidden;
    return config;
  }
  static Step step_of(std::int64_t num_tokens, std::int64_t padding) {
    Step step;
    step.tokens = {std::vector<std::int32_t>(static_cast<std::size_t>(num_tokens))};
    step.left_padding = {padding};
    set_default_positions(step);
    return step;
  }
};

TEST_CASE("of small blocks all pairs are looked at", "[compare]") {
  CHECK(Rows(1, {1, 2, 1, 3, 1, 2}).probability() == 8.0 / 30.0);  // 3 * 2 and 2 * 1 ordered pairs of 6 * 5
  CHECK(Rows(2, {1, 2, 3, 4}).probability() == 0.0);
  CHECK(Rows(2, {7, 7, 7, 7}).probability() == 1.0);
  CHECK(Rows(1, {7}).probability() == 0.0);
}

TEST_CASE("the pairs are those of the block", "[compare]") {
  const Rows rows(3, {1, 5, 1, 6,  //
                      2, 5, 1, 7,  //
                      1, 5, 2, 8});
  CHECK(rows.probability({0, 1, 3, 1, 1, 1}) == 1.0);
  CHECK(rows.probability({0, 2, 2, 0, 2, 2}) == 0.5);  // 1 1 1 2
  CHECK(rows.probability({1, 1, 1, 0, 1, 4}) == 0.0);
}

TEST_CASE("values are equal to the eight bits of a bfloat16, halves to even", "[compare]") {
  const auto are_equal = [](double a, double b) { return Rows(1, {a, b}).probability() == 1.0; };
  for (const double scale : {1.0, -0x1p-100, 0x1p90}) {
    CHECK(are_equal(scale, scale * (1 + 0x1p-9)));
    CHECK(are_equal(scale, scale * (1 + 0x1p-8)));  // half, to the even 1
    CHECK(!are_equal(scale, scale * (1 + 0x1p-8 + 0x1p-20)));
    CHECK(!are_equal(scale, scale * (1 + 0x1p-7)));
    CHECK(are_equal(scale * (1 + 0x1p-6), scale * (1 + 3 * 0x1p-8)));  // half, to the even 1 + 2^-6
    CHECK(are_equal(scale * 2, scale * (2 - 0x1p-9)));                 // into the next binade
    CHECK(!are_equal(scale, -scale));
    CHECK(!are_equal(scale, 2 * scale));
  }
}

TEST_CASE("zeros, what is not finite and pads are no values", "[compare]") {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  CHECK(Rows(1, {0, 0, -0.0, 3}).probability() == 0.0);
  CHECK(Rows(1, {NAN, kInf, kInf, -kInf, 3, 3}).probability() == 1.0);
  CHECK(Rows(3, {1, 1, 2, 3, 4, 4}, 1).probability() == 2.0 / 12.0);
}

TEST_CASE("as many values as are looked at may all differ", "[compare]") {
  std::vector<double> values;
  for (std::int64_t i = 0; i < kDistinctSample; ++i) {
    values.push_back(std::ldexp(1.0 + static_cast<double>(i % 128) / 128.0, static_cast<int>(i / 128)));
  }
  CHECK(Rows(1, values).probability() == 0.0);
  values.back() = values.front();
  CHECK(Rows(1, values).probability() == 2.0 / (1024.0 * 1023.0));
}

TEST_CASE("of large blocks a sample is looked at, the same every time", "[compare]") {
  std::vector<double> values(3 * 4000);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = i % 4 == 0 ? 1.0 : 2.0 + static_cast<double>(i % 3);
  const Rows rows(3, values);
  const double probability = rows.probability();
  CHECK_THAT(probability, WithinAbs(0.25 * 0.25 + 3 * 0.25 * 0.25, 0.03));
  CHECK(rows.probability() == probability);
  CHECK(Rows(3, std::vector<double>(3 * 4000, 5.0)).probability() == 1.0);
}

}  // namespace
}  // namespace qdiff::compare
