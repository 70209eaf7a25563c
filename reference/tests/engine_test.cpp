// The reference as an engine: in parts as whole, with what it hands out, and with faults planted.
#include "cmake/catch2.h"
#include "reference/memory.h"
#include "reference/reference.h"
#include "reference/tests/model_in_memory.h"

namespace qdiff::reference {
namespace {

SessionOptions options_for(const std::vector<Step>& steps) {
  return {
      .batch = steps[0].batch(), .capacity = steps.back().valid_length() + 3, .left_padding = steps[0].left_padding};
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

// Looks again, when a part is over, at what was handed out in it.
class Watcher : public TensorSink {
 public:
  void take(const TensorId& id, const TensorView& view) override {
    taken_.push_back({id, view, Tensor::copy_of(view)});
  }
  void check_unchanged() {
    for (const Taken& taken : taken_) {
      INFO(tensor_name(taken.id));
      const auto* bytes = static_cast<const std::byte*>(taken.view.data);
      CHECK(std::equal(taken.copy.bytes().begin(), taken.copy.bytes().end(), bytes));
    }
    taken_.clear();
  }
  std::size_t size() const { return taken_.size(); }

 private:
  struct Taken {
    TensorId id;
    TensorView view;
    Tensor copy;
  };
  std::vector<Taken> taken_;
};

TEST_CASE("what is handed out stays as it is until the part is over", "[engine]") {
  for (DType dtype : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16}) {
    INFO(name(dtype));
    const ModelInMemory model(small_config(), DType::kBF16, 1);
    const Precision precision = dtype == DType::kF64 ? float64_everywhere() : plain_precision(dtype);
    const auto engine = make_engine(model, precision, {.num_threads = 1});
    const auto steps = random_steps(model.config(), {4, 1}, {2, 0}, 5);
    const auto session = engine->open(options_for(steps));
    for (const Step& step : steps) {
      Watcher watcher;
      Tensor residual = Tensor::copy_of(session->run_embedding(step, &watcher));
      watcher.check_unchanged();
      for (int layer = 0; layer < model.config().num_layers; ++layer) {
        residual = Tensor::copy_of(session->run_layer(layer, step, residual.view(), &watcher));
        CHECK(watcher.size() > 10);
        watcher.check_unchanged();
      }
      session->run_head(step, residual.view(), &watcher);
      watcher.check_unchanged();
    }
  }
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

TEST_CASE("room on a GPU is wanted where the reference computes there", "[engine]") {
  const ModelConfig small = small_config();
  CHECK(device_bytes(Where::kHost, small) == 0);
  CHECK(device_bytes(Where::kBySize, small) == 0);
  // Weights as computed with of an engine and an oracle, and as stored.
  CHECK(device_bytes(Where::kGpu, small) > static_cast<std::int64_t>(3 * kKeptOnDevice));
}

// Values small enough to show in a model of this size; empty: the catalogue's first.
std::optional<double> telling_value(FaultId id) {
  static const std::map<FaultId, double> kValues = {
      {FaultId::kTileMax, 2.0},  {FaultId::kTailZero, 4.0},    {FaultId::kTheta, 500.0},
      {FaultId::kWoCols, 16.0},  {FaultId::kDownInAct, 16.0},  {FaultId::kFirstTileOnly, 16.0},
      {FaultId::kAccBf16, 16.0}, {FaultId::kFiniteFp16, -1.0}, {FaultId::kWindow, 2.0}};
  const auto found = kValues.find(id);
  return found == kValues.end() ? std::nullopt : std::optional(found->second);
}

// A k bias that brings scores beyond the range of exp in float32.
void make_loud(Tensor& bias) {
  for (std::int64_t i = 0; i < bias.size(); ++i) bias.set(i, bias.at(i) * 100.0);
}

// The candidate's tensor against what is expected, elements of which nothing is expected aside.
double difference_where_known(const Tensor& actual, const Expectation& expected) {
  std::vector<double> a = to_doubles(actual.view());
  std::vector<double> e = expected.value;
  for (std::size_t i = 0; i < expected.unknown.size(); ++i) {
    if (expected.unknown[i] != 0) a[i] = e[i] = 0.0;
  }
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(a[i]) && std::isnan(e[i])) a[i] = e[i] = 0.0;
    if (a[i] == e[i]) a[i] = e[i] = std::isinf(a[i]) ? 0.0 : a[i];
  }
  return relative_difference(a, e);
}

TEST_CASE("a planted fault is what the oracle says of that variant, in the rows that it names", "[engine]") {
  ModelConfig config = small_config();
  const auto steps = random_steps(config, {5, 4, 1, 1}, {0, 2}, 6);
  const ModelInMemory any_model(config, DType::kF32, 4);
  const std::vector<VariantFacts> catalogue = make_oracle(any_model, {.num_threads = 1})->catalogue();
  for (const VariantFacts& facts : catalogue) {
    if (facts.declares) continue;  // the next test
    INFO(name(facts.id));
    ModelConfig own = config;
    if (facts.id == FaultId::kWoRows) own.num_q_heads = 2;  // D > H*d
    ModelInMemory model(own, DType::kF32, 4);
    if (facts.id == FaultId::kNoMax) make_loud(model.weight(weight_name({Op::kKProj, 1}, 0, own)));
    const auto oracle = make_oracle(model, {.num_threads = 1});
    Precision precision = float64_everywhere();
    if (facts.id == FaultId::kNoMax) precision.accumulate = DType::kF32;  // overflows where float32 does
    const auto engine = make_engine(model, precision, {.num_threads = 1});
    const std::optional<double> value = telling_value(facts.id);
    const bool everywhere = facts.ops.front() == Op::kNorm || facts.ops.front() == Op::kEmbedTokens ||
                            facts.ops.front() == Op::kLmHead || facts.id == FaultId::kNoLayerStride;
    engine->plant({facts.id, value, everywhere ? std::nullopt : std::optional(1)});
    const Recording recording = run_whole(*engine, steps);
    const Variant variant{facts.id, value};
    bool changed = false;
    for (const auto& [key, tensor] : recording.all()) {
      const std::vector<TensorKey> operations = {key};
      Query query = {.operations = operations,
                     .recorded = recording,
                     .steps = steps,
                     .precision = precision,
                     .stored = DType::kF64,
                     .capacity = options_for(steps).capacity};
      const Expectation right = oracle->evaluate(query);
      query.variant = everywhere || key.id.layer == 1 ? &variant : nullptr;
      const Expectation wrong = oracle->evaluate(query);
      INFO(tensor_name(key.id) << " step " << key.step);
      // Gold expects fp16's rounding of a product and does not make it.
      const double rounding = facts.id == FaultId::kNoMax ? 1e-5 : facts.id == FaultId::kOutFp16 ? 1e-3 : 1e-12;
      CHECK(difference_where_known(tensor, wrong) <= rounding);
      const bool row_changed = !wrong.unknown.empty() || !(difference_where_known(tensor, right) <= 100.0 * rounding);
      changed |= row_changed;
      if (row_changed) CHECK(std::ranges::count(facts.ops, key.id.op) == 1);
    }
    if (facts.id != FaultId::kReadPlusOne && facts.id != FaultId::kOutFp16) CHECK(changed);
    CHECK(engine->planted_executions() > 0);
  }
}

TEST_CASE("attention to a slot behind the cache is one piece", "[engine]") {
  const ModelInMemory model(small_config(), DType::kF32, 4);
  const auto oracle = make_oracle(model, {.num_threads = 1});
  const auto steps = random_steps(model.config(), {5, 1, 1}, {0, 2}, 6);
  for (FaultId id : {FaultId::kReadPlusOne, FaultId::kLengthCountsCurrent}) {
    INFO(name(id));
    const auto engine = make_engine(model, float64_everywhere(), {.num_threads = 1});
    engine->plant({id, std::nullopt, 1});
    const Recording recording = run_whole(*engine, steps);
    const Variant variant{id, std::nullopt};
    for (int step : {1, 2}) {
      const TensorKey target{step, {Op::kAttnOutput, 1}};
      const std::vector<TensorKey> fused = {{step, {Op::kScores, 1}}, {step, {Op::kProbs, 1}}, target};
      Query query = {.operations = fused,
                     .recorded = recording,
                     .steps = steps,
                     .precision = float64_everywhere(),
                     .stored = DType::kF64,
                     .capacity = options_for(steps).capacity};
      CHECK(difference_where_known(recording.all().at(target), oracle->evaluate(query)) > 1e-9);
      query.variant = &variant;
      CHECK(difference_where_known(recording.all().at(target), oracle->evaluate(query)) <= 1e-12);
    }
  }
}

TEST_CASE("where the cache ends, nothing more is attended to", "[engine]") {
  const ModelInMemory model(small_config(), DType::kF32, 4);
  const auto oracle = make_oracle(model, {.num_threads = 1});
  const auto steps = random_steps(model.config(), {5, 1, 1}, {0, 2}, 6);
  const auto engine = make_engine(model, float64_everywhere(), {.num_threads = 1});
  const Recording recording = run_whole(*engine, steps);
  const Variant variant{FaultId::kReadPlusOne, std::nullopt};
  // The steps end at slots 5 and 6. Which of them have a slot behind in a cache of 6, of 7 and of unknown size?
  const std::vector<std::pair<std::int64_t, bool>> cases[] = {{{6, false}, {7, true}}, {{7, false}, {0, true}}};
  for (int step : {1, 2}) {
    for (const auto& [capacity, changes] : cases[step - 1]) {
      INFO("step " << step << " with capacity " << capacity);
      const std::vector<TensorKey> fused = {
          {step, {Op::kScores, 1}}, {step, {Op::kProbs, 1}}, {step, {Op::kAttnOutput, 1}}};
      const Query query = {.operations = fused,
                           .recorded = recording,
                           .steps = steps,
                           .precision = float64_everywhere(),
                           .stored = DType::kF64,
                           .variant = &variant,
                           .capacity = capacity};
      const double difference = difference_where_known(recording.all().at(fused.back()), oracle->evaluate(query));
      CHECK((changes ? difference > 1e-9 : difference <= 1e-12));
    }
  }
}

TEST_CASE("an undeclared rounding is planted by making it", "[engine]") {
  const ModelInMemory model(small_config(), DType::kF32, 4);
  const auto steps = random_steps(model.config(), {5, 1}, {0}, 6);
  const auto oracle = make_oracle(model, {.num_threads = 1});
  const auto right_engine = make_engine(model, plain_precision(DType::kF32), {.num_threads = 1});
  const Recording right = run_whole(*right_engine, steps);
  for (const VariantFacts& facts : oracle->catalogue()) {
    if (!facts.declares) continue;
    INFO(name(facts.id));
    const auto engine = make_engine(model, plain_precision(DType::kF32), {.num_threads = 1});
    engine->plant({facts.id, std::nullopt, 1});
    const Recording wrong = run_whole(*engine, steps);
    CHECK(engine->planted_executions() > 0);
    bool changed = false;
    for (const auto& [key, tensor] : wrong.all()) {
      if (key.id.layer == 0) CHECK(same_bits(tensor, right.all().at(key)));
      if (key.id.layer == 1) changed |= !same_bits(tensor, right.all().at(key));
    }
    CHECK(changed);
  }
}

TEST_CASE("without the queries, a slot behind the cache can be neither shown nor refuted", "[engine]") {
  const ModelInMemory model(small_config(), DType::kF32, 4);
  const auto oracle = make_oracle(model, {.num_threads = 1});
  const auto steps = random_steps(model.config(), {5, 1}, {0}, 6);
  const auto engine = make_engine(model, float64_everywhere(), {.num_threads = 1});
  const Recording whole = run_whole(*engine, steps);
  Recording scores_alone;
  for (const auto& [key, tensor] : whole.all()) {
    if (key.id.op == Op::kScores) scores_alone.put(key, tensor);
  }
  const Variant variant{FaultId::kReadPlusOne, std::nullopt};
  const std::vector<TensorKey> target = {{1, {Op::kProbs, 1}}};
  Query query = {.operations = target,
                 .recorded = scores_alone,
                 .steps = steps,
                 .precision = float64_everywhere(),
                 .stored = DType::kF64};
  CHECK_NOTHROW(oracle->evaluate(query));
  query.variant = &variant;
  CHECK_THROWS_WITH(oracle->evaluate(query), ContainsSubstring("q_rope"));
  CHECK_THROWS_AS(oracle->emulate(query), NotEvaluable);
}

TEST_CASE("a plant holds for sessions opened afterwards, and a refused one changes nothing", "[engine]") {
  const ModelInMemory model(small_config(), DType::kF32, 4);
  const auto steps = random_steps(model.config(), {5, 1}, {0}, 6);
  const auto engine = make_engine(model, plain_precision(DType::kF32), {.num_threads = 1});
  const auto logits_of = [&](Session& session) {
    session.run_step(steps[0], nullptr);
    return Tensor::copy_of(session.run_step(steps[1], nullptr));
  };
  const auto fresh_logits = [&] { return logits_of(*engine->open(options_for(steps))); };
  const Tensor right = fresh_logits();
  // One fault is a rounding, the other is not.
  for (FaultId id : {FaultId::kTableBf16, FaultId::kHeadZero}) {
    INFO(name(id));
    const auto clean_engine = make_engine(model, plain_precision(DType::kF32), {.num_threads = 1});
    const auto open_before = clean_engine->open(options_for(steps));
    clean_engine->plant({id, std::nullopt, std::nullopt});
    CHECK(same_bits(logits_of(*open_before), right));
    const Tensor wrong = logits_of(*clean_engine->open(options_for(steps)));
    CHECK_FALSE(same_bits(wrong, right));
    CHECK_THROWS_AS(clean_engine->plant({FaultId::kModulo, std::nullopt, 99}), InputError);
    CHECK_THROWS_AS(clean_engine->plant({FaultId::kTileMax, 0.0, std::nullopt}), InputError);
    CHECK(same_bits(logits_of(*clean_engine->open(options_for(steps))), wrong));
    const auto open_with_fault = clean_engine->open(options_for(steps));
    clean_engine->plant({FaultId::kNoSilu, std::nullopt, std::nullopt});
    CHECK(same_bits(logits_of(*open_with_fault), wrong));
  }
}

// They share what right code multiplies, wherever their bugs do nothing.
TEST_CASE("bugs that are walked side by side compute what each does alone", "[engine]") {
  const ModelInMemory model(small_config(), DType::kBF16, 4);
  const Precision precision = plain_precision(DType::kBF16);
  const auto steps = random_steps(model.config(), {5, 1}, {0, 2}, 6);
  const auto engine = make_engine(model, precision, {.num_threads = 1});
  struct Walked {
    Fault fault;
    std::unique_ptr<Session> session;
    Recording recording = {};
    std::vector<Tensor> residual = {};
    bool ran = true;
  };
  std::vector<Walked> walked;
  for (const VariantFacts& facts : fault_table()) {
    const Fault fault{facts.id, facts.values.empty() ? std::nullopt : std::optional(facts.values.front()),
                      std::nullopt};
    if (facts.declares) continue;
    engine->plant(fault);
    walked.push_back({fault, engine->open(options_for(steps))});
  }
  const auto each = [&](auto part) {
    for (Walked& w : walked) {
      Recorder recorder(w.recording);
      try {
        for (const Step& step : steps) {
          recorder.at(step.index);
          if (w.ran) part(w, step, recorder);
        }
      } catch (const InputError&) {  // it needs what a walk layer by layer does not have
        w.ran = false;
      }
    }
  };
  each([](Walked& w, const Step& step, TensorSink& sink) {
    w.residual.push_back(Tensor::copy_of(w.session->run_embedding(step, &sink)));
  });
  for (int layer = 0; layer < model.config().num_layers; ++layer) {
    each([layer](Walked& w, const Step& step, TensorSink& sink) {
      Tensor& stream = w.residual[static_cast<std::size_t>(step.index)];
      stream = Tensor::copy_of(w.session->run_layer(layer, step, stream.view(), &sink));
    });
  }
  each([](Walked& w, const Step& step, TensorSink& sink) {
    w.session->run_head(step, w.residual[static_cast<std::size_t>(step.index)].view(), &sink);
  });
  std::size_t ran = 0;
  for (const Walked& w : walked) {
    if (!w.ran) continue;
    INFO(name(w.fault.id));
    const auto alone = make_engine(model, precision, {.num_threads = 1});
    alone->plant(w.fault);
    std::size_t different = 0;
    const Recording recording = run_whole(*alone, steps);
    for (const auto& [key, tensor] : recording.all()) {
      different += same_bits(tensor, w.recording.all().at(key)) ? 0 : 1;
    }
    CHECK(different == 0);
    ++ran;
  }
  CHECK(ran > 60);
}

TEST_CASE("values that a fault cannot have are refused when it is planted", "[engine]") {
  const ModelInMemory model(small_config(), DType::kF32, 4);
  const auto engine = make_engine(model, plain_precision(DType::kF32), {.num_threads = 1});
  const std::pair<FaultId, double> bad[] = {{FaultId::kTileMax, 0.0}, {FaultId::kAccBf16, -5.0},
                                            {FaultId::kWoCols, -1.0}, {FaultId::kHalfSlice, 0.0},
                                            {FaultId::kTheta, -1.0},  {FaultId::kFiniteFp16, 1.0},
                                            {FaultId::kWindow, 1.5},  {FaultId::kWeightFromOtherLayer, 0.0},
                                            {FaultId::kLda, -1024.0}, {FaultId::kResidualLost, 3.0},
                                            {FaultId::kEps, -1e-6},   {FaultId::kReadPlusOne, std::nan("")},
                                            {FaultId::kModulo, 1.0},  {FaultId::kNoBatchStride, 2.0}};
  for (const auto& [id, value] : bad) {
    INFO(name(id) << '=' << value);
    CHECK_THROWS_AS(engine->plant({id, value, std::nullopt}), InputError);
  }
  CHECK_THROWS_WITH(engine->plant({FaultId::kTileMax, 0.0, std::nullopt}), ContainsSubstring("a whole number from 1"));
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
  CHECK_THROWS_AS(engine->plant({FaultId::kGroupOffByOne, 5.0, std::nullopt}), InputError);
  CHECK_THROWS_AS(engine->plant({FaultId::kModulo, std::nullopt, 2}), InputError);
  CHECK_THROWS_AS(engine->open({.batch = 0, .capacity = 1, .left_padding = {}}), InputError);
}

}  // namespace
}  // namespace qdiff::reference
