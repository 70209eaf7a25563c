#include "harness/model/synthetic_profile.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>

namespace qdiff::model {
namespace {

constexpr std::array<double, 4> kQwenNormMeans = {0.5, 2.0, 1.5, 3.0};
constexpr double kQwenFinalNormMean = 4.0;
constexpr double kLargeKeyBias = 150.0;    // four dimensions a head: norm 300
constexpr double kLargeQueryBias = 120.0;  // 4 * 150 * 120 = 72000 > 65504
constexpr double kMassiveGain = 8.0;
constexpr double kMassiveLevel = 2500.0;  // of the strongest channel where the neuron's direction has z = 1
constexpr std::array<double, kNumMassiveChannels> kMassiveSigns = {1.0, -0.7, 0.4};

bool is_outer_layer(const ModelConfig& config, int layer) { return layer == 0 || layer == config.num_layers - 1; }

std::uint64_t massive_key(std::uint64_t seed, const char* what) {
  return stream_key(seed, std::string("massive activations: ") + what);
}

std::int64_t massive_neuron(const ModelConfig& config, std::uint64_t seed) {
  return static_cast<std::int64_t>(massive_key(seed, "neuron") % static_cast<std::uint64_t>(config.intermediate));
}

// Mean of the norm weight before the projections of `op`.
double norm_mean(Profile profile, const TensorId& norm) {
  if (profile != Profile::kQwen) return 1.0;
  if (norm.op == Op::kNorm) return kQwenFinalNormMean;
  const std::size_t turn = static_cast<std::size_t>(norm.layer) + (norm.op == Op::kInputLayernorm ? 0 : 2);
  return kQwenNormMeans[turn % kQwenNormMeans.size()];
}

struct Planner {
  const ModelConfig& config;
  Profile profile;
  std::uint64_t seed;
  TensorId id;
  WeightPlan plan;

  bool qwen() const { return profile == Profile::kQwen; }
  bool loud() const { return profile == Profile::kLoud; }
  // The RMS of what enters the residual stream.
  double residual_level() const { return profile == Profile::kQuiet ? 1e-3 : 1.0; }

  // A projection of `inputs` values of unit RMS whose outputs have this deviation.
  void projection(std::int64_t inputs, double output_deviation) {
    plan.columns = inputs;
    plan.law = normal_law(0.0, output_deviation / std::sqrt(static_cast<double>(inputs)));
  }

  void patch(std::int64_t row_begin, std::int64_t row_end, std::int64_t column_begin, std::int64_t column_end,
             const Law& law, std::uint64_t key) {
    plan.patches.push_back({row_begin, row_end, column_begin, column_end, law, key});
  }
  void patch_row(std::int64_t row, const Law& law, std::uint64_t key) {
    patch(row, row + 1, 0, plan.columns, law, key);
  }
  std::uint64_t own_key(const std::string& what) const { return stream_key(seed, tensor_name(id) + ": " + what); }

  void norm_weight() {
    const double mean = norm_mean(profile, id);
    plan.law = normal_law(mean, mean * (qwen() ? 0.25 : 0.1));
    if (!qwen()) return;
    const double damped = mean * (id.op == Op::kNorm ? 0.25 : 0.02);
    for (std::int64_t channel : massive_channels(config, seed)) {
      patch_row(channel, normal_law(damped, damped * 0.1), own_key("channel " + std::to_string(channel)));
    }
  }

  void embedding() {
    projection(config.hidden, 3.0);
    if (profile == Profile::kQuiet) plan.law = normal_law(0.0, 1e-3);
    if (!qwen()) return;
    const double hidden = static_cast<double>(config.hidden);
    for (std::int64_t token = std::max<std::int64_t>(0, config.vocab - kNumSpecialTokens); token < config.vocab;
         ++token) {
      const double deviation = token % 2 == 0 ? 1e-3 / std::sqrt(hidden) : 1e-3;
      patch_row(token, normal_law(0.0, deviation), own_key("token " + std::to_string(token)));
    }
  }

