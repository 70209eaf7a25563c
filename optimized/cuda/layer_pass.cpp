#include "optimized/cuda/layer_pass.h"

#include <algorithm>
#include <cmath>

namespace qdiff::optimized::cuda {
namespace {

bool is(const PlantedFault* fault, FaultId id) { return fault != nullptr && fault->id() == id; }

const void* elements_at(const void* base, std::int64_t elements, DType dtype) {
  return static_cast<const std::byte*>(base) + elements * static_cast<std::int64_t>(size_of(dtype));
}
void* elements_at(void* base, std::int64_t elements, DType dtype) {
  return static_cast<std::byte*>(base) + elements * static_cast<std::int64_t>(size_of(dtype));
}

}  // namespace

void LayerPass::embedding(const StepShape& shape, void* out, Recorder* recorder) {
  const ModelConfig& c = parts_.model.config;
  const PlantedFault* fault = fault_ != nullptr && fault_->holds_in(kNoLayer) ? fault_ : nullptr;
  const bool planted = is(fault, FaultId::kWrongTokenEmbedding);
  launch_embedding({parts_.model.embedding, memory_.step, out, shape.rows(), static_cast<int>(c.hidden),
                    static_cast<int>(c.vocab), kernel_fault(planted ? fault : nullptr)},
                   launch(planted, shape.matvec));
  if (recorder != nullptr) record_embedding(shape, out, *recorder);
}

void LayerPass::layer(int index, const StepShape& shape, const void* x, const LayerBuffers& out, Recorder* recorder) {
  const PlantedFault* fault = fault_ != nullptr && fault_->holds_in(index) ? fault_ : nullptr;
  const Stage stage{index, shape, parts_.model.layers[static_cast<std::size_t>(index)], x, out, fault, recorder};
  qkv(stage);
  attention(stage);
  o_proj(stage);
  mlp(stage);
}

// ---- Arguments, right and planted ---------------------------------------------------------------------------------

float LayerPass::eps_of(const PlantedFault* fault, bool final_norm) const {
  const bool planted = is(fault, FaultId::kEps) || (final_norm && is(fault, FaultId::kFinalNormEps));
  const double right = parts_.model.config.rms_norm_eps;
  if (planted && fault->value() != right) fault->count();
  return static_cast<float>(planted ? fault->value() : right);
}

const void* LayerPass::norm_weight_of(const Stage& stage, bool post) const {
  const LayerWeights* weights = &stage.weights;
  if (is(stage.fault, FaultId::kWeightFromOtherLayer)) {
    const auto next = static_cast<std::size_t>(stage.layer + 1) % parts_.model.layers.size();
    weights = &parts_.model.layers[next];
    if (parts_.model.layers.size() > 1) stage.fault->count();
  }
  return post ? weights->post_norm : weights->input_norm;
}

const void* LayerPass::bias_of(const Stage& stage) const {
  if (stage.fault == nullptr || !stage.fault->has_bias(stage.layer)) return stage.weights.qkv_bias;
  if (stage.fault->id() == FaultId::kPrefillMissing && stage.shape.decode) return stage.weights.qkv_bias;
  if (stage.fault->id() == FaultId::kDecodeMissing && !stage.shape.decode) return stage.weights.qkv_bias;
  stage.fault->count();
  return stage.fault->bias(stage.layer);
}

// What is added to `product`: the residual stream, or under two faults something else.
const void* LayerPass::residual_of(const Stage& stage, const void* right, const void* norm, const void* product) const {
  if (is(stage.fault, FaultId::kResidualLost)) {
    stage.fault->count();
    return product;
  }
  if (is(stage.fault, FaultId::kNormIntoResidual)) {
    stage.fault->count();
    return norm;
  }
  return right;
}

RopeAppendParams LayerPass::rope_params(const Stage& stage) const {
  const ModelConfig& c = parts_.model.config;
  RopeAppendParams p{};
  p.qkv = stage.out.qkv;
  p.q_rope = stage.out.q_rope;
  p.k_rope = stage.out.k_rope;
  p.key_cache = memory_.keys.data();
  p.value_cache = memory_.values.data();
  p.layout = memory_.layout;
  p.layer = stage.layer;
  p.inputs = memory_.step;
  p.table = parts_.model.rope_table.as<float2>();
  if (stage.fault != nullptr && stage.fault->has_rope_table()) {
    p.table = stage.fault->rope_table();
    if (!is(stage.fault, FaultId::kTheta) || stage.fault->value() != c.rope_theta) stage.fault->count();
  }
  p.batch = stage.shape.batch;
  p.num_tokens = stage.shape.num_tokens;
  p.num_q_heads = static_cast<int>(c.num_q_heads);
  p.num_kv_heads = static_cast<int>(c.num_kv_heads);
  p.head_dim = static_cast<int>(c.head_dim);
  p.late_bias = is(stage.fault, FaultId::kBiasAfterRope) ? stage.weights.qkv_bias : nullptr;
  p.decode = stage.shape.decode;
  p.fault = kernel_fault(stage.fault);
  return p;
}

void LayerPass::plant_weights(const Stage& stage, bool o_proj, MatvecParams& p) const {
  const ModelConfig& c = parts_.model.config;
  p.right_weights = true;
  if (stage.fault == nullptr) return;
  const bool square = c.q_width() == c.hidden;
  const bool transposed = square && ((!o_proj && is(stage.fault, FaultId::kTransposedQ)) ||
                                     (o_proj && is(stage.fault, FaultId::kTransposedO)));
  const bool lda = o_proj && is(stage.fault, FaultId::kLda);
  if (!transposed && !lda) return;
  p.right_weights = false;
  p.weight_row = transposed ? 1 : p.inner + 8;
  p.weight_column = transposed ? p.inner : 1;
  p.faulty_rows = static_cast<int>(o_proj ? c.hidden : c.q_width());
}

void LayerPass::rms_norm(const StepShape& shape, const void* x, const void* weight, void* y, float eps,
                         const PlantedFault* fault) {
  const bool planted = fault != nullptr && plants_norm(fault->id());
  launch_rms_norm({x, weight, y, shape.rows(), static_cast<int>(parts_.model.config.hidden), eps, kernel_fault(fault)},
                  launch(planted, false));
}

// ---- Stages -------------------------------------------------------------------------------------------------------

void LayerPass::qkv(const Stage& stage) {
  const ModelConfig& c = parts_.model.config;
  const StepShape& shape = stage.shape;
  const std::int64_t width = c.q_width() + 2 * c.kv_width();
  const bool planted_append = stage.fault != nullptr && plants_append(stage.fault->id());
  const void* norm_weight = norm_weight_of(stage, false);
  const float eps = eps_of(stage.fault, false);
  const void* bias = bias_of(stage);
  const bool packed_wrongly = is(stage.fault, FaultId::kPackedOrder);
  if (shape.matvec && !packed_wrongly) {
    MatvecParams p{};
    p.weights = stage.weights.qkv;
    p.bias = bias;
    p.x = stage.x;
    p.batch = shape.batch;
    p.inner = static_cast<int>(c.hidden);
    p.num_outputs = static_cast<int>(width / 2);
    p.norm_weight = norm_weight;
    p.normed = stage.out.input_norm;
    p.eps = eps;
    p.out = stage.out.qkv;
    p.out_stride = width;
    p.rotate = !planted_append;
    p.rope = rope_params(stage);
    p.fault = kernel_fault(stage.fault);
    plant_weights(stage, false, p);
    const bool planted = stage.fault != nullptr && (plants_norm(stage.fault->id()) || !p.right_weights);
    launch_matvec(MatvecKind::kQkv, p, launch(planted, true));
    if (planted_append) rotate_and_append(stage, stage.fault->id() != FaultId::kAfterCache);
  } else {
    rms_norm(shape, stage.x, norm_weight, stage.out.input_norm, eps, stage.fault);
    const GemmCall call{.x = stage.out.input_norm,
                        .x_stride = c.hidden,
                        .weights = stage.weights.qkv,
                        .weight_stride = c.hidden,
                        .bias = bias,
                        .out = stage.out.qkv,
                        .out_stride = width,
                        .m = shape.rows(),
                        .n = width,
                        .k = c.hidden};
    const bool transposed = is(stage.fault, FaultId::kTransposedQ) && c.q_width() == c.hidden;
    if (transposed || packed_wrongly) {
      planted_qkv_gemm(stage, call);
    } else {
      parts_.gemm.run(call, stream_);
    }
    rotate_and_append(stage, planted_append && stage.fault->id() != FaultId::kAfterCache);
  }
  record_qkv(stage);
}

// q alone through its transpose, or the rows of the packed weight taken for k, v and q in that order.
void LayerPass::planted_qkv_gemm(const Stage& stage, const GemmCall& call) {
  const ModelConfig& c = parts_.model.config;
  const DType dtype = parts_.model.dtype;
  const bool packed_wrongly = is(stage.fault, FaultId::kPackedOrder);
  const std::int64_t widths[3] = {c.q_width(), c.kv_width(), c.kv_width()};
  const std::int64_t right[3] = {0, c.q_width(), c.q_width() + c.kv_width()};
  const std::int64_t wrong[3] = {2 * c.kv_width(), 0, c.kv_width()};
  for (int part = 0; part < 3; ++part) {
    GemmCall one = call;
    const std::int64_t row = packed_wrongly ? wrong[part] : right[part];
    one.weights = elements_at(call.weights, row * c.hidden, dtype);
    one.bias = elements_at(call.bias, right[part], dtype);
    one.out = elements_at(call.out, right[part], dtype);
    one.n = widths[part];
    one.transposed = !packed_wrongly && part == 0;
    parts_.gemm.run(one, stream_);
  }
  stage.fault->count();
}

void LayerPass::rotate_and_append(const Stage& stage, bool planted) {
  launch_rope_append(rope_params(stage), launch(planted, false));
}

void LayerPass::attention(const Stage& stage) {
  const ModelConfig& c = parts_.model.config;
  AttentionParams p{};
  p.q = stage.out.q_rope;
  p.key_cache = memory_.keys.data();
  p.value_cache = memory_.values.data();
  p.layout = memory_.layout;
  p.layer = stage.layer;
  p.inputs = memory_.step;
  p.out = stage.out.attention;
  p.batch = stage.shape.batch;
  p.num_tokens = stage.shape.num_tokens;
  p.num_q_heads = static_cast<int>(c.num_q_heads);
  p.num_kv_heads = static_cast<int>(c.num_kv_heads);
  p.head_dim = static_cast<int>(c.head_dim);
  double scale = 1.0 / std::sqrt(static_cast<double>(c.head_dim));
  if (stage.fault != nullptr) {
    const double right = scale;
    if (is(stage.fault, FaultId::kScale)) scale *= stage.fault->value();
    if (is(stage.fault, FaultId::kNoScale)) scale = 1.0;
    if (is(stage.fault, FaultId::kScaleTwice)) scale *= scale;
    if (is(stage.fault, FaultId::kScaleHidden)) scale = 1.0 / std::sqrt(static_cast<double>(c.hidden));
    if (scale != right) stage.fault->count();
  }
  p.scale = static_cast<float>(scale);
  p.decode = stage.shape.decode;
  p.first_decode = stage.shape.first_decode;
  p.partial_max = memory_.partial_max;
  p.partial_sum = memory_.partial_sum;
  p.partial_out = memory_.partial_out;
  p.tickets = memory_.tickets.as<unsigned>();
  p.num_splits = memory_.num_splits;
  p.fault = kernel_fault(stage.fault);
  const bool planted = stage.fault != nullptr && plants_attention(stage.fault->id());
  if (stage.shape.matvec) {
    launch_decode_attention(p, launch(planted, true));
  } else {
    launch_flash_attention(p, launch(planted, false));
  }
  // The rotated keys served this step; what stays in the cache is unrotated.
  if (is(stage.fault, FaultId::kAfterCache)) rotate_and_append(stage, true);
  record_attention(stage);
}

void LayerPass::o_proj(const Stage& stage) {
  const ModelConfig& c = parts_.model.config;
  const StepShape& shape = stage.shape;
  const void* residual = residual_of(stage, stage.x, stage.out.input_norm, stage.out.o_proj);
  const bool overwrites = is(stage.fault, FaultId::kAttentionOverwritten);
  if (shape.matvec && !overwrites) {
    MatvecParams p{};
    p.weights = stage.weights.o_proj;
    p.x = stage.out.attention;
    p.batch = shape.batch;
    p.inner = static_cast<int>(c.q_width());
    p.num_outputs = static_cast<int>(c.hidden);
    p.out = stage.out.o_proj;
    p.out_stride = c.hidden;
    p.residual = residual;
    p.sum = stage.out.resid_mid;
    p.fault = kernel_fault(stage.fault);
    plant_weights(stage, true, p);
    launch_matvec(MatvecKind::kResidual, p, launch(!p.right_weights || is(stage.fault, FaultId::kResidualLost), true));
  } else {
    GemmCall call{.x = stage.out.attention,
                  .x_stride = c.q_width(),
                  .weights = stage.weights.o_proj,
                  .weight_stride = c.q_width(),
                  .out = stage.out.o_proj,
                  .out_stride = c.hidden,
                  .m = shape.rows(),
                  .n = c.hidden,
                  .k = c.q_width()};
    if (is(stage.fault, FaultId::kTransposedO) && c.q_width() == c.hidden) {
      call.transposed = true;
      stage.fault->count();
    }
    if (is(stage.fault, FaultId::kLda)) {
      call.weight_stride += 8;
      stage.fault->count();
    }
    if (overwrites) {
      overwrite_attention(stage);
    } else {
      parts_.gemm.run(call, stream_);
    }
    launch_add({residual, stage.out.o_proj, stage.out.resid_mid, shape.rows() * c.hidden}, launch(false, false));
  }
  record_o_proj(stage);
}

// o_proj tile by tile along its columns, each tile also written over the input that the tiles behind it read.
void LayerPass::overwrite_attention(const Stage& stage) {
  constexpr std::int64_t kTile = 64;
  const ModelConfig& c = parts_.model.config;
  const DType dtype = parts_.model.dtype;
  for (std::int64_t first = 0; first < c.hidden; first += kTile) {
    const std::int64_t count = std::min(kTile, c.hidden - first);
    const GemmCall call{.x = stage.out.attention,
                        .x_stride = c.q_width(),
                        .weights = elements_at(stage.weights.o_proj, first * c.q_width(), dtype),
                        .weight_stride = c.q_width(),
                        .out = elements_at(stage.out.o_proj, first, dtype),
                        .out_stride = c.hidden,
                        .m = stage.shape.rows(),
                        .n = count,
                        .k = c.q_width()};
    parts_.gemm.run(call, stream_);
    const std::int64_t inside = std::min(count, c.q_width() - first);
    if (inside <= 0) continue;
    QDIFF_CUDA_CHECK(cudaMemcpy2DAsync(
        elements_at(stage.out.attention, first, dtype), static_cast<std::size_t>(c.q_width()) * size_of(dtype),
        call.out, static_cast<std::size_t>(c.hidden) * size_of(dtype),
        static_cast<std::size_t>(inside) * size_of(dtype), static_cast<std::size_t>(stage.shape.rows()),
        cudaMemcpyDeviceToDevice, stream_));
  }
  stage.fault->count();
}

void LayerPass::mlp(const Stage& stage) {
  const ModelConfig& c = parts_.model.config;
  const StepShape& shape = stage.shape;
  const PlantedFault* fault = stage.fault;
  const bool planted_act = fault != nullptr && plants_mlp(fault->id());
  const void* norm_weight = norm_weight_of(stage, true);
  const float eps = eps_of(fault, false);
  const void* residual = residual_of(stage, stage.out.resid_mid, stage.out.post_norm, stage.out.down_proj);
  if (shape.matvec) {
    MatvecParams p{};
    p.weights = stage.weights.gate_up;
    p.x = stage.out.resid_mid;
    p.batch = shape.batch;
    p.inner = static_cast<int>(c.hidden);
    p.num_outputs = static_cast<int>(c.intermediate);
    p.norm_weight = norm_weight;
    p.normed = stage.out.post_norm;
    p.eps = eps;
    p.out = stage.out.gate_up;
    p.out_stride = 2 * c.intermediate;
    p.act = stage.out.act;
    p.right_weights = true;
    p.fault = kernel_fault(fault);
    launch_matvec(MatvecKind::kGateUp, p, launch(planted_act || (fault != nullptr && plants_norm(fault->id())), true));
    if (planted_act) fault->count();
    MatvecParams down{};
    down.weights = stage.weights.down_proj;
    down.x = stage.out.act;
    down.batch = shape.batch;
    down.inner = static_cast<int>(c.intermediate);
    down.num_outputs = static_cast<int>(c.hidden);
    down.out = stage.out.down_proj;
    down.out_stride = c.hidden;
    down.residual = residual;
    down.sum = stage.out.output;
    down.right_weights = true;
    down.fault = kernel_fault(fault);
    launch_matvec(MatvecKind::kResidual, down, launch(is(fault, FaultId::kResidualLost), true));
  } else {
    rms_norm(shape, stage.out.resid_mid, norm_weight, stage.out.post_norm, eps, fault);
    parts_.gemm.run({.x = stage.out.post_norm,
                     .x_stride = c.hidden,
                     .weights = stage.weights.gate_up,
                     .weight_stride = c.hidden,
                     .out = stage.out.gate_up,
                     .out_stride = 2 * c.intermediate,
                     .m = shape.rows(),
                     .n = 2 * c.intermediate,
                     .k = c.hidden},
                    stream_);
    launch_silu_mul(
        {stage.out.gate_up, stage.out.act, shape.rows(), static_cast<int>(c.intermediate), kernel_fault(fault)},
        launch(planted_act, false));
    parts_.gemm.run({.x = stage.out.act,
                     .x_stride = c.intermediate,
                     .weights = stage.weights.down_proj,
                     .weight_stride = c.intermediate,
                     .out = stage.out.down_proj,
                     .out_stride = c.hidden,
                     .m = shape.rows(),
                     .n = c.hidden,
                     .k = c.intermediate},
                    stream_);
    launch_add({residual, stage.out.down_proj, stage.out.output, shape.rows() * c.hidden}, launch(false, false));
  }
  record_mlp(stage);
}

void LayerPass::head(const StepShape& shape, const void* x, const Arena& arena, Recorder* recorder) {
  const ModelConfig& c = parts_.model.config;
  const PlantedFault* fault = fault_ != nullptr && fault_->holds_in(kNoLayer) ? fault_ : nullptr;
  const float eps = eps_of(fault, true);
  const bool skips_norm = is(fault, FaultId::kNoFinalNorm);
  const bool planted = fault != nullptr && plants_norm(fault->id());
  if (shape.matvec && !skips_norm) {
    MatvecParams p{};
    p.weights = parts_.model.lm_head;
    p.x = x;
    p.batch = shape.batch;
    p.inner = static_cast<int>(c.hidden);
    p.num_outputs = static_cast<int>(arena.logits_stride() / 2);
    p.norm_weight = parts_.model.norm;
    p.normed = arena.norm();
    p.eps = eps;
    p.out = arena.logits();
    p.out_stride = arena.logits_stride();
    p.right_weights = true;
    p.fault = kernel_fault(fault);
    launch_matvec(MatvecKind::kHead, p, launch(planted, true));
  } else {
    if (skips_norm) {
      QDIFF_CUDA_CHECK(cudaMemcpyAsync(arena.norm(), x,
                                       static_cast<std::size_t>(shape.rows() * c.hidden) * size_of(parts_.model.dtype),
                                       cudaMemcpyDeviceToDevice, stream_));
      fault->count();
    } else {
      rms_norm(shape, x, parts_.model.norm, arena.norm(), eps, fault);
    }
    parts_.gemm.run({.x = arena.norm(),
                     .x_stride = c.hidden,
                     .weights = parts_.model.lm_head,
                     .weight_stride = c.hidden,
                     .out = arena.logits(),
                     .out_stride = arena.logits_stride(),
                     .m = shape.rows(),
                     .n = arena.logits_stride(),
                     .k = c.hidden},
                    stream_);
  }
  if (recorder != nullptr) record_head(shape, arena, *recorder);
}

}  // namespace qdiff::optimized::cuda
