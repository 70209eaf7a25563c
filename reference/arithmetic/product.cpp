#include "reference/arithmetic/product.h"

#include <algorithm>

#include "reference/arithmetic/arithmetic.h"

namespace qdiff::reference {

namespace {

at::Tensor matmul(const at::Tensor& x, const at::Tensor& weight) { return at::matmul(x, weight.t()); }

}  // namespace

at::Tensor project(const at::Tensor& x, const std::string& weight, const WeightForm& form, WeightStore& weights) {
  std::vector<std::int64_t> shape = x.sizes().vec();
  shape.back() = weights.shape(weight)[0];
  at::Tensor out;
  weights.for_each_block(weight, form, [&](std::int64_t first, const at::Tensor& rows) {
    if (rows.size(0) == shape.back()) {
      out = reference::matmul(x, rows);
      return;
    }
    if (!out.defined()) out = at::empty(shape, x.options());
    out.narrow(-1, first, rows.size(0)).copy_(reference::matmul(x, rows));
  });
  return out;
}

namespace {

std::string matrix_name(Op op, const ProjectionRule& rule, const Parameters& parameters, const Setting& setting) {
  if (!rule.named.empty()) return rule.named;
  return weight_name({op, parameters.weight_layer.value_or(setting.layer)}, 0, setting.config());
}

// x weight^T in the form asked for, rearranged as the rule says.
at::Tensor product(Op op, const at::Tensor& x, const Parameters& parameters, const Setting& setting,
                   const WeightForm& form) {
  const ProjectionRule& rule = parameters.projection;
  const at::Tensor input = rule.input ? rule.input(x) : x;
  const at::Tensor y = rule.weight ? reference::matmul(input, rule.weight(setting.weights, form))
                                   : project(input, matrix_name(op, rule, parameters, setting), form, setting.weights);
  return rule.output ? rule.output(y) : y;
}

InputRule input_rule_of(Op op, const Parameters& parameters, const Setting& setting) {
  if (!setting.quantizes || setting.precision.quantized == QuantizedInputs::kNone) return {};
  InputRule rule = input_rule(setting.precision.quantized,
                              setting.weights.info(matrix_name(op, parameters.projection, parameters, setting)));
  // A matrix that was read in a wrong layout has blocks that no file holds.
  if (parameters.projection.weight) rule.minimum_block = 0;
  return rule;
}

// The squares of a row's elements fit fp32 once each row is scaled to a largest element of 1.
struct ScaledSquares {
  at::Tensor squares;  // fp32
  at::Tensor scale;    // of the row, squared

