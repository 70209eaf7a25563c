#include "reference/quantized_input.h"

#include <algorithm>
#include <array>

#include "harness/contract/error.h"

namespace qdiff::reference {
namespace {

constexpr std::int64_t kSmallBlock = 32;   // QK8_0, QK8_1
constexpr std::int64_t kLargeBlock = 256;  // QK_K
constexpr double kLargest = 127.0;

bool by_blocks(InputForm form) {
  return form == InputForm::kQ8_0 || form == InputForm::kQ8_1 || form == InputForm::kQ8_K;
}
std::int64_t block_of(InputForm form) { return form == InputForm::kQ8_K ? kLargeBlock : kSmallBlock; }

// vec_dot_type of type_traits_cpu in ggml/src/ggml-cpu/ggml-cpu.c.
InputForm form_of_ggml(const WeightInfo& weight) {
  if (weight.stored_as.empty()) {
    if (weight.dtype == DType::kF16) return InputForm::kF16;
    if (weight.dtype == DType::kBF16) return InputForm::kBF16;
    return InputForm::kAsStored;
  }
  constexpr std::array kSmall = {"Q4_0", "Q5_0", "Q8_0", "IQ4_NL"};
  constexpr std::array kWithSum = {"Q4_1", "Q5_1"};
  constexpr std::array kLarge = {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"};
  const auto is_one_of = [&](const auto& names) {
    return std::find(names.begin(), names.end(), weight.stored_as) != names.end();
  };
  if (is_one_of(kSmall)) return InputForm::kQ8_0;
  if (is_one_of(kWithSum)) return InputForm::kQ8_1;
  if (is_one_of(kLarge)) return InputForm::kQ8_K;
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
    reciprocal = (at::full_like(divisor, kLargest) / divisor).masked_fill(zero, 0.0);
    if (form == InputForm::kQ8_K) {
      unrounded = scale = at::reciprocal(reciprocal.masked_fill(zero, 1.0)).masked_fill(zero, 0.0);
    } else {
      unrounded = largest / kLargest;
      scale = unrounded.to(at::kHalf).to(at::kFloat);
    }
  }

  at::Tensor scaled() const { return x * reciprocal; }
};

}  // namespace

InputForm input_form(QuantizedInputs quantized, const WeightInfo& weight) {
  InputForm form = InputForm::kAsStored;
  if (quantized == QuantizedInputs::kQ8_0) form = InputForm::kQ8_0;
  if (quantized == QuantizedInputs::kQ8_K) form = InputForm::kQ8_K;
  if (quantized == QuantizedInputs::kGgml) form = form_of_ggml(weight);
  if (by_blocks(form) && weight.shape.back() % block_of(form) != 0) {
    throw InputError(weight.name + " has rows of " + std::to_string(weight.shape.back()) +
                     " elements, and the trace's " + std::string(kQuantizedInputsPoint) + " " +
                     std::string(name(quantized)) + " needs a multiple of " + std::to_string(block_of(form)));
  }
  return form;
}

QuantizedInput quantize(const at::Tensor& x, InputForm form) {
  if (form == InputForm::kAsStored) return {x, {}, {}};
  if (!by_blocks(form)) return {round_to(form == InputForm::kF16 ? DType::kF16 : DType::kBF16, x), {}, {}};
  const Blocks blocks(x, form);
  const at::Tensor scaled = blocks.scaled();
  const at::Tensor steps = at::round(scaled);
  QuantizedInput input;
  input.value = (steps * blocks.scale).flatten(-2).to(x.scalar_type());
  if (form == InputForm::kQ8_1) {
    const at::Tensor sum = steps.sum(-1);
    const at::Tensor kept = (sum * blocks.unrounded.squeeze(-1)).to(at::kHalf).to(at::kDouble);
    input.sum_errors = (kept - sum.to(at::kDouble) * blocks.scale.squeeze(-1)).to(x.scalar_type());
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
  if (!by_blocks(form)) return spacing_at(form == InputForm::kF16 ? DType::kF16 : DType::kBF16, x);
  const Blocks blocks(x, form);
  return blocks.scale.to(at::kDouble).expand_as(blocks.x).flatten(-2);
}

at::Tensor block_minima(const at::Tensor& weight) {
  return at::amin(weight.unflatten(-1, {weight.size(-1) / kSmallBlock, kSmallBlock}), -1);
}

}  // namespace qdiff::reference
