// Each instruction set's inner loops against double arithmetic, with lengths that leave tails.
#include "optimized/cpu/kernels/kernels.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cmake/catch2.h"
#include "harness/contract/dtype.h"
#include "optimized/cpu/tests/random_model.h"

namespace qdiff::optimized::cpu {
namespace {

using testing::Random;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr Storage kStorages[] = {Storage::kF32, Storage::kBF16, Storage::kF16};

DType dtype_of(Storage storage) {
  return storage == Storage::kF32 ? DType::kF32 : storage == Storage::kBF16 ? DType::kBF16 : DType::kF16;
}

// Storage with NaN in every element that was not set.
class Stored {
 public:
  Stored(Storage storage, std::int64_t size) : storage_(storage), bytes_(size * storage_bytes(storage)) {
    for (std::int64_t i = 0; i < size; ++i) set(i, kNaN);
  }
  void set(std::int64_t i, double value) {
    store_element(data(), dtype_of(storage_), static_cast<std::size_t>(i), value);
  }
  double at(std::int64_t i) const {
    return load_element(bytes_.data(), dtype_of(storage_), static_cast<std::size_t>(i));
  }
  std::byte* data() { return bytes_.data(); }

 private:
  Storage storage_;
  std::vector<std::byte> bytes_;
};

std::int64_t ulps_apart(float a, float b) {
  const auto ordered = [](float x) {
    const auto bits = std::bit_cast<std::int32_t>(x);
    return static_cast<std::int64_t>(bits < 0 ? INT32_MIN - bits : bits);
  };
  return std::abs(ordered(a) - ordered(b));
}

// Error of a float in units of the last place of the true value.
double ulp_error(float actual, double expected) {
  return std::fabs(static_cast<double>(actual) - expected) / spacing(DType::kF32, expected);
}

// Runs matmul over random values with strides longer than k, NaN between the rows, and gives c.
std::vector<float> run_matmul(const KernelSet& kernels, Storage storage, std::int64_t rows, std::int64_t tokens,
                              std::int64_t k, std::int64_t first_token = 0, std::int64_t first_row = 0,
                              double* worst = nullptr) {
  const std::int64_t all_rows = first_row + rows;
  const std::int64_t all_tokens = first_token + tokens;
  const std::int64_t weight_stride = k + 3;
  const std::int64_t x_stride = round_up_to_lanes(k) + 16;
  Random random(static_cast<std::uint64_t>(k));
  Stored weights(storage, all_rows * weight_stride);
  std::vector<float> x(static_cast<std::size_t>(all_tokens * x_stride), kNaN);
  for (std::int64_t r = 0; r < all_rows; ++r) {
    for (std::int64_t i = 0; i < k; ++i) weights.set(r * weight_stride + i, random.number());
  }
  Random token_random(7);
  for (std::int64_t t = 0; t < all_tokens; ++t) {
    for (std::int64_t i = 0; i < k; ++i) {
      x[static_cast<std::size_t>(t * x_stride + i)] = static_cast<float>(token_random.number());
    }
  }
  const std::int64_t c_stride = rows + 2;
  std::vector<float> c(static_cast<std::size_t>(tokens * c_stride), kNaN);
  std::vector<float> panel(static_cast<std::size_t>(kPanelRows * round_up_to_lanes(k)), kNaN);
  MatmulParams p;
  p.weights = weights.data() + first_row * weight_stride * storage_bytes(storage);
  p.storage = storage;
  p.weight_stride = weight_stride;
  p.rows = rows;
  p.x = x.data() + first_token * x_stride;
  p.x_stride = x_stride;
  p.tokens = tokens;
  p.k = k;
  p.c = c.data();
  p.c_stride = c_stride;
  p.panel = panel.data();
  kernels.matmul(p);
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t r = 0; r < c_stride; ++r) {
      const float actual = c[static_cast<std::size_t>(t * c_stride + r)];
      if (r >= rows) {
        if (!std::isnan(actual)) FAIL("matmul wrote behind row " << rows);
        continue;
      }
      double expected = 0.0;
      double magnitude = 0.0;
      for (std::int64_t i = 0; i < k; ++i) {
        const double product = weights.at((first_row + r) * weight_stride + i) *
                               static_cast<double>(x[static_cast<std::size_t>((first_token + t) * x_stride + i)]);
        expected += product;
        magnitude += std::fabs(product);
      }
      const double error = std::fabs(static_cast<double>(actual) - expected) / (0x1p-24 * magnitude);
      if (worst != nullptr && !(error <= *worst)) *worst = error;
    }
  }
  return c;
}

