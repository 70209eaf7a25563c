#include "harness/model/generator.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "cmake/catch2.h"

using namespace qdiff;
using namespace qdiff::model;

namespace {

std::vector<double> draw(const Law& law, std::uint64_t key, std::int64_t first, std::int64_t count, DType dtype) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(count) * size_of(dtype));
  generate(law, key, first, count, dtype, bytes.data());
  std::vector<double> values;
  for (std::int64_t i = 0; i < count; ++i) {
    values.push_back(load_element(bytes.data(), dtype, static_cast<std::size_t>(i)));
  }
  return values;
}

struct Moments {
  double mean = 0.0, deviation = 0.0, skewness = 0.0, kurtosis = 0.0;
};

Moments moments(const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  Moments m;
  for (double v : values) m.mean += v / n;
  double second = 0.0, third = 0.0, fourth = 0.0;
  for (double v : values) {
    const double d = v - m.mean;
    second += d * d / n;
    third += d * d * d / n;
    fourth += d * d * d * d / n;
  }
  m.deviation = std::sqrt(second);
  m.skewness = third / (second * m.deviation);
  m.kurtosis = fourth / (second * second);
  return m;
}

}  // namespace

TEST_CASE("generator: values are fixed for ever") {
  // Worked out from the formulas in generator.h with Python's integers.
  const std::vector<double> values = draw({0, 1, 0}, stream_key(0, "a"), 0, 4, DType::kF32);
  CHECK(values == std::vector<double>{17498.0, 34615.0, 22375.0, 15975.0});
}

TEST_CASE("generator: any range equals the same part of the whole") {
  const Law law = normal_law(0.25, 1.5);
  const std::uint64_t key = stream_key(7, "some.weight");
  for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32, DType::kF64}) {
    const std::vector<double> whole = draw(law, key, 0, 5000, dtype);
    for (const auto& [first, count] :
         std::vector<std::pair<int, int>>{{0, 1}, {1, 1023}, {1023, 2}, {1024, 3976}, {4999, 1}, {17, 0}}) {
      const std::vector<double> part = draw(law, key, first, count, dtype);
      CHECK(std::equal(part.begin(), part.end(), whole.begin() + first));
    }
  }
}

TEST_CASE("generator: narrower dtypes are the float32 value rounded once") {
  const std::uint64_t key = stream_key(3, "rounding");
  for (const Law& law : {normal_law(0.0, 0.02), normal_law(150.0, 3.0), normal_law(0.0, 3e-5), normal_law(0.0, 3e4),
                         normal_law(0.0, 2e-7)}) {
    const std::vector<double> exact = draw(law, key, 0, 4096, DType::kF32);
    const std::vector<double> bf16 = draw(law, key, 0, 4096, DType::kBF16);
    const std::vector<double> f16 = draw(law, key, 0, 4096, DType::kF16);
    for (std::size_t i = 0; i < exact.size(); ++i) {
      REQUIRE(bf16[i] == round_to(DType::kBF16, exact[i]));
      REQUIRE(f16[i] == round_to(DType::kF16, exact[i]));
    }
  }
}

TEST_CASE("generator: moments are those of a normal, nearly") {
  constexpr std::int64_t kCount = 1 << 20;
  const double standard_error = 1.0 / std::sqrt(static_cast<double>(kCount));
  for (const auto& [mean, deviation] : std::vector<std::pair<double, double>>{{0.0, 0.02}, {1.0, 0.1}, {-150.0, 3.0}}) {
    const Moments m = moments(draw(normal_law(mean, deviation), stream_key(1, "moments"), 0, kCount, DType::kF64));
    CHECK(std::fabs(m.mean - mean) <= deviation * 5.0 * standard_error + std::fabs(mean) * 1e-6);
    CHECK(std::fabs(m.deviation / deviation - 1.0) <= 5.0 * standard_error + 0.01);
    CHECK(std::fabs(m.skewness) <= 0.02);
    CHECK(std::fabs(m.kurtosis - 2.7) <= 0.02);  // Irwin-Hall of four: 3 - 6 / (5 * 4)
  }
}

TEST_CASE("generator: streams of other names, seeds and elements are unrelated") {
  const Law law = normal_law(0.0, 1.0);
  constexpr std::int64_t kCount = 1 << 16;
  const std::vector<double> base = draw(law, stream_key(0, "w"), 0, kCount, DType::kF64);
  const auto correlation = [&](const std::vector<double>& other) {
    double sum = 0.0;
    for (std::size_t i = 0; i < other.size(); ++i) sum += base[i] * other[i];
    return sum / static_cast<double>(other.size());
  };
  CHECK(std::fabs(correlation(draw(law, stream_key(1, "w"), 0, kCount, DType::kF64))) < 0.02);
  CHECK(std::fabs(correlation(draw(law, stream_key(0, "x"), 0, kCount, DType::kF64))) < 0.02);
  CHECK(std::fabs(correlation(draw(law, stream_key(0, "w"), 1, kCount, DType::kF64))) < 0.02);
  CHECK(std::fabs(correlation(base) - 1.0) < 0.02);
}

TEST_CASE("normal_law keeps mean and deviation, and 32 bits suffice") {
  for (const auto& [mean, deviation] : std::vector<std::pair<double, double>>{
           {0.0, 0.0}, {0.0, 1.0}, {1.0, 0.0}, {0.0, 1e-9}, {1e4, 1.0}, {-0.02, 0.005}, {0.999999, 7.99}, {2.0, 0.5}}) {
    const Law law = normal_law(mean, deviation);
    const double scale = std::ldexp(1.0, -law.shift);
    const double larger = std::max(std::fabs(mean), deviation);
    CHECK(std::fabs(law.offset * scale - mean) <= larger * 1e-6);
    CHECK(std::fabs(law.multiplier * scale * 37836.6 - deviation) <= larger * 6e-4);
    CHECK(std::abs(static_cast<std::int64_t>(law.offset)) + 131070 * static_cast<std::int64_t>(law.multiplier) <
          (std::int64_t{1} << 31));
  }
  CHECK_THROWS_AS(normal_law(std::nan(""), 1.0), std::invalid_argument);
  CHECK_THROWS_AS(normal_law(0.0, -1.0), std::invalid_argument);
  CHECK_THROWS_AS(normal_law(0.0, HUGE_VAL), std::invalid_argument);
}
