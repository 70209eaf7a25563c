#include "harness/reference_cache/cache.h"

#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "cmake/catch2.h"
#include "harness/formats/tests/temporary_directory.h"
#include "harness/reference_cache/query_key.h"

namespace qdiff::reference_cache {
namespace {

ModelConfig small_config() {
  ModelConfig config;
  config.hidden = 4;
  config.num_layers = 2;
  config.num_q_heads = 2;
  config.num_kv_heads = 1;
  config.head_dim = 2;
  config.intermediate = 6;
  config.vocab = 8;
  config.rms_norm_eps = 1e-6;
  config.rope_theta = 1e4;
  config.max_position_embeddings = 64;
  return config;
}

class Recorded final : public TensorStore {
 public:
  bool has(const TensorKey& key) const override { return tensors.contains(key); }
  TensorView get(const TensorKey& key) const override { return tensors.at(key).view(); }
  void set(const TensorKey& key, const std::vector<double>& values) {
    tensors.insert_or_assign(key,
                             Tensor::rounded(DType::kBF16, {1, 1, static_cast<std::int64_t>(values.size())}, values));
  }
  std::map<TensorKey, Tensor> tensors = {};
};

std::vector<Step> one_step(std::int32_t token = 3) {
  Step step;
  step.phase = Phase::kPrefill;
  step.tokens = {{token}};
  step.left_padding = {0};
  set_default_positions(step);
  return {step};
}

const TensorKey kAttention{0, {Op::kAttnOutput, 0}}, kProjection{0, {Op::kOProj, 0}}, kElsewhere{0, {Op::kKRope, 1}};

// o_proj is twice its input; under a variant, plus what another layer holds.
class Doubling final : public Oracle {
 public:
  explicit Doubling(int& calls) : calls_(calls) {}
  const ModelConfig& config() const override { return config_; }
  const std::vector<VariantFacts>& catalogue() const override { return catalogue_; }
  Expectation evaluate(const Query& query) override {
    ++calls_;
    Expectation expectation;
    expectation.value = to_doubles(query.recorded.get(kAttention));
    for (double& value : expectation.value) value *= 2.0;
    if (query.variant != nullptr) {
      if (!query.recorded.has(kElsewhere)) throw NotEvaluable("it needs k_rope");
      expectation.value[0] += to_doubles(query.recorded.get(kElsewhere))[0];
      expectation.unknown = {0, 1, 0, 0};
    }
    expectation.shape = {1, 1, static_cast<std::int64_t>(expectation.value.size())};
    expectation.sigma_independent = {0.0F, 1e-9F, 0.25F, HUGE_VALF};
    expectation.sigma_shared = std::vector<float>(4, 0.5F);
    expectation.exact = query.variant != nullptr;
    return expectation;
  }
  std::vector<double> emulate(const Query& query) override {
    ++calls_;
    return {1.0, -0.0, std::nan(""), query.divides_last ? 0.1 : HUGE_VAL};
  }

 private:
  int& calls_;
  ModelConfig config_ = small_config();
  std::vector<VariantFacts> catalogue_;
};

bool same_bits(const std::vector<double>& a, const std::vector<double>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(double)) == 0;
}

// What a test asks, and a new cached oracle for each time that it asks: the store is all that they share.
struct Setting {
  testing::TemporaryDirectory folder = {};
  std::vector<std::string> warnings = {};
  Store store{folder.path(), std::uint64_t{1} << 30, [this](const std::string& text) { warnings.push_back(text); }};
  findings::ReferenceValues values = {};
  std::string reference = "this one";
  int calls = 0;
  Recorded recorded = {};
  std::vector<Step> steps = one_step();
  Precision precision = plain_precision(DType::kBF16);
  const Variant* variant = nullptr;
  std::vector<Mistake> mistakes = {};
  double unwritten = 0.0;
  std::vector<TensorKey> operations = {kProjection};

