// The reference against transformers: every named tensor of a whole prefill, a prefill in chunks with decode, and a
// left-padded batch. scripts/make_goldens.py computed them in float32; goldens.json records the versions.
//
// Measure: max |difference| / max |golden| over the elements that count (no pads). Float32 has a unit roundoff of 6e-8;
// the sums here are some hundred long and two layers deep.
#include "cmake/catch2.h"
#include "reference/reference.h"
#include "reference/tests/golden_files.h"

namespace qdiff::reference {
namespace {

constexpr double kAgreement = 4e-6;

std::vector<Step> steps_of(const nlohmann::json& golden_case) {
  std::vector<Step> steps;
  for (const auto& described : golden_case.at("steps")) {
    Step step;
    step.index = static_cast<int>(steps.size());
    step.tokens = described.at("tokens").get<std::vector<std::vector<std::int32_t>>>();
    step.past_length = described.at("past_length").get<std::int64_t>();
    step.phase = step.index > 0 && step.num_tokens() == 1 ? Phase::kDecode : Phase::kPrefill;
    step.left_padding = golden_case.at("left_padding").get<std::vector<std::int64_t>>();
    set_default_positions(step);
    steps.push_back(std::move(step));
  }
  return steps;
}

// Whether element `index` of the tensor belongs to a pad token or a pad slot.
bool is_pad(const TensorId& id, const Shape& shape, std::size_t index, const Step& step) {
  std::vector<std::int64_t> at(shape.size());
  auto rest = static_cast<std::int64_t>(index);
  for (std::size_t dim = shape.size(); dim-- > 0; rest /= shape[dim]) at[dim] = rest % shape[dim];
  if (id.op == Op::kKCache || id.op == Op::kVCache) return at[1] < step.left_padding[static_cast<std::size_t>(at[0])];
  const bool by_head = id.op == Op::kScores || id.op == Op::kProbs;
  return step.is_pad(at[0], by_head ? at[2] : at[1]);
}

struct GoldenSink : TensorSink {
  const std::map<std::string, Tensor>& goldens;
  const std::string case_name;
  const Step* step = nullptr;
  int compared = 0;
  double worst = 0.0;

  GoldenSink(const std::map<std::string, Tensor>& tensors, std::string name)
      : goldens(tensors), case_name(std::move(name)) {}

  void take(const TensorId& id, const TensorView& view) override {
    const std::string key = case_name + '/' + std::to_string(step->index) + '/' + tensor_name(id);
    INFO(key);
    REQUIRE(goldens.contains(key));
    const Tensor& golden = goldens.at(key);
    REQUIRE(golden.shape() == view.shape);
    const std::vector<double> actual = to_doubles(view);
    double difference = 0.0, size = 0.0;
    for (std::size_t i = 0; i < actual.size(); ++i) {
      if (is_pad(id, view.shape, i, *step)) continue;
      const double expected = golden.at(static_cast<std::int64_t>(i));
      if (std::isinf(expected)) {
        REQUIRE(actual[i] == expected);
        continue;
      }
      REQUIRE_FALSE(std::isnan(actual[i]));
      difference = std::max(difference, std::fabs(actual[i] - expected));
      size = std::max(size, std::fabs(expected));
    }
    REQUIRE(size > 0.0);
    CHECK(difference / size <= kAgreement);
    worst = std::max(worst, difference / size);
    ++compared;
  }
};

TEST_CASE("every named tensor agrees with transformers", "[golden]") {
  const auto described = read_json(golden_folder() + "goldens.json");
  const std::map<std::string, Tensor> goldens = read_safetensors(golden_folder() + "goldens.safetensors");
  const GoldenModel model;
  for (DType dtype : {DType::kF64, DType::kF32}) {
    const Precision precision = {.weights = DType::kF32,
                                 .activations = dtype,
                                 .accumulate = dtype,
                                 .points = {},
                                 .taken_as = {},
                                 .quantized = {}};
    for (const std::string name : {"whole", "chunked", "padded"}) {
      const std::vector<Step> steps = steps_of(described.at("cases").at(name));
      const auto engine = make_engine(model, precision, {.num_threads = 1});
      const auto session = engine->open(
          {.batch = steps[0].batch(), .capacity = steps.back().valid_length(), .left_padding = steps[0].left_padding});
      GoldenSink sink(goldens, name);
      for (const Step& step : steps) {
        sink.step = &step;
        session->run_step(step, &sink);
      }
      INFO(name << " in " << qdiff::name(dtype) << ": worst " << sink.worst);
      CHECK(sink.compared == static_cast<int>(steps.size() * all_tensors(model.config(), true).size()));
      if (std::getenv("QDIFF_SHOW_RATIOS") != nullptr) WARN(name << ' ' << qdiff::name(dtype) << ' ' << sink.worst);
    }
  }
}

}  // namespace
}  // namespace qdiff::reference
