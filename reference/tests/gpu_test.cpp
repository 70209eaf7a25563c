// The reference on a GPU says what it says on the host, to the rounding of float64. Where LibTorch can use no GPU the
// program ends with 77, which ctest reports as skipped.
#include <cstdio>
#include <cstdlib>

#include "cmake/catch2.h"
#include "reference/reference.h"
#include "reference/tests/model_in_memory.h"

namespace qdiff::reference {
namespace {

constexpr Options kHost = {.num_threads = 1, .where = Where::kHost};
constexpr Options kGpu = {.num_threads = 1, .where = Where::kGpu};

void require_gpu() {
  constexpr int kSkipped = 77;
  std::string why_not;
  if (gpu_available(&why_not)) return;
  std::printf("skipped: %s\n", why_not.c_str());
  std::fflush(stdout);
  std::_Exit(kSkipped);
}

Recording run(const WeightSource& model, const Precision& precision, const std::vector<Step>& steps,
              const Options& options) {
  const auto engine = make_engine(model, precision, options);
  const auto session = engine->open(
      {.batch = steps[0].batch(), .capacity = steps.back().valid_length() + 3, .left_padding = steps[0].left_padding});
  Recording recording;
  Recorder recorder(recording);
  for (const Step& step : steps) {
    recorder.at(step.index);
    session->run_step(step, &recorder);
  }
  return recording;
}

// Relative to the tensor's largest finite element; NaN and infinities must stand in the same places.
template <typename T>
double distance(const std::vector<T>& a, const std::vector<T>& b) {
  if (a.size() != b.size()) return HUGE_VAL;
  double largest = 0.0, difference = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const auto x = static_cast<double>(a[i]), y = static_cast<double>(b[i]);
    if (!std::isfinite(x) || !std::isfinite(y)) {
      if (!(x == y || (std::isnan(x) && std::isnan(y)))) return HUGE_VAL;
      continue;
    }
    largest = std::max(largest, std::fabs(y));
    difference = std::max(difference, std::fabs(x - y));
  }
  return difference == 0.0 ? 0.0 : difference / largest;
}

// Functions of libraries differ in the last bits; sums of some hundred terms pass them on.
constexpr double kFloat64 = 1e-12;
// A float holds the deviations.
constexpr double kFloat32 = 1e-5;

TEST_CASE("a whole pass in float64 is the same on the GPU and on the host", "[gpu]") {
  require_gpu();
  const ModelInMemory model(small_config(), DType::kBF16, 3);
  const auto steps = random_steps(model.config(), {9, 5, 1, 1}, {0, 3, 6}, 5);
  const Recording host = run(model, gold_precision(DType::kBF16), steps, kHost);
  const Recording gpu = run(model, gold_precision(DType::kBF16), steps, kGpu);
  REQUIRE(host.all().size() == gpu.all().size());
  for (const auto& [key, tensor] : host.all()) {
    INFO(tensor_name(key.id) << " of step " << key.step);
    CHECK(distance(to_doubles(gpu.get(key)), to_doubles(tensor.view())) <= kFloat64);
  }
}

class CountingModel final : public ModelInMemory {
 public:
  using ModelInMemory::ModelInMemory;
  void read(const WeightInfo& info, std::int64_t first, std::int64_t count,
            std::span<std::byte> destination) const override {
    ModelInMemory::read(info, first, count, destination);
    read_[info.name] += count;
  }
  // Elements.
  std::int64_t read_of(const std::string& name) const { return read_[name]; }

