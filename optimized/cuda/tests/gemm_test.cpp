// Matrix products by themselves: what they compute, and that a row's bits do not depend on how many stand beside it.
#include "optimized/cuda/gemm.h"

#include "optimized/cuda/device_memory.h"
#include "optimized/cuda/tests/gpu_test.h"

namespace qdiff::optimized::cuda {
namespace {

using namespace testing;

constexpr std::int64_t kRows = 300;

DeviceBuffer random_elements(std::int64_t count, DType dtype, std::uint64_t seed) {
  cpu::testing::Random random(seed);
  std::vector<std::byte> host(static_cast<std::size_t>(count) * size_of(dtype));
  for (std::int64_t i = 0; i < count; ++i) {
    store_element(host.data(), dtype, static_cast<std::size_t>(i), random.number());
  }
  DeviceBuffer device(host.size());
  QDIFF_CUDA_CHECK(cudaMemcpy(device.data(), host.data(), host.size(), cudaMemcpyHostToDevice));
  return device;
}

std::vector<std::byte> to_host(const DeviceBuffer& device) {
  std::vector<std::byte> host(device.size());
  QDIFF_CUDA_CHECK(cudaDeviceSynchronize());
  QDIFF_CUDA_CHECK(cudaMemcpy(host.data(), device.data(), host.size(), cudaMemcpyDeviceToHost));
  return host;
}

struct Product {
  std::int64_t n;
  std::int64_t k;
  DType dtype;
  DeviceBuffer x = random_elements(kRows * k, dtype, 1);
  DeviceBuffer weights = random_elements(n * k, dtype, 2);

  // [splits,m,n] sums in float32, or without splits [m,n] elements.
  std::vector<std::byte> run(Gemm& gemm, std::int64_t m, int splits) const {
    const std::size_t size = splits == 0 ? size_of(dtype) : sizeof(float) * static_cast<std::size_t>(splits);
    const DeviceBuffer out(static_cast<std::size_t>(m * n) * size);
    GemmCall call{.x = x.data(), .x_stride = k, .weights = weights.data(), .weight_stride = k, .m = m, .n = n, .k = k};
    if (splits == 0) {
      call.out = out.data();
      call.out_stride = n;
    } else {
      call.partials = out.as<float>();
      call.splits = splits;
    }
    gemm.run(call, nullptr);
    return to_host(out);
  }
};

TEST_CASE("the sums over parts of k are those of double arithmetic", "[gpu]") {
  require_gpu();
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    const Product product{.n = 96, .k = 1024, .dtype = dtype};
    Gemm gemm(dtype);
    constexpr std::int64_t kFew = 7;
    const std::vector<std::byte> x = to_host(product.x);
    const std::vector<std::byte> weights = to_host(product.weights);
    for (const int splits : {1, 2, 8}) {
      const std::vector<std::byte> sums = product.run(gemm, kFew, splits);
      const std::int64_t part = product.k / splits;
      double worst = 0.0;
      for (std::int64_t i = 0; i < splits * kFew * product.n; ++i) {
        const std::int64_t s = i / (kFew * product.n), m = i / product.n % kFew, n = i % product.n;
        double expected = 0.0;
        double magnitude = 0.0;
        for (std::int64_t k = s * part; k < (s + 1) * part; ++k) {
          const double term = load_element(x.data(), dtype, static_cast<std::size_t>(m * product.k + k)) *
                              load_element(weights.data(), dtype, static_cast<std::size_t>(n * product.k + k));
          expected += term;
          magnitude += std::fabs(term);
        }
        const double sum = load_element(sums.data(), DType::kF32, static_cast<std::size_t>(i));
        const double ratio = std::fabs(sum - expected) / (largest_sum_error(dtype) * magnitude);
        if (!(ratio <= worst)) worst = ratio;
      }
      INFO(name(dtype) << ", " << splits << " parts");
      CHECK(worst <= 1.0);
      CHECK(worst > 1e-4);  // float32 sums are not exact
    }
  }
}

TEST_CASE("a row of a product has the same bits in products of any number of rows", "[gpu]") {
  require_gpu();
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    for (const auto& [n, k] :
         std::vector<std::pair<std::int64_t, std::int64_t>>{{896, 4864}, {1152, 896}, {200, 136}}) {
      const Product product{.n = n, .k = k, .dtype = dtype};
      Gemm gemm(dtype);
      for (const int splits : {0, splits_of_product(k)}) {
        const std::vector<std::byte> all = product.run(gemm, kRows, splits);
        const auto parts = static_cast<std::size_t>(std::max(1, splits));
        for (const std::int64_t m : {1, 5, 64, 65, 128, 129, 256, 257}) {
          const std::vector<std::byte> few = product.run(gemm, m, splits);
          const std::size_t bytes = few.size() / parts;
          INFO(name(dtype) << ", " << n << " x " << k << ", " << splits << " parts, " << m << " rows");
          for (std::size_t s = 0; s < parts; ++s) {
            const auto* expected = all.data() + s * (all.size() / parts);
            REQUIRE(std::equal(expected, expected + bytes, few.data() + s * bytes));
          }
        }
      }
    }
  }
}

TEST_CASE("the parts of a product are equal, and of whole packs", "[cuda]") {
  CHECK(splits_of_product(18944) == 4);  // down_proj of Qwen2.5-7B
  CHECK(splits_of_product(896) == 2);
  CHECK(splits_of_product(136) == 1);  // half of it is no multiple of eight elements
  for (std::int64_t k = 8; k <= 40000; k += 8) {
    const int splits = splits_of_product(k);
    INFO(k << " in " << splits << " parts");
    REQUIRE(k % (8 * splits) == 0);
  }
}

}  // namespace
}  // namespace qdiff::optimized::cuda
