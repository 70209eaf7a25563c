// Norms that go wrong (docs/faults.md, H09).
#include <cmath>
#include <cstring>

#include "optimized/cpu/projection.h"

namespace qdiff::optimized::cpu {
namespace {

const std::vector<float>& weight_of(const LayerWeights& weights, Op norm) {
  return norm == Op::kInputLayernorm ? weights.input_layernorm : weights.post_attention_layernorm;
}

// The weight that this norm takes: its own, unless the fault is about weights.
std::vector<float> planted_weight(const StageContext& s, const Planting<true>& planting, Op norm,
                                  const std::vector<float>& right) {
  std::vector<float> weight = right;
  if (planting.is(FaultId::kOnePlusWeight)) {
    for (float& w : weight) w += 1.0F;
  } else if (planting.is(FaultId::kNoWeight)) {
    weight.assign(weight.size(), 1.0F);
  } else if (planting.is(FaultId::kWeightFromOtherLayer) && norm != Op::kNorm) {
    weight = weight_of(*s.other_weights, norm);
  }
  if (weight != right) planting.count(s.num_real_tokens());
  return weight;
}

float planted_eps(const StageContext& s, const Planting<true>& planting, Op norm) {
  const auto right = static_cast<float>(s.config.rms_norm_eps);
  double eps = planting.value_or(FaultId::kEps, s.config.rms_norm_eps);
  if (norm == Op::kNorm) eps = planting.value_or(FaultId::kFinalNormEps, eps);
  if (static_cast<float>(eps) != right) planting.count(s.num_real_tokens());
  return static_cast<float>(eps);
}

// One token by another formula than x / sqrt(mean(x^2) + eps) * w; y [D] in fp32. Returns whether that differs.
bool norm_by_other_formula(const StageContext& s, const Planting<true>& planting, const float* x,
                           const std::vector<float>& weight, float* y) {
  const std::int64_t hidden = s.config.hidden;
  const auto n = static_cast<float>(hidden);
  const auto eps = static_cast<float>(s.config.rms_norm_eps);
  const std::vector<float> ones(weight.size(), 1.0F);
  float sum_of_squares = dot(s.kernels, x, x, hidden);
  float mean = 0.0F;
  bool differs = true;
  if (planting.is_any({FaultId::kLayerNorm, FaultId::kLayerNormFull})) {
    mean = dot(s.kernels, x, ones.data(), hidden) / n;
    differs = mean != 0.0F;
  }
  for (std::int64_t i = 0; i < hidden; ++i) y[i] = x[i] - mean;
  if (planting.is(FaultId::kLayerNormFull)) sum_of_squares = dot(s.kernels, y, y, hidden);
  if (planting.is(FaultId::kFp16Sum)) {
    const float rounded = f16_to_float(float_to_f16(sum_of_squares));
    differs = rounded != sum_of_squares;
    sum_of_squares = rounded;
  }
  const float mean_square = sum_of_squares / n + eps;
  const float inverse = 1.0F / (planting.is(FaultId::kNoSqrt) ? mean_square : std::sqrt(mean_square));
  for (std::int64_t i = 0; i < hidden; ++i) y[i] = y[i] * inverse * weight[static_cast<std::size_t>(i)];
  return differs;
}

}  // namespace

void planted_norm_tokens(const StageContext& s, Op norm, const std::byte* x, const std::vector<float>& weight) {
  const Planting<true> planting(s.fault, s.layer);
  const std::int64_t hidden = s.config.hidden;
  std::byte* y = s.arena.tensor(norm);
  if (norm == Op::kNorm && planting.is(FaultId::kNoFinalNorm)) {
    std::memcpy(y, x, static_cast<std::size_t>(s.num_tokens() * hidden * storage_bytes(s.storage)));
    widen_tokens(s, y, hidden);
    planting.count(s.num_real_tokens());
    return;
  }
  if (!planting.is_any({FaultId::kLayerNorm, FaultId::kLayerNormFull, FaultId::kNoSqrt, FaultId::kFp16Sum})) {
    norm_tokens(s, x, planted_weight(s, planting, norm, weight), planted_eps(s, planting, norm), y);
    return;
  }
  for_each_token(s, [&](std::int64_t token) {
    std::vector<float> wide(weight.size());
    std::vector<float> result(weight.size());
    s.kernels.widen(s.storage, at(x, s.storage, token * hidden), wide.data(), hidden);
    const bool differs = norm_by_other_formula(s, planting, wide.data(), weight, result.data());
    if (differs && !s.is_pad(token)) planting.count(1);
    s.kernels.narrow(s.storage, result.data(), at(y, s.storage, token * hidden), hidden);
  });
  widen_tokens(s, y, hidden);
}

}  // namespace qdiff::optimized::cpu
