#include "optimized/cpu/session.h"

#include <cstring>

#include "harness/contract/error.h"
#include "harness/contract/session_checks.h"
#include "optimized/cpu/planted_stages.h"

namespace qdiff::optimized::cpu {
namespace {

[[noreturn]] void refuse(const Step& step, const std::string& what) {
  throw InputError("cpu engine, step " + std::to_string(step.index) + ": " + what);
}

SessionOptions checked(SessionOptions options, const ModelConfig& config) {
  options = checked_session(std::move(options), "cpu engine");
  std::int64_t elements = config.num_layers;
  for (std::int64_t factor : {options.batch, config.num_kv_heads, options.capacity, config.head_dim}) {
    if (__builtin_mul_overflow(elements, factor, &elements) || elements > (std::int64_t{1} << 44)) {
      throw InputError("cpu engine: a cache of batch " + std::to_string(options.batch) + " and capacity " +
                       std::to_string(options.capacity) + " is too large; ask for fewer rows or slots");
    }
  }
  return options;
}

}  // namespace

CpuSession::CpuSession(EngineParts& parts, const SessionOptions& options, const std::optional<PlantedFault>& fault)
    : parts_(parts),
      options_(checked(options, parts.config)),
      fault_(fault),
      arena_(parts.config, parts.storage, options.poison, parts.pool.size()),
      rope_(rope_frequencies(parts.config.rope_theta, parts.config.head_dim, parts.config.head_dim / 2)),
      progress_(static_cast<std::size_t>(parts.config.num_layers)) {
  const ModelConfig& config = parts.config;
  cache_.layout = {config.num_layers, options_.batch, config.num_kv_heads, options_.capacity, config.head_dim};
  const std::int64_t elements = cache_.layout.num_elements();
  cache_.keys = AlignedBuffer(elements * storage_bytes(parts.storage));
  cache_.values = AlignedBuffer(elements * storage_bytes(parts.storage));
  fill_poison(parts.storage, options_.poison, cache_.keys.data(), elements);
  fill_poison(parts.storage, options_.poison, cache_.values.data(), elements);
  if (!fault_) return;
  planted_rope_.emplace(planted_frequencies(*fault_, config));
  if (fault_->fills_the_cache()) {
    for (AlignedBuffer* buffer : {&cache_.keys, &cache_.values}) {
      fill(parts.storage, static_cast<float>(fault_->value), buffer->data(), elements);
    }
  }
}

void CpuSession::check_order(int layer, const Step& step) const {
  if (layer < 0 || layer >= parts_.config.num_layers) {
    refuse(step, "there is no layer " + std::to_string(layer) + "; the model's layers are 0 to " +
                     std::to_string(parts_.config.num_layers - 1));
  }
  const Progress& done = progress_[static_cast<std::size_t>(layer)];
  if (step.index != done.steps || step.past_length != done.length) {
    refuse(step, "out of order at layer " + std::to_string(layer) + ": it has index " + std::to_string(step.index) +
                     " and past_length " + std::to_string(step.past_length) + ", but the layer's next step is " +
                     std::to_string(done.steps) + " at past_length " + std::to_string(done.length));
  }
}

void CpuSession::check_input(const Step& step, const TensorView& input) const {
  const Shape expected = {step.batch(), step.num_tokens(), parts_.config.hidden};
  if (input.device.kind != DeviceKind::kCpu) refuse(step, "the residual stream must be in host memory");
  if (input.dtype != parts_.dtype) {
    refuse(step, "the residual stream is " + std::string(name(input.dtype)) + ", but the engine computes in " +
                     std::string(name(parts_.dtype)));
  }
  if (input.shape != expected || input.data == nullptr) {
    refuse(step, "the residual stream has shape " + to_string(input.shape) + ", but must have " + to_string(expected));
  }
}

TensorView CpuSession::view(Op op, const Step& step, const std::byte* data) const {
  return {data,
          parts_.dtype,
          output_shape(op, parts_.config, step.batch(), step.num_tokens(), step.valid_length()),
          {},
          nullptr};
}

void CpuSession::hand_out(Op op, int layer, const Step& step, TensorSink* sink) const {
  if (sink != nullptr) sink->take({op, layer}, view(op, step, arena_.tensor(op)));
}

void CpuSession::hand_out_cache(Op op, int layer, const Step& step, TensorSink* sink) {
  if (sink == nullptr) return;
  const ModelConfig& config = parts_.config;
  const AlignedBuffer& cache = op == Op::kKCache ? cache_.keys : cache_.values;
  const std::int64_t length = step.valid_length();
  const std::int64_t bytes = options_.batch * length * config.kv_width() * storage_bytes(parts_.storage);
  // One for keys and one for values: what has been handed out stays as it is for the rest of the layer.
  AlignedBuffer& gathered = op == Op::kKCache ? key_view_ : value_view_;
  if (gathered.size() < bytes) gathered = AlignedBuffer(bytes);
  std::byte* out = gathered.data();
  const std::int64_t row_bytes = config.head_dim * storage_bytes(parts_.storage);
  for (std::int64_t b = 0; b < options_.batch; ++b) {
    for (std::int64_t slot = 0; slot < length; ++slot) {
      for (std::int64_t head = 0; head < config.num_kv_heads; ++head) {
        const std::int64_t element = read_offset(layer, b, head, slot);
        std::memcpy(out, cache.data() + element * storage_bytes(parts_.storage), static_cast<std::size_t>(row_bytes));
        out += row_bytes;
      }
    }
  }
  sink->take({op, layer}, view(op, step, gathered.data()));
}

// Where attention of this layer looks for a slot.
std::int64_t CpuSession::read_offset(int layer, std::int64_t b, std::int64_t kv_head, std::int64_t slot) const {
  if (planted_at(layer)) return planted_read_offset({fault(), layer}, cache_.layout, layer, b, kv_head, slot);
  return cache_.layout.offset(layer, b, kv_head, slot, 0);
}

StageContext CpuSession::stage_context(const Step& step, int layer, const TensorView& input, std::byte* output) {
  return {parts_.config, parts_.kernels,        parts_.storage, parts_.pool, arena_,
          step,          options_.left_padding, layer,          fault(),     static_cast<const std::byte*>(input.data),
          output};
}

TensorView CpuSession::run_embedding(const Step& step, TensorSink* sink) {
  check_step(step, options_, parts_.config, "cpu engine");
  const std::int64_t num_tokens = step.batch() * step.num_tokens();
  arena_.fit(num_tokens);
  arena_.poison(num_tokens, nullptr);
  std::byte* out = arena_.tensor(Op::kEmbedTokens);
  const StageContext context = stage_context(step, kNoLayer, {}, out);
  const Planting<true> planting(context.fault, kNoLayer);
  const bool next_token = planting.is(FaultId::kWrongTokenEmbedding);
  if (next_token) planting.count(context.num_real_tokens());
  for (const auto& tokens : step.tokens) {
    for (std::int32_t token : tokens) {
      parts_.weights.copy_embedding_row(next_token ? (token + 1) % parts_.config.vocab : token, out);
      out += parts_.config.hidden * storage_bytes(parts_.storage);
    }
  }
  hand_out(Op::kEmbedTokens, kNoLayer, step, sink);
  return view(Op::kEmbedTokens, step, arena_.tensor(Op::kEmbedTokens));
}

TensorView CpuSession::run_layer(int layer, const Step& step, const TensorView& input, TensorSink* sink) {
  check_step(step, options_, parts_.config, "cpu engine");
  check_order(layer, step);
  check_input(step, input);
  const std::int64_t num_tokens = step.batch() * step.num_tokens();
  arena_.fit(num_tokens);
  arena_.poison(num_tokens, input.data);

  if (step.phase == Phase::kDecode && !first_decode_) first_decode_ = step.index;

  const bool planted_here = planted_at(layer);
  StageContext stage = stage_context(step, layer, input, arena_.output(input.data));
  std::shared_ptr<const LayerWeights> weights;
  std::shared_ptr<const LayerWeights> other_weights;
  std::vector<std::vector<std::int64_t>> wrong_positions;
  if (planted_here) {
    const Planting<true> planting(fault(), layer);
    const bool repeats = planting.is(FaultId::kLayerRepeated) && layer > 0;
    if (repeats) planting.count(stage.num_real_tokens());
    weights = parts_.weights.layer(repeats ? layer - 1 : layer);
    if (planting.is(FaultId::kWeightFromOtherLayer)) {
      const std::int64_t num_layers = parts_.config.num_layers;
      const std::int64_t other = ((layer + planting.whole_value()) % num_layers + num_layers) % num_layers;
      other_weights = parts_.weights.layer(static_cast<int>(other));
      stage.other_weights = other_weights.get();
    }
    wrong_positions = planted_positions(*fault_, step);
  } else {
    weights = parts_.weights.layer(layer);
  }
  RopeTable& rope = planted_here ? *planted_rope_ : rope_;
  const auto& positions = planted_here ? wrong_positions : step.positions;
  rope.prepare(positions);
  const LayerContext context{stage, *weights, cache_, rope, positions, first_decode_ == step.index};
  const auto run = [&]<bool kPlanted>(std::bool_constant<kPlanted>) {
    using Stages = LayerStages<kPlanted>;
    Stages::project_qkv(context);
    for (Op op : {Op::kInputLayernorm, Op::kQProj, Op::kKProj, Op::kVProj, Op::kQRope, Op::kKRope}) {
      hand_out(op, layer, step, sink);
    }
    hand_out_cache(Op::kKCache, layer, step, sink);
    hand_out_cache(Op::kVCache, layer, step, sink);
    Stages::attend(context);
    hand_out(Op::kAttnOutput, layer, step, sink);
    Stages::o_proj(context);
    hand_out(Op::kOProj, layer, step, sink);
    hand_out(Op::kResidMid, layer, step, sink);
    Stages::gate_up(context);
    for (Op op : {Op::kPostAttentionLayernorm, Op::kGateProj, Op::kUpProj, Op::kAct}) hand_out(op, layer, step, sink);
    Stages::down_proj(context);
    hand_out(Op::kDownProj, layer, step, sink);
  };
  planted_here ? run(std::true_type{}) : run(std::false_type{});

  progress_[static_cast<std::size_t>(layer)] = {step.index + 1, step.valid_length()};
  const TensorView output = view(Op::kOutput, step, context.output);
  if (sink != nullptr) sink->take({Op::kOutput, layer}, output);
  return output;
}

TensorView CpuSession::run_head(const Step& step, const TensorView& input, TensorSink* sink) {
  check_step(step, options_, parts_.config, "cpu engine");
  check_input(step, input);
  const std::int64_t num_tokens = step.batch() * step.num_tokens();
  arena_.fit(num_tokens);
  arena_.poison(num_tokens, input.data);
  const std::int64_t elements = num_tokens * parts_.config.vocab;
  if (logits_.size() < elements * storage_bytes(parts_.storage)) {
    logits_ = {};
    logits_ = AlignedBuffer(elements * storage_bytes(parts_.storage));
  }
  fill_poison(parts_.storage, options_.poison, logits_.data(), elements);

  const StageContext context = stage_context(step, kNoLayer, input, logits_.data());
  const auto run = [&]<bool kPlanted>(std::bool_constant<kPlanted>) {
    HeadStages<kPlanted>::final_norm(context, parts_.weights.final_norm());
    hand_out(Op::kNorm, kNoLayer, step, sink);
    HeadStages<kPlanted>::project_vocab(context, parts_.weights);
  };
  planted_at(kNoLayer) ? run(std::true_type{}) : run(std::false_type{});
  const TensorView logits = view(Op::kLmHead, step, logits_.data());
  if (sink != nullptr) sink->take({Op::kLmHead, kNoLayer}, logits);
  return logits;
}

TensorView CpuSession::run_step(const Step& step, TensorSink* sink) {
  TensorView residual = run_embedding(step, sink);
  for (int layer = 0; layer < parts_.config.num_layers; ++layer) residual = run_layer(layer, step, residual, sink);
  return run_head(step, residual, sink);
}

}  // namespace qdiff::optimized::cpu
