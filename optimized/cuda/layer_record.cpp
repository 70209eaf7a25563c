// Which buffer holds which tensor.
#include "optimized/cuda/layer_pass.h"

namespace qdiff::optimized::cuda {

void LayerPass::record_step(const StepShape& shape, const Arena& arena, bool caches, Recorder& recorder) {
  record_embedding(shape, arena.input(), recorder);
  const void* x = arena.input();
  for (int i = 0; i < static_cast<int>(parts_.model.config.num_layers); ++i) {
    const LayerBuffers& out = arena.layer(i);
    const Stage stage{i, shape, parts_.model.layers[static_cast<std::size_t>(i)], x, out, nullptr, &recorder, caches};
    record_qkv(stage);
    record_attention(stage);
    record_o_proj(stage);
    record_gate_up(stage);
    record_down_proj(stage);
    x = out.output;
  }
  record_head(shape, arena, recorder);
}

void LayerPass::record_embedding(const StepShape& shape, const void* out, Recorder& recorder) const {
  const std::int64_t hidden = parts_.model.config.hidden;
  recorder.copy({Op::kEmbedTokens, kNoLayer}, {shape.batch, shape.num_tokens, hidden}, out, shape.rows(), hidden,
                hidden);
}

void LayerPass::record_qkv(const Stage& stage) const {
  const ModelConfig& c = parts_.model.config;
  const DType dtype = parts_.model.dtype;
  const std::int64_t width = c.q_width() + 2 * c.kv_width();
  record(stage, Op::kInputLayernorm, stage.out.input_norm, c.hidden, c.hidden);
  record(stage, Op::kQProj, stage.out.qkv, c.q_width(), width);
  record(stage, Op::kKProj, elements_at(stage.out.qkv, c.q_width(), dtype), c.kv_width(), width);
  record(stage, Op::kVProj, elements_at(stage.out.qkv, c.q_width() + c.kv_width(), dtype), c.kv_width(), width);
  record(stage, Op::kQRope, stage.out.q_rope, c.q_width(), c.q_width());
  record(stage, Op::kKRope, stage.out.k_rope, c.kv_width(), c.kv_width());
}

void LayerPass::record_attention(const Stage& stage) {
  const std::int64_t width = parts_.model.config.q_width();
  if (stage.recorder != nullptr && stage.caches) {
    record_cache(stage, Op::kKCache);
    record_cache(stage, Op::kVCache);
  }
  record(stage, Op::kAttnOutput, stage.out.attention, width, width);
}

void LayerPass::record_o_proj(const Stage& stage) const {
  const std::int64_t hidden = parts_.model.config.hidden;
  record(stage, Op::kOProj, stage.out.o_proj, hidden, hidden);
  record(stage, Op::kResidMid, stage.out.resid_mid, hidden, hidden);
}

void LayerPass::record_gate_up(const Stage& stage) const {
  const ModelConfig& c = parts_.model.config;
  const void* up = elements_at(stage.out.gate_up, c.intermediate, parts_.model.dtype);
  record(stage, Op::kPostAttentionLayernorm, stage.out.post_norm, c.hidden, c.hidden);
  record(stage, Op::kGateProj, stage.out.gate_up, c.intermediate, 2 * c.intermediate);
  record(stage, Op::kUpProj, up, c.intermediate, 2 * c.intermediate);
  record(stage, Op::kAct, stage.out.act, c.intermediate, c.intermediate);
}

void LayerPass::record_down_proj(const Stage& stage) const {
  const ModelConfig& c = parts_.model.config;
  record(stage, Op::kDownProj, stage.out.down_proj, c.hidden, c.hidden);
  record(stage, Op::kOutput, stage.out.output, c.hidden, c.hidden);
}

void LayerPass::record_head(const StepShape& shape, const Arena& arena, Recorder& recorder) const {
  const ModelConfig& c = parts_.model.config;
  recorder.copy({Op::kNorm, kNoLayer}, {shape.batch, shape.num_tokens, c.hidden}, arena.norm(), shape.rows(), c.hidden,
                c.hidden);
  recorder.copy({Op::kLmHead, kNoLayer}, {shape.batch, shape.num_tokens, c.vocab}, arena.logits(), shape.rows(),
                c.vocab, arena.logits_stride());
}

void LayerPass::record(const Stage& stage, Op op, const void* data, std::int64_t columns, std::int64_t stride) const {
  if (stage.recorder == nullptr) return;
  stage.recorder->copy(
      {op, stage.layer},
      output_shape(op, parts_.model.config, stage.shape.batch, stage.shape.num_tokens, stage.shape.valid_length), data,
      stage.shape.rows(), columns, stride);
}

// The copy is made from a gathered view, which the next gathering, behind it in the stream, may overwrite.
void LayerPass::record_cache(const Stage& stage, Op op) {
  const ModelConfig& c = parts_.model.config;
  const std::int64_t columns = c.kv_width();
  const std::int64_t rows = static_cast<std::int64_t>(stage.shape.batch) * stage.shape.valid_length;
  const DeviceBuffer& cache = op == Op::kKCache ? memory_.keys : memory_.values;
  const bool planted = stage.fault != nullptr && stage.fault->plants(PlantedStage::kCacheView);
  launch_gather_cache({cache.data(), memory_.layout, stage.layer, stage.shape.valid_length, memory_.cache_view.data(),
                       kernel_fault(stage.fault)},
                      launch(planted, false));
  stage.recorder->copy({op, stage.layer},
                       output_shape(op, c, stage.shape.batch, stage.shape.num_tokens, stage.shape.valid_length),
                       memory_.cache_view.data(), rows, columns, columns);
}

}  // namespace qdiff::optimized::cuda
