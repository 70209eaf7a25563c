#include "optimized/cuda/layer_pass.h"

#include <algorithm>
#include <cmath>

namespace qdiff::optimized::cuda {
namespace {

bool is(const PlantedFault* fault, FaultId id) { return fault != nullptr && fault->id() == id; }

}  // namespace

void LayerPass::embedding(const StepShape& shape, void* out, Recorder* recorder) {
  const ModelConfig& c = parts_.model.config;
  const PlantedFault* fault = fault_ != nullptr && fault_->holds_in(kNoLayer) ? fault_ : nullptr;
  const bool planted = is(fault, FaultId::kWrongTokenEmbedding);
  launch_embedding({parts_.model.embedding, memory_.step, out, shape.rows(), static_cast<int>(c.hidden),
                    static_cast<int>(c.vocab), kernel_fault(planted ? fault : nullptr)},
                   launch(planted, true));
  if (recorder != nullptr) record_embedding(shape, out, *recorder);
}

void LayerPass::layer(int index, const StepShape& shape, const void* x, const LayerBuffers& out, Recorder* recorder) {
  const PlantedFault* fault = fault_ != nullptr && fault_->holds_in(index) ? fault_ : nullptr;
  run({index, shape, parts_.model.layers[static_cast<std::size_t>(index)], x, out, fault, recorder});
}

void LayerPass::step(const StepShape& shape, const Arena& arena, Recorder* recorder) {
  embedding(shape, arena.input(), recorder);
  const std::vector<LayerWeights>& layers = parts_.model.layers;
  const bool chained = fault_ == nullptr && !shape.matvec;
  const void* x = arena.input();
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const int index = static_cast<int>(i);
    const LayerBuffers& out = arena.layer(index);
    if (chained) {
      const Norm next = i + 1 < layers.size() ? Norm{layers[i + 1].input_norm, arena.layer(index + 1).input_norm}
                                              : Norm{parts_.model.norm, arena.norm()};
      run({index, shape, layers[i], x, out, nullptr, recorder, true, i > 0, next});
    } else {
      layer(index, shape, x, out, recorder);
    }
    x = out.output;
  }
  head(shape, x, arena, recorder, chained);
}