TEST_CASE("dot products of every length stay within the bound of a 16-lane sum", "[cpu][kernels]") {
  for (const KernelSet* kernels : available_kernel_sets()) {
    for (Storage storage : kStorages) {
      double worst = 0.0;
      for (std::int64_t k = 1; k <= 70; ++k) {
        run_matmul(*kernels, storage, 1 + k % 11, 1 + k % 8, k, 0, 0, &worst);
        run_matmul(*kernels, storage, 9, 1, k, 0, 0, &worst);
      }
      for (std::int64_t k : {896, 1000, 4864}) run_matmul(*kernels, storage, 11, 20, k, 0, 0, &worst);
      INFO(kernels->name << ", " << name(dtype_of(storage)));
      CHECK(worst <= 6.0);  // in units of 2^-24 of the summed magnitudes; k/16 roundings at worst, some sqrt of that
      CHECK(worst > 0.5);
    }
  }
}

TEST_CASE("a dot product has the same bits in every tile", "[cpu][kernels]") {
  for (const KernelSet* kernels : available_kernel_sets()) {
    for (Storage storage : kStorages) {
      for (std::int64_t k : {7, 64, 130, 896}) {
        const std::int64_t rows = 13;
        const std::int64_t tokens = 21;
        const std::vector<float> together = run_matmul(*kernels, storage, rows, tokens, k);
        for (std::int64_t t = 0; t < tokens; ++t) {
          for (std::int64_t count : {std::int64_t{1}, std::int64_t{3}, std::int64_t{5}}) {
            if (t + count > tokens) continue;
            const std::vector<float> apart = run_matmul(*kernels, storage, rows, count, k, t);
            for (std::int64_t i = 0; i < count; ++i) {
              CHECK(std::memcmp(apart.data() + i * (rows + 2), together.data() + (t + i) * (rows + 2),
                                static_cast<std::size_t>(rows) * sizeof(float)) == 0);
            }
          }
        }
        for (std::int64_t r = 0; r < rows; ++r) {
          const std::vector<float> apart = run_matmul(*kernels, storage, 1, tokens, k, 0, r);
          bool equal = true;
          for (std::int64_t t = 0; t < tokens; ++t) {
            equal = equal && std::bit_cast<std::uint32_t>(apart[static_cast<std::size_t>(3 * t)]) ==
                                 std::bit_cast<std::uint32_t>(together[static_cast<std::size_t>(t * (rows + 2) + r)]);
          }
          INFO(kernels->name << ", row " << r << ", k " << k);
          CHECK(equal);
        }
      }
    }
  }
}

TEST_CASE("storage is widened exactly and narrowed to nearest even", "[cpu][kernels]") {
  for (const KernelSet* kernels : available_kernel_sets()) {
    for (Storage storage : {Storage::kBF16, Storage::kF16}) {
      INFO(kernels->name << ", " << name(dtype_of(storage)));
      std::vector<std::uint16_t> patterns(65536);
      for (std::size_t i = 0; i < patterns.size(); ++i) patterns[i] = static_cast<std::uint16_t>(i);
      std::vector<float> wide(patterns.size());
      kernels->widen(storage, patterns.data(), wide.data(), 65536);
      std::int64_t wrong = 0;
      for (std::size_t i = 0; i < patterns.size(); ++i) {
        const double expected = load_element(patterns.data(), dtype_of(storage), i);
        const bool same = std::isnan(expected) ? std::isnan(wide[i]) : static_cast<double>(wide[i]) == expected;
        if (!same || std::signbit(wide[i]) != std::signbit(expected)) ++wrong;
      }
      CHECK(wrong == 0);

      // Every exponent; random and tie-making mantissas; the edges.
      Random random(5);
      std::vector<float> values;
      for (std::uint32_t exponent = 0; exponent < 256; ++exponent) {
        for (int i = 0; i < 200; ++i) {
          auto bits = static_cast<std::uint32_t>(random.bits());
          if (i % 4 == 0) bits &= 0x807FF000U;  // a tie for one of the two types
          if (i % 4 == 1) bits &= 0x807F8000U;
          values.push_back(std::bit_cast<float>((bits & 0x807FFFFFU) | (exponent << 23)));
        }
      }
      values.insert(values.end(), {0.0F, -0.0F, 65504.0F, 65519.996F, 65520.0F, -65520.0F, HUGE_VALF, -HUGE_VALF, kNaN,
                                   0x1p-25F, 0x1.8p-25F, 0x1p-24F, 0x1.FFCp-15F, 0x1.FFFp-15F, 3.4e38F});
      const auto n = static_cast<std::int64_t>(values.size());
      Stored narrowed(storage, n);
      kernels->narrow(storage, values.data(), narrowed.data(), n);
      for (std::int64_t i = 0; i < n; ++i) {
        const auto value = static_cast<double>(values[static_cast<std::size_t>(i)]);
        const double expected = round_to(dtype_of(storage), value);
        const double actual = narrowed.at(i);
        if (std::isnan(expected) ? !std::isnan(actual) : !(actual == expected)) {
          FAIL(value << " became " << actual << ", not " << expected);
        }
        if (std::signbit(actual) != std::signbit(expected) && !std::isnan(actual)) FAIL("sign of " << value);
      }
    }
  }
}

