// What must not change a single bit, within each class of kernels (layer_pass.h): another run, chunking, the other rows
// of a batch, padding, poison, spare capacity, and whether anybody looks.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <utility>

#include "optimized/cuda/tests/gpu_test.h"

namespace qdiff::optimized::cuda {
namespace {

using namespace testing;

struct Fixture {
  ModelConfig config;
  DType dtype;
  RandomModel model;
  std::unique_ptr<Engine> engine;

  Fixture(const ModelConfig& c, DType d) : config(c), dtype(d), model(c, d, 17), engine(gpu_engine(model, d)) {}
  Rows run(const std::vector<Step>& steps, Poison poison = Poison::kNaN, std::int64_t spare = 0) const {
    return rows_of(run_all(*engine, steps, poison, spare), steps);
  }
};

template <typename Function>
void for_each_fixture(Function&& function) {
  require_gpu();
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    for (const ModelConfig& config : gpu_configs()) {
      const Fixture fixture(config, dtype);
      INFO(to_string(config) << ", " << name(dtype));
      function(fixture);
    }
  }
}

// One for each class of kernels that serves one token a row.
const std::vector<std::vector<std::int64_t>> kBatches = {{0, 3}, {0, 3, 1, 0, 2, 0}};

// Rows `first` to `first + count - 1` of a batch, with their pads.
std::vector<Step> rows_alone(std::vector<Step> steps, std::size_t first, std::size_t count) {
  const auto keep = [&](auto& rows) {
    const auto begin = rows.begin() + static_cast<std::ptrdiff_t>(first);
    rows = {begin, begin + static_cast<std::ptrdiff_t>(count)};
  };
  for (Step& step : steps) {
    keep(step.tokens);
    keep(step.positions);
    keep(step.left_padding);
  }
  return steps;
}

TEST_CASE("chunked prefill gives the bits of a whole prefill", "[gpu][invariance]") {
  for_each_fixture([](const Fixture& fixture) {
    const std::vector<std::int64_t> pads = {0, 5};
    const Rows expected = fixture.run(random_steps(fixture.config, {150}, pads, 3));
    for (const std::vector<std::int64_t>& lengths :
         std::vector<std::vector<std::int64_t>>{{64, 86}, {2, 148}, {3, 60, 2, 85}, {100, 30, 20}}) {
      const auto chunks = random_steps(fixture.config, lengths, pads, 3);
      REQUIRE(first_difference(fixture.run(chunks), expected) == "");
    }
  });
}

TEST_CASE("a sequence alone and unpadded has the bits it has in a padded batch", "[gpu][invariance]") {
  for_each_fixture([](const Fixture& fixture) {
    const std::vector<std::int64_t> pads = {0, 7, 66};
    const auto together = random_steps(fixture.config, {70, 1, 2, 1}, pads, 3);
    const Rows expected = fixture.run(together);
    for (std::size_t b = 0; b < pads.size(); ++b) {
      const std::vector<Step> padded = row_alone(together, b);
      const std::vector<Step> unpadded = without_pads(padded);
      const auto sequence = static_cast<std::int64_t>(b);
      REQUIRE(first_difference(rows_of(run_all(*fixture.engine, padded), padded, sequence), expected) == "");
      REQUIRE(first_difference(rows_of(run_all(*fixture.engine, unpadded), unpadded, sequence), expected) == "");
    }
  });
}

TEST_CASE("a row of a large batch has the same bits whatever stands beside it", "[gpu][invariance]") {
  for_each_fixture([](const Fixture& fixture) {
    const auto together = random_steps(fixture.config, {70, 1, 1, 2, 1}, {0, 3, 66, 0, 1, 7, 0, 2, 5}, 3);
    const Rows expected = fixture.run(together);
    for (const auto& [first, count] : std::vector<std::pair<std::size_t, std::size_t>>{{0, 5}, {4, 5}, {1, 8}}) {
      const std::vector<Step> part = rows_alone(together, first, count);
      const Rows rows = rows_of(run_all(*fixture.engine, part), part, static_cast<std::int64_t>(first));
      REQUIRE(first_difference(rows, expected) == "");
    }
  });
}

// Beyond each row count for which the products' algorithms are chosen.
TEST_CASE("a row has the same bits in batches of every size", "[gpu][invariance]") {
  require_gpu();
  for (const ModelConfig& config : {gpu_configs()[0], gpu_configs()[2]}) {
    const Fixture fixture(config, DType::kBF16);
    const auto together = random_steps(config, {2, 1, 1}, std::vector<std::int64_t>(300, 0), 3);
    const Rows expected = fixture.run(together);
    for (const std::size_t count : {5, 64, 65, 129, 257}) {
      INFO(to_string(config) << ", " << count << " rows");
      REQUIRE(first_difference(fixture.run(rows_alone(together, 0, count)), expected) == "");
    }
  }
}

TEST_CASE("another run, poison and spare capacity change nothing", "[gpu][invariance]") {
  for_each_fixture([](const Fixture& fixture) {
    for (const std::vector<std::int64_t>& pads : kBatches) {
      const auto steps = random_steps(fixture.config, {90, 1, 1, 2}, pads, 5);
      const Rows expected = fixture.run(steps);
      for (int run = 0; run < 5; ++run) REQUIRE(first_difference(fixture.run(steps), expected) == "");
      REQUIRE(first_difference(fixture.run(steps, Poison::kLargeFinite), expected) == "");
      REQUIRE(first_difference(fixture.run(steps, Poison::kNaN, 200), expected) == "");
      const std::unique_ptr<Engine> again = gpu_engine(fixture.model, fixture.dtype);
      REQUIRE(first_difference(rows_of(run_all(*again, steps), steps), expected) == "");
    }
  });
}

// Shapes that take different amounts of shared memory of the same kernels.
TEST_CASE("sessions side by side give the bits of sessions alone", "[gpu][invariance]") {
  require_gpu();
  constexpr int kRuns = 10;
  const auto run = [](const ModelConfig& config) {
    const RandomModel model(config, DType::kBF16, 17);
    const auto steps = random_steps(config, {70, 1, 1, 5}, {0, 3}, 5);
    return rows_of(run_all(*gpu_engine(model, DType::kBF16), steps), steps);
  };
  const std::vector<ModelConfig> configs = gpu_configs();
  std::vector<Rows> alone;
  for (const ModelConfig& config : configs) alone.push_back(run(config));
  std::vector<std::string> wrong(configs.size());
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < configs.size(); ++i) {
    threads.emplace_back([&, i] {
      try {
        for (int n = 0; n < kRuns && wrong[i].empty(); ++n) wrong[i] = first_difference(run(configs[i]), alone[i]);
      } catch (const std::exception& error) {
        wrong[i] = error.what();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (std::size_t i = 0; i < configs.size(); ++i) {
    INFO(to_string(configs[i]));
    CHECK(wrong[i] == "");
  }
}

// Waiting for the whole GPU, as a kernel's first use or PyTorch may do, calls off every capture of a graph on it. Once
// is enough: a driver (580.159) that is asked to wait and to make graphs at once thousands of times has crashed in the
// wait.
TEST_CASE("a graph whose capture is called off is captured again", "[gpu][invariance]") {
  require_gpu();
  const Fixture fixture(small_config(6, 2, 32, 96, 160, true), DType::kBF16);
  const auto steps = random_steps(fixture.config, {5, 1, 1}, {0, 3}, 5);
  const Rows expected = fixture.run(steps);
  std::atomic<bool> done = false;
  std::atomic<int> called_off = 0;
  std::thread waiting([&] {
    while (!done) {
      if (cudaDeviceSynchronize() != cudaSuccess) ++called_off;  // refused while somebody captures, and calls it off
      cudaGetLastError();
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  });
  std::string wrong;
  try {
    for (int run = 0; run < 2000 && wrong.empty() && called_off == 0; ++run) {
      wrong = first_difference(fixture.run(steps), expected);
    }
  } catch (const std::exception& error) {
    wrong = error.what();
  }
  done = true;
  waiting.join();
  CHECK(wrong == "");
  CHECK(called_off > 0);
}

// From the second of three alike parts on there is a graph; another part in between ends it.
TEST_CASE("parts of a prompt that are alike, in a graph, give the logits of tapped ones", "[gpu][invariance]") {
  for_each_fixture([](const Fixture& fixture) {
    const auto steps = random_steps(fixture.config, {40, 40, 40, 7, 40, 40, 1, 40}, {0, 5}, 3);
    const KeepingSink tapped = run_all(*fixture.engine, steps);
    const auto session = fixture.engine->open(session_options(steps));
    for (const Step& step : steps) {
      INFO("step " << step.index);
      const Tensor logits = Tensor::copy_of(session->run_step(step, nullptr));
      REQUIRE(std::ranges::equal(logits.bytes(), tapped.at(step.index, Op::kLmHead).bytes()));
    }
  });
}

TEST_CASE("keys beyond a cluster of blocks give the same bits in another batch and with spare capacity",
          "[gpu][invariance]") {
  require_gpu();
  for (const ModelConfig& config : {gpu_configs()[2], gpu_configs()[3]}) {
    const Fixture fixture(config, DType::kBF16);
    const auto together = random_steps(config, {2040, 1, 30, 1, 1}, {0, 700}, 3);
    const Rows expected = fixture.run(together);
    INFO(to_string(config));
    REQUIRE(first_difference(fixture.run(together, Poison::kLargeFinite, 1900), expected) == "");
    for (std::size_t b = 0; b < 2; ++b) {
      const std::vector<Step> alone = without_pads(row_alone(together, b));
      const Rows rows = rows_of(run_all(*fixture.engine, alone), alone, static_cast<std::int64_t>(b));
      REQUIRE(first_difference(rows, expected) == "");
    }
  }
}

TEST_CASE("a step of nothing but padding for one row works", "[gpu][invariance]") {
  for_each_fixture([](const Fixture& fixture) {
    const auto steps = random_steps(fixture.config, {4, 1, 5}, {0, 6}, 9);
    for (const Poison poison : {Poison::kNaN, Poison::kLargeFinite}) {
      const Rows rows = fixture.run(steps, poison);
      REQUIRE(first_difference(rows, fixture.run(steps, Poison::kNaN)) == "");
      for (const auto& [key, bytes] : rows) {
        for (std::size_t i = 0; i < bytes.size() / size_of(fixture.dtype); ++i) {
          REQUIRE(std::isfinite(load_element(bytes.data(), fixture.dtype, i)));
        }
      }
    }
  });
}

TEST_CASE("the parts of a step in a row, layer by layer over all steps, equal run_step", "[gpu][invariance]") {
  for_each_fixture([](const Fixture& fixture) {
    for (const std::vector<std::int64_t>& pads : kBatches) {
      const auto steps = random_steps(fixture.config, {12, 1, 1, 3, 1}, pads, 5);
      const KeepingSink expected = run_all(*fixture.engine, steps);
      const KeepingSink sink = run_layer_by_layer(*fixture.engine, fixture.config, steps);
      REQUIRE(first_difference(rows_of(sink, steps), rows_of(expected, steps)) == "");
      REQUIRE(sink.tensors.size() == expected.tensors.size());
    }
  });
}

TEST_CASE("an untapped run, with its captured graph, gives the logits of a tapped one", "[gpu][invariance]") {
  for_each_fixture([](const Fixture& fixture) {
    for (const std::size_t batch : {2, 6}) {
      const auto steps = random_steps(fixture.config, {12, 1, 1, 3, 1}, std::vector<std::int64_t>(batch, 0), 5);
      const KeepingSink tapped = run_all(*fixture.engine, steps);
      for (int run = 0; run < 20; ++run) {
        const auto session = fixture.engine->open(session_options(steps));
        for (const Step& step : steps) {
          const Tensor logits = Tensor::copy_of(session->run_step(step, nullptr));
          REQUIRE(std::ranges::equal(logits.bytes(), tapped.at(step.index, Op::kLmHead).bytes()));
        }
      }
    }
  });
}

}  // namespace
}  // namespace qdiff::optimized::cuda
