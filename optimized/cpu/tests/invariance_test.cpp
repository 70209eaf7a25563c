// What must not change a single bit: the number of threads, chunking, the other rows of a batch, padding, poison,
// spare capacity, and whether anybody looks.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "cmake/catch2.h"
#include "optimized/cpu/arena.h"
#include "optimized/cpu/engine.h"
#include "optimized/cpu/kernels/kernels.h"
#include "optimized/cpu/tests/rows.h"

namespace qdiff::optimized::cpu {
namespace {

using testing::first_difference;
using testing::KeepingSink;
using testing::RandomModel;
using testing::row_alone;
using testing::Rows;
using testing::rows_of;
using testing::run_layer_by_layer;
using testing::without_pads;

struct Fixture {
  ModelConfig config;
  DType dtype;
  const KernelSet* kernels;
  RandomModel model;

  Fixture(const ModelConfig& c, DType d, const KernelSet* k) : config(c), dtype(d), kernels(k), model(c, d, 17) {}
  std::unique_ptr<Engine> engine(int threads = 2) const {
    return make_engine(model, {.dtype = dtype, .num_threads = threads}, *kernels);
  }
  Rows run(const std::vector<Step>& steps, Poison poison = Poison::kNaN, int threads = 2,
           std::int64_t spare = 0) const {
    const auto built = engine(threads);
    return rows_of(testing::run_all(*built, steps, poison, spare), steps);
  }
  std::string describe() const { return std::string(kernels->name) + ", " + to_string(config); }
};

template <typename Function>
void for_each_fixture(Function&& function) {
  for (const KernelSet* kernels : available_kernel_sets()) {
    for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      int index = 0;
      for (const ModelConfig& config : testing::small_configs()) {
        ++index;
        // The other instruction sets share all but the inner loops: a type and two shapes are enough for them.
        if (kernels != &best_kernel_set() && (dtype != DType::kBF16 || (index != 1 && index != 5))) continue;
        const Fixture fixture(config, dtype, kernels);
        INFO(fixture.describe());
        function(fixture);
      }
    }
  }
}

TEST_CASE("chunked prefill and decoding give the bits of a whole prefill", "[cpu][invariance]") {
  for_each_fixture([](const Fixture& fixture) {
    const std::vector<std::int64_t> pads = {0, 5};
    const auto whole = testing::random_steps(fixture.config, {80}, pads, 3);
    const Rows expected = fixture.run(whole);
    for (const std::vector<std::int64_t>& lengths :
         std::vector<std::vector<std::int64_t>>{{64, 16}, {1, 79}, {3, 60, 2, 13, 1, 1}, {17, 30, 1, 1, 1, 30}}) {
      const auto chunks = testing::random_steps(fixture.config, lengths, pads, 3);
      CHECK(first_difference(fixture.run(chunks), expected) == "");
    }
  });
}

TEST_CASE("token after token gives the bits of a whole prefill", "[cpu][invariance]") {
  const Fixture fixture(testing::small_configs()[1], DType::kBF16, &best_kernel_set());
  const auto whole = testing::random_steps(fixture.config, {20}, {0, 6}, 3);
  const auto single = testing::random_steps(fixture.config, std::vector<std::int64_t>(20, 1), {0, 6}, 3);
  CHECK(first_difference(fixture.run(single), fixture.run(whole)) == "");
}

TEST_CASE("a sequence alone and unpadded has the bits it has in a padded batch", "[cpu][invariance]") {
  for_each_fixture([](const Fixture& fixture) {
    const std::vector<std::int64_t> pads = {0, 7, 66};
    const auto together = testing::random_steps(fixture.config, {70, 2, 1}, pads, 3);
    const Rows expected = fixture.run(together);
    for (std::size_t b = 0; b < pads.size(); ++b) {
      const auto engine = fixture.engine();
      const std::vector<Step> padded = row_alone(together, b);
      const std::vector<Step> unpadded = without_pads(padded);
      const auto sequence = static_cast<std::int64_t>(b);
      CHECK(first_difference(rows_of(testing::run_all(*engine, padded), padded, sequence), expected) == "");
      CHECK(first_difference(rows_of(testing::run_all(*engine, unpadded), unpadded, sequence), expected) == "");
    }
  });
}

TEST_CASE("a step of nothing but padding for one row works", "[cpu][invariance]") {
  const Fixture fixture(testing::small_configs()[0], DType::kF32, &best_kernel_set());
  const auto steps = testing::random_steps(fixture.config, {4, 1, 5}, {0, 6}, 9);
  const auto whole = testing::random_steps(fixture.config, {10}, {0, 6}, 9);
  for (Poison poison : {Poison::kNaN, Poison::kLargeFinite}) {
    CHECK(first_difference(fixture.run(steps, poison), fixture.run(whole, poison)) == "");
  }
}

TEST_CASE("threads, poison and spare capacity change nothing", "[cpu][invariance]") {
  for_each_fixture([](const Fixture& fixture) {
    const auto steps = testing::random_steps(fixture.config, {33, 1, 2}, {0, 3}, 5);
    const Rows expected = fixture.run(steps, Poison::kNaN, 1);
    CHECK(first_difference(fixture.run(steps, Poison::kNaN, 2), expected) == "");
    CHECK(first_difference(fixture.run(steps, Poison::kNaN, 5), expected) == "");
    CHECK(first_difference(fixture.run(steps, Poison::kLargeFinite, 2), expected) == "");
    CHECK(first_difference(fixture.run(steps, Poison::kNaN, 2, 100), expected) == "");
    bool finite = true;
    for (const auto& [key, bytes] : expected) {
      const auto n = bytes.size() / size_of(fixture.dtype);
      for (std::size_t i = 0; i < n; ++i)
        finite = finite && std::isfinite(load_element(bytes.data(), fixture.dtype, i));
    }
    CHECK(finite);
  });
}

TEST_CASE("the parts of a step in a row, layer by layer over all steps, equal run_step", "[cpu][invariance]") {
  for_each_fixture([](const Fixture& fixture) {
    const auto steps = testing::random_steps(fixture.config, {12, 1, 3}, {0, 2}, 5);
    const auto engine = fixture.engine();
    const KeepingSink expected = testing::run_all(*engine, steps);

    const KeepingSink sink = run_layer_by_layer(*engine, fixture.config, steps);
    CHECK(first_difference(rows_of(sink, steps), rows_of(expected, steps)) == "");
    CHECK(sink.tensors.size() == expected.tensors.size());
  });
}

TEST_CASE("an untapped run gives the logits of a tapped one", "[cpu][invariance]") {
  for_each_fixture([](const Fixture& fixture) {
    const auto steps = testing::random_steps(fixture.config, {12, 1, 3}, {0, 0}, 5);
    const auto engine = fixture.engine();
    const KeepingSink tapped = testing::run_all(*engine, steps);
    const auto session = engine->open(testing::session_options(steps));
    for (const Step& step : steps) {
      const Tensor logits = Tensor::copy_of(session->run_step(step, nullptr));
      CHECK(std::ranges::equal(logits.bytes(), tapped.at(step.index, Op::kLmHead).bytes()));
    }
  });
}

// Pads may hold anything: their rows of the residual stream are NaN here, in every layer.
TEST_CASE("NaN in padded rows does not leak", "[cpu][invariance]") {
  for_each_fixture([](const Fixture& fixture) {
    const auto steps = testing::random_steps(fixture.config, {12, 1}, {0, 5}, 5);
    const auto engine = fixture.engine();
    const Rows expected = rows_of(testing::run_all(*engine, steps), steps);
    const auto session = engine->open(testing::session_options(steps));
    KeepingSink sink;
    for (const Step& step : steps) {
      sink.step = step.index;
      Tensor stream = Tensor::copy_of(session->run_embedding(step, &sink));
      const auto spoil = [&] {
        for (std::int64_t t = 0; t < step.num_tokens(); ++t) {
          if (!step.is_pad(1, t)) continue;
          for (std::int64_t i = 0; i < fixture.config.hidden; ++i) {
            stream.set((step.num_tokens() + t) * fixture.config.hidden + i, std::nan(""));
          }
        }
      };
      for (int layer = 0; layer < fixture.config.num_layers; ++layer) {
        spoil();
        stream = Tensor::copy_of(session->run_layer(layer, step, stream.view(), &sink));
      }
      spoil();
      session->run_head(step, stream.view(), &sink);
    }
    CHECK(first_difference(rows_of(sink, steps), expected) == "");
  });
}

TEST_CASE("cache slots that no real token wrote hold poison", "[cpu][poison]") {
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (Poison poison : {Poison::kNaN, Poison::kLargeFinite}) {
      const Fixture fixture(testing::small_configs()[0], dtype, &best_kernel_set());
      const auto steps = testing::random_steps(fixture.config, {4, 1}, {0, 3}, 5);
      const auto engine = fixture.engine();
      const KeepingSink sink = testing::run_all(*engine, steps, poison);
      const Tensor& cache = sink.at(1, Op::kKCache, 1);  // [2, 5, K, d]
      std::int64_t poisoned = 0;
      for (std::int64_t e = 0; e < cache.size(); ++e) {
        const double value = cache.at(e);
        poisoned += poison == Poison::kNaN ? std::isnan(value) : std::isfinite(value) && value > 9e3;
      }
      CHECK(poisoned == 3 * fixture.config.kv_width());
    }
  }
}