TEST_CASE("exp is within two units in the last place, subnormal results included", "[cpu][kernels]") {
  std::vector<float> x;
  for (double v = -110.0; v < 90.0; v += 0.00013) x.push_back(static_cast<float>(v));
  for (float v : {0.0F, -0.0F, 1e-10F, -1e-10F, 88.7228F, 88.73F, 89.5F, 1e30F, -87.4F, -103.9F, -104.5F, -1e30F}) {
    x.push_back(v);
  }
  std::vector<float> y(x.size());
  for (const KernelSet* kernels : available_kernel_sets()) {
    kernels->exp(x.data(), y.data(), static_cast<std::int64_t>(x.size()));
    double worst = 0.0;
    float worst_at = 0.0F;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double expected = std::exp(static_cast<double>(x[i]));
      if (expected > 0x1.FFFFFEp127) {
        if (!(y[i] == HUGE_VALF)) FAIL(kernels->name << ": exp(" << x[i] << ") is " << y[i]);
        continue;
      }
      const double error = ulp_error(y[i], expected);
      if (!(error <= worst)) worst_at = x[i];
      if (!(error <= worst)) worst = error;
    }
    INFO(kernels->name << ": worst at " << worst_at);
    CHECK(worst <= 2.0);
    const float special[] = {0.0F, -HUGE_VALF, HUGE_VALF, kNaN};
    float result[4];
    kernels->exp(special, result, 4);
    CHECK(result[0] == 1.0F);
    CHECK(result[1] == 0.0F);
    CHECK(result[2] == HUGE_VALF);
    CHECK(std::isnan(result[3]));
  }
}

TEST_CASE("silu(gate) * up is within four units in the last place", "[cpu][kernels]") {
  std::vector<float> gate;
  for (double v = -100.0; v < 100.0; v += 0.0011) gate.push_back(static_cast<float>(v));
  for (float v : {0.0F, -0.0F, 1e-20F, -1e-20F, 3e38F, -200.0F}) gate.push_back(v);
  const std::vector<float> up(gate.size(), 1.0F);
  for (const KernelSet* kernels : available_kernel_sets()) {
    std::vector<float> actual = gate;
    kernels->silu_mul(actual.data(), up.data(), static_cast<std::int64_t>(gate.size()));
    double worst = 0.0;
    for (std::size_t i = 0; i < gate.size(); ++i) {
      const auto x = static_cast<double>(gate[i]);
      // Where exp is subnormal its own spacing counts, times |x|.
      const double floor = std::fabs(x) * 0x1p-149;
      const double error = std::fabs(static_cast<double>(actual[i]) - x / (1.0 + std::exp(-x)));
      const double ratio = error / std::max(floor, spacing(DType::kF32, x / (1.0 + std::exp(-x))));
      if (!(ratio <= worst)) worst = ratio;
    }
    INFO(kernels->name);
    CHECK(worst <= 4.0);
  }
}

