// The other matrix products: o_proj and down_proj with their residual sums, gate and up with SiLU, and the head.
#include "optimized/cpu/projection.h"

namespace qdiff::optimized::cpu {
namespace {

std::int64_t num_row_units(std::int64_t rows) { return (rows + kRowUnit - 1) / kRowUnit; }

// tensor = x . matrix^T, and sum = residual + tensor, all [B*T, rows] but x, [B*T, columns].
void project_and_add(const StageContext& s, const Matrix& matrix, const std::byte* x, const std::byte* residual,
                     std::byte* tensor, std::byte* sum) {
  widen_tokens(s, x, matrix.columns);
  for_each_unit(s, matrix.columns, num_row_units(matrix.rows),
                [&](const ThreadScratch& scratch, Range tokens, std::int64_t unit) {
                  const std::int64_t first = unit * kRowUnit;
                  const std::int64_t rows = std::min(kRowUnit, matrix.rows - first);
                  multiply(s, matrix, first, rows, tokens, scratch.panel, scratch.c);
                  store_columns(s, scratch.c, nullptr, tensor, matrix.rows, first, rows, tokens);
                  for (std::int64_t token = tokens.begin; token < tokens.end; ++token) {
                    const std::int64_t element = token * matrix.rows + first;
                    s.kernels.add_residual(s.storage, at(residual, s.storage, element),
                                           scratch.c + (token - tokens.begin) * 2 * kRowUnit,
                                           at(sum, s.storage, element), rows);
                  }
                });
}

template <bool kPlanted>
float planted_eps(const StageContext& s) {
  const Planting<kPlanted> planting(s.fault, s.layer);
  const auto eps = static_cast<float>(planting.value_or(FaultId::kRmsNormEps, s.config.rms_norm_eps));
  if (planting.is(FaultId::kRmsNormEps) && eps != static_cast<float>(s.config.rms_norm_eps)) {
    planting.count(s.num_real_tokens());
  }
  return eps;
}

}  // namespace

std::int64_t StageContext::num_real_tokens() const {
  std::int64_t count = 0;
  for (std::int64_t b = 0; b < step.batch(); ++b) {
    for (std::int64_t t = 0; t < step.num_tokens(); ++t) count += is_pad(b, t) ? 0 : 1;
  }
  return count;
}

template <bool kPlanted>
void LayerStages<kPlanted>::project_out(const LayerContext& s) {
  project_and_add(s, s.weights.o, s.arena.tensor(Op::kAttnOutput), s.input, s.arena.tensor(Op::kOProj),
                  s.arena.tensor(Op::kResidMid));
}

template <bool kPlanted>
void LayerStages<kPlanted>::expand(const LayerContext& s) {
  const float eps = planted_eps<kPlanted>(s);
  const std::int64_t intermediate = s.config.intermediate;
  norm_tokens(s, s.arena.tensor(Op::kResidMid), s.weights.post_attention_layernorm, eps,
              s.arena.tensor(Op::kPostAttentionLayernorm));
  for_each_unit(s, s.config.hidden, num_row_units(intermediate),
                [&](const ThreadScratch& scratch, Range tokens, std::int64_t unit) {
                  const std::int64_t first = unit * kRowUnit;
                  const std::int64_t rows = std::min(kRowUnit, intermediate - first);
                  float* gate = scratch.c;
                  float* up = scratch.c + kRowUnit;
                  multiply(s, s.weights.gate, first, rows, tokens, scratch.panel, gate);
                  multiply(s, s.weights.up, first, rows, tokens, scratch.panel, up);
                  store_columns(s, gate, nullptr, s.arena.tensor(Op::kGateProj), intermediate, first, rows, tokens);
                  store_columns(s, up, nullptr, s.arena.tensor(Op::kUpProj), intermediate, first, rows, tokens);
                  for (std::int64_t token = tokens.begin; token < tokens.end; ++token) {
                    const std::int64_t row = (token - tokens.begin) * 2 * kRowUnit;
                    s.kernels.silu_mul(gate + row, up + row, rows);
                  }
                  store_columns(s, gate, nullptr, s.arena.tensor(Op::kAct), intermediate, first, rows, tokens);
                });
}

template <bool kPlanted>
void LayerStages<kPlanted>::contract(const LayerContext& s) {
  project_and_add(s, s.weights.down, s.arena.tensor(Op::kAct), s.arena.tensor(Op::kResidMid),
                  s.arena.tensor(Op::kDownProj), s.output);
}

template <bool kPlanted>
void HeadStages<kPlanted>::final_norm(const StageContext& s, const std::vector<float>& weight) {
  const float eps = planted_eps<kPlanted>(s);
  norm_tokens(s, s.input, weight, eps, s.arena.tensor(Op::kNorm));
}

template <bool kPlanted>
void HeadStages<kPlanted>::project_vocab(const StageContext& s, WeightStore& weights) {
  const std::int64_t vocab = s.config.vocab;
  const std::int64_t at_once = weights.rows_at_once();
  for (std::int64_t block = 0; block < vocab; block += at_once) {
    const std::int64_t block_rows = std::min(at_once, vocab - block);
    const Matrix& matrix = weights.lm_head_rows(block, block_rows);
    for_each_unit(s, s.config.hidden, num_row_units(block_rows),
                  [&](const ThreadScratch& scratch, Range tokens, std::int64_t unit) {
                    const std::int64_t first = unit * kRowUnit;
                    const std::int64_t rows = std::min(kRowUnit, block_rows - first);
                    multiply(s, matrix, first, rows, tokens, scratch.panel, scratch.c);
                    store_columns(s, scratch.c, nullptr, s.output, vocab, block + first, rows, tokens);
                  });
  }
}

template struct HeadStages<false>;
template struct HeadStages<true>;
template void LayerStages<false>::project_out(const LayerContext&);
template void LayerStages<true>::project_out(const LayerContext&);
template void LayerStages<false>::expand(const LayerContext&);
template void LayerStages<true>::expand(const LayerContext&);
template void LayerStages<false>::contract(const LayerContext&);
template void LayerStages<true>::contract(const LayerContext&);

}  // namespace qdiff::optimized::cpu
