// The expected rounding of each operation against the rounding of honest float32 code (honest.h), on ordinary and on
// adversarial inputs. The ratio rms(error) / rms(sigma) must lie in a band: above it the model would raise false
// alarms, below it the model would hide faults.
#include <algorithm>
#include <cmath>
#include <sstream>

#include "cmake/catch2.h"
#include "reference/reference.h"
#include "reference/tests/honest.h"
#include "reference/tests/model_in_memory.h"

namespace qdiff::reference {
namespace {

using honest::Floats;
using honest::Order;

ModelConfig half_b_config() {
  ModelConfig config = small_config();
  config.hidden = 896;
  config.num_layers = 1;
  config.num_q_heads = 14;
  config.num_kv_heads = 2;
  config.head_dim = 64;
  config.intermediate = 1200;
  config.vocab = 64;
  config.rope_theta = 1e6;
  config.max_position_embeddings = 40000;
  return config;
}

constexpr std::int64_t kTokens = 12;

struct Bench {
  explicit Bench(std::int64_t tokens = kTokens, std::int64_t position_step = 1)
      : model(half_b_config(), DType::kBF16, 11),
        oracle(make_oracle(model, {.num_threads = 2})),
        steps(random_steps(model.config(), {tokens}, {0}, 3)) {
    for (std::int64_t& position : steps[0].positions[0]) position *= position_step;
  }

  ModelInMemory model;
  std::unique_ptr<Oracle> oracle;
  std::vector<Step> steps;
  Recording recorded;

  Floats weight(const char* name) const { return floats(model.read_all(std::string("model.layers.0.") + name)); }

  static Floats floats(const Tensor& tensor) {
    const std::vector<double> values = to_doubles(tensor.view());
    return {values.begin(), values.end()};
  }

  // Random, rounded to `dtype`, recorded as the input `op`. `massive` multiplies column 7; the second token is tiny.
  Floats input(Op op, DType dtype, std::uint64_t seed, double massive = 1.0, double offset = 0.0) {
    const ModelConfig& c = model.config();
    const Step& step = steps[0];
    const Shape shape = output_shape(op, c, 1, step.num_tokens(), step.valid_length());
    std::vector<double> values(static_cast<std::size_t>(num_elements(shape)));
    const std::size_t width = values.size() / static_cast<std::size_t>(step.num_tokens());
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = random_normal(seed, i) + (i % 5 == 0 ? offset : 0.0);
      if (i % width == 7) values[i] *= massive;
      if (i / width == 1 && massive != 1.0) values[i] *= 1e-3;
    }
    recorded.put({0, {op, row(op).scope == Scope::kLayer ? 0 : kNoLayer}}, Tensor::rounded(dtype, shape, values));
    return floats(Tensor::rounded(dtype, shape, values));
  }