TEST_CASE("rms_norm of odd lengths; a tiny row is ruled by epsilon", "[cpu][kernels]") {
  for (const KernelSet* kernels : available_kernel_sets()) {
    for (Storage storage : kStorages) {
      for (std::int64_t n : {1, 5, 16, 17, 70, 96, 333, 896}) {
        for (double size : {1.0, 1e-4}) {
          Random random(static_cast<std::uint64_t>(n));
          Stored x(storage, n + 16);
          std::vector<float> weight(static_cast<std::size_t>(n));
          for (std::int64_t i = 0; i < n; ++i) {
            x.set(i, size * random.number());
            weight[static_cast<std::size_t>(i)] = static_cast<float>(1.0 + 0.3 * random.number());
          }
          Stored y(storage, n + 16);
          std::vector<float> wide(static_cast<std::size_t>(round_up_to_lanes(n)) + 1, kNaN);
          kernels->rms_norm(storage, {x.data(), weight.data(), y.data(), wide.data(), n, 1e-6F});
          double squares = 0.0;
          for (std::int64_t i = 0; i < n; ++i) squares += x.at(i) * x.at(i);
          const double rms = std::sqrt(squares / static_cast<double>(n) + static_cast<double>(1e-6F));
          for (std::int64_t i = 0; i < n; ++i) {
            const double expected = x.at(i) / rms * static_cast<double>(weight[static_cast<std::size_t>(i)]);
            const double bound = 0.5 * spacing(dtype_of(storage), expected) + 4 * 0x1p-24 * std::fabs(expected);
            const bool near = std::fabs(y.at(i) - expected) <= bound;
            if (!near) FAIL(kernels->name << ", n " << n << ": " << y.at(i) << " for " << expected);
            if (!(static_cast<double>(wide[static_cast<std::size_t>(i)]) == y.at(i))) FAIL("the widened copy differs");
          }
          for (std::int64_t i = n; i < round_up_to_lanes(n); ++i) CHECK(wide[static_cast<std::size_t>(i)] == 0.0F);
          CHECK(std::isnan(wide.back()));
          CHECK(std::isnan(y.at(n)));
        }
      }
    }
  }
}

TEST_CASE("element-wise kernels round once and write no further than they should", "[cpu][kernels]") {
  for (const KernelSet* kernels : available_kernel_sets()) {
    for (Storage storage : kStorages) {
      for (std::int64_t n = 1; n <= 35; ++n) {
        const auto size = static_cast<std::size_t>(n);
        Random random(static_cast<std::uint64_t>(n));
        std::vector<float> a(size), b(size), cosine(size), sine(size);
        Stored residual(storage, n);
        for (std::size_t i = 0; i < size; ++i) {
          a[i] = static_cast<float>(random.number());
          b[i] = static_cast<float>(random.number());
          cosine[i] = static_cast<float>(random.number());
          sine[i] = static_cast<float>(random.number());
          residual.set(static_cast<std::int64_t>(i), random.number());
        }
        INFO(kernels->name << ", " << name(dtype_of(storage)) << ", n " << n);

        Stored sum(storage, n + 1);
        kernels->add_residual(storage, residual.data(), a.data(), sum.data(), n);
        Stored tile(storage, 2 * (n + 1));
        std::vector<float> c(2 * (size + 1), kNaN);
        std::copy(a.begin(), a.end(), c.begin());
        std::copy(b.begin(), b.end(), c.begin() + n + 1);
        kernels->store_tile(storage, {c.data(), n + 1, b.data(), tile.data(), n + 1, 2, n});
        std::vector<float> low(size + 1, kNaN), high(size + 1, kNaN), quotient(size + 1, kNaN);
        std::copy(a.begin(), a.end(), low.begin());
        std::copy(b.begin(), b.end(), high.begin());
        kernels->rotate(low.data(), high.data(), cosine.data(), sine.data(), n);
        kernels->divide(a.data(), 3.0F, quotient.data(), n);

        std::int64_t wrong = 0;
        const DType dtype = dtype_of(storage);
        for (std::int64_t i = 0; i < n; ++i) {
          const auto at = static_cast<std::size_t>(i);
          const double x = a[at], y = b[at];
          const auto rounded = [&](double value) {
            return round_to(dtype, static_cast<double>(static_cast<float>(value)));
          };
          wrong += !(sum.at(i) == rounded(residual.at(i) + x));
          wrong += !(tile.at(i) == rounded(x + y)) || !(tile.at(n + 1 + i) == rounded(y + y));
          wrong += !(static_cast<double>(c[at]) == tile.at(i));
          wrong += !(std::fabs(low[at] - (x * cosine[at] - y * sine[at])) <= 0x1p-23);
          wrong += !(std::fabs(high[at] - (y * cosine[at] + x * sine[at])) <= 0x1p-23);
          wrong += !(quotient[at] == a[at] / 3.0F);
        }
        CHECK(wrong == 0);
        CHECK((std::isnan(sum.at(n)) && std::isnan(tile.at(n)) && std::isnan(tile.at(2 * n + 1))));
        CHECK((std::isnan(low.back()) && std::isnan(high.back()) && std::isnan(quotient.back())));
      }
    }
  }
}