 private:
  mutable std::map<std::string, std::int64_t> read_;
};

TEST_CASE("on a GPU the reference and the oracle beside it read a matrix once", "[gpu]") {
  require_gpu();
  const CountingModel model(small_config(), DType::kBF16, 3);
  const std::string name = weight_name({Op::kDownProj, 1}, 0, model.config());
  const std::int64_t size = num_elements(model.find(name).shape);
  const auto steps = random_steps(model.config(), {5, 1}, {0}, 5);
  const Precision precision = plain_precision(DType::kBF16);
  const auto engine = make_engine(model, precision, kGpu);
  const auto oracle = make_oracle(model, kGpu);
  const auto session = engine->open({.batch = 1, .capacity = 9, .left_padding = {0}});
  Recording recording;
  Recorder recorder(recording);
  for (const Step& step : steps) {
    recorder.at(step.index);
    session->run_step(step, &recorder);
  }
  REQUIRE(model.read_of(name) == size);
  const TensorKey key{1, {Op::kDownProj, 1}};
  const std::vector<TensorKey> span = {key};
  const Expectation expected = oracle->evaluate({.operations = span,
                                                 .recorded = recording,
                                                 .steps = steps,
                                                 .precision = precision,
                                                 .stored = recording.get(key).dtype,
                                                 .capacity = 9});
  CHECK(distance(expected.value, to_doubles(recording.get(key))) < 0x1p-7);
  CHECK(model.read_of(name) == size);
}

struct Place {
  TensorKey key;
  std::vector<TensorKey> span;
};

// Each row by itself, and attention as fused engines record it.
std::vector<Place> places_of(const Recording& recorded) {
  std::vector<Place> places;
  for (const auto& [key, tensor] : recorded.all()) {
    places.push_back({key, {key}});
    if (key.id.op != Op::kAttnOutput) continue;
    places.push_back({key, {{key.step, {Op::kScores, key.id.layer}}, {key.step, {Op::kProbs, key.id.layer}}, key}});
  }
  return places;
}

TEST_CASE("each row, right and under each variant, is the same on the GPU and on the host", "[gpu]") {
  require_gpu();
  const ModelInMemory model(small_config(), DType::kF32, 3);
  const auto steps = random_steps(model.config(), {70, 5, 1}, {0, 3}, 5);
  const Precision precision = plain_precision(DType::kBF16);
  const Recording recorded = run(model, precision, steps, kHost);

  struct Answer {
    Expectation gold;
    DType stored = DType::kF32;
    std::vector<double> emulated;
    std::string not_evaluable;
  };
  const auto answers_of = [&](const Options& options) {
    const auto oracle = make_oracle(model, options);
    std::map<std::string, Answer> answers;
    for (const Place& place : places_of(recorded)) {
      const auto ask = [&](const Variant* variant) {
        const Query query{.operations = place.span,
                          .recorded = recorded,
                          .steps = steps,
                          .precision = precision,
                          .stored = recorded.get(place.key).dtype,
                          .variant = variant,
                          .capacity = steps.back().valid_length() + 3};
        Answer answer;
        answer.stored = query.stored;
        try {
          answer.gold = oracle->evaluate(query);
          if (variant == nullptr) answer.emulated = oracle->emulate(query);
        } catch (const NotEvaluable& missing) {
          answer.not_evaluable = missing.what();
        }
        const std::string of = variant == nullptr ? "" : " under " + std::string(name(variant->id));
        answers[tensor_name(place.key.id) + " of step " + std::to_string(place.key.step) + ", " +
                std::to_string(place.span.size()) + " rows" + of] = std::move(answer);
      };
      ask(nullptr);
      for (const VariantFacts& facts : oracle->catalogue()) {
        const bool concerned = std::any_of(place.span.begin(), place.span.end(), [&](const TensorKey& key) {
          return std::find(facts.ops.begin(), facts.ops.end(), key.id.op) != facts.ops.end();
        });
        if (!concerned || facts.declares) continue;
        const Variant variant{facts.id, std::nullopt};
        ask(&variant);
      }
    }
    return answers;
  };
  const auto host = answers_of(kHost);
  const auto gpu = answers_of(kGpu);
  REQUIRE(host.size() == gpu.size());
  REQUIRE(host.size() > 400);
  std::size_t compared = 0, flipped = 0, emulated = 0;
  for (const auto& [what, expected] : host) {
    const Answer& actual = gpu.at(what);
    INFO(what);
    CHECK(actual.not_evaluable == expected.not_evaluable);
    CHECK(actual.gold.shape == expected.gold.shape);
    CHECK(actual.gold.exact == expected.gold.exact);
    CHECK(actual.gold.unknown == expected.gold.unknown);
    CHECK(distance(actual.gold.value, expected.gold.value) <= kFloat64);
    CHECK(distance(actual.gold.sigma_independent, expected.gold.sigma_independent) <= kFloat32);
    CHECK(distance(actual.gold.sigma_shared, expected.gold.sigma_shared) <= kFloat32);
    compared += expected.gold.value.size();
    // Sums in float32 differ in their last bits, and where that straddles a middle the stored value by a spacing; near
    // zero the bits are those of what cancels.
    REQUIRE(actual.emulated.size() == expected.emulated.size());
    const auto larger = [](double a, double b) { return std::fabs(a) < std::fabs(b); };
    const double largest =
        expected.emulated.empty()
            ? 0.0
            : std::fabs(*std::max_element(expected.emulated.begin(), expected.emulated.end(), larger));
    for (std::size_t i = 0; i < expected.emulated.size(); ++i) {
      const double a = actual.emulated[i], b = expected.emulated[i];
      if (a == b || (std::isnan(a) && std::isnan(b))) continue;
      if (expected.stored == DType::kBF16) ++flipped;
      CHECK(std::fabs(a - b) <= spacing(expected.stored, b) + kFloat32 * largest);
    }
    if (expected.stored == DType::kBF16) emulated += expected.emulated.size();
  }
  REQUIRE(compared > 100000);
  CHECK(static_cast<double>(flipped) <= 1e-3 * static_cast<double>(emulated));
}

TEST_CASE("an ensemble is the same on the GPU and on the host", "[gpu]") {
  require_gpu();
  const ModelInMemory model(small_config(), DType::kBF16, 3);
  const auto steps = random_steps(model.config(), {9, 1}, {0, 3}, 5);
  const Precision precision = plain_precision(DType::kBF16);
  Recording recorded = run(model, precision, steps, kHost);
  const std::vector<TensorKey> span = {{0, {Op::kPostAttentionLayernorm, 0}},
                                       {0, {Op::kGateProj, 0}},
                                       {0, {Op::kUpProj, 0}},
                                       {0, {Op::kAct, 0}},
                                       {0, {Op::kDownProj, 0}}};
  for (const TensorKey& key : span) recorded.forget(key);
  const auto ask = [&](const Options& options) {
    return make_oracle(model, options)
        ->evaluate(
            {.operations = span, .recorded = recorded, .steps = steps, .precision = precision, .stored = DType::kBF16});
  };
  const Expectation host = ask(kHost), gpu = ask(kGpu);
  CHECK(distance(gpu.value, host.value) <= kFloat64);
  CHECK(distance(gpu.sigma_independent, host.sigma_independent) <= kFloat32);
  CHECK(distance(gpu.sigma_shared, host.sigma_shared) <= kFloat32);
}

TEST_CASE("without a word the reference stays on the host, and a small model too", "[gpu]") {
  require_gpu();
  const ModelInMemory model(small_config(), DType::kBF16, 3);
  const auto steps = random_steps(model.config(), {3}, {0}, 5);
  const Recording host = run(model, gold_precision(DType::kBF16), steps, {.num_threads = 1});
  const Recording by_size =
      run(model, gold_precision(DType::kBF16), steps, {.num_threads = 1, .where = Where::kBySize});
  for (const auto& [key, tensor] : host.all()) CHECK(std::ranges::equal(tensor.bytes(), by_size.all().at(key).bytes()));
}

}  // namespace
}  // namespace qdiff::reference
