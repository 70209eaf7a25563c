// One calibration run as data: a small model, its weights, a sequence of steps, and what the engine declares.
// Everything follows from a seed.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "harness/contract/oracle.h"
#include "harness/contract/precision.h"
#include "harness/contract/step.h"
#include "harness/contract/weights.h"

namespace qdiff::calibration {

// What makes a model hard to judge. Real Qwen2.5 checkpoints have the first three.
struct Profile {
  bool massive_channels = false;  // a few residual channels some thousand times larger
  bool huge_k_bias = false;       // scores of several hundred
  bool tiny_rows = false;         // embeddings of norm near 0, where eps rules
  bool cancelling_sums = false;   // neighbouring products of opposite sign
  bool repeated_token = false;    // one token throughout: equal rows, sums of equal terms
  bool small_results = false;     // values near the subnormal numbers of float16
};

struct Scenario {
  std::uint64_t seed = 0;
  ModelConfig config;
  std::vector<Step> steps;
  Precision precision;
  Profile profile;
  // Which tensors the engine hands out, and in which type it keeps some of them. All are handed out that are not named.
  std::map<Op, bool> recorded;
  bool sparse = false;  // required ones are missing too
  DType residual = DType::kF32;
  DType scores = DType::kF32;  // scores and probabilities, where recorded
  DType before_bias = DType::kF32;
  double score_scale = 1.0;  // of an engine that is wrong on purpose: its softmax scale is off by this factor

  DType stored(Op op) const;
  bool records(Op op) const;
};

enum class Size { kQuick, kFull };

Scenario draw_scenario(std::uint64_t seed, DType dtype, Size size);
// float16 ends at 65504; a correct engine may overflow where a model was not made for it, which says nothing here.
bool can_overflow(const Scenario& scenario);
// Two or three layers, and nothing recorded inside them.
void record_layer_outputs_alone(Scenario& scenario);
std::string to_string(const Scenario& scenario);  // one line

// The scenario's weights, in memory.
class ScenarioWeights : public WeightSource {
 public:
  explicit ScenarioWeights(const Scenario& scenario);
  const ModelConfig& config() const override { return config_; }
  const std::string& description() const override { return description_; }
  const std::vector<WeightInfo>& weights() const override { return infos_; }
  void read(const WeightInfo& info, std::int64_t first, std::int64_t count,
            std::span<std::byte> destination) const override;
  std::vector<float> values(const std::string& name) const;

 private:
  void add(const Scenario& scenario, const ModelWeight& weight);

  ModelConfig config_;
  std::string description_;
  std::vector<WeightInfo> infos_;
  std::map<std::string, Tensor> tensors_;
};

}  // namespace qdiff::calibration
