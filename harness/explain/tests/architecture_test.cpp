// What belongs to another architecture, or to a setting of this one that the model does not have.
#include <algorithm>
#include <cmath>
#include <complex>

#include "cmake/catch2.h"
#include "harness/explain/column_runs.h"
#include "harness/explain/tests/solved_case.h"

namespace qdiff::explain {
namespace {

// x [B, T, heads, 8] turned by angle(position, pair), its lengths multiplied by `length`.
template <typename Angle>
Values turned(const Values& x, const Step& step, Angle angle, double length = 1.0) {
  Values y(x.size());
  const std::size_t tokens = static_cast<std::size_t>(step.num_tokens()),
                    width = x.size() / (static_cast<std::size_t>(step.batch()) * tokens);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::size_t row = i / width, pair = i % kHeadDim % (kHeadDim / 2);
    if (i % kHeadDim != pair) continue;
    const auto p = static_cast<double>(step.positions[row / tokens][row % tokens]);
    const std::complex<double> by = std::polar(length, angle(p, pair));
    const std::complex<double> z = std::complex<double>(x[i], x[i + kHeadDim / 2]) * by;
    y[i] = z.real();
    y[i + kHeadDim / 2] = z.imag();
  }
  return y;
}

double frequency(std::size_t pair) { return std::pow(1e4, -2.0 * static_cast<double>(pair) / kHeadDim); }

TEST_CASE("positions that are interpolated turn every pair more slowly", "[frequency]") {
  Case c;
  const auto theory =
      c.explained(Op::kQRope, 140, at(Op::kQRope, [](const auto& in, const Step& step, const Values&) {
                    return turned(in[0], step, [](double p, std::size_t pair) { return 0.25 * p * frequency(pair); });
                  }));
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "rotation.frequency");
  CHECK(theory->hypothesis == "H03");
  CHECK_THAT(theory->sentence, ContainsSubstring("turns pairs 1/4 times as fast"));
  CHECK(theory->scope.empty());
}

TEST_CASE("frequencies that are scaled by pair, with lengths and without, are solved for", "[frequency]") {
  for (const double length : {1.2, 1.0, 0.7, 0.4}) {
    for (const std::uint64_t seed : {141, 151, 161, 171}) {
      INFO("length " << length << ", seed " << seed);
      Case c;
      const auto theory =
          c.explained(Op::kKRope, seed, at(Op::kKRope, [length](const auto& in, const Step& step, const Values&) {
                        return turned(
                            in[0], step,
                            [](double p, std::size_t pair) {
                              constexpr double kScales[] = {1.0, 0.7, 0.4, 0.25};
                              return kScales[pair] * p * frequency(pair);
                            },
                            length);
                      }));
      REQUIRE(theory.has_value());
      INFO(theory->sentence);
      CHECK(theory->mechanism == "rotation.frequency");
      CHECK_THAT(theory->sentence, ContainsSubstring("each pair at a speed of its own"));
      const bool has_length = length != 1.0;
      CHECK(theory->sentence.ends_with(has_length ? "times as long" : "times right code's"));
      CHECK((text_of(theory->parameters, "length") != "") == has_length);
      CHECK(theory->scope.empty());
    }
  }
}

// However little is known of a pair that hardly turns, it turns alike in every token.
TEST_CASE("pairs that turn by any angle are no frequencies beside pairs that have some", "[frequency]") {
  for (const std::size_t any : {1, 2, 3}) {
    INFO("pair " << any);
    SplitMix64 random(191);
    Case c;
    const auto theory =
        c.explained(Op::kKRope, 192, at(Op::kKRope, [&](const auto& in, const Step& step, const Values&) {
                      return turned(in[0], step, [&](double p, std::size_t pair) {
                        if (pair == any) return random.uniform() * 8.0 * frequency(pair);
                        constexpr double kScales[] = {1.0, 0.7, 0.4, 0.25};
                        return kScales[pair] * p * frequency(pair);
                      });
                    }));
    CHECK(c.num_wrong > 0);
    INFO((theory ? theory->sentence : ""));
    CHECK_FALSE(theory.has_value());
  }
}

// YaRN's factor for a context forty times as long. No short number says it, and what was fitted brings its error.
TEST_CASE("tables that are multiplied by a length alone are solved for", "[frequency]") {
  Case c;
  const double length = 1.0 + 0.1 * std::log(40.0);
  const auto theory =
      c.explained(Op::kQRope, 147, at(Op::kQRope, [length](const auto& in, const Step& step, const Values&) {
                    return turned(
                        in[0], step, [](double p, std::size_t pair) { return p * frequency(pair); }, length);
                  }));
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "rotation.frequency");
  CHECK_THAT(theory->sentence, ContainsSubstring("makes pairs 1.37 times as long"));
  CHECK(theory->scope.empty());
}