  Setting() {
    recorded.set(kAttention, {1.0, 2.0, 3.0, 4.0});
    recorded.set(kElsewhere, {10.0, 0.0});
  }
  std::unique_ptr<CachedOracle> oracle() {
    return make_cached_oracle(std::make_unique<Doubling>(calls), {store, reference, values});
  }
  Query query() const {
    return {.operations = operations,
            .recorded = recorded,
            .steps = steps,
            .precision = precision,
            .stored = DType::kBF16,
            .variant = variant,
            .unwritten = unwritten,
            .mistakes = mistakes};
  }
  // How often the inner oracle computed for one question.
  int computed() {
    const int before = calls;
    oracle()->evaluate(query());
    return calls - before;
  }
};

TEST_CASE("an expectation is read as it was computed, to the last bit", "[cache]") {
  Setting at;
  const Variant variant{*parse_fault_id("H05.modulo")};
  for (const Variant* planted : {static_cast<const Variant*>(nullptr), &variant}) {
    at.variant = planted;
    const Expectation first = at.oracle()->evaluate(at.query()), second = at.oracle()->evaluate(at.query());
    CHECK(same_bits(first.value, second.value));
    CHECK(first.shape == second.shape);
    CHECK(first.sigma_independent == second.sigma_independent);
    CHECK(first.sigma_shared == second.sigma_shared);
    CHECK(first.unknown == second.unknown);
    CHECK(first.exact == second.exact);
  }
  const std::vector<double> emulated = at.oracle()->emulate(at.query());
  CHECK(same_bits(at.oracle()->emulate(at.query()), emulated));
  Query wide = at.query();
  wide.divides_last = true;  // a value that bfloat16 does not hold
  const std::vector<double> other = at.oracle()->emulate(wide);
  CHECK(same_bits(at.oracle()->emulate(wide), other));
  CHECK(other[3] == 0.1);
  CHECK(at.values == findings::ReferenceValues{4, 4});
  CHECK(at.warnings.empty());
}

TEST_CASE("whatever a value follows from is a part of its key", "[cache]") {
  Setting at;
  CHECK(at.computed() == 1);
  CHECK(at.computed() == 0);
  const Variant variant{*parse_fault_id("H09.eps"), 1e-5}, valued{*parse_fault_id("H09.eps"), 1e-4};
  const auto changed = [&](const auto& change) {
    change();
    CHECK(at.computed() == 1);
    CHECK(at.computed() == 0);
  };
  changed([&] { at.reference = "another"; });
  changed([&] { at.recorded.set(kAttention, {1.0, 2.0, 3.0, 4.03125}); });
  changed([&] { at.steps = one_step(4); });
  changed([&] { at.steps[0].positions[0][0] = 7; });
  changed([&] { at.precision.points[RoundingPoint::kMatmulPartials] = DType::kBF16; });
  changed([&] { at.precision.accumulate = DType::kBF16; });
  changed([&] { at.variant = &variant; });
  changed([&] { at.variant = &valued; });
  changed([&] { at.unwritten = std::nan(""); });
  changed([&] {
    at.mistakes = {{.kind = MistakeKind::kBias, .parameters = {{"coefficient", 2.0}}, .op = Op::kQProj}};
  });
  changed([&] { at.mistakes[0].parameters[0].second = std::nextafter(2.0, 3.0); });
  // What no part of the question is, is none of the key.
  at.recorded.set({0, {Op::kDownProj, 1}}, {5.0});
  CHECK(at.computed() == 0);
}

TEST_CASE("what a variant reads elsewhere has to be the same too", "[cache]") {
  Setting at;
  const Variant variant{*parse_fault_id("H01.no_layer_stride")};
  at.variant = &variant;
  CHECK(at.computed() == 1);
  CHECK(at.computed() == 0);
  at.recorded.set(kElsewhere, {11.0, 0.0});
  CHECK(at.oracle()->evaluate(at.query()).value[0] == 13.0);
  CHECK(at.computed() == 0);
  at.recorded.tensors.erase(kElsewhere);
  CHECK_THROWS_AS(at.oracle()->evaluate(at.query()), NotEvaluable);
  CHECK_THROWS_AS(at.oracle()->evaluate(at.query()), NotEvaluable);
}

TEST_CASE("a part is judged once, and again where anything of it or before it is another", "[cache]") {
  Setting at;
  at.recorded.set(kProjection, {2.0, 4.0, 6.0, 8.0});
  std::vector<std::string> subjects = {"case\n\nlockstep"};
  diagnose::Detectability before;
  // Whether it had to be judged.
  const auto judged = [&](bool probing = true) {
    const auto oracle = at.oracle();
    const std::vector<Query> queries = {at.query()};
    const std::vector<TensorView> actual = {at.recorded.get(kProjection)};
    const diagnose::PartQuestion question{queries, actual, subjects, probing, before};
    if (const auto found = oracle->find(question)) {
      CHECK(found->rows.at(0).judgement.statistics.normalised[2] == 0.125);
      CHECK(std::isnan(found->rows.at(0).judgement.actual));
      CHECK(found->rows.at(0).pattern.axes.at(0).wrong == std::vector<std::int64_t>{1, 2});
      CHECK(found->after.not_evaluable.size() == 1);
      return false;
    }
    oracle->evaluate_all(queries);
    Query planted = at.query();
    const Variant variant{*parse_fault_id("H01.no_layer_stride")};
    planted.variant = &variant;
    try {
      oracle->evaluate(planted);
    } catch (const NotEvaluable&) {
      // Part of the answer, as what it asked for in vain is of the question.
    }
    diagnose::PartAnswer answer;
    diagnose::PartAnswer::Row& row = answer.rows.emplace_back();
    row.judgement.statistics.normalised[2] = 0.125;
    row.judgement.actual = std::nan("");
    row.pattern.axes = {{"head", {1, 2}, 4, false}};
    answer.after.not_evaluable[variant.id] = "it needs more";
    oracle->keep(question, answer);
    return true;
  };
  CHECK(judged());
  CHECK(at.values == findings::ReferenceValues{2, 0});
  CHECK_FALSE(judged());
  CHECK(at.values == findings::ReferenceValues{2, 2});
  CHECK(judged(false));
  at.recorded.set(kProjection, {2.0, 4.0, 6.0, 8.0625});
  CHECK(judged());
  CHECK_FALSE(judged());
  subjects = {"case\nH05\nlockstep"};
  CHECK(judged());
  before.tried.insert(*parse_fault_id("H05.modulo"));
  CHECK(judged());
  CHECK_FALSE(judged());
  at.recorded.set(kElsewhere, {12.0, 0.0});  // that a variant has read
  CHECK(judged());
  CHECK_FALSE(judged());
  at.recorded.tensors.erase(kElsewhere);
  CHECK(judged());
  CHECK_FALSE(judged());
  at.recorded.set(kElsewhere, {12.5, 0.0});
  CHECK(judged());
  CHECK(at.warnings.empty());
}

// A layer adds the sum of all that it was ever given.
class Summing final : public Engine {
 public:
  explicit Summing(int& calls) : calls_(calls) {}
  std::string name() const override { return "reference"; }
  Device device() const override { return {}; }
  const Precision& precision() const override { return precision_; }
  double poison_value(Poison) const override { return 0.0; }
  void plant(const Fault&) override {}
  std::unique_ptr<Session> open(const SessionOptions& options) override;