TEST_CASE("every buffer of a step is poisoned but the one that is kept", "[cpu][poison]") {
  const ModelConfig config = testing::small_configs()[1];
  Arena arena(config, Storage::kBF16, Poison::kNaN, 3);
  arena.fit(4);
  arena.fit(7);
  std::byte* first = arena.output(nullptr);
  std::byte* second = arena.output(first);
  REQUIRE(first != second);
  CHECK(arena.output(second) == first);
  const auto holds_nan = [](const std::byte* data, DType dtype, std::int64_t elements) {
    std::int64_t count = 0;
    for (std::int64_t i = 0; i < elements; ++i)
      count += std::isnan(load_element(data, dtype, static_cast<std::size_t>(i)));
    return count == elements;
  };
  std::fill_n(first, 7 * config.hidden * 2, std::byte{0});
  arena.poison(7, first);
  CHECK(load_element(first, DType::kBF16, static_cast<std::size_t>(7 * config.hidden - 1)) == 0.0);
  CHECK(holds_nan(second, DType::kBF16, 7 * config.hidden));
  for (const TensorId& id : all_tensors(config, false)) {
    if (id.op == Op::kOutput || id.op == Op::kLmHead) continue;
    INFO(tensor_name(id));
    REQUIRE(arena.tensor(id.op) != nullptr);
    CHECK(holds_nan(arena.tensor(id.op), DType::kBF16, num_elements(output_shape(id.op, config, 1, 7, 7))));
  }
  const auto wide = reinterpret_cast<const std::byte*>(arena.wide());
  CHECK(holds_nan(wide, DType::kF32, 7 * round_up_to_lanes(config.q_width())));
  for (int thread = 0; thread < 3; ++thread) {
    const ThreadScratch scratch = arena.thread(thread);
    const auto at = [](const float* data) { return reinterpret_cast<const std::byte*>(data); };
    CHECK(holds_nan(at(scratch.panel), DType::kF32, kPanelRows * config.hidden));
    CHECK(holds_nan(at(scratch.c), DType::kF32, 7 * 2 * kRowUnit));
    CHECK(holds_nan(at(scratch.v), DType::kF32, kKeyTile * config.head_dim));
    CHECK(holds_nan(at(scratch.sum), DType::kF32, 7 * config.group_size()));
  }
}

