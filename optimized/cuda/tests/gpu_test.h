// What the GPU tests share: a model, an engine, comparisons by row. Without a GPU each test ends at once with status
// 77, which ctest reports as skipped.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

#include "cmake/catch2.h"
#include "optimized/cpu/tests/naive_forward.h"
#include "optimized/cpu/tests/rows.h"
#include "optimized/cuda/engine.h"

namespace qdiff::optimized::cuda::testing {

using cpu::testing::first_difference;
using cpu::testing::KeepingSink;
using cpu::testing::Naive;
using cpu::testing::NaiveForward;
using cpu::testing::random_steps;
using cpu::testing::RandomModel;
using cpu::testing::row_alone;
using cpu::testing::Rows;
using cpu::testing::rows_of;
using cpu::testing::run_all;
using cpu::testing::run_layer_by_layer;
using cpu::testing::session_options;
using cpu::testing::small_config;
using cpu::testing::Values;
using cpu::testing::without_pads;

inline void require_gpu() {
  constexpr int kSkipped = 77;
  std::string why_not;
  if (device_available(&why_not)) return;
  std::printf("skipped: %s\n", why_not.c_str());
  std::fflush(stdout);
  std::_Exit(kSkipped);
}

// Every head dim; H*d below, at and above D; one, two and three kv heads; odd groups; an odd vocabulary; rows of
// down_proj so long that several warps share them.
inline std::vector<ModelConfig> gpu_configs() {
  return {small_config(6, 2, 32, 96, 160, true), small_config(9, 3, 64, 200, 336, false),
          small_config(14, 2, 64, 896, 1216, true), small_config(5, 1, 128, 136, 96, true),
          small_config(2, 1, 32, 64, 8200, false)};
}

inline std::unique_ptr<Engine> gpu_engine(const WeightSource& model, DType dtype) {
  return make_engine(model, {.dtype = dtype, .device = 0});
}

// Whether element e of a tensor belongs to a token or a cache slot that counts.
inline bool counts(const TensorKey& key, const Tensor& tensor, std::int64_t e, const Step& step) {
  const std::int64_t inner = tensor.size() / (tensor.shape()[0] * tensor.shape()[1]);
  const std::int64_t b = e / inner / tensor.shape()[1];
  const std::int64_t t = e / inner % tensor.shape()[1];
  const bool cache = key.id.op == Op::kKCache || key.id.op == Op::kVCache;
  return (cache ? t : step.past_length + t) >= step.left_padding[static_cast<std::size_t>(b)];
}

// Worst ratio of error to bound of one tensor, computed in double from the engine's own recorded inputs. The bound is
// half a unit in the last place for the cast and largest_sum_error() of the summed magnitudes: the library's products
// of 896 elements were seen at 13 * 2^-24 in float32 and at 19 * 2^-24 in float16 (H200).
inline double largest_sum_error(DType dtype) { return (dtype == DType::kF32 ? 16.0 : 24.0) * 0x1p-24; }

struct Judged {
  double ratio = 0.0;
  double sum_error = 0.0;  // what is left of the worst error behind the cast, in 2^-24 of the summed magnitudes
  std::int64_t compared = 0;
};

inline Judged judge(const NaiveForward& naive, DType dtype, const std::vector<Step>& steps, const KeepingSink& sink,
                    const TensorKey& key) {
  const auto get = [&](const TensorKey& of) { return to_doubles(sink.tensors.at(of).view()); };
  const Tensor& tensor = sink.tensors.at(key);
  const Naive expected = naive.evaluate(key, steps, get);
  REQUIRE(static_cast<std::int64_t>(expected.value.size()) == tensor.size());
  Judged judged;
  for (std::int64_t e = 0; e < tensor.size(); ++e) {
    if (!counts(key, tensor, e, steps[static_cast<std::size_t>(key.step)])) continue;
    const auto i = static_cast<std::size_t>(e);
    const double cast = 0.5 * spacing(dtype, expected.value[i]);
    const double error = std::fabs(tensor.at(e) - expected.value[i]);
    const double ratio = error / (cast + largest_sum_error(dtype) * expected.magnitude[i] + 1e-300);
    judged.sum_error = std::max(judged.sum_error, (error - cast) / (0x1p-24 * expected.magnitude[i] + 1e-300));
    ++judged.compared;
    if (!(ratio <= judged.ratio)) judged.ratio = ratio;
    if (std::isnan(ratio)) break;
  }
  return judged;
}

}  // namespace qdiff::optimized::cuda::testing