  // Calls `visit(row)` with the rows of a k (or q) projection that hold the two slowest rotary pairs of `head`. The
  // halves of a pair lie d/2 apart (rotate_half of transformers' modeling_qwen2.py).
  template <typename Visit>
  void slow_dimensions(std::int64_t head, Visit visit) const {
    const std::int64_t half = config.head_dim / 2;
    for (std::int64_t pair = std::max<std::int64_t>(0, half - 2); pair < half; ++pair) {
      visit(head * config.head_dim + pair);
      visit(head * config.head_dim + half + pair);
    }
  }

  // A whole number within 2 of `value`, exact in every storage type.
  static Law exact_near(double value, std::int64_t row) {
    return normal_law(value + static_cast<double>(row % 5 - 2), 0.0);
  }

  // `loud`: the bias of q and, up to its sign, of k that lifts the scores of this kv head to their level.
  double loud_bias(std::int64_t kv_head) const {
    const double score = std::fabs(kLoudScores[static_cast<std::size_t>(kv_head) % kLoudScores.size()]);
    const double bias = std::sqrt(score * std::sqrt(static_cast<double>(config.head_dim)) / 4.0);  // four dimensions
    return 2.0 * std::round(bias / 2.0);  // even: bfloat16 holds it up to 512
  }
  void loud_patches(std::int64_t head, double value) {
    slow_dimensions(head, [&](std::int64_t row) { patch_row(row, normal_law(value, 0.0), 0); });
  }

  void key_projection(double input_mean) {
    projection(config.hidden, 1.6 / input_mean);
    if (!loud() && !(qwen() && is_outer_layer(config, id.layer))) return;
    // Quiet rows: what the token adds there would be multiplied by the large query biases. It also stays far below half
    // a spacing of bfloat16 at the bias, so that every key rounds to the same value there and softmax still cancels it;
    // with a spread of that order, rounding alone would decide where attention looks, as in no checkpoint that works.
    const Law quiet = normal_law(0.0, 0.002 / input_mean / std::sqrt(static_cast<double>(config.hidden)));
    for (std::int64_t head = 0; head < config.num_kv_heads; ++head) {
      slow_dimensions(head, [&](std::int64_t row) { patch_row(row, quiet, own_key("row " + std::to_string(row))); });
    }
  }

  void query_bias() {
    plan.law = normal_law(0.0, qwen() ? 1.5 : 0.5);
    if (loud()) {
      for (std::int64_t head = 0; head < config.num_q_heads; ++head) {
        loud_patches(head, loud_bias(head / config.group_size()));
      }
    }
    if (!qwen() || id.layer != 0) return;
    for (std::int64_t head = 0; head < config.group_size(); ++head) {  // the queries of kv head 0
      slow_dimensions(head, [&](std::int64_t row) {
        patch_row(row, exact_near(kLargeQueryBias, row), own_key("row " + std::to_string(row)));
      });
    }
  }

  void key_bias() {
    plan.law = normal_law(0.0, qwen() ? 1.5 : 0.5);
    if (loud()) {
      for (std::int64_t head = 0; head < config.num_kv_heads; ++head) {
        const double score = kLoudScores[static_cast<std::size_t>(head) % kLoudScores.size()];
        loud_patches(head, std::copysign(loud_bias(head), score));
      }
    }
    if (!qwen() || !is_outer_layer(config, id.layer)) return;
    for (std::int64_t head = 0; head < config.num_kv_heads; ++head) {
      const double sign = head % 2 == 0 ? 1.0 : -1.0;
      slow_dimensions(head, [&](std::int64_t row) {
        patch_row(row, exact_near(sign * kLargeKeyBias, row), own_key("row " + std::to_string(row)));
      });
    }
  }

  double attention_mean() const { return norm_mean(profile, {Op::kInputLayernorm, std::max(id.layer, 0)}); }