TEST_CASE("frequencies that were rounded with the model are told by their type", "[frequency]") {
  ModelConfig config = closed_form_config();
  config.rope_theta = 7.0;  // frequencies that bfloat16 does not hold, and that turn far within these few tokens
  for (const Op op : {Op::kQRope, Op::kKRope}) {
    Case c;
    c.oracle = ClosedForm(config);
    const auto theory = c.explained(op, 181, at(op, [](const auto& in, const Step& step, const Values&) {
                                      return turned(in[0], step, [](double p, std::size_t pair) {
                                        const double right = std::pow(7.0, -2.0 * static_cast<double>(pair) / kHeadDim);
                                        return p * round_to(DType::kBF16, right);
                                      });
                                    }));
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == "rotation.frequency");
    CHECK(text_of(theory->parameters, "rounded to") == "bfloat16");
    CHECK(theory->scope.empty());
  }
}

TEST_CASE("a norm that is made twice is solved for", "[norm]") {
  Case c;
  const auto theory =
      c.explained(Op::kInputLayernorm, 142, at(Op::kInputLayernorm, [&](const auto&, const Step&, const Values& right) {
                    Values y;
                    const Values& w = c.oracle.weight({Op::kInputLayernorm, 1});
                    for (std::size_t start = 0; start < right.size(); start += 48) {
                      const auto x = right.begin() + static_cast<std::ptrdiff_t>(start);
                      Values once(x, x + 48);
                      for (double& value : once) value = round_to(DType::kBF16, value);
                      const Values twice = c.oracle.norm(once, w);
                      y.insert(y.end(), twice.begin(), twice.end());
                    }
                    return y;
                  }));
  REQUIRE(theory.has_value());
  CHECK(theory->mechanism == "norm.twice");
}

TEST_CASE("heads that are normalised are solved for, behind a rotation too", "[norm]") {
  for (Op op : {Op::kQProj, Op::kQRope}) {
    INFO(row(op).name);
    Case c;
    const auto theory = c.explained(op, 143, at(op, [](const auto&, const Step&, Values right) {
                                      for (std::size_t start = 0; start < right.size(); start += kHeadDim) {
                                        double sum = 1e-6 * kHeadDim;
                                        for (std::size_t i = start; i < start + kHeadDim; ++i)
                                          sum += right[i] * right[i];
                                        for (std::size_t i = start; i < start + kHeadDim; ++i)
                                          right[i] /= std::sqrt(sum / kHeadDim);
                                      }
                                      return right;
                                    }));
    REQUIRE(theory.has_value());
    CHECK(theory->mechanism == "norm.heads");
  }
}

TEST_CASE("values that are clipped are solved for", "[factor]") {
  Case c;
  const auto theory = c.explained(Op::kUpProj, 144, at(Op::kUpProj, [](const auto&, const Step&, Values right) {
                                    for (double& x : right) x = std::clamp(x, -0.75, 0.75);
                                    return right;
                                  }));
  REQUIRE(theory.has_value());
  CHECK(theory->mechanism == "clip");
  CHECK_THAT(theory->sentence, ContainsSubstring("between -0.75 and 0.75"));
}

TEST_CASE("a product with the weights of another layer is solved for", "[product]") {
  Case c;
  const auto theory =
      c.explained(Op::kDownProj, 145, at(Op::kDownProj, [&](const auto& in, const Step&, const Values&) {
                    return c.oracle.product(in[0], c.oracle.weight({Op::kDownProj, 0}));
                  }));
  REQUIRE(theory.has_value());
  CHECK(theory->mechanism == "product.layer");
  CHECK(text_of(theory->parameters, "layer") == "0");
}

TEST_CASE("a softmax that counts one more is solved for", "[softmax]") {
  Case c;
  const auto theory = c.explained(Op::kProbs, 146, at(Op::kProbs, [](const auto& in, const Step& step, Values right) {
                                    const auto slots = static_cast<std::size_t>(step.valid_length());
                                    for (std::size_t start = 0; start < right.size(); start += slots) {
                                      double sum = 0.0;
                                      for (std::size_t s = start; s < start + slots; ++s) sum += std::exp(in[0][s]);
                                      for (std::size_t s = start; s < start + slots; ++s) right[s] *= sum / (sum + 1.0);
                                    }
                                    return right;
                                  }));
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "beyond_end");
  CHECK(text_of(theory->parameters, "more slots") == "1");
}

TEST_CASE("runs at one distance are said together, and of many the first", "[runs]") {
  std::vector<Run> every_second, scattered;
  for (std::int64_t c = 0; c < 8; ++c) {
    every_second.push_back({c, c, {c < 4 ? 0U : 1U, 2 * (c % 4)}});
    scattered.push_back({c, c, {0, (c * c * 5 + 3) % 97}});
  }
  CHECK(summarise_runs(every_second, {"a", "b"}, 0) ==
        "columns 0..3 hold every 2nd column from 0 on, columns 4..7 hold every 2nd column from 0 on of b");
  CHECK_THAT(summarise_runs(scattered, {"a"}, 0),
             ContainsSubstring("column 0 holds column 3") && ContainsSubstring("and 2 runs more"));
}

}  // namespace
}  // namespace qdiff::explain
