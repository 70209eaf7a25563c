// ggml's quantisers of inputs, against values worked out by hand from their definitions.
#include "reference/quantized_input.h"

#include <cmath>

#include "cmake/catch2.h"
#include "harness/contract/error.h"

namespace qdiff::reference {
namespace {

at::Tensor floats(const std::vector<float>& values) { return at::tensor(values, of_type(at::kFloat)); }
at::Tensor doubles(const at::Tensor& x) { return x.to(at::kDouble); }
double largest_difference(const at::Tensor& a, const at::Tensor& b) {
  return (doubles(a) - doubles(b)).abs().max().item<double>();
}

// 0, 1, … n - 1 but for the last, which is `largest`.
at::Tensor ramp(std::int64_t n, double largest) {
  at::Tensor x = at::arange(n, of_type(at::kFloat));
  x.select(0, n - 1).fill_(largest);
  return x;
}

WeightInfo stored(const std::string& type, std::int64_t columns) {
  return {.name = "w", .dtype = DType::kF32, .shape = {4, columns}, .stored_as = type};
}

TEST_CASE("Q8_0: whole steps of a scale that float16 holds come back as they were", "[quantized]") {
  const at::Tensor x = ramp(32, 127.0);  // scale 1
  const QuantizedInput input = quantize(x, {InputForm::kQ8_0});
  CHECK(at::equal(input.value, x));
  CHECK_FALSE(input.variance.defined());
  CHECK_FALSE(input.block_sums.defined());
}

TEST_CASE("Q8_0: the step is the block's own, and its scale is rounded to float16", "[quantized]") {
  const at::Tensor x = at::cat({ramp(32, 100.0), ramp(32, 10000.0)}).to(at::kDouble);
  const QuantizedInput input = quantize(x, {InputForm::kQ8_0});
  CHECK(input.value.scalar_type() == at::kDouble);
  const float scale = at::tensor(100.0f / 127.0f).to(at::kHalf).item<float>();
  CHECK(input.value[31].item<double>() == 127.0 * static_cast<double>(scale));
  CHECK(input.value[1].item<double>() == static_cast<double>(scale));  // 1 * 127 / 100 is nearest to 1
  CHECK(input.value[2].item<double>() == 3.0 * static_cast<double>(scale));
  CHECK(at::equal(input.value.narrow(0, 32, 31), at::zeros({31}, of_type(at::kDouble))));  // below half a step
}

TEST_CASE("Q8_K: 256 elements share a scale that is kept in float32", "[quantized]") {
  at::Tensor x = ramp(256, -1000.0);
  const QuantizedInput input = quantize(x, {InputForm::kQ8_K});
  const float scale = 1.0f / (127.0f / 1000.0f);
  CHECK(input.value[255].item<float>() == -127.0f * scale);
  CHECK(input.value[3].item<float>() == 0.0f);
  CHECK(input.value[4].item<float>() == scale);
}

TEST_CASE("what lies in the middle between two steps may go either way", "[quantized]") {
  at::Tensor x = ramp(32, 127.0);
  x[3] = 7.5f;
  const QuantizedInput input = quantize(x, {InputForm::kQ8_0});
  REQUIRE(input.variance.defined());
  CHECK(input.variance[3].item<double>() == 1.0);
  CHECK(input.variance.sum().item<double>() == 1.0);
  // A number next to it that is surely above goes up in every engine.
  x[3] = 7.5001f;
  CHECK_FALSE(quantize(x, {InputForm::kQ8_0}).variance.defined());
}

TEST_CASE("a block of zeros stays one", "[quantized]") {
  const at::Tensor zeros = at::zeros({2, 256}, of_type(at::kFloat));
  for (InputForm form : {InputForm::kQ8_0, InputForm::kQ8_1, InputForm::kQ8_K}) {
    CHECK(at::equal(quantize(zeros, {form}).value, zeros));
    CHECK(at::equal(doubles(zeros), quantization_step(zeros, form)));
  }
}

TEST_CASE("Q8_1 keeps the sum of a block in float16", "[quantized]") {
  const at::Tensor x = at::full({32}, 127.0, of_type(at::kFloat)) + 0.0;
  const QuantizedInput input = quantize(x, {InputForm::kQ8_1, 32});
  CHECK(input.block_sums.item<float>() == 4064.0f);  // 32 * 127, which float16 holds
  CHECK(input.block_sum_errors.item<float>() == 0.0f);
  at::Tensor y = x.clone();
  y[0] = 126.0f;  // 4063: between 4062 and 4064
  const QuantizedInput other = quantize(y, {InputForm::kQ8_1, 32});
  CHECK(other.block_sums.item<float>() == 4064.0f);
  CHECK(other.block_sum_errors.item<float>() == 1.0f);
}

TEST_CASE("halves are rounded element by element", "[quantized]") {
  const at::Tensor x = floats({1.0f, 1.0f + 0x1p-12f, 1.0f + 0x1p-9f});
  CHECK(at::equal(quantize(x, {InputForm::kF16}).value, floats({1.0f, 1.0f, 1.0f + 0x1p-9f})));
  CHECK(at::equal(quantize(x, {InputForm::kBF16}).value, floats({1.0f, 1.0f, 1.0f})));
  CHECK(at::equal(quantize(x, {}).value, x));
}

TEST_CASE("no error is larger than half a step", "[quantized]") {
  at::manual_seed(3);
  const at::Tensor x = at::randn({3, 512}, of_type(at::kFloat)) * 5.0;
  for (InputForm form : {InputForm::kQ8_0, InputForm::kQ8_1, InputForm::kQ8_K, InputForm::kF16, InputForm::kBF16}) {
    const at::Tensor error = (doubles(quantize(x, {form}).value) - doubles(x)).abs();
    const at::Tensor step = quantization_step(x, form);
    // 127 steps of a scale that float16 rounds by up to 2^-11 of itself.
    CHECK((error / step).max().item<double>() <= 0.5 + 127.0 / 2048.0 + 1e-6);
    CHECK((error / step).max().item<double>() >= 0.4);
  }
}

TEST_CASE("the form follows the type of the weight", "[quantized]") {
  const auto form_of = [](const WeightInfo& weight) { return input_rule(QuantizedInputs::kGgml, weight).form; };
  CHECK(form_of(stored("Q8_0", 64)) == InputForm::kQ8_0);
  CHECK(form_of(stored("Q5_1", 64)) == InputForm::kQ8_1);
  CHECK(form_of(stored("Q6_K", 512)) == InputForm::kQ8_K);
  CHECK(form_of({.name = "w", .dtype = DType::kF16, .shape = {4, 7}}) == InputForm::kF16);
  CHECK(form_of({.name = "w", .dtype = DType::kBF16, .shape = {4, 7}}) == InputForm::kBF16);
  CHECK(form_of({.name = "w", .dtype = DType::kF32, .shape = {4, 7}}) == InputForm::kAsStored);
  CHECK(input_rule(QuantizedInputs::kNone, stored("Q8_0", 64)).form == InputForm::kAsStored);
  CHECK(input_rule(QuantizedInputs::kQ8_K, {.name = "w", .dtype = DType::kF32, .shape = {4, 512}}).form ==
        InputForm::kQ8_K);
  CHECK(input_rule(QuantizedInputs::kGgml, stored("Q2_K", 512)).minimum_block == 16);
  CHECK(input_rule(QuantizedInputs::kGgml, stored("Q3_K", 512)).minimum_block == 0);
}

TEST_CASE("rows that are no whole blocks, and types without a kernel, are refused by name", "[quantized]") {
  CHECK_THROWS_WITH(input_rule(QuantizedInputs::kQ8_0, {.name = "w", .dtype = DType::kF32, .shape = {4, 40}}),
                    ContainsSubstring("w has rows of 40 elements") && ContainsSubstring("multiple of 32"));
  CHECK_THROWS_AS(input_rule(QuantizedInputs::kQ8_K, stored("F32", 96)), InputError);
  CHECK_THROWS_WITH(input_rule(QuantizedInputs::kGgml, stored("IQ2_XXS", 256)), ContainsSubstring("IQ2_XXS"));
}

TEST_CASE("the smallest weight of each block", "[quantized]") {
  const at::Tensor weight = at::stack({ramp(64, -3.0), ramp(64, 70.0) + 1.0});
  const at::Tensor minima = block_minima(weight, 32);
  CHECK(largest_difference(minima, at::stack({floats({0.0f, -3.0f}), floats({1.0f, 33.0f})})) == 0.0);
}

}  // namespace
}  // namespace qdiff::reference