  Expectation expect(std::vector<Op> ops, DType stored, const Variant* variant = nullptr) {
    return expect(std::move(ops), stored, plain_precision(stored), variant);
  }
  Expectation expect(std::vector<Op> ops, DType stored, const Precision& precision, const Variant* variant = nullptr) {
    std::vector<TensorKey> operations;
    for (Op op : ops) operations.push_back({0, {op, 0}});
    return oracle->evaluate({.operations = operations,
                             .recorded = recorded,
                             .steps = steps,
                             .precision = precision,
                             .stored = stored,
                             .variant = variant});
  }
};

struct Ratios {
  double whole = 0.0;      // rms over the tensor
  double worst_row = 0.0;  // over the last dimension
};

// `actual` as float32 code left it, then cast to `stored`. In fp32 the last operation's rounding is the cast.
Ratios measure(const Floats& actual, const Expectation& e, DType stored) {
  REQUIRE(actual.size() == e.value.size());
  double sum = 0.0;
  Ratios ratios;
  std::size_t counted = 0;
  const auto width = static_cast<std::size_t>(e.shape.back());
  for (std::size_t first = 0; first < actual.size(); first += width) {
    double row = 0.0;
    std::size_t in_row = 0;
    for (std::size_t i = first; i < first + width; ++i) {
      if (!std::isfinite(e.value[i])) {
        CHECK(static_cast<double>(actual[i]) == e.value[i]);
        continue;
      }
      const double error = round_to(stored, static_cast<double>(actual[i])) - e.value[i];
      const double cast = stored == DType::kF32 ? 0.0 : spacing(stored, e.value[i]);
      const double variance = static_cast<double>(e.sigma_independent[i]) * e.sigma_independent[i] +
                              static_cast<double>(e.sigma_shared[i]) * e.sigma_shared[i] + cast * cast / 12.0;
      if (error == 0.0 && variance == 0.0) continue;
      row += error * error / variance;
      ++in_row;
    }
    sum += row;
    counted += in_row;
    if (in_row > 8) ratios.worst_row = std::max(ratios.worst_row, std::sqrt(row / static_cast<double>(in_row)));
  }
  REQUIRE(counted > 0);
  ratios.whole = std::sqrt(sum / static_cast<double>(counted));
  return ratios;
}

// Rows of attention hold few independent errors (one weight may move all of a row), so their worst lies further out.
struct Band {
  double low = 0.05, high = 1.5, row_high = 3.5;
};

void check(const std::string& what, const Floats& actual, const Expectation& e, DType stored, Band band = {}) {
  const Ratios ratios = measure(actual, e, stored);
  std::ostringstream text;
  text << what << ' ' << name(stored) << ": " << ratios.whole << ", worst row " << ratios.worst_row;
  UNSCOPED_INFO(text.str());
  if (std::getenv("QDIFF_SHOW_RATIOS") != nullptr) WARN(text.str());
  CHECK(ratios.whole >= band.low);
  CHECK(ratios.whole <= band.high);
  CHECK(ratios.worst_row <= band.row_high);
}

const char* name_of(Order order) {
  return order == Order::kForward ? "forward" : order == Order::kBackward ? "backward" : "pairwise";
}

constexpr std::array kStored = {DType::kF32, DType::kBF16, DType::kF16};
constexpr std::array kOrders = {Order::kForward, Order::kBackward, Order::kPairwise};

TEST_CASE("noise of a projection, with and without its bias", "[noise]") {
  for (double massive : {1.0, 3000.0}) {
    for (DType stored : kStored) {
      Bench bench;
      const Floats x = bench.input(Op::kInputLayernorm, stored, 5, massive);
      const Floats w = bench.weight("self_attn.k_proj.weight"), b = bench.weight("self_attn.k_proj.bias");
      const Expectation bare = bench.expect({Op::kKProjMatmul}, stored);
      const Expectation biased = bench.expect({Op::kKProjMatmul, Op::kKProj}, stored);
      for (Order order : kOrders) {
        check(std::string("matmul ") + name_of(order), honest::matmul(x, w, {}, 896, order), bare, stored);
        check(std::string("matmul and bias ") + name_of(order), honest::matmul(x, w, b, 896, order), biased, stored);
      }
    }
  }
}

// Errors of honest sums of o_proj in their deviations: of how many, and the largest.
struct Errors {
  std::int64_t count = 0;
  double largest = 0.0;
};
Errors errors_of_sums(std::uint64_t first_seed, int seeds, double massive) {
  Errors errors;
  for (std::uint64_t seed = first_seed; seed < first_seed + static_cast<std::uint64_t>(seeds); ++seed) {
    Bench bench;
    const Floats x = bench.input(Op::kAttnOutput, DType::kF16, seed, massive);
    const Floats w = bench.weight("self_attn.o_proj.weight");
    const Expectation e = bench.expect({Op::kOProj}, DType::kF32);
    for (Order order : kOrders) {
      const Floats y = honest::matmul(x, w, {}, 896, order);
      for (std::size_t i = 0; i < y.size(); ++i) {
        const double error = std::fabs(static_cast<double>(y[i]) - e.value[i]);
        if (error == 0.0) continue;
        errors.largest = std::max(errors.largest, error / std::hypot(e.sigma_independent[i], e.sigma_shared[i]));
      }
      errors.count += static_cast<std::int64_t>(y.size());
    }
  }
  return errors;
}

// What variance_in_memory (product.cpp) takes to be the farthest; `[.farthest]` are the seeds that its comment quotes.
TEST_CASE("no honest sum lies eight deviations from gold", "[noise]") {
  CHECK(errors_of_sums(9'100'000, 1, 1.0).largest < 8.0);
  CHECK(errors_of_sums(9'100'000, 1, 3000.0).largest < 8.0);
}
TEST_CASE("the farthest of a million honest sums", "[.farthest]") {
  for (double massive : {1.0, 3000.0}) {
    const Errors errors = errors_of_sums(9'200'000, 32, massive);
    WARN(errors.count << " sums, a column times " << massive << ": the farthest at " << errors.largest
                      << " deviations");
  }
}

TEST_CASE("noise of RMSNorm", "[noise]") {
  for (double massive : {1.0, 3000.0}) {
    for (DType stored : kStored) {
      Bench bench;
      const Floats x = bench.input(Op::kEmbedTokens, stored, 6, massive);
      const Floats w = bench.weight("input_layernorm.weight");
      const Expectation e = bench.expect({Op::kInputLayernorm}, stored);
      for (Order order : kOrders) {
        check(std::string("rms_norm ") + name_of(order), honest::rms_norm(x, w, 1e-6F, order), e, stored);
      }
    }
  }
}

TEST_CASE("noise of RoPE, near and far", "[noise]") {
  for (std::int64_t far : {1, 300, 3000}) {
    for (DType stored : kStored) {
      Bench bench(kTokens, far);
      const Floats q = bench.input(Op::kQProj, stored, 7);
      const Expectation e = bench.expect({Op::kQRope}, stored);
      const Floats y = honest::rope(q, bench.steps[0].positions[0], 14, 64, 1e6F);
      check("rope, positions times " + std::to_string(far), y, e, stored);
    }
  }
}

TEST_CASE("noise of a bias behind the rotation, where the two cancel", "[noise]") {
  Bench bench;
  const Floats bias = bench.weight("self_attn.q_proj.bias");
  // Each pair is turned to (-b, 0), b the bias of its first element.
  constexpr std::size_t kHeadDim = 64, kHeads = 14;
  std::vector<double> values(kTokens * kHeads * kHeadDim);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::size_t pair = i % (kHeadDim / 2), column = i % (kHeads * kHeadDim);
    const auto position = static_cast<double>(bench.steps[0].positions[0][i / (kHeads * kHeadDim)]);
    const double angle = position * std::pow(1e6, -2.0 * static_cast<double>(pair) / kHeadDim);
    const double b = bias[column / kHeadDim * kHeadDim + pair];
    values[i] = i % kHeadDim == pair ? -b * std::cos(angle) : b * std::sin(angle);
  }
  const Tensor q = Tensor::rounded(DType::kF32, {1, kTokens, kHeads * kHeadDim}, values);
  bench.recorded.put({0, {Op::kQProj, 0}}, q);
  const Variant after_rope{FaultId::kBiasAfterRope, {}};
  const Expectation e = bench.expect({Op::kQRope}, DType::kF32, &after_rope);
  Floats y = honest::rope(Bench::floats(q), bench.steps[0].positions[0], kHeads, kHeadDim, 1e6F);
  for (std::size_t i = 0; i < y.size(); ++i) y[i] += bias[i % (kHeads * kHeadDim)];
  check("bias behind rope", y, e, DType::kF32);
}

