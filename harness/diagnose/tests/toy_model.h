// A forward pass of closed formulas in the shapes of the operation table, and with it a fake of each party of a
// diagnosis: an oracle, an engine, a store of weights. The formulas are not Qwen2.5's. What they share with it is how
// rows depend on each other, where they round, and that a bug changes what a row is told.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "harness/contract/engine.h"
#include "harness/contract/oracle.h"
#include "harness/trace/recording.h"

namespace qdiff::diagnose {

ModelConfig toy_config();

// Known bugs of the toy model, one for each way in which the diagnosis treats a variant. They have ids of the fault
// table and do what is said here.
//   kNoHeadStride   mlp.act is 0, evaluable only where q_rope of its layer is recorded
//   kScale          another scale of the scores; a continuous parameter, right at 0.3
//   kScoresBf16     the scores rounded to bfloat16: a rounding that can be declared
//   kDecodePosPlusOne  mlp.act takes gate + 1 in decode
//   kResidualLost   both additions leave the residual stream out: two rows that change together
//   kAccBf16        down_proj is summed in bfloat16: it only rounds, and its own rounding is coarse
//   kWriteMinusOne  the last slot of k_cache is never written, and nothing is expected there
//   kEps            another epsilon of a norm; a continuous parameter, right at 0.25, at each norm by itself
//   kNoSilu         mlp.act takes sigmoid(gate) where silu(gate) is right
const std::vector<VariantFacts>& toy_catalogue();
// Those of these ids, in the catalogue's order.
std::vector<VariantFacts> toy_catalogue_of(const std::vector<FaultId>& ids);
inline const FaultId kScoresBf16 = *parse_fault_id("H02.attention_scores_bf16");

// Steps of these numbers of tokens in one batch row: the first is a prefill, those of one token after it decode.
CaseInput toy_case(const std::vector<std::int64_t>& num_tokens = {6, 1}, const std::string& id = "toy");

class ToyOracle final : public Oracle {
 public:
  explicit ToyOracle(std::vector<VariantFacts> catalogue = toy_catalogue()) : catalogue_(std::move(catalogue)) {}
  const ModelConfig& config() const override { return config_; }
  Expectation evaluate(const Query& query) override;
  std::vector<double> emulate(const Query& query) override;
  const std::vector<VariantFacts>& catalogue() const override { return catalogue_; }

  // How often the value of a row was asked for under each variant; none is right code.
  std::map<std::optional<FaultId>, int> asked;

 private:
  ModelConfig config_ = toy_config();
  std::vector<VariantFacts> catalogue_;
};

class ToyEngine final : public Engine {
 public:
  // Rounds as `really` says and declares `declared`.
  ToyEngine(Precision declared, Precision really) : declared_(std::move(declared)), really_(std::move(really)) {}
  explicit ToyEngine(const Precision& precision) : ToyEngine(precision, precision) {}
  std::string name() const override { return "toy"; }
  Device device() const override { return {}; }
  const Precision& precision() const override { return declared_; }
  std::unique_ptr<Session> open(const SessionOptions& options) override;
  double poison_value(Poison poison) const override;
  // Throws InputError for ids that toy_catalogue() lacks.
  void plant(const Fault& fault) override;

  // Called with each tensor before it is handed out and used, to make it what this engine is to compute.
  std::function<void(int step, const TensorId& id, Tensor& tensor)> change = {};
  // Writes the input of a layer's last row again after it was handed out.
  bool overwrites_down_proj = false;
  // The first logit is what the cache held before anything was written.
  bool reads_unwritten = false;
  // Which tensors are handed out.
  std::function<bool(const TensorId& id)> hands_out = [](const TensorId&) { return true; };

 private:
  friend class ToySession;
  Precision declared_, really_;
  std::optional<Fault> fault_;
};

// The one weight that a diagnosis reads itself: the table of embeddings.
class ToyWeights final : public WeightSource {
 public:
  explicit ToyWeights(double offset = 0.0) : offset_(offset) {}
  const ModelConfig& config() const override { return config_; }
  const std::string& description() const override { return description_; }
  const std::vector<WeightInfo>& weights() const override { return weights_; }
  void read(const WeightInfo& info, std::int64_t first, std::int64_t count,
            std::span<std::byte> destination) const override;

  ModelConfig config_ = toy_config();

 private:
  double offset_;  // added to every weight: of another model
  std::string description_ = "toy";
  std::vector<WeightInfo> weights_ = {{"model.embed_tokens.weight", DType::kF32, {config_.vocab, config_.hidden}, {}}};
};

// What the engine hands out in a run of all steps.
trace::Recording toy_recording(Engine& engine, const CaseInput& input);

}  // namespace qdiff::diagnose