 private:
  friend class SummingSession;
  int& calls_;
  Precision precision_ = gold_precision(DType::kBF16);
};

class SummingSession final : public Session {
 public:
  explicit SummingSession(int& calls) : calls_(calls) {}
  TensorView run_embedding(const Step& step, TensorSink*) override {
    ++calls_;
    return hand_out(step.tokens[0][0]);
  }
  TensorView run_layer(int layer, const Step&, const TensorView& input, TensorSink*) override {
    ++calls_;
    return hand_out(seen_[layer] += to_doubles(input)[0]);
  }
  TensorView run_head(const Step&, const TensorView& input, TensorSink*) override {
    ++calls_;
    return hand_out(-to_doubles(input)[0]);
  }
  TensorView run_step(const Step& step, TensorSink* sink) override {
    Tensor residual = Tensor::copy_of(run_embedding(step, sink));
    for (int layer = 0; layer < 2; ++layer) residual = Tensor::copy_of(run_layer(layer, step, residual.view(), sink));
    return run_head(step, residual.view(), sink);
  }

 private:
  TensorView hand_out(double value) {
    last_ = Tensor::rounded(DType::kF64, {1, 1, 1}, std::vector<double>{value});
    return last_.view();
  }
  int& calls_;
  std::map<int, double> seen_;
  Tensor last_;
};

std::unique_ptr<Session> Summing::open(const SessionOptions&) { return std::make_unique<SummingSession>(calls_); }

TEST_CASE("a session reads what another computed, and goes on by itself from any step", "[cache]") {
  Setting at;
  std::vector<Step> steps;
  for (int i = 0; i < 3; ++i) {
    Step step = one_step(i + 1).front();
    step.index = i;
    step.phase = i == 0 ? Phase::kPrefill : Phase::kDecode;
    step.past_length = i;
    steps.push_back(step);
  }
  const SessionOptions options{.batch = 1, .capacity = 4, .left_padding = {0}};
  // The result of each step of a new session, where the last token is `last`.
  const auto run = [&](std::int32_t last, bool planted = false) {
    const auto engine =
        make_cached_engine(std::make_unique<Summing>(at.calls), {at.store, at.reference, at.values}, small_config());
    if (planted) engine->plant({});
    const auto session = engine->open(options);
    std::vector<Step> fed = steps;
    fed[2].tokens = {{last}};
    std::vector<double> results;
    for (const Step& step : fed) results.push_back(to_doubles(session->run_step(step, nullptr))[0]);
    return results;
  };
  const std::vector<double> first = run(3);
  CHECK(at.calls == 12);
  CHECK(run(3) == first);
  CHECK(at.calls == 12);
  CHECK(at.values == findings::ReferenceValues{12, 12});
  // Another last token: two layers catch up with two steps each, and the step itself has four parts.
  const std::vector<double> other = run(7);
  CHECK(other[0] == first[0]);
  CHECK(other[2] == first[2] - 4.0);
  CHECK(at.calls == 12 + 4 + 4);
  CHECK(run(3, true) == first);
  CHECK(at.calls == 20 + 12);
  CHECK(at.warnings.empty());
}

}  // namespace
}  // namespace qdiff::reference_cache
