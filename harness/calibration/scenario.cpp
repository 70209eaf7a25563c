#include "harness/calibration/scenario.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "harness/calibration/random.h"
#include "harness/model/generator.h"

namespace qdiff::calibration {
namespace {

using P = RoundingPoint;

// Products of one token, so that a run takes a fraction of a second.
std::int64_t products_of_token(const ModelConfig& c) {
  return c.hidden * (2 * c.q_width() + 2 * c.kv_width() + 3 * c.intermediate) * c.num_layers + c.hidden * c.vocab;
}

ModelConfig draw_config(Random& random, DType dtype, Size size) {
  ModelConfig c;
  c.dtype = dtype;
  c.num_layers = random.between(1, 2);
  c.head_dim = random.one_of({std::int64_t{32}, std::int64_t{64}, std::int64_t{128}});
  c.num_kv_heads = random.between(1, 3);
  c.num_q_heads = c.num_kv_heads * random.between(1, 7);
  c.hidden = random.between(1, 24) * 8;
  c.intermediate = random.between(1, 300);
  c.vocab = random.between(20, 700);
  c.rms_norm_eps = random.one_of({1e-6, 1e-6, 1e-5});
  c.rope_theta = random.one_of({1e6, 1e4});
  c.max_position_embeddings = 32768;
  // One long sum at a time: hidden for the projections, Q for o_proj, I for down_proj.
  switch (random.below(size == Size::kFull ? 6 : 8)) {
    case 0:
      c.hidden = random.one_of({896, 1000, 1536, 3584});
      c.num_kv_heads = 1;
      c.num_q_heads = random.between(1, 2);
      c.intermediate = random.between(3, 48);
      c.vocab = 64;
      break;
    case 1:
      c.intermediate = random.one_of({2048, 4096, 4864});
      c.hidden = random.between(2, 8) * 8;
      break;
    case 2:
      c.num_kv_heads = 2;
      c.num_q_heads = 14;
      c.hidden = random.between(1, 6) * 8;
      break;
    case 3:
      c.hidden = random.between(1, 7);
      c.intermediate = random.between(1, 5);
      break;
    default:
      break;
  }
  return c;
}

std::vector<Step> draw_steps(Random& random, const ModelConfig& c, Size size) {
  const std::int64_t batch = random.chance(0.5) ? 1 : random.between(2, 3);
  std::vector<std::int64_t> lengths;
  const std::int64_t affordable = std::max<std::int64_t>(2, 12'000'000 / products_of_token(c) / batch);
  const std::int64_t longest = random.chance(0.15) ? (size == Size::kFull ? 300 : 80) : 24;
  lengths.push_back(std::min(affordable, random.between(1, longest)));
  if (random.chance(0.5)) lengths.push_back(std::min(affordable, random.between(1, 20)));
  for (std::int64_t i = random.between(0, 2); i > 0; --i) lengths.push_back(1);
  std::int64_t total = 0;
  for (const std::int64_t length : lengths) total += length;
  std::vector<std::int64_t> padding(static_cast<std::size_t>(batch), 0);
  if (random.chance(0.4)) {
    for (auto& pads : padding) pads = random.below(total);
  }
  // Positions may be any that the caller asks for: long contexts without their cost.
  const std::int64_t offset = random.chance(0.3) ? random.one_of({300, 4096, 30000}) : 0;
  std::vector<Step> steps;
  std::int64_t past = 0;
  for (const std::int64_t length : lengths) {
    Step step;
    step.index = static_cast<int>(steps.size());
    step.phase = length == 1 && past > 0 ? Phase::kDecode : Phase::kPrefill;
    step.past_length = past;
    step.left_padding = padding;
    for (std::int64_t b = 0; b < batch; ++b) {
      std::vector<std::int32_t> tokens;
      for (std::int64_t t = 0; t < length; ++t) tokens.push_back(static_cast<std::int32_t>(random.below(c.vocab)));
      step.tokens.push_back(tokens);
    }
    set_default_positions(step);
    for (auto& row : step.positions) {
      for (auto& position : row) position += offset;
    }
    past += length;
    steps.push_back(step);
  }
  return steps;
}

Precision draw_precision(Random& random, DType dtype) {
  Precision precision = plain_precision(dtype);
  const DType coarse = dtype == DType::kF32 ? random.one_of({DType::kBF16, DType::kF16}) : dtype;
  switch (random.below(6)) {
    case 0:
      break;  // everything in between in float32
    case 1:
      precision.points = {{P::kAttentionProbs, coarse}};
      break;
    case 2:  // as transformers' eager path
      for (const P point : {P::kRmsNormNormalized, P::kRopeTable, P::kRopeProducts, P::kAttentionScores,
                            P::kAttentionScaledScores, P::kAttentionProbs, P::kMlpSilu}) {
        precision.points[point] = coarse;
      }
      break;
    case 3:
      precision.points = {{P::kMatmulBeforeBias, coarse}, {P::kAttentionQuery, coarse}};
      break;
    case 4:
      precision.points = {{P::kKvCache, random.one_of({DType::kF16, DType::kBF16})}};
      break;
    default:
      for (const P point : {P::kRmsNormNormalized, P::kMatmulBeforeBias, P::kRopeTable, P::kRopeProducts, P::kMlpSilu,
                            P::kAttentionQuery, P::kAttentionScores, P::kAttentionScaledScores, P::kAttentionProbs}) {
        if (random.chance(0.3)) precision.points[point] = coarse;
      }
  }
  return precision;
}

}  // namespace

DType Scenario::stored(Op op) const {
  switch (arithmetic_of(op)) {
    case Arithmetic::kLookup:
    case Arithmetic::kAdd:
      return residual;
    case Arithmetic::kScores:
    case Arithmetic::kSoftmax:
      return scores;
    case Arithmetic::kProduct:
      return row(op).fuses_into ? before_bias : precision.activations;
    default:
      return kept_as(op, precision);
  }
}

bool Scenario::records(Op op) const {
  const auto found = recorded.find(op);
  return found == recorded.end() || found->second;
}

bool can_overflow(const Scenario& s) {
  if (s.precision.activations == DType::kF16) return true;
  return std::ranges::any_of(s.precision.points, [](const auto& point) { return point.second == DType::kF16; });
}

Scenario draw_scenario(std::uint64_t seed, DType dtype, Size size) {
  Random random(seed * 4 + static_cast<std::uint64_t>(dtype));
  Scenario s;
  s.seed = seed;
  s.config = draw_config(random, dtype, size);
  s.steps = draw_steps(random, s.config, size);
  s.precision = draw_precision(random, dtype);
  s.profile.massive_channels = random.chance(0.4);
  s.profile.huge_k_bias = random.chance(0.4);
  s.profile.tiny_rows = random.chance(0.4);
  s.profile.cancelling_sums = random.chance(0.3);
  s.profile.small_results = random.chance(0.2);
  const bool f16 = can_overflow(s);
  if (f16) s.profile.massive_channels = s.profile.huge_k_bias = false;
  const bool materialises_all = random.chance(0.4);
  for (const OperationRow& r : kOperationTable) {
    if (r.optional) s.recorded[r.op] = materialises_all || random.chance(0.5);
  }
  if (random.chance(0.15)) {  // a trace of few tensors: long spans
    s.sparse = true;
    for (const OperationRow& r : kOperationTable) s.recorded[r.op] = random.chance(0.3);
    s.recorded[Op::kLmHead] = true;
  }
  s.residual = random.chance(0.25) ? DType::kF32 : dtype;
  s.scores = random.chance(0.5) ? DType::kF32 : dtype;
  s.before_bias = random.chance(0.5) ? DType::kF32 : dtype;
  if (dtype != DType::kF32 && random.chance(0.12)) {  // a fused engine that rounds only what it hands out
    for (const Op op : {Op::kInputLayernorm, Op::kQProj, Op::kQRope, Op::kAttnOutput, Op::kOProj,
                        Op::kPostAttentionLayernorm, Op::kGateProj, Op::kUpProj, Op::kAct, Op::kDownProj}) {
      if (random.chance(0.4)) s.precision.taken_as[op] = DType::kF32;
    }
  }
  s.profile.repeated_token = random.chance(0.1);
  if (s.profile.repeated_token) {
    for (Step& step : s.steps) {
      for (auto& row : step.tokens) std::ranges::fill(row, row[0] % 3);
    }
  }
  return s;
}

void record_layer_outputs_alone(Scenario& s) {
  s.config.num_layers = 2 + static_cast<std::int64_t>(s.seed % 2);
  s.sparse = true;
  for (const OperationRow& r : kOperationTable) {
    s.recorded[r.op] = r.op == Op::kEmbedTokens || r.op == Op::kOutput || r.op == Op::kLmHead;
  }
}

std::string to_string(const Scenario& s) {
  std::string text = "seed " + std::to_string(s.seed) + ' ' + std::string(name(s.precision.activations)) + ' ' +
                     qdiff::to_string(s.config) + " B=" + std::to_string(s.steps[0].batch()) + " T=";
  for (const Step& step : s.steps) text += std::to_string(step.num_tokens()) + (&step == &s.steps.back() ? "" : ",");
  for (const auto& [point, dtype] : s.precision.points) {
    text += ' ' + std::string(name(point)) + ':' + std::string(name(dtype));
  }
  for (const auto& [op, dtype] : s.precision.taken_as) {
    text += ' ' + std::string(row(op).name) + " taken as " + std::string(name(dtype));
  }
  const auto flag = [&](bool on, const char* word) {
    if (on) text += std::string(" ") + word;
  };
  flag(s.profile.massive_channels, "massive-channels");
  flag(s.profile.huge_k_bias, "huge-k-bias");
  flag(s.profile.tiny_rows, "tiny-rows");
  flag(s.profile.cancelling_sums, "cancelling-sums");
  flag(s.profile.repeated_token, "repeated-token");
  flag(s.profile.small_results, "small-results");
  flag(s.sparse, "few-tensors");
  flag(s.residual != s.precision.activations, "float32-residual");
  return text;
}

// ---- Weights --------------------------------------------------------------------------------------------------------

ScenarioWeights::ScenarioWeights(const Scenario& scenario)
    : config_(scenario.config), description_("calibration seed " + std::to_string(scenario.seed)) {
  for (const ModelWeight& weight : weights_of(config_)) add(scenario, weight);
}

void ScenarioWeights::add(const Scenario& s, const ModelWeight& weight) {
  const auto& [id, index, name, shape] = weight;
  const std::int64_t columns = shape.back();
  Random random(s.seed ^ model::lasting_hash(name));
  std::vector<double> values(static_cast<std::size_t>(num_elements(shape)));
  const bool is_bias = arithmetic_of(id.op) == Arithmetic::kBias;
  const bool is_norm = arithmetic_of(id.op) == Arithmetic::kNorm;
  const double spread = 1.0 / std::sqrt(static_cast<double>(columns));
  for (double& value : values) {
    if (is_bias) {
      value = 0.5 * random.gaussian();
    } else if (is_norm) {
      value = 0.5 + 2.0 * random.uniform();
    } else {
      value = spread * random.gaussian();
    }
  }
  if (id.op == Op::kEmbedTokens) {
    for (double& value : values) value /= spread;
    for (std::int64_t v = 0; v < shape[0]; ++v) {
      const bool tiny = s.profile.tiny_rows && v % 3 == 0;
      const double norm = tiny ? std::pow(10.0, -static_cast<double>(random.between(2, 5))) : 1.0;
      for (std::int64_t c = 0; c < columns; ++c) {
        const bool massive = s.profile.massive_channels && c % 97 == 5 && !tiny;
        values[static_cast<std::size_t>(v * columns + c)] *= norm * (massive ? 3000.0 : 1.0);
      }
    }
  }
  if (id.op == Op::kKProj && s.profile.huge_k_bias) {
    for (double& value : values) value *= 60.0;
  }
  // Products of neighbours cancel: w[2i+1] = -w[2i], and for down_proj the two activations are nearly equal as well.
  if (s.profile.cancelling_sums && (id.op == Op::kDownProj || id.op == Op::kLmHead)) {
    for (std::size_t i = 1; i < values.size(); i += 2) {
      if (static_cast<std::int64_t>(i) % columns != 0) values[i] = -values[i - 1];
    }
  }
  if (s.profile.cancelling_sums && (id.op == Op::kGateProj || id.op == Op::kUpProj)) {
    for (std::int64_t r = 1; r < shape[0]; r += 2) {
      for (std::int64_t c = 0; c < columns; ++c) {
        values[static_cast<std::size_t>(r * columns + c)] =
            values[static_cast<std::size_t>((r - 1) * columns + c)] * (1.0 + 0x1p-7 * random.uniform());
      }
    }
  }
  if (s.profile.small_results && (id.op == Op::kVProj || id.op == Op::kVProjMatmul || id.op == Op::kGateProj)) {
    for (double& value : values) value *= 1e-5;
  }
  tensors_[name] = Tensor::rounded(s.precision.weights, shape, values);
  infos_.push_back({name, s.precision.weights, shape});
}

void ScenarioWeights::read(const WeightInfo& info, std::int64_t first, std::int64_t count,
                           std::span<std::byte> destination) const {
  const Tensor& tensor = tensors_.at(info.name);
  const std::size_t size = size_of(tensor.dtype());
  std::memcpy(destination.data(), tensor.bytes().data() + static_cast<std::size_t>(first) * size,
              static_cast<std::size_t>(count) * size);
}

std::vector<float> ScenarioWeights::values(const std::string& name) const {
  const std::vector<double> values = to_doubles(tensors_.at(name).view());
  return {values.begin(), values.end()};
}

}  // namespace qdiff::calibration
