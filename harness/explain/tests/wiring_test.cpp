// What reads, arranges or leaves out what it should not: dimensions of a head, inputs, a whole layer; and known bugs
// that act in some steps alone.
#include <algorithm>
#include <cmath>

#include "cmake/catch2.h"
#include "harness/explain/tests/solved_case.h"

namespace qdiff::explain {
namespace {

// Neighbours apart into halves, head by head.
Values into_halves(const Values& x, std::int64_t d) {
  Values out(x.size());
  const auto width = static_cast<std::size_t>(d), half = width / 2;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::size_t dimension = i % width, start = i - dimension;
    out[i] = x[start + (dimension < half ? 2 * dimension : 2 * (dimension - half) + 1)];
  }
  return out;
}

TEST_CASE("a rotation of dimensions that were taken apart is solved for", "[rotation]") {
  Case c;
  const auto theory =
      c.explained(Op::kQRope, 51, at(Op::kQRope, [&](const auto& in, const Step& step, const Values&) {
                    return c.oracle.rotated(into_halves(in[0], c.oracle.config().head_dim), step.positions);
                  }));
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "rotation.pairs");
  CHECK(text_of(theory->parameters, "input") == "neighbours taken apart into halves");
  CHECK(text_of(theory->parameters, "output") == "as they are");
}

TEST_CASE("a rotation whose partners and angles are of two conventions is solved for", "[rotation]") {
  for (const bool neighbours : {true, false}) {
    Case c;
    const ModelConfig& config = c.oracle.config();
    const std::int64_t d = config.head_dim, half = d / 2;
    const auto theory = c.explained(
        Op::kQRope, 51, at(Op::kQRope, [&](const auto& in, const Step& step, const Values&) {
          const Values& x = in[0];
          Values y(x.size());
          for (std::size_t e = 0; e < x.size(); ++e) {
            const auto i = static_cast<std::int64_t>(e) % d;
            const auto token = static_cast<std::int64_t>(e) / (d * config.num_q_heads);
            const auto b = static_cast<std::size_t>(token / step.num_tokens());
            const auto t = static_cast<std::size_t>(token % step.num_tokens());
            // Neighbours under the table of halves, or halves under the table of neighbours.
            const std::int64_t pair = neighbours ? i % half : i / 2;
            const std::int64_t partner = neighbours ? (i ^ 1) : (i + half) % d;
            const double angle = static_cast<double>(step.positions[b][t]) *
                                 std::pow(config.rope_theta, -2.0 * static_cast<double>(pair) / static_cast<double>(d));
            const double sine = partner > i ? -std::sin(angle) : std::sin(angle);
            y[e] =
                x[e] * std::cos(angle) + sine * x[static_cast<std::size_t>(static_cast<std::int64_t>(e) - i + partner)];
          }
          return y;
        }));
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == "rotation.pairs");
    CHECK(text_of(theory->parameters, "convention") == (neighbours
                                                            ? "partners (2i, 2i+1), angles laid out for (i, i+d/2)"
                                                            : "partners (i, i+d/2), angles laid out for (2i, 2i+1)"));
  }
}

TEST_CASE("a norm that reads the residual as it entered the layer is solved for", "[source]") {
  Case c;
  Values entering;
  const auto theory =
      c.explained(Op::kPostAttentionLayernorm, 52, [&](const TensorKey& key, const auto&, const Step&, Values right) {
        if (key.id == TensorId{Op::kOutput, 0}) {
          entering = right;
          for (double& x : entering) x = round_to(DType::kBF16, x);
        }
        const bool here = key.id == TensorId{Op::kPostAttentionLayernorm, 1};
        return here ? c.oracle.norm(entering, c.oracle.weight(key.id)) : right;
      });
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "source");
  CHECK(text_of(theory->parameters, "source") == "output of layer 0");
}

// Row by row in groups: symmetric 8-bit levels, or 4-bit ones from smallest to largest.
Values on_levels(const Values& weights, std::size_t group, bool symmetric) {
  Values levels = weights;
  for (std::size_t start = 0; start < weights.size(); start += group) {
    const auto [least, most] = std::minmax_element(weights.begin() + static_cast<std::ptrdiff_t>(start),
                                                   weights.begin() + static_cast<std::ptrdiff_t>(start + group));
    const double low = symmetric ? 0.0 : round_to(DType::kF32, *least);
    const double largest = std::max(std::fabs(*least), std::fabs(*most));
    const double scale = round_to(DType::kF32, symmetric ? largest / 127.0 : (*most - *least) / 15.0);
    for (std::size_t i = start; i < start + group; ++i) {
      levels[i] = round_to(DType::kBF16, low + scale * std::nearbyint((weights[i] - low) / scale));
    }
  }
  return levels;
}

TEST_CASE("weights that were quantised and dequantised are told by their levels", "[product]") {
  struct Quantised {
    Op op;
    std::size_t group;
    bool symmetric;
    std::string words;
  };
  for (const Quantised& made :
       {Quantised{Op::kGateProj, 48, true, "rounded to 8-bit levels with a scale for each output"},
        Quantised{Op::kDownProj, 32, false, "rounded to 4-bit levels with a scale and a zero for each 32 inputs"}}) {
    Case c;
    Values levels;
    const auto theory = c.explained(made.op, 54, at(made.op, [&](const auto& in, const Step&, const Values&) {
                                      levels = on_levels(c.oracle.weight({made.op, 1}), made.group, made.symmetric);
                                      const std::int64_t width = weight_shape(made.op, 0, c.oracle.config())[1];
                                      return c.oracle.product(in[0], levels, width);
                                    }));
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == "product.weights");
    CHECK(text_of(theory->parameters, "weights") == made.words);
    CHECK(theory->scope.empty());
  }
}

