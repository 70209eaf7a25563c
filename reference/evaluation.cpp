#include "reference/evaluation.h"

#include <algorithm>
#include <stdexcept>

namespace qdiff::reference {
namespace {

using enum Op;

// Query rows of attention are taken some at a time, so that scores of a long prefill never stand whole in memory.
constexpr std::int64_t kScoresAtOnce = std::int64_t{1} << 23;

at::Tensor weight_of(Op op, const Setting& setting) {
  return setting.weights.get(weight_name({op, setting.layer}, 0, setting.config()), setting.form());
}

at::Tensor bias_of(Op op, const Setting& setting) {
  const at::Tensor bias = weight_of(op, setting);
  const auto rounded_to = setting.parameters(op).bias_rounded_to;
  return rounded_to ? round_to(*rounded_to, bias) : bias;
}

at::Tensor embed(const Setting& setting) {
  std::vector<std::int64_t> ids;
  for (const auto& row : setting.step.tokens) ids.insert(ids.end(), row.begin(), row.end());
  const at::Tensor rows =
      setting.weights.gather_rows(weight_name({kEmbedTokens}, 0, setting.config()), ids, setting.form());
  const at::Tensor batch = rows.view({setting.step.batch(), setting.step.num_tokens(), setting.config().hidden});
  return batch.repeat({setting.copies, 1, 1});
}

at::Tensor split_heads(const at::Tensor& x, const ModelConfig& config) {
  return x.view({x.size(0), x.size(1), -1, config.head_dim});
}

at::Tensor positions_to_angles(Op op, const Setting& setting) {
  return rope_angles(step_positions(setting.step, setting.copies), setting.config().head_dim,
                     setting.parameters(op).rope_theta, setting.rounding.compute());
}

at::Tensor all_visible(const Setting& setting) {
  return step_visible(setting.step, setting.copies, 0, setting.step.num_tokens());
}

at::Tensor project_row(Op op, const at::Tensor& x, const Setting& setting) {
  const std::string name = projection_weight(op, setting.layer, setting.config());
  return setting.rounding.accumulated(project(x, name, setting.form(), setting.weights));
}

}  // namespace

at::Tensor step_positions(const Step& step, std::int64_t copies) {
  std::vector<std::int64_t> flat;
  for (const auto& row : step.positions) flat.insert(flat.end(), row.begin(), row.end());
  return at::tensor(flat).view({step.batch(), step.num_tokens()}).repeat({copies, 1});
}

at::Tensor step_visible(const Step& step, std::int64_t copies, std::int64_t first, std::int64_t count) {
  const at::Tensor slots = at::arange(step.valid_length());                                   // [S]
  const at::Tensor own_slot = at::arange(first, first + count).add(step.past_length);         // [T]
  const at::Tensor causal = slots.unsqueeze(0).le(own_slot.unsqueeze(1));                     // [T, S]
  const at::Tensor real = slots.unsqueeze(0).ge(at::tensor(step.left_padding).unsqueeze(1));  // [B, S]
  return causal.unsqueeze(0).logical_and(real.unsqueeze(1)).repeat({copies, 1, 1});
}

bool is_projection(Op op) {
  constexpr std::array kProjections = {kQProjMatmul, kKProjMatmul, kVProjMatmul, kOProj,
                                       kGateProj,    kUpProj,      kDownProj,    kLmHead};
  return std::find(kProjections.begin(), kProjections.end(), op) != kProjections.end();
}

std::string projection_weight(Op op, int layer, const ModelConfig& config) {
  return weight_name({op, layer}, 0, config);
}

at::Tensor project(const at::Tensor& x, const std::string& weight, const WeightForm& form, WeightStore& weights) {
  std::vector<std::int64_t> shape = x.sizes().vec();
  shape.back() = weights.shape(weight)[0];
  const at::Tensor out = at::empty(shape, x.options());
  weights.for_each_block(weight, form, [&](std::int64_t first, const at::Tensor& rows) {
    out.narrow(-1, first, rows.size(0)).copy_(reference::matmul(x, rows));
  });
  return out;
}

at::Tensor evaluate_row(Op op, std::span<const at::Tensor> inputs, const Setting& setting) {
  const Rounding& rounding = setting.rounding;
  switch (op) {
    case kEmbedTokens:
      return embed(setting);
    case kInputLayernorm:
    case kPostAttentionLayernorm:
    case kNorm:
      return rms_norm(inputs[0], weight_of(op, setting), setting.parameters(op).rms_norm_eps, rounding);
    case kQProjMatmul:
    case kKProjMatmul:
    case kVProjMatmul:
      return rounding.at(RoundingPoint::kMatmulBeforeBias, project_row(op, inputs[0], setting));
    case kQProj:
    case kKProj:
    case kVProj:
      return add_bias(inputs[0], bias_of(op, setting));
    case kQRope:
    case kKRope:
      return rope(split_heads(inputs[0], setting.config()), positions_to_angles(op, setting), rounding);
    case kKCache:
      return append_to_cache(inputs[0], inputs[1], rounding);
    case kVCache:
      return append_to_cache(inputs[0], split_heads(inputs[1], setting.config()), rounding);
    case kScores: {
      const Parameters p = setting.parameters(op);
      return attention_scores(inputs[0], inputs[1], p.kv_head, p.softmax_scale, all_visible(setting), rounding);
    }
    case kProbs:
      return softmax(inputs[0], rounding);
    case kAttnOutput:
      return attention_output(inputs[0], inputs[1], setting.parameters(op).kv_head, all_visible(setting), rounding);
    case kOProj:
    case kGateProj:
    case kUpProj:
    case kDownProj:
    case kLmHead:
      return project_row(op, inputs[0], setting);
    case kResidMid:
    case kOutput:
      return add_residual(inputs[0], inputs[1]);
    case kAct:
      return silu_times(inputs[0], inputs[1], rounding);
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

namespace {

bool is_attention(const Unit& unit) { return unit.first >= kScores && unit.last <= kAttnOutput; }

// scores, probs and attn_output over the query rows [first, first + count), keeping what the noise needs.
struct AttentionPart {
  AttentionValues values;
  at::Tensor result;  // of the unit's last row, for these query rows
};

AttentionPart attend(const Unit& unit, std::span<const at::Tensor> inputs, const Setting& setting, std::int64_t first,
                     std::int64_t count) {
  AttentionPart part;
  AttentionValues& a = part.values;
  const at::Tensor visible = step_visible(setting.step, setting.copies, first, count);
  a.visible = visible.unsqueeze(1);
  if (unit.first == kScores) {
    const Parameters p = setting.parameters(kScores);
    const at::Tensor query = inputs[0].narrow(1, first, count);
    a.scale = p.softmax_scale;
    a.query = query.transpose(1, 2);
    a.keys = repeat_kv(inputs[1], p.kv_head);
    part.result = a.scores = attention_scores(query, inputs[1], p.kv_head, p.softmax_scale, visible, setting.rounding);
  } else if (unit.first == kProbs) {
    a.scores = inputs[0].narrow(2, first, count);
  } else {
    a.probs = inputs[0].narrow(2, first, count);
  }
  if (unit.first <= kProbs && unit.last >= kProbs) part.result = a.probs = softmax(a.scores, setting.rounding);
  if (unit.last == kAttnOutput) {
    const Parameters p = setting.parameters(kAttnOutput);
    const at::Tensor& values = inputs.back();
    part.result = attention_output(a.probs, values, p.kv_head, visible, setting.rounding);
    a.values = repeat_kv(hide_unseen(values, visible), p.kv_head);
    a.output = split_heads(part.result, setting.config()).transpose(1, 2);
  }
  return part;
}

Noise attention_noise(const Unit& unit, const AttentionValues& a, const NoiseModel& model) {
  if (unit.last == kScores) return scores_noise(a, model);
  if (unit.last == kProbs) return probs_noise(a, model);
  const Noise noise = attention_output_noise(a, model);  // [B, H, T, d]
  return {noise.independent.transpose(1, 2).flatten(2), noise.shared.transpose(1, 2).flatten(2)};
}

Evaluated evaluate_attention(const Unit& unit, std::span<const at::Tensor> inputs, const Setting& setting,
                             const NoiseModel* model) {
  const std::int64_t tokens = setting.step.num_tokens();
  const std::int64_t row_size =
      setting.copies * setting.step.batch() * setting.config().num_q_heads * setting.step.valid_length();
  const std::int64_t block = std::clamp<std::int64_t>(kScoresAtOnce / row_size, 1, tokens);
  const std::int64_t token_dim = unit.last == kAttnOutput ? 1 : 2;
  std::vector<at::Tensor> values, independent, shared;
  for (std::int64_t first = 0; first < tokens; first += block) {
    const AttentionPart part = attend(unit, inputs, setting, first, std::min(block, tokens - first));
    values.push_back(part.result);
    if (model == nullptr) continue;
    const Noise noise = attention_noise(unit, part.values, *model);
    independent.push_back(noise.independent.expand_as(part.result));
    shared.push_back(noise.shared.expand_as(part.result));
  }
  Evaluated all;
  all.value = at::cat(values, token_dim);
  if (model != nullptr) all.noise = {at::cat(independent, token_dim), at::cat(shared, token_dim)};
  return all;
}

// ||a o b||^2 of each dot product of x weight^T. The squares fit fp32 once each row is scaled to a largest element
// of 1.
at::Tensor product_squares(const at::Tensor& x, Op op, const Setting& setting) {
  const at::Tensor largest = at::amax(x.abs(), -1, /*keepdim=*/true);
  const at::Tensor scale = largest.masked_fill(largest.eq(0.0), 1.0);
  const WeightForm form = {setting.precision.weights, at::kFloat, true};
  const std::string name = projection_weight(op, setting.layer, setting.config());
  const at::Tensor squares = project((x / scale).square().to(at::kFloat), name, form, setting.weights);
  return squares.to(at::kDouble) * scale.square();
}

}  // namespace

at::Tensor evaluate_unit(const Unit& unit, std::span<const at::Tensor> inputs, const Setting& setting) {
  if (is_attention(unit)) return evaluate_attention(unit, inputs, setting, nullptr).value;
  if (unit.first == unit.last) return evaluate_row(unit.first, inputs, setting);
  const std::array before = {evaluate_row(unit.first, inputs, setting)};
  return evaluate_row(unit.last, before, setting);
}

Evaluated evaluate_unit_with_noise(const Unit& unit, std::span<const at::Tensor> inputs, const Setting& setting,
                                   std::optional<DType> stored) {
  const NoiseModel model(setting.precision, stored);
  if (is_attention(unit)) return evaluate_attention(unit, inputs, setting, &model);
  if (unit.first != unit.last) {
    const std::array before = {evaluate_row(unit.first, inputs, setting)};
    const at::Tensor after = evaluate_row(unit.last, before, setting);
    const at::Tensor squares = product_squares(inputs[0], unit.first, setting);
    return {after, matmul_bias_noise(before[0], after, squares, inputs[0].size(-1), model)};
  }

  const Op op = unit.last;
  const at::Tensor value = evaluate_row(op, inputs, setting);
  if (row(op).kind == Kind::kMove) return {value, no_noise(value)};
  if (is_projection(op)) {
    const bool bias_follows = op == kQProjMatmul || op == kKProjMatmul || op == kVProjMatmul;
    return {value,
            matmul_noise(value, product_squares(inputs[0], op, setting), inputs[0].size(-1), bias_follows, model)};
  }
  switch (op) {
    case kInputLayernorm:
    case kPostAttentionLayernorm:
    case kNorm:
      return {value,
              rms_norm_noise(inputs[0], weight_of(op, setting), value, setting.parameters(op).rms_norm_eps, model)};
    case kQRope:
    case kKRope:
      return {value,
              rope_noise(split_heads(inputs[0], setting.config()), positions_to_angles(op, setting), value, model)};
    case kAct:
      return {value, silu_times_noise(inputs[0], inputs[1], value, model)};
    default:
      return {value, addition_noise(value, model)};  // the biases and the residual additions
  }
}

}  // namespace qdiff::reference