void LayerPass::run(const Stage& stage) {
  parts_.model.bring_matrices_of(stage.layer, stream_);
  qkv(stage);
  attention(stage);
  o_proj(stage);
  gate_up(stage);
  down_proj(stage);
  record_down_proj(stage);
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
    const std::int64_t num_layers = parts_.model.config.num_layers;
    const std::int64_t other = (stage.layer + static_cast<std::int64_t>(stage.fault->value())) % num_layers;
    weights = &parts_.model.layers[static_cast<std::size_t>(other < 0 ? other + num_layers : other)];
    if (weights != &stage.weights) stage.fault->count();
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

// Finds those parts of a matrix that a fault reads at wrong addresses.
WrongWeights LayerPass::wrong_weights(const Stage& stage, const Parts& parts) const {
  WrongWeights wrong{};
  if (stage.fault == nullptr) return wrong;
  int end = 0;
  for (std::size_t i = 0; i < std::size(wrong.ends); ++i) {
    if (i < parts.size()) {
      end += static_cast<int>(parts[i].rows);
      const bool transposed = is(stage.fault, parts[i].transposed);
      wrong.transposed = wrong.transposed || transposed;
      if (transposed || is(stage.fault, FaultId::kLda)) wrong.parts |= 1U << i;
    }
    wrong.ends[i] = end;
  }
  if (is(stage.fault, FaultId::kLda)) wrong.excess = static_cast<std::int64_t>(stage.fault->value());
  return wrong;
}

LayerPass::Parts LayerPass::qkv_parts() const {
  const ModelConfig& c = parts_.model.config;
  return {{FaultId::kTransposedQ, c.q_width()},
          {FaultId::kTransposedK, c.kv_width()},
          {FaultId::kTransposedV, c.kv_width()}};
}

void LayerPass::rms_norm(const StepShape& shape, const void* x, const void* weight, void* y, float eps,
                         const PlantedFault* fault) {
  const bool planted = fault != nullptr && fault->plants(PlantedStage::kNorm);
  launch_rms_norm({x, weight, y, shape.rows(), static_cast<int>(parts_.model.config.hidden), eps, kernel_fault(fault)},
                  launch(planted, true));
}

// Where the weights of a layer fit into the L2 (50 MB of an H100), it can keep what a step needs again, if it gives up
// the weights first: a token of the 0.5B then took 462 us for 478 with 1024 slots filled. One of the 7B took 3604 us
// for 3590, and with 8192 slots 3781 for 3805 (H200).
MatvecParams LayerPass::matvec_params(const StepShape& shape) const {
  constexpr std::int64_t kLargestLayer = std::int64_t{50} << 20;
  const ModelConfig& c = parts_.model.config;
  const std::int64_t layer = c.hidden * (2 * c.q_width() + 2 * c.kv_width() + 3 * c.intermediate);
  MatvecParams p{};
  p.batch = shape.batch;
  p.weights_pass = layer * static_cast<std::int64_t>(size_of(parts_.model.dtype)) <= kLargestLayer;
  return p;
}

// ---- Stages -------------------------------------------------------------------------------------------------------

void LayerPass::qkv(const Stage& stage) {
  const ModelConfig& c = parts_.model.config;
  const StepShape& shape = stage.shape;
  const std::int64_t width = c.q_width() + 2 * c.kv_width();
  const bool planted_append = stage.fault != nullptr && stage.fault->plants(PlantedStage::kAppend);
  const void* norm_weight = norm_weight_of(stage, false);
  const float eps = eps_of(stage.fault, false);
  const void* bias = bias_of(stage);
  const bool packed_wrongly = is(stage.fault, FaultId::kPackedOrder);
  if (shape.matvec && !packed_wrongly) {
    MatvecParams p = matvec_params(shape);
    p.weights = stage.weights.qkv;
    p.bias = bias;
    p.x = stage.x;
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
    p.wrong = wrong_weights(stage, qkv_parts());
    const bool first_row_only = is(stage.fault, FaultId::kBiasFirstRowOnly);
    if (first_row_only && shape.batch > 1) stage.fault->count();
    const bool planted_norm = stage.fault != nullptr && stage.fault->plants(PlantedStage::kNorm);
    launch_matvec(MatvecKind::kQkv, p, launch(planted_norm || p.wrong.parts != 0 || first_row_only, true));
    if (planted_append) rotate_and_append(stage, stage.fault->id() != FaultId::kAfterCache);
  } else {
    if (!stage.normed) rms_norm(shape, stage.x, norm_weight, stage.out.input_norm, eps, stage.fault);
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
    if (stage.fault == nullptr && shape.batch_class()) {
      RopeAppendParams p = rope_params(stage);
      p.bias = bias;
      p.partials = multiply_in_parts(stage, call);
      launch_rope_append(p, launch(false, true));
    } else {
      multiply_qkv(stage, call);
      rotate_and_append(stage, planted_append && stage.fault->id() != FaultId::kAfterCache);
    }
  }
  record_qkv(stage);
}

// The product with a packed matrix; under a fault of its addresses part by part.
void LayerPass::multiply(const Stage& stage, const GemmCall& call, const Parts& parts) {
  const WrongWeights wrong = wrong_weights(stage, parts);
  if (wrong.parts == 0) return parts_.gemm.run(call, stream_);
  const DType dtype = parts_.model.dtype;
  std::int64_t first = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    GemmCall one = call;
    one.weights = elements_at(call.weights, first * call.k, dtype);
    if (call.bias != nullptr) one.bias = elements_at(call.bias, first, dtype);
    one.out = elements_at(call.out, first, dtype);
    one.n = parts[i].rows;
    if ((wrong.parts >> i & 1U) != 0) {
      one.transposed = wrong.transposed;
      one.weight_stride = wrong.transposed ? one.n : call.k + wrong.excess;
    }
    parts_.gemm.run(one, stream_);
    first += one.n;
  }
  stage.fault->count();
}

PartialSums LayerPass::multiply_in_parts(const Stage& stage, GemmCall call) {
  if (!stage.shape.batch_class()) {
    parts_.gemm.run(call, stream_);
    return {};
  }
  call.bias = nullptr;
  call.partials = memory_.product_partials.as<float>();
  call.splits = splits_of_product(call.k);
  parts_.gemm.run(call, stream_);
  return {call.partials, call.splits};
}