// Weights are read by unit vectors, so many at a time.
TEST_CASE("weights of more inputs than are read at once are told by their levels", "[product]") {
  ModelConfig config = closed_form_config();
  config.intermediate = 600;
  Case c;
  c.oracle = ClosedForm(config);
  const auto theory = c.explained(Op::kDownProj, 56, at(Op::kDownProj, [&](const auto& in, const Step&, const Values&) {
                                    const Values levels = on_levels(c.oracle.weight({Op::kDownProj, 1}), 600, true);
                                    return c.oracle.product(in[0], levels, 600);
                                  }));
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "product.weights");
  CHECK(text_of(theory->parameters, "weights") == "rounded to 8-bit levels with a scale for each output");
  CHECK(theory->scope.empty());
}

TEST_CASE("weights that are off at random are no levels", "[product]") {
  Case c;
  SplitMix64 random(8);
  Values noisy = c.oracle.weight({Op::kGateProj, 1});
  for (double& w : noisy) w *= 1.0 + 0.02 * (random.uniform() - 0.5);
  const auto theory = c.explained(Op::kGateProj, 55, at(Op::kGateProj, [&](const auto& in, const Step&, const Values&) {
                                    return c.oracle.product(in[0], noisy, c.oracle.config().hidden);
                                  }));
  REQUIRE(c.num_wrong > 0);
  CHECK_FALSE(theory.has_value());
}

TEST_CASE("1 + w that was rounded to a 16-bit type is told from 1 + w", "[norm]") {
  for (const bool rounded : {true, false}) {
    Case c;
    Values& weight = c.oracle.weight({Op::kPostAttentionLayernorm, 1});
    for (double& w : weight) w = round_to(DType::kBF16, w);
    const auto theory = c.explained(Op::kPostAttentionLayernorm, 53,
                                    at(Op::kPostAttentionLayernorm, [&](const auto& in, const Step&, const Values&) {
                                      Values sum = weight;
                                      for (double& w : sum) w = rounded ? round_to(DType::kBF16, 1.0 + w) : 1.0 + w;
                                      return c.oracle.norm(in[0], sum);
                                    }));
    REQUIRE(theory.has_value());
    CHECK(text_of(theory->parameters, "weight") == (rounded ? "1 + w rounded to bfloat16" : "1 + w"));
  }
}

TEST_CASE("a layer that did not run is seen by what follows it", "[left_out]") {
  Case c;
  for (const OperationRow& operation : kOperationTable) {
    if (operation.scope == qdiff::Scope::kLayer) c.span.push_back({operation.op, 0});
  }
  c.span.push_back({Op::kInputLayernorm, 1});
  Values entering;
  const auto theory =
      c.explained(Op::kInputLayernorm, 54, [&](const TensorKey& key, const auto&, const Step&, Values right) {
        if (key.id.op == Op::kEmbedTokens) {
          entering = right;
          for (double& x : entering) x = round_to(DType::kBF16, x);
        }
        const bool here = key.id == TensorId{Op::kInputLayernorm, 1};
        return here ? c.oracle.norm(entering, c.oracle.weight(key.id)) : right;
      });
  REQUIRE(theory.has_value());
  CHECK(theory->mechanism == "layer.left_out");
  CHECK(text_of(theory->parameters, "layer") == "0");
}

TEST_CASE("a theory that the caller names holds where it holds: in decode alone", "[domain]") {
  Case c;
  const auto without_silu = [](const auto& in) {
    Values out = in[0];
    for (std::size_t i = 0; i < out.size(); ++i) out[i] *= in[1][i];
    return out;
  };
  Candidate named;
  named.theory.variant = Variant{FaultId::kNoSilu};
  named.theory.bits = 7.0;
  named.theory.sentence = "gate * up";
  named.predict = [&](const Instance& instance) {
    const int layer = instance.key.id.layer, step = instance.key.step;
    Expectation theory = c.oracle.evaluate({.operations = instance.span,
                                            .recorded = *instance.recorded,
                                            .steps = *instance.steps,
                                            .precision = kPrecision,
                                            .stored = DType::kBF16});
    theory.value = without_silu(std::vector<Values>{to_doubles(instance.recorded->get({step, {Op::kGateProj, layer}})),
                                                    to_doubles(instance.recorded->get({step, {Op::kUpProj, layer}}))});
    return std::optional(theory);
  };
  named.theory.scope = {{"step", std::string("of each")}};
  c.named = {named};
  const auto theory = c.explained(Op::kAct, 55, at(Op::kAct, [&](const auto& in, const Step& step, Values right) {
                                    return step.phase == Phase::kDecode ? without_silu(in) : right;
                                  }));
  REQUIRE(theory.has_value());
  CHECK(theory->variant == Variant{FaultId::kNoSilu});
  CHECK(theory->scope == Facts{{"step", std::string("of each")}, {"phase", std::string("decode")}});
  CHECK(theory->sentence == "gate * up, in decode alone");
}

}  // namespace
}  // namespace qdiff::explain
