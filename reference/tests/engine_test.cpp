// The reference as an engine: in parts as whole, with what it hands out, and with faults planted.
#include "cmake/catch2.h"
#include "reference/reference.h"
#include "reference/tests/model_in_memory.h"

namespace qdiff::reference {
namespace {

Precision float64_everywhere() {
  return {.weights = DType::kF64, .activations = DType::kF64, .accumulate = DType::kF64, .points = {}, .taken_as = {}};
}

class Recorder : public TensorSink {
 public:
  explicit Recorder(Recording& recording) : recording_(recording) {}
  void at(int step) { step_ = step; }
  void take(const TensorId& id, const TensorView& view) override { recording_.put({step_, id}, Tensor::copy_of(view)); }

 private:
  Recording& recording_;
  int step_ = 0;
};

SessionOptions options_for(const std::vector<Step>& steps) {
  return {.batch = steps[0].batch(), .capacity = steps.back().valid_length(), .left_padding = steps[0].left_padding};
}

Recording run_whole(Engine& engine, const std::vector<Step>& steps) {
  Recording recording;
  Recorder recorder(recording);
  const auto session = engine.open(options_for(steps));
  for (const Step& step : steps) {
    recorder.at(step.index);
    session->run_step(step, &recorder);
  }
  return recording;
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() && std::ranges::equal(a.bytes(), b.bytes());
}

TEST_CASE("layer by layer gives the same bits as step by step", "[engine]") {
  for (DType dtype : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16}) {
    const ModelInMemory model(small_config(), DType::kBF16, 1);
    const Precision precision = dtype == DType::kF64 ? float64_everywhere() : plain_precision(dtype);
    const auto engine = make_engine(model, precision, {.num_threads = 1});
    const auto steps = random_steps(model.config(), {4, 3, 1}, {2, 0}, 5);
    const Recording whole = run_whole(*engine, steps);
    CHECK(whole.all().size() == steps.size() * all_tensors(model.config(), true).size());

    Recording parts;
    Recorder recorder(parts);
    const auto session = engine->open(options_for(steps));
    std::vector<Tensor> residual;
    for (const Step& step : steps) {
      recorder.at(step.index);
      residual.push_back(Tensor::copy_of(session->run_embedding(step, &recorder)));
    }
    for (int layer = 0; layer < model.config().num_layers; ++layer) {
      for (const Step& step : steps) {
        Tensor& stream = residual[static_cast<std::size_t>(step.index)];
        recorder.at(step.index);
        stream = Tensor::copy_of(session->run_layer(layer, step, stream.view(), &recorder));
      }
    }
    for (const Step& step : steps) {
      recorder.at(step.index);
      session->run_head(step, residual[static_cast<std::size_t>(step.index)].view(), &recorder);
    }
    for (const auto& [key, tensor] : whole.all()) {
      INFO(tensor_name(key.id) << " step " << key.step << " " << name(dtype));
      CHECK(same_bits(tensor, parts.all().at(key)));
      const Step& step = steps[static_cast<std::size_t>(key.step)];
      CHECK(tensor.shape() ==
            output_shape(key.id.op, model.config(), step.batch(), step.num_tokens(), step.valid_length()));
      if (!row(key.id.op).optional) CHECK(tensor.dtype() == dtype);
    }
  }
}

TEST_CASE("the engine in float64 is the oracle's gold", "[engine]") {
  const ModelInMemory model(small_config(), DType::kF32, 2);
  const auto engine = make_engine(model, float64_everywhere(), {.num_threads = 1});
  const auto oracle = make_oracle(model, {.num_threads = 1});
  const auto steps = random_steps(model.config(), {4, 1}, {1, 0}, 5);
  const Recording recording = run_whole(*engine, steps);
  for (const auto& [key, tensor] : recording.all()) {
    const std::vector<TensorKey> operations = {key};
    const Expectation e = oracle->evaluate({.operations = operations,
                                            .recorded = recording,
                                            .steps = steps,
                                            .precision = float64_everywhere(),
                                            .stored = DType::kF64});
    INFO(tensor_name(key.id) << " step " << key.step);
    CHECK(relative_difference(to_doubles(tensor.view()), e.value) <= 1e-14);
  }
}

TEST_CASE("the emulated oracle is the engine that rounds as declared", "[engine]") {
  Precision eager = plain_precision(DType::kBF16);
  for (RoundingPoint point :
       {RoundingPoint::kRmsNormNormalized, RoundingPoint::kRopeTable, RoundingPoint::kRopeProducts,
        RoundingPoint::kAttentionScores, RoundingPoint::kAttentionScaledScores, RoundingPoint::kAttentionProbs,
        RoundingPoint::kMlpSilu}) {
    eager.points[point] = DType::kBF16;
  }
  for (const Precision& precision : {plain_precision(DType::kF16), plain_precision(DType::kBF16), eager}) {
    const ModelInMemory model(small_config(), DType::kBF16, 3);
    const auto engine = make_engine(model, precision, {.num_threads = 1});
    const auto oracle = make_oracle(model, {.num_threads = 1});
    const auto steps = random_steps(model.config(), {4, 1}, {1, 0}, 6);
    const Recording recording = run_whole(*engine, steps);
    for (const auto& [key, tensor] : recording.all()) {
      const std::vector<TensorKey> operations = {key};
      const std::vector<double> emulated = oracle->emulate({.operations = operations,
                                                            .recorded = recording,
                                                            .steps = steps,
                                                            .precision = precision,
                                                            .stored = tensor.dtype()});
      INFO(tensor_name(key.id) << " step " << key.step);
      CHECK(emulated == to_doubles(tensor.view()));
    }
  }
}

TEST_CASE("a planted fault is what the oracle says of that variant", "[engine]") {
  const ModelInMemory model(small_config(), DType::kF32, 4);
  const auto oracle = make_oracle(model, {.num_threads = 1});
  const auto steps = random_steps(model.config(), {4, 1}, {0}, 6);
  for (const VariantFacts& facts : oracle->catalogue()) {
    INFO(facts.id);
    const auto engine = make_engine(model, float64_everywhere(), {.num_threads = 1});
    engine->plant({facts.id, std::nullopt, 1});
    const Recording recording = run_whole(*engine, steps);
    const Variant variant{facts.id, std::nullopt};
    bool changed = false;
    for (const auto& [key, tensor] : recording.all()) {
      const std::vector<TensorKey> operations = {key};
      Query query = {.operations = operations,
                     .recorded = recording,
                     .steps = steps,
                     .precision = float64_everywhere(),
                     .stored = DType::kF64};
      const std::vector<double> right = oracle->evaluate(query).value;
      query.variant = key.id.layer == 1 ? &variant : nullptr;
      const std::vector<double> wrong = oracle->evaluate(query).value;
      CHECK(relative_difference(to_doubles(tensor.view()), wrong) <= 1e-14);
      const bool row_changed = relative_difference(wrong, right) > 1e-10;
      changed |= row_changed;
      if (row_changed) CHECK(std::ranges::count(facts.ops, key.id.op) == 1);
    }
    CHECK(changed == (facts.id != "H03.theta"));  // its first value is this model's own theta
    CHECK((engine->planted_executions() > 0) == changed);
  }
}

TEST_CASE("the engine refuses what does not fit its session", "[engine]") {
  const ModelInMemory model(small_config(), DType::kF32, 4);
  const auto engine = make_engine(model, plain_precision(DType::kF32), {.num_threads = 1});
  auto steps = random_steps(model.config(), {4, 1}, {0}, 6);
  const auto session = engine->open({.batch = 1, .capacity = 4, .left_padding = {0}});
  CHECK_THROWS_WITH(session->run_step(steps[1], nullptr), ContainsSubstring("needs 5 cache slots"));
  session->run_step(steps[0], nullptr);
  CHECK_THROWS_WITH(session->run_step(steps[0], nullptr), ContainsSubstring("layer 0 holds 4"));
  steps[0].tokens[0][2] = 211;
  CHECK_THROWS_WITH(session->run_embedding(steps[0], nullptr), ContainsSubstring("token 211"));
  CHECK_THROWS_AS(engine->plant({"H05.nonsense", std::nullopt, std::nullopt}), InputError);
  CHECK_THROWS_AS(engine->plant({"H05.group_off_by_one", 5.0, std::nullopt}), InputError);
  CHECK_THROWS_AS(engine->plant({"H05.modulo", std::nullopt, 2}), InputError);
  CHECK_THROWS_AS(engine->open({.batch = 0, .capacity = 1, .left_padding = {}}), InputError);
}

}  // namespace
}  // namespace qdiff::reference