void LayerPass::multiply_qkv(const Stage& stage, const GemmCall& call) {
  if (is(stage.fault, FaultId::kPackedOrder)) return multiply_in_other_order(stage, call);
  if (!is(stage.fault, FaultId::kBiasFirstRowOnly)) return multiply(stage, call, qkv_parts());
  GemmCall one = call;
  one.bias = nullptr;
  parts_.gemm.run(one, stream_);
  one.bias = call.bias;
  one.m = 1;
  parts_.gemm.run(one, stream_);
  if (call.m > 1) stage.fault->count();
}

// The rows of the packed weight taken for k, v and q in that order.
void LayerPass::multiply_in_other_order(const Stage& stage, const GemmCall& call) {
  const ModelConfig& c = parts_.model.config;
  const DType dtype = parts_.model.dtype;
  const std::int64_t widths[3] = {c.q_width(), c.kv_width(), c.kv_width()};
  const std::int64_t right[3] = {0, c.q_width(), c.q_width() + c.kv_width()};
  const std::int64_t wrong[3] = {2 * c.kv_width(), 0, c.kv_width()};
  for (int part = 0; part < 3; ++part) {
    GemmCall one = call;
    one.weights = elements_at(call.weights, wrong[part] * c.hidden, dtype);
    one.bias = elements_at(call.bias, right[part], dtype);
    one.out = elements_at(call.out, right[part], dtype);
    one.n = widths[part];
    parts_.gemm.run(one, stream_);
  }
  stage.fault->count();
}

void LayerPass::rotate_and_append(const Stage& stage, bool planted) {
  launch_rope_append(rope_params(stage), launch(planted, true));
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
  const bool planted = stage.fault != nullptr && stage.fault->plants(PlantedStage::kAttention);
  const bool races = stage.fault != nullptr && stage.fault->race() != Race::kNone;
  if (stage.shape.num_tokens > 1) {
    launch_flash_attention(p, launch(planted, true));
  } else if (planted || races || !tensor_decode_attention_takes(p, parts_.model.dtype)) {
    launch_decode_attention(p, launch(planted || races, true));
  } else if (stage.shape.matvec) {
    launch_cluster_decode_attention(p, launch(false, true));
  } else {
    launch_tensor_decode_attention(p, launch(false, true));
  }
  // The rotated keys served this step; what stays in the cache is unrotated.
  if (is(stage.fault, FaultId::kAfterCache)) rotate_and_append(stage, true);
  record_attention(stage);
}

void LayerPass::o_proj(const Stage& stage) {
  const ModelConfig& c = parts_.model.config;
  const StepShape& shape = stage.shape;
  const void* residual = residual_of(stage, stage.x, stage.out.input_norm, stage.out.o_proj);
  const bool overwrites = is(stage.fault, FaultId::kWoCols);
  if (shape.matvec && !overwrites) {
    MatvecParams p = matvec_params(shape);
    p.weights = stage.weights.o_proj;
    p.x = stage.out.attention;
    p.inner = static_cast<int>(c.q_width());
    p.num_outputs = static_cast<int>(c.hidden);
    p.out = stage.out.o_proj;
    p.out_stride = c.hidden;
    p.residual = residual;
    p.sum = stage.out.resid_mid;
    p.fault = kernel_fault(stage.fault);
    p.wrong = wrong_weights(stage, {{FaultId::kTransposedO, c.hidden}});
    const bool planted = p.wrong.parts != 0 || is(stage.fault, FaultId::kResidualLost);
    launch_matvec(MatvecKind::kResidual, p,
                  launch(planted || (stage.fault != nullptr && stage.fault->race() == Race::kMissingWait), true));
  } else {
    const GemmCall call{.x = stage.out.attention,
                        .x_stride = c.q_width(),
                        .weights = stage.weights.o_proj,
                        .weight_stride = c.q_width(),
                        .out = stage.out.o_proj,
                        .out_stride = c.hidden,
                        .m = shape.rows(),
                        .n = c.hidden,
                        .k = c.q_width()};
    if (stage.fault == nullptr) {  // and the norm in front of gate_up, of the sum while it is at hand
      const PartialSums partials = multiply_in_parts(stage, call);
      launch_add_norm(
          {{residual, stage.out.o_proj, partials, stage.out.resid_mid, shape.rows(), static_cast<int>(c.hidden)},
           norm_weight_of(stage, true),
           stage.out.post_norm,
           eps_of(nullptr, false)},
          launch(false, true));
    } else {
      if (overwrites) {
        multiply_over_input(stage, call, stage.out.attention);
      } else {
        multiply(stage, call, {{FaultId::kTransposedO, c.hidden}});
      }
      add_residual(stage, residual, stage.out.o_proj, stage.out.resid_mid);
    }
  }
  record_o_proj(stage);
}

