// Mistakes in the last columns alone: what begins right in a row may not be taken for right to its end.
#include <algorithm>
#include <cmath>

#include "cmake/catch2.h"
#include "harness/contract/mistake_laws.h"
#include "harness/explain/tests/solved_case.h"

namespace qdiff::explain {
namespace {

using Wrong = std::function<Values(const Case&, const std::vector<Values>& in, const Step&, Values right)>;

Values each(Values values, const std::function<double(double)>& change) {
  for (double& x : values) x = change(x);
  return values;
}

struct Late {
  Op op;
  std::size_t width, first;  // of a row, and of the wrong ones in it
  std::string mechanism, parameter, value;
  Wrong wrong;
};

std::vector<Late> late() {
  const auto gate = [](const std::string& words) {
    return [function = parse_gate_function(words)](const Case&, const auto& in, const Step&, Values right) {
      for (std::size_t i = 0; i < right.size(); ++i) right[i] = (*function)(in[0][i]) * in[1][i];
      return right;
    };
  };
  return {
      {Op::kQProj, 48, 40, "bias", "coefficient", "2",
       [](const Case& c, const auto&, const Step&, Values right) {
         for (std::size_t i = 0; i < right.size(); ++i) right[i] += c.oracle.weight({Op::kQProj, 1})[i % 48];
         return right;
       }},
      {Op::kUpProj, 64, 50, "factor", "factor", "3",
       [](const Case&, const auto&, const Step&, Values right) {
         return each(right, [](double x) { return 3.0 * x; });
       }},
      {Op::kUpProj, 64, 30, "clip", "limit", "0",
       [](const Case&, const auto&, const Step&, Values right) {
         return each(right, [](double x) { return std::clamp(x, -0.75, 0.75); });
       }},
      {Op::kLmHead, 50, 20, "soft_cap", "cap", "3",
       [](const Case&, const auto&, const Step&, Values right) {
         return each(right, [](double x) { return 3.0 * std::tanh(x / 3.0); });
       }},
      {Op::kAct, 64, 40, "gate.function", "function", "ReLU", gate("ReLU")},
      {Op::kAct, 64, 24, "gate.function", "function", "SiLU of at most 0.7", gate("SiLU of at most 0.7")},
      {Op::kOutput, 48, 30, "sum", std::string(row(row(Op::kOutput).inputs[1].op).name), "2",
       [](const Case&, const auto& in, const Step&, Values right) {
         for (std::size_t i = 0; i < right.size(); ++i) right[i] += in[1][i];
         return right;
       }},
      {Op::kUpProj, 64, 40, "columns.factor", "", "",
       [](const Case&, const auto&, const Step&, Values right) {
         for (std::size_t i = 0; i < right.size(); ++i) right[i] *= 2.0 + std::cos(static_cast<double>(i % 64));
         return right;
       }},
      {Op::kDownProj, 48, 20, "product.coefficients", "inputs 51..63", "0",
       [](const Case& c, const auto& in, const Step&, const Values&) {
         Values x = in[0];
         for (std::size_t i = 0; i < x.size(); ++i) x[i] = i % 64 >= 51 ? 0.0 : x[i];
         return c.oracle.product(x, c.oracle.weight({Op::kDownProj, 1}));
       }},
      {Op::kDownProj, 48, 20, "product.layer", "layer", "0",
       [](const Case& c, const auto& in, const Step&, const Values&) {
         return c.oracle.product(in[0], c.oracle.weight({Op::kDownProj, 0}));
       }},
      {Op::kUpProj, 64, 33, "copy.tensor", "source", "mlp.gate_proj",
       [](const Case& c, const auto& in, const Step&, const Values&) {
         return c.oracle.product(in[0], c.oracle.weight({Op::kGateProj, 1}));
       }},
      {Op::kInputLayernorm, 48, 37, "norm.weight", "weight", "1 + w",
       [](const Case& c, const auto& in, const Step&, const Values&) {
         return c.oracle.norm(in[0], each(c.oracle.weight({Op::kInputLayernorm, 1}), [](double w) { return 1.0 + w; }));
       }},
  };
}

TEST_CASE("a mistake of the last columns alone is solved for from those", "[partial]") {
  for (const Late& mistake : late()) {
    INFO(mistake.mechanism << " " << mistake.value << " from column " << mistake.first);
    Case c;
    const auto theory =
        c.explained(mistake.op, 260, at(mistake.op, [&](const auto& in, const Step& step, Values right) {
                      const Values other = mistake.wrong(c, in, step, right);
                      for (std::size_t i = 0; i < right.size(); ++i) {
                        if (i % mistake.width >= mistake.first) right[i] = other[i];
                      }
                      return right;
                    }));
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == mistake.mechanism);
    if (!mistake.parameter.empty()) CHECK(text_of(theory->parameters, mistake.parameter) == mistake.value);
  }
}

// Each instance has tokens enough by itself.
TEST_CASE("another input in the prefill alone is told from its tokens", "[partial]") {
  Case c;
  Values values;
  const auto theory =
      c.explained(Op::kKRope, 261, [&](const TensorKey& key, const auto&, const Step& step, Values right) {
        if (key.id == TensorId{Op::kVProj, 1}) values = each(right, [](double x) { return round_to(DType::kBF16, x); });
        const bool wrong = key.id == TensorId{Op::kKRope, 1} && step.phase == Phase::kPrefill;
        return wrong ? c.oracle.rotated(values, step.positions) : right;
      });
  REQUIRE(theory.has_value());
  CHECK(theory->mechanism == "source");
  CHECK(text_of(theory->scope, "phase") == "prefill");
}

// Levels of 4 bits of exponent and 3 of mantissa, of which the smallest lie 2^-9 apart.
TEST_CASE("weights on levels of float8 are told, those near 0 too", "[product]") {
  constexpr std::size_t kRow = 64;
  Case c;
  Values weights = c.oracle.weight({Op::kDownProj, 1});
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] *= i % 3 == 0 ? 1.0 : 1e-4;
  c.oracle.weight({Op::kDownProj, 1}) = each(weights, [](double w) { return round_to(DType::kBF16, w); });
  Values levels = c.oracle.weight({Op::kDownProj, 1});
  for (std::size_t start = 0; start < levels.size(); start += kRow) {
    double largest = 0.0;
    for (std::size_t i = start; i < start + kRow; ++i) largest = std::max(largest, std::fabs(levels[i]));
    const double scale = round_to(DType::kF32, largest / 448.0);
    for (std::size_t i = start; i < start + kRow; ++i) {
      const double quotient = levels[i] / scale;
      const double step = std::ldexp(1.0, std::max(quotient == 0.0 ? -6 : std::ilogb(quotient), -6) - 3);
      levels[i] = round_to(DType::kBF16, std::nearbyint(quotient / step) * step * scale);
    }
  }
  const auto theory =
      c.explained(Op::kDownProj, 262, at(Op::kDownProj, [&](const auto& in, const Step&, const Values&) {
                    return c.oracle.product(in[0], levels, kRow);
                  }));
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "product.weights");
  CHECK(text_of(theory->parameters, "weights") == "rounded to float8_e4m3 with a scale for each output");
  CHECK(theory->scope.empty());
}

}  // namespace
}  // namespace qdiff::explain