  void gate_or_up(double output_deviation) {
    const double input_mean = norm_mean(profile, {Op::kPostAttentionLayernorm, id.layer});
    projection(config.hidden, output_deviation / input_mean);
    if (!qwen() || id.layer != massive_layer(config)) return;
    const Law direction = normal_law(0.0, kMassiveGain / input_mean / std::sqrt(static_cast<double>(config.hidden)));
    // The same stream for gate and up: the same row.
    patch_row(massive_neuron(config, seed), direction, massive_key(seed, "direction"));
  }

  void down_projection() {
    projection(config.intermediate, 0.6 * residual_level());
    if (!qwen() || id.layer != massive_layer(config)) return;
    const std::int64_t neuron = massive_neuron(config, seed);
    patch(0, config.hidden, neuron, neuron + 1, normal_law(0.0, 1e-3), massive_key(seed, "other channels"));
    const std::vector<std::int64_t> channels = massive_channels(config, seed);
    for (std::size_t i = 0; i < channels.size(); ++i) {
      const double level = kMassiveSigns[i] * kMassiveLevel / (kMassiveGain * kMassiveGain);
      patch(channels[i], channels[i] + 1, neuron, neuron + 1, normal_law(level, 0.0), 0);
    }
  }
};

// Each weight has a law of its own.
struct WeightLaw {
  Op op;
  void (*plan)(Planner&);
};
constexpr WeightLaw kWeightLaws[] = {
    {Op::kEmbedTokens, [](Planner& p) { p.embedding(); }},
    {Op::kInputLayernorm, [](Planner& p) { p.norm_weight(); }},
    {Op::kQProjMatmul, [](Planner& p) { p.projection(p.config.hidden, 1.6 / p.attention_mean()); }},
    {Op::kKProjMatmul, [](Planner& p) { p.key_projection(p.attention_mean()); }},
    {Op::kVProjMatmul, [](Planner& p) { p.projection(p.config.hidden, 1.0 / p.attention_mean()); }},
    {Op::kQProj, [](Planner& p) { p.query_bias(); }},
    {Op::kKProj, [](Planner& p) { p.key_bias(); }},
    {Op::kVProj, [](Planner& p) { p.plan.law = normal_law(0.0, 0.3); }},
    {Op::kOProj, [](Planner& p) { p.projection(p.config.q_width(), 0.7 * p.residual_level()); }},
    {Op::kPostAttentionLayernorm, [](Planner& p) { p.norm_weight(); }},
    {Op::kGateProj, [](Planner& p) { p.gate_or_up(1.5); }},
    {Op::kUpProj, [](Planner& p) { p.gate_or_up(1.0); }},
    {Op::kDownProj, [](Planner& p) { p.down_projection(); }},
    {Op::kNorm, [](Planner& p) { p.norm_weight(); }},
    {Op::kLmHead, [](Planner& p) { p.projection(p.config.hidden, 3.0); }},
};

}  // namespace

int massive_layer(const ModelConfig& config) { return config.num_layers >= 3 ? 1 : 0; }

std::vector<std::int64_t> massive_channels(const ModelConfig& config, std::uint64_t seed) {
  std::vector<std::int64_t> channels;
  const std::size_t wanted = static_cast<std::size_t>(std::min<std::int64_t>(kNumMassiveChannels, config.hidden));
  for (int attempt = 0; channels.size() < wanted; ++attempt) {
    const std::uint64_t draw = massive_key(seed, ("channel " + std::to_string(attempt)).c_str());
    const auto channel = static_cast<std::int64_t>(draw % static_cast<std::uint64_t>(config.hidden));
    if (std::ranges::find(channels, channel) == channels.end()) channels.push_back(channel);
  }
  std::ranges::sort(channels);
  return channels;
}

WeightPlan plan_weight(const ModelConfig& config, Profile profile, std::uint64_t seed, const TensorId& id,
                       std::size_t index) {
  Planner planner{config, profile, seed, id, {}};
  planner.plan.key = stream_key(seed, weight_name(id, index, config));
  for (const WeightLaw& law : kWeightLaws) {
    if (law.op == id.op) law.plan(planner);
  }
  return planner.plan;
}

}  // namespace qdiff::model