// A product tile by tile along its columns, each tile also written over the input that the tiles behind it read.
void LayerPass::multiply_over_input(const Stage& stage, const GemmCall& call, void* input) {
  const DType dtype = parts_.model.dtype;
  const auto tile = static_cast<std::int64_t>(stage.fault->value());
  for (std::int64_t first = 0; first < call.n; first += tile) {
    GemmCall one = call;
    one.weights = elements_at(call.weights, first * call.k, dtype);
    one.out = elements_at(call.out, first, dtype);
    one.n = std::min(tile, call.n - first);
    parts_.gemm.run(one, stream_);
    const std::int64_t inside = std::min(one.n, call.k - first);
    if (inside <= 0) continue;
    QDIFF_CUDA_CHECK(cudaMemcpy2DAsync(
        elements_at(input, first, dtype), static_cast<std::size_t>(call.x_stride) * size_of(dtype), one.out,
        static_cast<std::size_t>(call.out_stride) * size_of(dtype), static_cast<std::size_t>(inside) * size_of(dtype),
        static_cast<std::size_t>(call.m), cudaMemcpyDeviceToDevice, stream_));
  }
  if (call.n > tile) stage.fault->count();
}

void LayerPass::add_residual(const Stage& stage, const void* residual, void* product, void* sum) {
  const std::int64_t hidden = parts_.model.config.hidden;
  const int rows = stage.shape.rows();
  if (is(stage.fault, FaultId::kResidualLost) && stage.fault->value() == 1.0) {
    QDIFF_CUDA_CHECK(cudaMemcpyAsync(sum, product,
                                     static_cast<std::size_t>(rows * hidden) * size_of(parts_.model.dtype),
                                     cudaMemcpyDeviceToDevice, stream_));
    return;
  }
  launch_add({residual, product, {}, sum, rows, static_cast<int>(hidden)}, launch(false, true));
}

void LayerPass::gate_up(const Stage& stage) {
  const ModelConfig& c = parts_.model.config;
  const StepShape& shape = stage.shape;
  const PlantedFault* fault = stage.fault;
  const bool planted_act = fault != nullptr && fault->plants(PlantedStage::kMlp);
  const void* norm_weight = norm_weight_of(stage, true);
  const float eps = eps_of(fault, false);
  const Parts gate_up_parts = {{FaultId::kTransposedGate, c.intermediate}, {FaultId::kTransposedUp, c.intermediate}};
  if (shape.matvec) {
    MatvecParams p = matvec_params(shape);
    p.weights = stage.weights.gate_up;
    p.x = stage.out.resid_mid;
    p.inner = static_cast<int>(c.hidden);
    p.num_outputs = static_cast<int>(c.intermediate);
    p.norm_weight = norm_weight;
    p.normed = stage.out.post_norm;
    p.eps = eps;
    p.out = stage.out.gate_up;
    p.out_stride = 2 * c.intermediate;
    p.act = stage.out.act;
    p.fault = kernel_fault(fault);
    p.wrong = wrong_weights(stage, gate_up_parts);
    const bool planted_norm = fault != nullptr && fault->plants(PlantedStage::kNorm);
    launch_matvec(MatvecKind::kGateUp, p, launch(planted_act || planted_norm || p.wrong.parts != 0, true));
    if (planted_act) fault->count();
  } else {
    if (fault != nullptr) rms_norm(shape, stage.out.resid_mid, norm_weight, stage.out.post_norm, eps, fault);
    multiply(stage,
             {.x = stage.out.post_norm,
              .x_stride = c.hidden,
              .weights = stage.weights.gate_up,
              .weight_stride = c.hidden,
              .out = stage.out.gate_up,
              .out_stride = 2 * c.intermediate,
              .m = shape.rows(),
              .n = 2 * c.intermediate,
              .k = c.hidden},
             gate_up_parts);
    launch_silu_mul(
        {stage.out.gate_up, stage.out.act, shape.rows(), static_cast<int>(c.intermediate), kernel_fault(fault)},
        launch(planted_act, true));
  }
  record_gate_up(stage);
}