TEST_CASE("weights streamed layer by layer give the bits of resident ones", "[cpu][invariance]") {
  for (const ModelConfig& config : testing::small_configs()) {
    const RandomModel model(config, DType::kF32, 17);
    const auto steps = testing::random_steps(config, {6, 1}, {0}, 5);
    const auto resident = make_engine(model, {.dtype = DType::kBF16});
    const auto streamed = make_engine(model, {.dtype = DType::kBF16, .max_resident_bytes = 1});
    CHECK(first_difference(rows_of(testing::run_all(*streamed, steps), steps),
                           rows_of(testing::run_all(*resident, steps), steps)) == "");
  }
}

TEST_CASE("weights are rounded once from any stored type", "[cpu]") {
  const ModelConfig config = testing::small_configs()[0];
  for (DType stored : {DType::kF64, DType::kF32, DType::kBF16, DType::kF16}) {
    for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      RandomModel model(config, stored, 17);
      Tensor& embedding = model.tensor("model.embed_tokens.weight");
      // In double just above a tie of bfloat16: rounding through float would make it a tie, and then go down.
      if (stored == DType::kF64) embedding.set(0, 1.0 + 0x1p-8 + 0x1p-40);
      const auto engine = make_engine(model, {.dtype = dtype});
      auto steps = testing::random_steps(config, {5}, {0}, 5);
      steps[0].tokens[0] = {0, 1, 2, 99, 100};
      const KeepingSink sink = testing::run_all(*engine, steps);
      const Tensor& rows = sink.at(0, Op::kEmbedTokens);
      std::int64_t wrong = 0;
      for (std::int64_t t = 0; t < 5; ++t) {
        for (std::int64_t i = 0; i < config.hidden; ++i) {
          const double raw = embedding.at(steps[0].tokens[0][static_cast<std::size_t>(t)] * config.hidden + i);
          wrong += !(rows.at(t * config.hidden + i) == round_to(dtype, raw));
        }
      }
      INFO(name(stored) << " to " << name(dtype));
      CHECK(wrong == 0);
    }
  }
}

}  // namespace
}  // namespace qdiff::optimized::cpu