TEST_CASE("noise of attention, from its first row to each of its last", "[noise]") {
  const honest::Heads heads{14, 2, 64};
  for (double offset : {0.0, 30.0}) {
    for (DType stored : kStored) {
      Bench bench(40);
      const Floats q = bench.input(Op::kQRope, stored, 8), k = bench.input(Op::kKCache, stored, 9, 1.0, offset);
      const Floats v = bench.input(Op::kVCache, stored, 10, 1.0, offset);
      const Expectation scores = bench.expect({Op::kScores}, DType::kF32);
      const Expectation probs = bench.expect({Op::kScores, Op::kProbs}, DType::kF32);
      const Expectation output = bench.expect({Op::kScores, Op::kProbs, Op::kAttnOutput}, stored);
      for (Order order : kOrders) {
        const std::string what = std::string(name_of(order)) + " offset " + std::to_string(offset);
        const Floats s = honest::scores(q, k, heads, order);
        check("scores " + what, s, scores, DType::kF32);
        check("probs " + what, honest::softmax(s, 40, order), probs, DType::kF32);
        check("two-pass " + what, honest::attention(q, k, v, heads, 40, order), output, stored);
        check("online " + what, honest::attention(q, k, v, heads, 16, order), output, stored);
      }
    }
  }
}

TEST_CASE("noise of SiLU and of the residual additions", "[noise]") {
  for (DType stored : kStored) {
    Bench bench;
    const Floats gate = bench.input(Op::kGateProj, stored, 12, 3000.0), up = bench.input(Op::kUpProj, stored, 13);
    check("silu", honest::silu_times(gate, up), bench.expect({Op::kAct}, stored), stored);
    const Floats a = bench.input(Op::kEmbedTokens, stored, 14, 3000.0), b = bench.input(Op::kOProj, stored, 15);
    check("residual", honest::add(a, b), bench.expect({Op::kResidMid}, stored), stored);
  }
}

TEST_CASE("a sigmoid that is computed in float16 is 0 where its exponential overflows", "[noise]") {
  constexpr DType kHalf = DType::kF16;
  Bench bench;
  const Floats gate = bench.input(Op::kGateProj, kHalf, 12, 10.0), up = bench.input(Op::kUpProj, kHalf, 13);
  REQUIRE(std::ranges::any_of(gate, [](float g) { return g < -11.1F; }));
  Precision precision = plain_precision(kHalf);
  precision.points[RoundingPoint::kMlpSilu] = kHalf;
  const Expectation expected = bench.expect({Op::kAct}, kHalf, precision);
  const auto half = [](double x) { return round_to(kHalf, x); };
  for (std::size_t i = 0; i < gate.size(); ++i) {
    // As mlx 0.32 computes it: of the magnitude, every operation in float16.
    const double share = half(1.0 / half(1.0 + half(std::exp(std::fabs(gate[i])))));
    const double sigmoid = gate[i] < 0.0F ? share : half(1.0 - share);
    const double y = half(half(gate[i] * sigmoid) * up[i]);
    const double unit = std::hypot(expected.sigma_independent[i], expected.sigma_shared[i], spacing(kHalf, y));
    INFO("gate " << gate[i] << ", up " << up[i]);
    CHECK(std::fabs(y - expected.value[i]) <= 6.0 * unit);
  }
}

}  // namespace
}  // namespace qdiff::reference