  explicit ScaledSquares(const at::Tensor& x) {
    const at::Tensor largest = at::amax(x.abs(), -1, /*keepdim=*/true);
    const at::Tensor factor = largest.masked_fill(largest.eq(0.0), 1.0);
    squares = (x / factor).square().to(at::kFloat);
    scale = factor.square();
  }
};

// A stored value that two correct engines round: where their errors straddle the middle between two neighbours they
// store different ones. Of errors with deviation s that happens at a share of about 0.8 s / spacing.
at::Tensor stored_variance(DType stored, const at::Tensor& value, const at::Tensor& variance) {
  return variance + spacing_at(stored, value) * 0.8 * variance.sqrt();
}

// The same where a whole row is computed from the stored value, so that a rare difference counts and not the mean: what
// may differ is taken to differ. With the mean, 1 of 40 models (toy-14x2, float16) had a token of which one stored
// element went the other way, and of what was computed from it one element lay 50 spacings beside its gold.
at::Tensor variance_in_memory(DType stored, const at::Tensor& value, const at::Tensor& variance) {
  // In deviations. Of two million honest sums of 896 products in three orders, half with a massive column, the farthest
  // lay at 7.6 (`reference_tests "[.farthest]"`), one in forty thousand of the others beyond 5.
  constexpr double kFarthest = 8.0;
  const at::Tensor spacing = spacing_at(stored, value);
  const at::Tensor to_middle = spacing / 2.0 - (value - round_to(stored, value)).abs();
  const at::Tensor same = to_middle.gt(kFarthest * variance.sqrt());
  return (variance + spacing.square()).masked_fill(same, 0.0);
}

// A piece of the product, computed from what the input's memory holds by now. Without a model it has no variance.
struct Piece {
  at::Tensor value, variance;
};
Piece piece_of(const at::Tensor& x, const at::Tensor& x_variance, const at::Tensor& weight, const NoiseModel* model) {
  Piece piece;
  piece.value = reference::matmul(x, weight);
  if (model == nullptr) return piece;
  const at::Tensor squared = weight.square();
  const at::Tensor y = piece.value.to(at::kDouble);
  const at::Tensor squares = reference::matmul(x.square(), squared).to(at::kDouble);
  const at::Tensor n = at::scalar_tensor(static_cast<double>(x.size(-1)), of_type(at::kDouble));
  piece.variance = dot_variance(y, squares, n, model->unit()) +
                   reference::matmul(x_variance.to(x.scalar_type()), squared).to(at::kDouble);
  if (model->matrix_units()) {
    const Noise cut_off = cut_off_noise(y, squares, n, model->unit());
    piece.variance = piece.variance + cut_off.independent + cut_off.shared;
  }
  return piece;
}

// Columns of the output, some at a time for all tokens, each piece stored over the same columns of the input.
Piece project_in_place_by_columns(const at::Tensor& x, const at::Tensor& weight, std::int64_t columns, DType stored,
                                  const NoiseModel* model) {
  at::Tensor memory = x.clone();
  at::Tensor variance = at::zeros(x.sizes(), of_type(at::kDouble));
  Tensors values, variances;
  for (std::int64_t first = 0; first < weight.size(0); first += columns) {
    const std::int64_t count = std::min(columns, weight.size(0) - first);
    const Piece piece = piece_of(memory, variance, weight.narrow(0, first, count), model);
    values.push_back(piece.value);
    variances.push_back(piece.variance);
    const std::int64_t inside = std::min(count, x.size(-1) - first);
    if (inside <= 0) continue;
    const at::Tensor kept = piece.value.narrow(-1, 0, inside);
    memory.narrow(-1, first, inside).copy_(round_to(stored, kept));
    if (model == nullptr) continue;
    variance.narrow(-1, first, inside).copy_(variance_in_memory(stored, kept, piece.variance.narrow(-1, 0, inside)));
  }
  return {at::cat(values, -1), model == nullptr ? at::Tensor() : at::cat(variances, -1)};
}

// Tokens in order, each one's output stored from element token * out of the memory whose inputs start at token * in.
Piece project_in_place_by_rows(const at::Tensor& x, const at::Tensor& weight, std::int64_t copies, DType stored,
                               const NoiseModel* model) {
  const std::int64_t in = weight.size(1), out = weight.size(0);
  const std::int64_t tokens = x.numel() / in / copies;
  Tensors values, variances;
  for (std::int64_t copy = 0; copy < copies; ++copy) {
    at::Tensor memory = at::zeros({tokens * std::max(in, out)}, x.options());
    at::Tensor variance = at::zeros({tokens * std::max(in, out)}, of_type(at::kDouble));
    memory.narrow(0, 0, tokens * in).copy_(x.reshape({copies, -1}).select(0, copy));
    for (std::int64_t token = 0; token < tokens; ++token) {
      const Piece piece =
          piece_of(memory.narrow(0, token * in, in).clone(), variance.narrow(0, token * in, in).clone(), weight, model);
      values.push_back(piece.value);
      variances.push_back(piece.variance);
      memory.narrow(0, token * out, out).copy_(round_to(stored, piece.value));
      if (model == nullptr) continue;
      variance.narrow(0, token * out, out).copy_(variance_in_memory(stored, piece.value, piece.variance));
    }
  }
  std::vector<std::int64_t> shape = x.sizes().vec();
  shape.back() = out;
  return {at::stack(values).view(shape), model == nullptr ? at::Tensor() : at::stack(variances).view(shape)};
}

// The running sum rounded to bfloat16 after each block of products.
Piece project_with_bf16_sums(const at::Tensor& x, const at::Tensor& weight, std::int64_t block,
                             const NoiseModel* model) {
  at::Tensor sum;
  at::Tensor variance;
  for (std::int64_t first = 0; first < x.size(-1); first += block) {
    const std::int64_t count = std::min(block, x.size(-1) - first);
    const Piece piece = piece_of(x.narrow(-1, first, count), at::zeros_like(x.narrow(-1, first, count)),
                                 weight.narrow(1, first, count), model);
    const at::Tensor next = sum.defined() ? sum + piece.value : piece.value;
    if (model != nullptr) {
      const at::Tensor error =
          sum.defined() ? variance + piece.variance + rounding_of(next, model->unit()) : piece.variance;
      variance = stored_variance(DType::kBF16, next, error);
    }
    sum = round_to(DType::kBF16, next);
  }
  return {sum, variance};
}

// Follows the rules under which a product is no plain product; none: it is one.
std::optional<Piece> project_in_pieces(Op op, const at::Tensor& x, const Parameters& parameters, const Setting& setting,
                                       bool with_noise) {
  const ProjectionRule& rule = parameters.projection;
  if (rule.in_place_columns == 0 && !rule.in_place_rows && rule.bf16_sum_block == 0) return std::nullopt;
  const at::Tensor weight = setting.weights.get(matrix_name(op, rule, parameters, setting), setting.form());
  const NoiseModel of_sums(setting.precision, std::nullopt);
  const NoiseModel* model = with_noise ? &of_sums : nullptr;
  const DType stored = setting.precision.activations;
  if (rule.in_place_columns > 0) return project_in_place_by_columns(x, weight, rule.in_place_columns, stored, model);
  if (rule.in_place_rows) return project_in_place_by_rows(x, weight, setting.copies, stored, model);
  return project_with_bf16_sums(x, weight, rule.bf16_sum_block, model);
}

// Sums of the input's blocks, or powers of them, times those of the smallest weights.
at::Tensor block_sum_product(Op op, const at::Tensor& sums, double power, std::int64_t block,
                             const Parameters& parameters, const Setting& setting) {
  Tensors columns;
  setting.weights.for_each_block(matrix_name(op, parameters.projection, parameters, setting), setting.form(),
                                 [&](std::int64_t, const at::Tensor& rows) {
                                   const at::Tensor minima = block_minima(rows, block);
                                   columns.push_back(reference::matmul(sums.pow(power), minima.pow(power)));
                                 });
  const at::Tensor y = at::cat(columns, -1);
  return parameters.projection.output ? parameters.projection.output(y) : y;
}

// A kernel that sums the products with the smallest weights apart may come to large sums that cancel in the result.
at::Tensor block_sum_variance(Op op, const QuantizedInput& input, const InputRule& input_rule,
                              const Parameters& parameters, const Setting& setting, double unit) {
  const auto product = [&](double power) {
    return block_sum_product(op, input.block_sums, power, input_rule.minimum_block, parameters, setting);
  };
  const at::Tensor n = at::scalar_tensor(static_cast<double>(input.block_sums.size(-1)), of_type(at::kDouble));
  // As much again for what it is added to.
  const at::Tensor sum = product(1.0);
  return 2.0 * dot_variance(sum, product(2.0), n, unit) + rounding_of(sum, unit);
}

// The parts of a sum are rounded, and so is each sum of some of them. Kernels choose the number of parts; the emulation
// makes four.
at::Tensor product_of_parts(Op op, const at::Tensor& x, DType type, const Parameters& parameters,
                            const Setting& setting) {
  constexpr std::int64_t kParts = 4;
  const std::int64_t width = x.size(-1), of_part = (width + kParts - 1) / kParts;
  at::Tensor sum;
  for (std::int64_t first = 0; first < width; first += of_part) {
    const std::int64_t count = std::min(of_part, width - first);
    at::Tensor part = at::zeros_like(x);
    part.narrow(-1, first, count).copy_(x.narrow(-1, first, count));
    const at::Tensor y = round_to(type, product(op, part, parameters, setting, setting.form()));
    sum = sum.defined() ? round_to(type, sum + y) : y;
  }
  return sum;
}

at::Tensor project_whole(Op op, const QuantizedInput& input, const InputRule& input_rule, const Parameters& parameters,
                         const Setting& setting) {
  const std::optional<DType> of_parts = setting.rounding.emulated_at(RoundingPoint::kMatmulPartials);
  at::Tensor y = of_parts ? product_of_parts(op, input.value, *of_parts, parameters, setting)
                          : product(op, input.value, parameters, setting, setting.form());
  if (input.block_sum_errors.defined()) {
    y = y + block_sum_product(op, input.block_sum_errors, 1.0, input_rule.minimum_block, parameters, setting);
  }
  y = setting.rounding.accumulated(y);
  const auto& type = parameters.projection.result_type;
  if (!type) return y;
  return setting.rounding.emulates() ? round_to(*type, y) : with_overflow(*type, y);
}

// ||a o b||^2 of each dot product of x weight^T.
at::Tensor product_squares(const at::Tensor& x, Op op, const Setting& setting) {
  const ScaledSquares scaled(x);
  const WeightForm form = {setting.precision.weights, at::kFloat, true};
  const at::Tensor squares = product(op, scaled.squares, setting.parameters(op), setting, form).to(at::kDouble);
  // A rearrangement of the elements takes the rows' scales along.
  const auto& output = setting.parameters(op).projection.output;
  return squares * (output ? output(scaled.scale.expand_as(squares).contiguous()) : scaled.scale);
}

// The product of a row, before any declared rounding, with the noise of its sums.
Evaluated project_row(Op op, const at::Tensor& x, const Setting& setting, const NoiseModel* model) {
  const Parameters parameters = setting.parameters(op);
  const ProjectionRule& rule = parameters.projection;
  const InputRule input_rule = input_rule_of(op, parameters, setting);
  const QuantizedInput input = quantize(x, input_rule);
  if (const auto piece = project_in_pieces(op, input.value, parameters, setting, model != nullptr)) {
    if (model == nullptr) return {piece->value, {}};
    return {piece->value, {piece->variance, at::zeros_like(piece->variance)}};
  }
  const at::Tensor y = project_whole(op, input, input_rule, parameters, setting);
  if (model == nullptr) return {y, {}};
  const at::Tensor n = at::scalar_tensor(static_cast<double>(x.size(-1)), of_type(at::kDouble));
  const at::Tensor squares = product_squares(x, op, setting);
  Noise noise = {dot_variance(y, squares, n, model->unit()), at::zeros({}, of_type(at::kDouble)).expand_as(y)};
  if (model->matrix_units()) {
    const Noise cut_off = cut_off_noise(y, squares, n, model->unit());
    noise = {noise.independent + cut_off.independent, cut_off.shared};
  }
  at::Tensor& variance = noise.independent;
  if (model->declares(RoundingPoint::kMatmulPartials)) {
    // Kernels that split a sum do so into few parts; each part and each sum of some of them is rounded.
    constexpr double kMostParts = 32.0;
    const double unit = unit_roundoff(setting.precision.points.at(RoundingPoint::kMatmulPartials));
    variance = variance + dot_variance(y, squares, n.clamp_max(kMostParts), unit);
  }
  if (input.variance.defined()) {
    const WeightForm squared = {setting.precision.weights, at::kFloat, true};
    variance = variance + product(op, input.variance.to(at::kFloat), parameters, setting, squared).to(at::kDouble);
  }
  if (input.block_sums.defined()) {
    variance = variance + block_sum_variance(op, input, input_rule, parameters, setting, model->unit());
  }
  if (rule.result_type) variance = variance + rounding_variance(*rule.result_type, y);
  if (rule.unknown_from) {
    const std::int64_t first = std::min(*rule.unknown_from, y.size(-1));
    variance.narrow(-1, first, y.size(-1) - first).fill_(HUGE_VAL);
  }
  return {y, noise};
}

}  // namespace

InputRule input_rule(Op op, const Setting& setting) { return input_rule_of(op, setting.parameters(op), setting); }

Evaluated evaluate_product(const Unit& unit, std::span<const at::Tensor> inputs, const Setting& setting,
                           const NoiseModel* model) {
  using enum RoundingPoint;
  const Op op = unit.first;
  Evaluated product = project_row(op, inputs[0], setting, model);
  const auto& points = row(op).points;
  if (std::ranges::find(points, kMatmulBeforeBias) == points.end()) return product;
  product.value = setting.rounding.at(kMatmulBeforeBias, product.value);
  if (model == nullptr) return product;
  at::Tensor& variance = product.noise.independent;
  variance = variance + (unit.last == op ? model->at_last(kMatmulBeforeBias, product.value)
                                         : model->at(kMatmulBeforeBias, product.value));
  return product;
}

}  // namespace qdiff::reference