void LayerPass::down_proj(const Stage& stage) {
  const ModelConfig& c = parts_.model.config;
  const StepShape& shape = stage.shape;
  const PlantedFault* fault = stage.fault;
  const void* residual = residual_of(stage, stage.out.resid_mid, stage.out.post_norm, stage.out.down_proj);
  const bool overwrites = is(fault, FaultId::kDownInAct);
  if (shape.matvec && !overwrites) {
    MatvecParams down = matvec_params(shape);
    down.weights = stage.weights.down_proj;
    down.x = stage.out.act;
    down.inner = static_cast<int>(c.intermediate);
    down.num_outputs = static_cast<int>(c.hidden);
    down.out = stage.out.down_proj;
    down.out_stride = c.hidden;
    down.residual = residual;
    down.sum = stage.out.output;
    down.fault = kernel_fault(fault);
    down.wrong = wrong_weights(stage, {{FaultId::kTransposedDown, c.hidden}});
    const bool planted = down.wrong.parts != 0 || is(fault, FaultId::kResidualLost);
    launch_matvec(MatvecKind::kResidual, down, launch(planted, true));
    return;
  }
  const GemmCall call{.x = stage.out.act,
                      .x_stride = c.intermediate,
                      .weights = stage.weights.down_proj,
                      .weight_stride = c.intermediate,
                      .out = stage.out.down_proj,
                      .out_stride = c.hidden,
                      .m = shape.rows(),
                      .n = c.hidden,
                      .k = c.intermediate};
  if (fault == nullptr) {
    const PartialSums partials = multiply_in_parts(stage, call);
    const AddParams add{residual,         stage.out.down_proj, partials,
                        stage.out.output, shape.rows(),        static_cast<int>(c.hidden)};
    if (stage.next.weight == nullptr) {
      launch_add(add, launch(false, true));
    } else {
      launch_add_norm({add, stage.next.weight, stage.next.normed, eps_of(nullptr, false)}, launch(false, true));
    }
    return;
  }
  if (overwrites) {
    multiply_over_input(stage, call, stage.out.act);
  } else {
    multiply(stage, call, {{FaultId::kTransposedDown, c.hidden}});
  }
  add_residual(stage, residual, stage.out.down_proj, stage.out.output);
}

void LayerPass::head(const StepShape& shape, const void* x, const Arena& arena, Recorder* recorder) {
  head(shape, x, arena, recorder, false);
}

void LayerPass::head(const StepShape& shape, const void* x, const Arena& arena, Recorder* recorder, bool normed) {
  const ModelConfig& c = parts_.model.config;
  const PlantedFault* fault = fault_ != nullptr && fault_->holds_in(kNoLayer) ? fault_ : nullptr;
  const float eps = eps_of(fault, true);
  const bool skips_norm = is(fault, FaultId::kNoFinalNorm);
  const bool planted = fault != nullptr && fault->plants(PlantedStage::kNorm);
  if (shape.matvec && !skips_norm) {
    MatvecParams p = matvec_params(shape);
    p.weights = parts_.model.lm_head;
    p.x = x;
    p.inner = static_cast<int>(c.hidden);
    p.num_outputs = static_cast<int>(arena.logits_stride() / 2);
    p.norm_weight = parts_.model.norm;
    p.normed = arena.norm();
    p.eps = eps;
    p.out = arena.logits();
    p.out_stride = arena.logits_stride();
    p.fault = kernel_fault(fault);
    launch_matvec(MatvecKind::kHead, p, launch(planted, true));
  } else {
    if (skips_norm) {
      QDIFF_CUDA_CHECK(cudaMemcpyAsync(arena.norm(), x,
                                       static_cast<std::size_t>(shape.rows() * c.hidden) * size_of(parts_.model.dtype),
                                       cudaMemcpyDeviceToDevice, stream_));
      fault->count();
    } else if (!normed) {
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
