// A model that the device has no room for computes as one that it holds.
#include <algorithm>
#include <memory>

#include "harness/contract/error.h"
#include "optimized/cuda/session.h"
#include "optimized/cuda/tests/gpu_test.h"

namespace qdiff::optimized::cuda {
namespace {

using namespace testing;

// Room for so many layers, and for one more at a time.
Options with_room_for(int layers, const ModelConfig& config, DType dtype) {
  return {.dtype = dtype, .max_resident_bytes = static_cast<std::int64_t>(weight_bytes(config, dtype, layers))};
}

ModelConfig four_layers(ModelConfig config) {
  config.num_layers = 4;
  return config;
}

// Each class of kernels.
const std::vector<std::vector<std::int64_t>> kBatches = {{0, 3}, {0, 3, 1, 0, 2, 0}};

TEST_CASE("so many layers have a place as there is room for", "[gpu][turns]") {
  require_gpu();
  const ModelConfig config = four_layers(gpu_configs()[0]);
  const RandomModel model(config, DType::kF32, 17);
  for (int layers = 0; layers <= 4; ++layers) {
    const Options options = with_room_for(layers, config, DType::kBF16);
    const DeviceModel held = load_device_model(model, options);
    // One layer at a time takes the place that a last one of its own would have.
    CHECK(held.resident_layers == (layers == 3 ? 4 : layers));
    CHECK(held.all_resident() == (layers >= 3));
    Options less = options;
    less.max_resident_bytes -= 1;
    if (layers > 0 && layers != 4) CHECK(load_device_model(model, less).resident_layers == layers - 1);
  }
}

TEST_CASE("layers that take turns give the bits of resident ones", "[gpu][turns]") {
  require_gpu();
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    for (const ModelConfig& each : gpu_configs()) {
      const ModelConfig config = four_layers(each);
      const RandomModel model(config, DType::kF32, 17);
      const auto resident = gpu_engine(model, dtype);
      for (const int layers : {0, 2}) {
        INFO(to_string(config) << ", " << name(dtype) << ", " << layers << " resident layers");
        const auto turning = make_engine(model, with_room_for(layers, config, dtype));
        for (const std::vector<std::int64_t>& pads : kBatches) {
          // Alike parts of a prompt, and decode steps, which are graphs where all layers are resident.
          const auto steps = random_steps(config, {40, 40, 40, 1, 1, 1}, pads, 5);
          const KeepingSink expected = run_all(*resident, steps);
          const KeepingSink tapped = run_all(*turning, steps);
          REQUIRE(first_difference(rows_of(tapped, steps), rows_of(expected, steps)) == "");
          REQUIRE(tapped.tensors.size() == expected.tensors.size());
          REQUIRE(first_difference(rows_of(run_layer_by_layer(*turning, config, steps), steps),
                                   rows_of(expected, steps)) == "");
          const auto session = turning->open(session_options(steps));
          for (const Step& step : steps) {
            const Tensor logits = Tensor::copy_of(session->run_step(step, nullptr));
            REQUIRE(std::ranges::equal(logits.bytes(), expected.at(step.index, Op::kLmHead).bytes()));
          }
        }
      }
    }
  }
}

TEST_CASE("sessions in turn give the bits of sessions alone where layers take turns", "[gpu][turns]") {
  require_gpu();
  const ModelConfig config = four_layers(gpu_configs()[1]);
  const RandomModel model(config, DType::kF32, 17);
  const auto engine = make_engine(model, with_room_for(1, config, DType::kBF16));
  const auto steps = random_steps(config, {70, 1, 5, 1}, {0, 3}, 5);
  const KeepingSink alone = run_all(*gpu_engine(model, DType::kBF16), steps);
  const std::unique_ptr<Session> sessions[] = {engine->open(session_options(steps)),
                                               engine->open(session_options(steps))};
  for (const Step& step : steps) {
    Tensor residual[2];
    for (int s : {0, 1}) residual[s] = Tensor::copy_of(sessions[s]->run_embedding(step, nullptr));
    for (int layer = 0; layer < config.num_layers; ++layer) {
      for (int s : {0, 1}) {
        residual[s] = Tensor::copy_of(sessions[s]->run_layer(layer, step, residual[s].view(), nullptr));
        CHECK(std::ranges::equal(residual[s].bytes(), alone.at(step.index, Op::kOutput, layer).bytes()));
      }
    }
  }
}

TEST_CASE("a fault is planted in layers that take turns as in resident ones", "[gpu][turns]") {
  require_gpu();
  const ModelConfig config = four_layers(small_config(6, 2, 32, 192, 160, false));
  const RandomModel model(config, DType::kF32, 17);
  const auto steps = random_steps(config, {70, 1, 1}, {0, 3}, 5);
  const auto resident = gpu_engine(model, DType::kBF16);
  const auto turning = make_engine(model, with_room_for(1, config, DType::kBF16));
  for (const FaultId id :
       {FaultId::kWoCols, FaultId::kTransposedO, FaultId::kPackedOrder, FaultId::kWeightFromOtherLayer}) {
    INFO(name(id));
    for (Engine* engine : {resident.get(), turning.get()}) engine->plant({.id = id, .value = {}, .layer = {}});
    const Rows expected = rows_of(run_all(*resident, steps), steps);
    CHECK(first_difference(rows_of(run_all(*turning, steps), steps), expected) == "");
    CHECK(turning->planted_executions() == resident->planted_executions());
  }
}

TEST_CASE("a model that does not fit with one layer at a time is refused, with what it takes and what there is",
          "[gpu][turns]") {
  require_gpu();
  const ModelConfig config = four_layers(gpu_configs()[0]);
  const RandomModel model(config, DType::kF32, 17);
  Options options = with_room_for(0, config, DType::kBF16);
  options.max_resident_bytes -= 1;
  CHECK_THROWS_AS(make_engine(model, options), CannotJudgeError);
  CHECK_THROWS_WITH(make_engine(model, options),
                    ContainsSubstring("with one layer at a time") && ContainsSubstring("MiB that are free there"));
  CHECK_THROWS_AS(make_engine(model, {.dtype = DType::kBF16, .spare_bytes = std::int64_t{1} << 50}), CannotJudgeError);
}

TEST_CASE("many steps without a look need a model that the GPU holds as a whole", "[gpu][turns]") {
  require_gpu();
  const ModelConfig config = four_layers(gpu_configs()[0]);
  const RandomModel model(config, DType::kF32, 17);
  EngineParts parts(load_device_model(model, with_room_for(1, config, DType::kBF16)));
  const auto steps = random_steps(config, {3, 1}, {0}, 5);
  CudaSession session(parts, session_options(steps), nullptr);
  session.run_step(steps[0], nullptr);
  CHECK_THROWS_WITH(session.decode_greedily(steps[1], 1), ContainsSubstring("holds as a whole"));
}

TEST_CASE("the weights of each layer are told as they are read", "[gpu][turns]") {
  require_gpu();
  const ModelConfig config = four_layers(gpu_configs()[0]);
  const RandomModel model(config, DType::kF32, 17);
  Options options = with_room_for(2, config, DType::kBF16);
  std::vector<std::int64_t> told;
  options.progress = [&](std::int64_t done, std::int64_t total) {
    told.push_back(done);
    CHECK(total == config.num_layers);
  };
  make_engine(model, options);
  CHECK(told == std::vector<std::int64_t>{0, 1, 2, 3});
}

}  // namespace
}  // namespace qdiff::optimized::cuda
