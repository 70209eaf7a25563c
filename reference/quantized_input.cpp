#include "reference/quantized_input.h"

#include <string>
#include <string_view>

#include "harness/contract/error.h"

namespace qdiff::reference {
namespace {

constexpr std::int64_t kSmallBlock = 32;   // QK8_0, QK8_1
constexpr std::int64_t kLargeBlock = 256;  // QK_K
constexpr double kLargest = 127.0;

bool by_blocks(InputForm form) {
  return form == InputForm::kQ8_0 || form == InputForm::kQ8_1 || form == InputForm::kQ8_K;
}
DType half_of(InputForm form) { return form == InputForm::kF16 ? DType::kF16 : DType::kBF16; }
std::int64_t block_of(InputForm form) { return form == InputForm::kQ8_K ? kLargeBlock : kSmallBlock; }

// vec_dot_type of type_traits_cpu in ggml/src/ggml-cpu/ggml-cpu.c.
InputRule rule_of_ggml(const WeightInfo& weight) {
  if (weight.stored_as.empty()) {
    if (weight.dtype == DType::kF16) return {InputForm::kF16};
    if (weight.dtype == DType::kBF16) return {InputForm::kBF16};
    return {};
  }
  struct Row {
    std::string_view stored_as;
    InputRule rule;
  };
  constexpr Row kRows[] = {
      {"Q4_0", {InputForm::kQ8_0}},     {"Q5_0", {InputForm::kQ8_0}},     {"Q8_0", {InputForm::kQ8_0}},
      {"IQ4_NL", {InputForm::kQ8_0}},   {"Q4_1", {InputForm::kQ8_1, 32}}, {"Q5_1", {InputForm::kQ8_1, 32}},
      {"Q2_K", {InputForm::kQ8_K, 16}}, {"Q3_K", {InputForm::kQ8_K}},     {"Q4_K", {InputForm::kQ8_K, 32}},
      {"Q5_K", {InputForm::kQ8_K, 32}}, {"Q6_K", {InputForm::kQ8_K}},     {"IQ4_XS", {InputForm::kQ8_K}}};
  for (const Row& row : kRows) {
    if (row.stored_as == weight.stored_as) return row.rule;
  }
  throw InputError(weight.name + " is stored as " + weight.stored_as + ", and the trace declares " +
                   std::string(kQuantizedInputsPoint) + " ggml; no input form is known for that type");
}

// A block's elements in float32, and its scale: q = round(x reciprocal), and q scale is what is multiplied.
struct Blocks {
  at::Tensor x;           // [..., n/block, block]
  at::Tensor reciprocal;  // [..., n/block, 1]
  at::Tensor scale;       // the same
  at::Tensor unrounded;   // the scale in float32

  Blocks(const at::Tensor& values, InputForm form) {
    const std::int64_t block = block_of(form);
    x = values.to(at::kFloat).unflatten(-1, {values.size(-1) / block, block});
    const at::Tensor largest = at::amax(x.abs(), -1, /*keepdim=*/true);
    const at::Tensor zero = largest.eq(0.0);
    const at::Tensor divisor = largest.masked_fill(zero, 1.0);
    // ggml's Q8_K divides by the largest with its sign. Rounding is the same to both sides, so the products are too.
    const at::Tensor steps = at::full_like(divisor, kLargest);
    reciprocal = (steps / divisor).masked_fill(zero, 0.0);
    if (form == InputForm::kQ8_K) {
      unrounded = scale = at::reciprocal(reciprocal.masked_fill(zero, 1.0)).masked_fill(zero, 0.0);
    } else {
      unrounded = largest / steps;  // a GPU would multiply by the reciprocal of a scalar, which float16 may show
      scale = unrounded.to(at::kHalf).to(at::kFloat);
    }
  }

  at::Tensor scaled() const { return x * reciprocal; }
};

}  // namespace

InputRule input_rule(QuantizedInputs quantized, const WeightInfo& weight) {
  InputRule rule;
  if (quantized == QuantizedInputs::kQ8_0) rule.form = InputForm::kQ8_0;
  if (quantized == QuantizedInputs::kQ8_K) rule.form = InputForm::kQ8_K;
  if (quantized == QuantizedInputs::kGgml) rule = rule_of_ggml(weight);
  if (by_blocks(rule.form) && weight.shape.back() % block_of(rule.form) != 0) {
    throw InputError(weight.name + " has rows of " + std::to_string(weight.shape.back()) +
                     " elements, and the trace's " + std::string(kQuantizedInputsPoint) + " " +
                     std::string(name(quantized)) + " needs a multiple of " + std::to_string(block_of(rule.form)));
  }
  return rule;
}

QuantizedInput quantize(const at::Tensor& x, const InputRule& rule) {
  QuantizedInput input;
  if (!by_blocks(rule.form)) {
    input.value = rule.form == InputForm::kAsStored ? x : round_to(half_of(rule.form), x);
    return input;
  }
  const Blocks blocks(x, rule.form);
  const at::Tensor scaled = blocks.scaled();
  const at::Tensor steps = at::round(scaled);
  input.value = (steps * blocks.scale).flatten(-2).to(x.scalar_type());
  if (rule.minimum_block > 0) {
    const at::Tensor by_block = input.value.unflatten(-1, {x.size(-1) / rule.minimum_block, rule.minimum_block});
    input.block_sums = by_block.sum(-1);
    if (rule.form == InputForm::kQ8_1) {
      const at::Tensor kept = (steps.sum(-1) * blocks.unrounded.squeeze(-1)).to(at::kHalf).to(x.scalar_type());
      input.block_sum_errors = kept - input.block_sums;
      input.block_sums = kept;
    }
  }
  // Two divisions and a product in float32 are off by less than two units in the last place of `scaled`.
  const at::Tensor size = scaled.to(at::kDouble).abs();
  const at::Tensor from_middle = (size - size.floor() - 0.5).abs();
  const at::Tensor undecided = from_middle.le(size * (4.0 * unit_roundoff(DType::kF32)));
  if (undecided.any().item<bool>()) {
    input.variance = (blocks.scale.to(at::kDouble).square() * undecided).flatten(-2);
  }
  return input;
}

at::Tensor quantization_step(const at::Tensor& x, InputForm form) {
  if (form == InputForm::kAsStored) return at::zeros(x.sizes(), of_type(at::kDouble));
  if (!by_blocks(form)) return spacing_at(half_of(form), x);
  const Blocks blocks(x, form);
  return blocks.scale.to(at::kDouble).expand_as(blocks.x).flatten(-2);
}

at::Tensor block_minima(const at::Tensor& weight, std::int64_t block) {
  return at::amin(weight.unflatten(-1, {weight.size(-1) / block, block}), -1);
}

}  // namespace qdiff::reference
