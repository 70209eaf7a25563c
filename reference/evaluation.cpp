#include "reference/evaluation.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "reference/attention.h"
#include "reference/projection.h"

namespace qdiff::reference {
namespace {

using enum Op;

at::Tensor weight_of(Op op, const Parameters& parameters, const Setting& setting) {
  const int layer = parameters.weight_layer.value_or(setting.layer);
  return setting.weights.get(weight_name({op, layer}, 0, setting.config()), setting.form());
}

at::Tensor normalize(Op op, const at::Tensor& x, const Setting& setting) {
  const Parameters parameters = setting.parameters(op);
  const at::Tensor weight = weight_of(op, parameters, setting);
  const NormRule& rule = parameters.norm;
  return rule.norm ? rule.norm(x, weight, rule, setting.rounding) : rms_norm(x, weight, rule.eps, setting.rounding);
}

at::Tensor with_bias(Op op, const at::Tensor& x, const Setting& setting) {
  const Parameters parameters = setting.parameters(op);
  const at::Tensor bias = weight_of(op, parameters, setting);
  if (!parameters.bias) return add_bias(x, bias);
  const at::Tensor other = parameters.bias(bias, op, setting);
  return other.defined() ? x + other : x;
}

at::Tensor embed(const Setting& setting) {
  const std::int64_t offset = setting.parameters(kEmbedTokens).token_offset;
  std::vector<std::int64_t> ids;
  for (const auto& row : setting.step.tokens) {
    for (std::int64_t id : row) ids.push_back((id + offset) % setting.config().vocab);
  }
  const at::Tensor rows =
      setting.weights.gather_rows(weight_name({kEmbedTokens}, 0, setting.config()), ids, setting.form());
  const at::Tensor batch = rows.view({setting.step.batch(), setting.step.num_tokens(), setting.config().hidden});
  return batch.repeat({setting.copies, 1, 1});
}

at::Tensor split_heads(const at::Tensor& x, const ModelConfig& config) {
  return x.view({x.size(0), x.size(1), -1, config.head_dim});
}

at::Tensor positions_to_angles(const RopeRule& rule, const Setting& setting) {
  std::vector<std::int64_t> flat;
  for (const auto& row : rule.positions ? *rule.positions : setting.step.positions) {
    flat.insert(flat.end(), row.begin(), row.end());
  }
  const at::Tensor positions = at::tensor(flat, of_type(at::kLong))
                                   .view({setting.step.batch(), setting.step.num_tokens()})
                                   .repeat({setting.copies, 1});
  return rope_angles(positions, setting.config().head_dim, rule.theta, setting.rounding.compute());
}

at::Tensor rotate(Op op, const at::Tensor& x, const Setting& setting) {
  const RopeRule rule = setting.parameters(op).rope;
  const at::Tensor heads = split_heads(x, setting.config());
  const at::Tensor angles = positions_to_angles(rule, setting);
  return rule.rope ? rule.rope(heads, angles, op, setting) : rope(heads, angles, setting.rounding);
}

CacheView cache_view(Op op, std::span<const at::Tensor> inputs, const Setting& setting) {
  const Parameters parameters = setting.parameters(op);
  if (parameters.cache) return parameters.cache(op, setting);
  const at::Tensor now = op == kKCache ? inputs[1] : split_heads(inputs[1], setting.config());
  return {append_to_cache(inputs[0], now, setting.rounding), {}};
}

// What the row takes: its own inputs, or others under a fault.
Tensors taken(Op op, std::span<const at::Tensor> inputs, const Setting& setting) {
  const Tensors own(inputs.begin(), inputs.end());
  const Parameters parameters = setting.parameters(op);
  return parameters.inputs ? parameters.inputs(own, setting) : own;
}

}  // namespace

at::Tensor visible_slots(const Step& step, const AttentionRule& rule, std::int64_t copies, std::int64_t first,
                         std::int64_t count, std::int64_t num_slots) {
  std::vector<std::int64_t> first_seen, last_seen;
  for (std::int64_t b = 0; b < step.batch(); ++b) {
    for (std::int64_t t = first; t < first + count; ++t) {
      const SlotRange range = rule.visible
                                  ? rule.visible(b, t)
                                  : SlotRange{step.left_padding[static_cast<std::size_t>(b)], step.past_length + t};
      first_seen.push_back(range.first);
      last_seen.push_back(range.last);
    }
  }
  const at::Tensor slots = at::arange(num_slots, of_type(at::kLong));
  const auto column = [&](const std::vector<std::int64_t>& bounds) {
    return at::tensor(bounds, of_type(at::kLong)).view({step.batch(), count, 1});
  };
  return slots.ge(column(first_seen)).logical_and(slots.le(column(last_seen))).repeat({copies, 1, 1});
}

at::Tensor evaluate_row(Op op, std::span<const at::Tensor> inputs, const Setting& setting) {
  const Rounding& rounding = setting.rounding;
  switch (op) {
    case kEmbedTokens:
      return embed(setting);
    case kInputLayernorm:
    case kPostAttentionLayernorm:
    case kNorm:
      return normalize(op, inputs[0], setting);
    case kQProjMatmul:
    case kKProjMatmul:
    case kVProjMatmul:
      return rounding.at(RoundingPoint::kMatmulBeforeBias, project_row(op, inputs[0], setting));
    case kQProj:
    case kKProj:
    case kVProj:
      return with_bias(op, inputs[0], setting);
    case kQRope:
    case kKRope:
      return rotate(op, taken(op, inputs, setting)[0], setting);
    case kKCache:
    case kVCache:
      return cache_view(op, inputs, setting).slots;
    case kScores:
    case kProbs:
    case kAttnOutput:
      return evaluate_attention({op, op}, inputs, setting, nullptr).value;
    case kOProj:
    case kGateProj:
    case kUpProj:
    case kDownProj:
    case kLmHead:
      return project_row(op, inputs[0], setting);
    case kResidMid:
    case kOutput: {
      const Tensors summands = taken(op, inputs, setting);
      return add_residual(summands[0], summands[1]);
    }
    case kAct: {
      const Tensors gate_up = taken(op, inputs, setting);
      if (!setting.parameters(op).silu) return gate_up[0] * gate_up[1];
      return silu_times(gate_up[0], gate_up[1], rounding);
    }
  }
  throw std::logic_error("evaluate_row: unknown operation");
}

std::vector<Input> unit_inputs(const Unit& unit) {
  std::vector<Input> inputs;
  for (auto op = static_cast<int>(unit.first); op <= static_cast<int>(unit.last); ++op) {
    // A bias follows its product, not the row before it in the table.
    const bool within = op == static_cast<int>(unit.first) || unit.first >= kScores || static_cast<Op>(op) == unit.last;
    if (!within) continue;
    for (const Input& input : row(static_cast<Op>(op)).inputs) {
      const bool own = input.from == From::kHere && input.op >= unit.first && input.op < static_cast<Op>(op);
      if (!own) inputs.push_back(input);
    }
  }
  return inputs;
}

at::Tensor evaluate_unit(const Unit& unit, std::span<const at::Tensor> inputs, const Setting& setting) {
  if (is_attention(unit)) return evaluate_attention(unit, inputs, setting, nullptr).value;
  if (unit.first == unit.last) return evaluate_row(unit.first, inputs, setting);
  const std::array before = {evaluate_row(unit.first, inputs, setting)};
  return evaluate_row(unit.last, before, setting);
}

namespace {

Evaluated projection_with_noise(const Unit& unit, std::span<const at::Tensor> inputs, const Setting& setting,
                                const NoiseModel& model) {
  using enum RoundingPoint;
  const Op op = unit.first;
  Evaluated product = project_row_with_noise(op, inputs[0], setting, model);
  product.value = op < kQProj ? setting.rounding.at(kMatmulBeforeBias, product.value) : product.value;
  at::Tensor& variance = product.noise.independent;
  if (unit.last == op) {
    if (op < kQProj) variance = variance + model.at_last(kMatmulBeforeBias, product.value);
    return product;
  }
  variance = variance + model.at(kMatmulBeforeBias, product.value);
  product.value = with_bias(unit.last, product.value, setting);
  variance = variance + rounding_of(product.value, model.unit());
  return product;
}

Evaluated cache_with_noise(Op op, std::span<const at::Tensor> inputs, const Setting& setting) {
  const CacheView view = cache_view(op, inputs, setting);
  Evaluated result{view.slots, no_noise(view.slots)};
  if (view.unknown.defined()) {
    result.noise.independent = at::zeros(view.slots.sizes(), of_type(at::kDouble)).masked_fill(view.unknown, HUGE_VAL);
  }
  return result;
}

}  // namespace

Evaluated evaluate_unit_with_noise(const Unit& unit, std::span<const at::Tensor> inputs, const Setting& setting,
                                   std::optional<DType> stored) {
  const NoiseModel model(setting.precision, stored);
  if (is_attention(unit)) return evaluate_attention(unit, inputs, setting, &model);
  if (is_projection(unit.first)) return projection_with_noise(unit, inputs, setting, model);

  const Op op = unit.last;
  if (op == kKCache || op == kVCache) return cache_with_noise(op, inputs, setting);
  const at::Tensor value = evaluate_row(op, inputs, setting);
  if (row(op).kind == Kind::kMove) return {value, no_noise(value)};
  switch (op) {
    case kInputLayernorm:
    case kPostAttentionLayernorm:
    case kNorm: {
      const Parameters parameters = setting.parameters(op);
      return {value, rms_norm_noise(inputs[0], weight_of(op, parameters, setting), value, parameters.norm, model)};
    }
    case kQRope:
    case kKRope: {
      const RopeRule rule = setting.parameters(op).rope;
      const at::Tensor heads = split_heads(inputs[0], setting.config());
      const at::Tensor angles = positions_to_angles(rule, setting);
      if (!rule.rope) return {value, rope_noise(heads, angles, value, model)};
      const auto turned = [&](const at::Tensor& other_angles) { return rule.rope(heads, other_angles, op, setting); };
      return {value, rope_noise(turned, angles, value, model)};
    }
    case kAct: {
      const Tensors gate_up = taken(op, inputs, setting);
      return {value, silu_times_noise(gate_up[0], gate_up[1], value, model)};
    }
    default:
      return {value, addition_noise(value, model)};  // the biases and the residual additions
  }
}

}  // namespace qdiff::reference
