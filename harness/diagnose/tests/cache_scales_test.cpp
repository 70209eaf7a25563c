#include "harness/diagnose/cache_scales.h"

#include <cmath>

#include "cmake/catch2.h"
#include "harness/diagnose/tests/toy_model.h"

namespace qdiff::diagnose {
namespace {

// Two batch rows, one of them padded, in a prefill and some decode steps.
std::vector<Step> some_steps() {
  std::vector<Step> steps(3);
  for (std::size_t s = 0; s < steps.size(); ++s) {
    steps[s].index = static_cast<int>(s);
    steps[s].phase = s == 0 ? Phase::kPrefill : Phase::kDecode;
    steps[s].past_length = s == 0 ? 0 : static_cast<std::int64_t>(s) + 8;
    steps[s].tokens.assign(2, std::vector<std::int32_t>(s == 0 ? 9 : 1));
    steps[s].left_padding = {0, 2};
    set_default_positions(steps[s]);
  }
  return steps;
}

ModelConfig some_config() {
  ModelConfig config = toy_config();
  config.num_layers = 1;
  config.num_kv_heads = 3;
  config.head_dim = 16;
  return config;
}

// Numbers of no pattern, some hundred times as large as others.
double number(std::int64_t i) { return std::sin(1.7 * static_cast<double>(i * i + 3)) * std::exp2(i % 7); }

// An engine whose cache rounds to `type` with a scale for each head; `held` changes what it hands out.
struct Cache {
  DType dtype = DType::kBF16;
  Float8Facts type = kFloat8E4M3;
  std::vector<double> scales = {0.037, 0.037, 0.037};
  bool has_inputs = true;
  std::function<double(std::int64_t head, std::int64_t slot, double)> held = [](auto, auto, double x) { return x; };

  trace::Recording record() const {
    const ModelConfig config = some_config();
    const std::vector<Step> steps = some_steps();
    trace::Recording recording;
    const std::int64_t heads = config.num_kv_heads, width = config.head_dim;
    const Step& last = steps.back();
    const std::int64_t slots = last.valid_length();
    Tensor cache(dtype, {2, slots, heads, width});
    for (const Step& step : steps) {
      Tensor given(dtype, {2, step.num_tokens(), heads, width});
      for (std::int64_t i = 0; i < 2 * step.num_tokens() * heads * width; ++i) {
        const std::int64_t b = i / (step.num_tokens() * heads * width), k = i / width % heads;
        const std::int64_t slot = step.past_length + i / (heads * width) % step.num_tokens();
        const double x = round_to(dtype, number(i + 1000 * step.past_length)),
                     scale = scales[static_cast<std::size_t>(k)];
        given.set(i, x);
        cache.set(((b * slots + slot) * heads + k) * width + i % width,
                  held(k, slot, scale * round_to(type, x / scale)));
      }
      if (has_inputs) recording.put({step.index, {Op::kKRope, 0}}, std::move(given));
    }
    recording.put({last.index, {Op::kKCache, 0}}, std::move(cache));
    return recording;
  }

  std::map<QuantizedCache, CacheScales> read(const Precision& declared = {}) const {
    return read_cache_scales(record(), some_steps(), some_config(), declared, [] {});
  }
  std::vector<double> read(QuantizedCache kind) const {
    Precision precision;
    precision.cache = kind;
    precision.cache_scales = read();
    return precision.scales_of({Op::kKCache, 0});
  }
};

TEST_CASE("the scale of a float8 cache is read off what it holds", "[cache_scales]") {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    INFO(name(dtype));
    const double digits = dtype == DType::kF32 ? 1e-6 : 1e-3;
    Cache cache{.dtype = dtype};
    REQUIRE(cache.read(QuantizedCache::kE4M3).size() == 1);
    CHECK(cache.read(QuantizedCache::kE4M3)[0] == Approx(0.037).epsilon(digits));

    cache.scales = {0.21, 0.037, 0.11};
    const std::vector<double> each = cache.read(QuantizedCache::kE4M3);
    REQUIRE(each.size() == 3);
    for (std::size_t k = 0; k < each.size(); ++k) CHECK(each[k] == Approx(cache.scales[k]).epsilon(digits));

    cache.type = kFloat8E5M2;
    cache.scales = {0.013, 0.013, 0.013};
    REQUIRE(cache.read(QuantizedCache::kE5M2).size() == 1);
    // Its exponents reach so far that nothing tells 0.013 from 0.013 / 8: both hold the same.
    const double times = std::log2(cache.read(QuantizedCache::kE5M2)[0] / 0.013);
    CHECK(times == Approx(std::round(times)).margin(digits));
  }
}

TEST_CASE("a scale so small that numbers saturate is told from its multiples", "[cache_scales]") {
  Cache cache{.scales = {0.125, 0.125, 0.125}};
  REQUIRE(cache.read(QuantizedCache::kE4M3).size() == 1);
  CHECK(cache.read(QuantizedCache::kE4M3)[0] == 0.125);
}

TEST_CASE("a scale of 1 and a cache that rounds otherwise have nothing to read", "[cache_scales]") {
  Cache cache{.scales = {1.0, 1.0, 1.0}};
  CHECK(cache.read().empty());
  cache.has_inputs = false;
  CHECK(cache.read().empty());
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    Cache plain{.dtype = dtype};
    plain.held = [](std::int64_t k, std::int64_t slot, double) { return number(17 * k + slot); };
    CHECK(plain.read().empty());
  }
}

TEST_CASE("a scale that was applied twice, or is that of another head, is none", "[cache_scales]") {
  for (const double scale : {0.037, 0.0625}) {
    Cache twice{.scales = {scale, scale, scale}};
    twice.held = [scale](auto, auto, double x) { return scale * x; };
    CHECK(twice.read().empty());
  }
  // The others' common scale is the wrong head's as well.
  Cache one_head;
  one_head.held = [](std::int64_t k, auto, double x) { return k == 1 ? x / 0.037 * 0.05 : x; };
  REQUIRE(one_head.read(QuantizedCache::kE4M3).size() == 1);
  CHECK(one_head.read(QuantizedCache::kE4M3)[0] == Approx(0.037).epsilon(1e-3));
  Cache exchanged{.scales = {0.21, 0.037, 0.11}};
  exchanged.held = [](std::int64_t k, auto, double x) { return k == 0 ? x / 0.21 * 0.11 : x; };
  const std::vector<double> each = exchanged.read(QuantizedCache::kE4M3);
  REQUIRE(each.size() == 3);
  CHECK(each[0] == 1.0);
}

TEST_CASE("a scale is read in spite of slots that hold something else", "[cache_scales]") {
  Cache cache;
  cache.held = [](auto, std::int64_t slot, double x) { return slot >= 9 ? 0.037 * x : x; };
  REQUIRE(cache.read(QuantizedCache::kE4M3).size() == 1);
  CHECK(cache.read(QuantizedCache::kE4M3)[0] == Approx(0.037).epsilon(1e-3));
}

TEST_CASE("what the declaration says of a scale is kept", "[cache_scales]") {
  Precision declared;
  declared.cache = QuantizedCache::kE4M3;
  declared.cache_scales[QuantizedCache::kE4M3][{Op::kKCache, 0}] = {0.5};
  CHECK(Cache{}.read(declared).at(QuantizedCache::kE4M3).at({Op::kKCache, 0}) == std::vector<double>{0.5});
}

}  // namespace
}  // namespace qdiff::diagnose
