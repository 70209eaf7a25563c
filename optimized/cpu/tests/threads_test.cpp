// Several threads compute the bits of one. Small enough for ThreadSanitizer, which sees whether they share what they
// must not; the full width of shapes is in invariance_test.cpp.
#include "cmake/catch2.h"
#include "optimized/cpu/engine.h"
#include "optimized/cpu/kernels/kernels.h"
#include "optimized/cpu/tests/rows.h"

namespace qdiff::optimized::cpu {
namespace {

TEST_CASE("an engine of several threads computes the bits of one thread", "[cpu][threads]") {
  const ModelConfig config = testing::small_configs().front();
  const std::vector<Step> steps = testing::random_steps(config, {9, 1, 2}, {0, 3}, 5);
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const testing::RandomModel model(config, dtype, 17);
    const auto rows = [&](int threads) {
      const auto engine = make_engine(model, {.dtype = dtype, .num_threads = threads}, best_kernel_set());
      return testing::rows_of(testing::run_all(*engine, steps, Poison::kNaN, 0), steps);
    };
    INFO(name(dtype));
    CHECK(testing::first_difference(rows(4), rows(1)) == "");
  }
}

}  // namespace
}  // namespace qdiff::optimized::cpu