TEST_CASE("online softmax over tiles is the softmax, whatever the order of sizes", "[cpu][kernels]") {
  for (const KernelSet* kernels : available_kernel_sets()) {
    for (std::int64_t width : {16, 32, 64, 128, 144}) {
      for (std::int64_t rows : {1, 3, 7, 20}) {
        // Score ranges that grow, shrink and reach far beyond exp's.
        for (double size : {0.1, 1.0, 30.0}) {
          for (std::int64_t num_keys : {1, 15, 64, 65, 150}) {
            Random random(static_cast<std::uint64_t>(num_keys + rows));
            const auto fill = [&](std::int64_t n, double scale) {
              std::vector<float> values(static_cast<std::size_t>(n));
              for (float& value : values) value = static_cast<float>(scale * random.number());
              return values;
            };
            const std::vector<float> q = fill(rows * width, size);
            const std::vector<float> k = fill(num_keys * width, 1.0);
            const std::vector<float> v = fill(num_keys * width, 1.0);
            std::vector<float> maximum(static_cast<std::size_t>(rows), -HUGE_VALF), sum(maximum.size(), 0.0F);
            std::vector<float> out(static_cast<std::size_t>(rows * width), 0.0F);
            std::vector<float> scores(static_cast<std::size_t>(rows * kKeyTile), kNaN);
            for (std::int64_t tile = 0; tile < num_keys; tile += kKeyTile) {
              AttendTileParams p;
              p.q = q.data();
              p.k = k.data() + tile * width;
              p.v = v.data() + tile * width;
              p.maximum = maximum.data();
              p.sum = sum.data();
              p.out = out.data();
              p.scores = scores.data();
              p.rows = rows;
              p.width = width;
              p.num_keys = std::min(kKeyTile, num_keys - tile);
              p.scale = 0.25F;
              kernels->attend_tile(p);
            }
            double worst = 0.0;
            for (std::int64_t r = 0; r < rows; ++r) {
              std::vector<double> weights;
              double highest = -HUGE_VAL;
              double magnitude = 0.0;
              for (std::int64_t j = 0; j < num_keys; ++j) {
                double dot = 0.0;
                double absolute = 0.0;
                for (std::int64_t i = 0; i < width; ++i) {
                  const double product = static_cast<double>(q[static_cast<std::size_t>(r * width + i)]) *
                                         static_cast<double>(k[static_cast<std::size_t>(j * width + i)]);
                  dot += product;
                  absolute += std::fabs(product);
                }
                weights.push_back(0.25 * dot);
                highest = std::max(highest, weights.back());
                magnitude = std::max(magnitude, 0.25 * absolute);
              }
              double total = 0.0;
              for (double& weight : weights) total += weight = std::exp(weight - highest);
              for (std::int64_t i = 0; i < width; ++i) {
                double expected = 0.0;
                for (std::int64_t j = 0; j < num_keys; ++j) {
                  expected += weights[static_cast<std::size_t>(j)] / total *
                              static_cast<double>(v[static_cast<std::size_t>(j * width + i)]);
                }
                const auto actual = static_cast<double>(out[static_cast<std::size_t>(r * width + i)]) /
                                    static_cast<double>(sum[static_cast<std::size_t>(r)]);
                const double error = std::fabs(actual - expected) / (0x1p-24 * (4.0 + magnitude));
                if (!(error <= worst)) worst = error;
              }
            }
            INFO(kernels->name << ": width " << width << ", rows " << rows << ", keys " << num_keys << ", q " << size);
            CHECK(worst <= 3.0);
          }
        }
      }
    }
  }
}

TEST_CASE("AVX2 and AVX-512 give equal bits", "[cpu][kernels]") {
  const KernelSets available = available_kernel_sets();
  if (available.count < 3) {
    WARN("this processor has no AVX-512: there is nothing to compare");
    return;
  }
  for (std::int64_t k : {1, 33, 896}) {
    const std::vector<float> a = run_matmul(*available.sets[0], Storage::kBF16, 6, 14, k);
    const std::vector<float> b = run_matmul(*available.sets[1], Storage::kBF16, 6, 14, k);
    CHECK(std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
  }
  std::vector<float> x;
  for (double v = -105.0; v < 89.0; v += 0.0017) x.push_back(static_cast<float>(v));
  std::vector<float> a(x.size()), b(x.size());
  available.sets[0]->exp(x.data(), a.data(), static_cast<std::int64_t>(x.size()));
  available.sets[1]->exp(x.data(), b.data(), static_cast<std::int64_t>(x.size()));
  std::int64_t apart = 0;
  for (std::size_t i = 0; i < x.size(); ++i) apart = std::max(apart, ulps_apart(a[i], b[i]));
  CHECK(apart == 0);
}

}  // namespace
}  // namespace qdiff::optimized::cpu
