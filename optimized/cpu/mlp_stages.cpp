// The other matrix products: o_proj and down_proj with their residual sums, gate and up with SiLU, and the head.
#include "optimized/cpu/projection.h"

namespace qdiff::optimized::cpu {
namespace {

std::int64_t num_row_units(std::int64_t rows) { return (rows + kRowUnit - 1) / kRowUnit; }

// A projection of the layer and the residual sum behind it.
struct Contribution {
  Op projection;
  const Matrix& matrix;
  std::byte* x;               // [B*T, columns]
  const std::byte* residual;  // [B*T, rows]
  const std::byte* norm;      // what was made of the residual; planted code alone takes it
  std::byte* sum;             // residual + x . matrix^T
};

template <bool kPlanted>
void project_and_add(const LayerContext& s, const Contribution& c) {
  const Matrix& matrix = c.matrix;
  std::byte* tensor = s.arena.tensor(c.projection);
  if constexpr (kPlanted) {
    if (planted_product_in_place(s, c.projection, matrix, c.x)) {
      return planted_add_residual(s, c.residual, c.norm, tensor, c.sum);
    }
  }
  widen_tokens(s, c.x, matrix.columns);
  if constexpr (kPlanted) planted_reload_tiles(s, matrix.columns);
  for_each_unit(s, matrix.columns, num_row_units(matrix.rows),
                [&](const ThreadScratch& scratch, Range tokens, std::int64_t unit) {
                  const std::int64_t first = unit * kRowUnit;
                  const std::int64_t rows = std::min(kRowUnit, matrix.rows - first);
                  multiply<kPlanted>(s, c.projection, matrix, first, rows, tokens, scratch.panel, scratch.c);
                  if constexpr (kPlanted) {
                    return planted_store_columns(s, scratch.c, {}, {tensor, matrix.rows, first, rows, tokens});
                  }
                  store_columns(s, scratch.c, nullptr, tensor, matrix.rows, first, rows, tokens);
                  for (std::int64_t token = tokens.begin; token < tokens.end; ++token) {
                    const std::int64_t element = token * matrix.rows + first;
                    s.kernels.add_residual(s.storage, at(c.residual, s.storage, element),
                                           scratch.c + (token - tokens.begin) * 2 * kRowUnit,
                                           at(c.sum, s.storage, element), rows);
                  }
                });
  if constexpr (kPlanted) planted_add_residual(s, c.residual, c.norm, tensor, c.sum);
}

}  // namespace

std::int64_t StageContext::num_real_tokens(Range tokens) const {
  std::int64_t count = 0;
  for (std::int64_t token = tokens.begin; token < tokens.end; ++token) count += is_pad(token) ? 0 : 1;
  return count;
}

template <bool kPlanted>
void LayerStages<kPlanted>::o_proj(const LayerContext& s) {
  project_and_add<kPlanted>(s, {Op::kOProj, s.weights.o, s.arena.tensor(Op::kAttnOutput), s.input,
                                s.arena.tensor(Op::kInputLayernorm), s.arena.tensor(Op::kResidMid)});
}

template <bool kPlanted>
void LayerStages<kPlanted>::gate_up(const LayerContext& s) {
  const std::int64_t intermediate = s.config.intermediate;
  std::byte* gate_tensor = s.arena.tensor(Op::kGateProj);
  std::byte* up_tensor = s.arena.tensor(Op::kUpProj);
  normalize<kPlanted>(s, Op::kPostAttentionLayernorm, s.arena.tensor(Op::kResidMid),
                      s.weights.post_attention_layernorm);
  if constexpr (kPlanted) planted_reload_tiles(s, s.config.hidden);
  for_each_unit(s, s.config.hidden, num_row_units(intermediate),
                [&](const ThreadScratch& scratch, Range tokens, std::int64_t unit) {
                  const std::int64_t first = unit * kRowUnit;
                  const std::int64_t rows = std::min(kRowUnit, intermediate - first);
                  float* gate = scratch.c;
                  float* up = scratch.c + kRowUnit;
                  multiply<kPlanted>(s, Op::kGateProj, s.weights.gate, first, rows, tokens, scratch.panel, gate);
                  multiply<kPlanted>(s, Op::kUpProj, s.weights.up, first, rows, tokens, scratch.panel, up);
                  if constexpr (kPlanted) {
                    planted_store_columns(s, gate, {}, {gate_tensor, intermediate, first, rows, tokens});
                    planted_store_columns(s, up, {}, {up_tensor, intermediate, first, rows, tokens});
                    return;
                  }
                  store_columns(s, gate, nullptr, gate_tensor, intermediate, first, rows, tokens);
                  store_columns(s, up, nullptr, up_tensor, intermediate, first, rows, tokens);
                  for (std::int64_t token = tokens.begin; token < tokens.end; ++token) {
                    const std::int64_t row = (token - tokens.begin) * 2 * kRowUnit;
                    s.kernels.silu_mul(gate + row, up + row, rows);
                  }
                  store_columns(s, gate, nullptr, s.arena.tensor(Op::kAct), intermediate, first, rows, tokens);
                });
  if constexpr (kPlanted) planted_activate(s);
}

template <bool kPlanted>
void LayerStages<kPlanted>::down_proj(const LayerContext& s) {
  project_and_add<kPlanted>(s, {Op::kDownProj, s.weights.down, s.arena.tensor(Op::kAct), s.arena.tensor(Op::kResidMid),
                                s.arena.tensor(Op::kPostAttentionLayernorm), s.output});
}

template <bool kPlanted>
void HeadStages<kPlanted>::final_norm(const StageContext& s, const std::vector<float>& weight) {
  normalize<kPlanted>(s, Op::kNorm, s.input, weight);
}

template <bool kPlanted>
void HeadStages<kPlanted>::project_vocab(const StageContext& s, WeightStore& weights) {
  const std::int64_t vocab = s.config.vocab;
  const std::int64_t at_once = weights.rows_at_once();
  const Planting<kPlanted> planting(s.fault, s.layer);
  const bool takes_embedding = planting.is(FaultId::kUntiedLmHead);
  if (takes_embedding && !s.config.tie_word_embeddings) planting.count(s.num_real_tokens());
  for (std::int64_t block = 0; block < vocab; block += at_once) {
    const std::int64_t block_rows = std::min(at_once, vocab - block);
    const Matrix& matrix =
        takes_embedding ? weights.embedding_rows(block, block_rows) : weights.lm_head_rows(block, block_rows);
    for_each_unit(s, s.config.hidden, num_row_units(block_rows),
                  [&](const ThreadScratch& scratch, Range tokens, std::int64_t unit) {
                    const std::int64_t first = unit * kRowUnit;
                    const std::int64_t rows = std::min(kRowUnit, block_rows - first);
                    s.kernels.matmul(product_of(s, matrix, first, rows, tokens, scratch.panel, scratch.c));
                    store_columns(s, scratch.c, nullptr, s.output, vocab, block + first, rows, tokens);
                  });
  }
}

template struct HeadStages<false>;
template struct HeadStages<true>;
template void LayerStages<false>::o_proj(const LayerContext&);
template void LayerStages<true>::o_proj(const LayerContext&);
template void LayerStages<false>::gate_up(const LayerContext&);
template void LayerStages<true>::gate_up(const LayerContext&);
template void LayerStages<false>::down_proj(const LayerContext&);
template void LayerStages<true>::down_proj(const LayerContext&);

}  // namespace qdiff::optimized::cpu
