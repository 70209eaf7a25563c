// Every law of a mechanism in turn: each is planted, and another one of the same mechanism would be another mistake.
#include <algorithm>
#include <cmath>
#include <limits>

#include "cmake/catch2.h"
#include "harness/contract/mistake_laws.h"
#include "harness/explain/column_runs.h"
#include "harness/explain/tests/solved_case.h"
#include "harness/explain/vector_law.h"

namespace qdiff::explain {
namespace {

// ---- Gates and sums ------------------------------------------------------------------------------------------------

TEST_CASE("each gate function is told", "[laws]") {
  std::vector<std::string> functions = gate_functions();
  functions.insert(functions.end(), {"SiLU of at most 0.7", "SiLU of a gate between -0.6 and 0.6"});
  for (const std::string& words : functions) {
    INFO(words);
    const auto function = parse_gate_function(words);
    REQUIRE(function.has_value());
    Case c;
    const auto theory = c.explained(Op::kAct, 209, at(Op::kAct, [&](const auto& in, const Step&, Values right) {
                                      for (std::size_t i = 0; i < right.size(); ++i)
                                        right[i] = (*function)(in[0][i]) * in[1][i];
                                      return right;
                                    }));
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == "gate.function");
    CHECK(text_of(theory->parameters, "function") == words);
    CHECK(theory->scope.empty());
  }
}

TEST_CASE("a third term of a sum is told, and coefficients that are no whole numbers", "[laws]") {
  struct Terms {
    double residual, branch, third;
  };
  for (const Terms& terms :
       {Terms{1.0, 1.0, 1.0}, Terms{1.0, 0.25, 0.0}, Terms{1.0, 1.75, 0.0}, Terms{-1.0, 1.0, 2.0}}) {
    INFO(terms.residual << ", " << terms.branch << ", " << terms.third);
    Case c;
    Values third;
    const auto theory =
        c.explained(Op::kOutput, 210, [&](const TensorKey& key, const auto& in, const Step&, Values right) {
          if (key.id == TensorId{Op::kOProj, 1}) {
            third = right;
            for (double& x : third) x = round_to(DType::kBF16, x);
          }
          if (key.id != TensorId{Op::kOutput, 1}) return right;
          for (std::size_t i = 0; i < right.size(); ++i) {
            right[i] = terms.residual * in[0][i] + terms.branch * in[1][i] + terms.third * third[i];
          }
          return right;
        });
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == "sum");
    CHECK(theory->hypothesis == "H04");
    const auto number = [&](const std::string& name) {
      for (const auto& [key, value] : theory->parameters) {
        if (key == name) return std::get<double>(value);
      }
      return 0.0;
    };
    const auto addend = [](std::size_t i) { return std::string(row(row(Op::kOutput).inputs[i].op).name); };
    CHECK(number(addend(0)) == Approx(terms.residual).epsilon(1e-3));
    CHECK(number(addend(1)) == Approx(terms.branch).epsilon(1e-3));
    CHECK(number("self_attn.o_proj") == Approx(terms.third).margin(1e-3));
    CHECK(theory->scope.empty());
  }
}

TEST_CASE("a sum that leaves a term out is told though the term has places without a number", "[laws]") {
  Case c;
  const auto doubled = [](const TensorKey& key, const auto& in, const Step& step, Values right) {
    if (key.id == TensorId{Op::kOutput, 0} && step.index == 4) {
      right[3] = std::numeric_limits<double>::infinity();
      right[kWidth + 5] = std::numeric_limits<double>::quiet_NaN();
    }
    if (key.id == TensorId{Op::kOProj, 1} && step.index == 4) {
      for (std::size_t i = 0; i < right.size(); ++i) right[i] = 0.1 * static_cast<double>(i) - 2.0;
    }
    if (key.id != TensorId{Op::kResidMid, 1}) return right;
    for (std::size_t i = 0; i < right.size(); ++i) right[i] = 2.0 * in[1][i];
    return right;
  };
  const auto theory = c.explained(Op::kResidMid, 231, doubled);
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "sum");
  CHECK(theory->parameters.size() == 1);
  CHECK(text_of(theory->parameters, "self_attn.o_proj") == "2");
  CHECK(theory->scope.empty());
}

// Of the smallest numbers that are stored, quotients are one of few fractions.
TEST_CASE("the limit of a gate is read where up has digits", "[laws]") {
  const std::string words = "SiLU of at most 0.6";
  const auto function = parse_gate_function(words);
  REQUIRE(function.has_value());
  const double smallest = std::ldexp(1.0, -133);  // of bfloat16
  Case c;
  const auto limited = [&](const TensorKey& key, const auto& in, const Step&, Values right) {
    for (std::size_t i = 0; i < right.size(); ++i) {
      if (key.id == TensorId{Op::kUpProj, 1} && i % 64 < 8) right[i] = 4.0 * smallest;
      if (key.id == TensorId{Op::kGateProj, 1} && i % 64 < 8) right[i] = 30.0;
      if (key.id == TensorId{Op::kAct, 1}) right[i] = (*function)(in[0][i]) * in[1][i];
    }
    return right;
  };
  const auto theory = c.explained(Op::kAct, 232, limited);
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "gate.function");
  CHECK(text_of(theory->parameters, "function") == words);
  CHECK(theory->scope.empty());
}

// ---- Factors and biases --------------------------------------------------------------------------------------------

TEST_CASE("a factor is told by what it is the root of, and one of a head", "[laws]") {
  struct Factor {
    double value;
    std::string words;
  };
  for (const Factor& factor : {Factor{1.0 / std::sqrt(48.0), "1 / root of the hidden size"},
                               Factor{std::sqrt(8.0), "the root of the head dimension"},
                               Factor{1.0 / std::sqrt(8.0), "1 / root of the head dimension"}, Factor{1.3, "times 1.3"},
                               Factor{0.0625, "times 0.0625"}, Factor{-3.0, "times -3"}}) {
    INFO(factor.words);
    Case c;
    const auto theory = c.explained(Op::kScores, 211, at(Op::kScores, [&](const auto&, const Step&, Values right) {
                                      for (double& x : right) x *= factor.value;
                                      return right;
                                    }));
    REQUIRE(theory.has_value());
    CHECK(theory->mechanism == "factor");
    CHECK(theory->hypothesis == "H02");
    CHECK_THAT(theory->sentence, ContainsSubstring(factor.words));
  }
  Case one;
  const auto theory = one.explained(Op::kQRope, 212, at(Op::kQRope, [](const auto&, const Step&, Values right) {
                                      for (std::size_t i = 0; i < right.size(); ++i)
                                        right[i] *= i / 8 % 6 == 4 ? 0.75 : 1.0;
                                      return right;
                                    }));
  REQUIRE(theory.has_value());
  CHECK_THAT(theory->sentence, ContainsSubstring("times 0.75, at head 4"));
}

TEST_CASE("a bias of another tensor, or so many times its own, is told", "[laws]") {
  for (const TensorId other : {TensorId{Op::kKProj, 1}, TensorId{Op::kVProj, 0}, TensorId{Op::kQProj, 0}}) {
    const std::string name = std::string(row(other.op).name) + (other.layer == 0 ? " of layer 0" : "");
    INFO(name);
    Case c;
    const auto theory = c.explained(Op::kVProj, 214, at(Op::kVProj, [&](const auto& in, const Step&, Values right) {
                                      for (std::size_t i = 0; i < right.size(); ++i) {
                                        right[i] = in[0][i] + c.oracle.weight(other)[i % 16];
                                      }
                                      return right;
                                    }));
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == "bias");
    CHECK(text_of(theory->parameters, "source") == name + ".bias");
  }
  for (const double coefficient : {0.25, 1.75, -2.0}) {
    Case c;
    const auto theory = c.explained(Op::kQProj, 215, at(Op::kQProj, [&](const auto& in, const Step&, Values right) {
                                      for (std::size_t i = 0; i < right.size(); ++i) {
                                        right[i] = in[0][i] + coefficient * c.oracle.weight({Op::kQProj, 1})[i % 48];
                                      }
                                      return right;
                                    }));
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == "bias");
    CHECK(std::get<double>(theory->parameters.front().second) == Approx(coefficient).epsilon(2e-3));
  }
}

// ---- Products ------------------------------------------------------------------------------------------------------

TEST_CASE("each order in which a block of inputs may be taken is told", "[laws]") {
  struct Order {
    std::int64_t block, apart;  // 0: backwards
    std::string words;
  };
  for (const Order& order : {Order{8, 0, "blocks of 8, backwards"}, Order{48, 0, "blocks of 48, backwards"},
                             Order{2, 0, "blocks of 2, backwards"},
                             Order{12, 4, "blocks of 12, where elements 4 apart were taken as neighbours"},
                             Order{48, 3, "blocks of 48, where elements 3 apart were taken as neighbours"}}) {
    INFO(order.words);
    Case c;
    const auto theory = c.explained(Op::kUpProj, 216, at(Op::kUpProj, [&](const auto& in, const Step&, const Values&) {
                                      Values x = in[0];
                                      for (std::int64_t i = 0; i < std::ssize(x); ++i) {
                                        const std::int64_t g = order.block, k = i % g, columns = order.apart;
                                        const std::int64_t from =
                                            columns == 0 ? g - 1 - k : k % (g / columns) * columns + k / (g / columns);
                                        x[index(i)] = in[0][index(i / g * g + from)];
                                      }
                                      return c.oracle.product(x, c.oracle.weight({Op::kUpProj, 1}));
                                    }));
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == "product.input_order");
    CHECK(text_of(theory->parameters, "order") == order.words);
    CHECK(text_of(theory->parameters, "block") == std::to_string(order.block));
  }
}

// ---- Weights and caches in fewer bits ------------------------------------------------------------------------------

// Rows of `width` weights in groups, on the levels of a kind: a scale, and of some kinds a zero, for each group.
enum class Levels : std::uint8_t { kSymmetric, kFull, kAffine, kZeroPoint };
Values on_levels(const Values& weights, std::size_t group, Levels kind, double steps) {
  Values levels = weights;
  const double half = (steps + 1.0) / 2.0;
  for (std::size_t start = 0; start < weights.size(); start += group) {
    const auto first = weights.begin() + static_cast<std::ptrdiff_t>(start);
    auto [least, most] = std::ranges::minmax(std::vector<double>(first, first + static_cast<std::ptrdiff_t>(group)));
    const double largest = std::max(std::fabs(least), std::fabs(most));
    if (kind == Levels::kZeroPoint) {
      least = std::min(least, 0.0);
      most = std::max(most, 0.0);
    }
    const bool is_symmetric = kind == Levels::kSymmetric || kind == Levels::kFull;
    const double scale =
        round_to(DType::kF32,
                 is_symmetric ? largest / (kind == Levels::kFull ? half - 0.5 : half - 1.0) : (most - least) / steps);
    const double low = is_symmetric                 ? 0.0
                       : kind == Levels::kZeroPoint ? scale * std::nearbyint(least / scale)
                                                    : round_to(DType::kF32, least);
    for (std::size_t i = start; i < start + group; ++i) {
      const double level = std::clamp(std::nearbyint((weights[i] - low) / scale), is_symmetric ? -half : 0.0,
                                      is_symmetric ? half - 1.0 : steps);
      levels[i] = round_to(DType::kBF16, low + scale * level);
    }
  }
  return levels;
}

TEST_CASE("each way to put weights on levels is told", "[laws]") {
  struct Way {
    std::size_t group;
    Levels kind;
    double steps;
    std::string words;
  };
  constexpr std::size_t kRow = 64, kWhole = 48 * 64;  // of down_proj
  for (const Way& way : {Way{kRow, Levels::kSymmetric, 15.0, "4-bit levels with a scale for each output"},
                         Way{32, Levels::kFull, 15.0, "4-bit levels with a scale for each 32 inputs"},
                         Way{kRow, Levels::kAffine, 15.0, "4-bit levels with a scale and a zero for each output"},
                         Way{32, Levels::kZeroPoint, 15.0, "4-bit levels with a scale and a zero for each 32 inputs"},
                         Way{kWhole, Levels::kSymmetric, 15.0, "4-bit levels with a scale for the whole matrix"},
                         Way{kWhole, Levels::kFull, 255.0, "8-bit levels with a scale for the whole matrix"}}) {
    INFO(way.words);
    Case c;
    const Values levels = on_levels(c.oracle.weight({Op::kDownProj, 1}), way.group, way.kind, way.steps);
    const auto theory =
        c.explained(Op::kDownProj, 218, at(Op::kDownProj, [&](const auto& in, const Step&, const Values&) {
                      return c.oracle.product(in[0], levels, kRow);
                    }));
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == "product.weights");
    CHECK(text_of(theory->parameters, "weights") == "rounded to " + way.words);
    CHECK(theory->scope.empty());
  }
}

TEST_CASE("a cache in int8 is a rounding, and a mistake where the scale is lost", "[laws]") {
  for (const bool bare : {false, true}) {
    Case c;
    const auto in_int8 = [bare](const auto&, const Step& step, Values right) {
      const auto slots = static_cast<std::int64_t>(step.valid_length());
      for (std::int64_t start = 0; start < std::ssize(right); start += kHeadDim) {
        const std::int64_t slot = start / (2 * kHeadDim) % slots;
        if (slot < step.past_length) continue;  // it holds what the step before left
        double largest = 0.0;
        for (std::int64_t i = start; i < start + kHeadDim; ++i) largest = std::max(largest, std::fabs(right[index(i)]));
        const double scale = round_to(DType::kF32, largest / 127.0);
        for (std::int64_t i = start; i < start + kHeadDim; ++i) {
          const double code = std::nearbyint(right[index(i)] / scale);
          right[index(i)] = code * (bare && slot >= 12 ? 1.0 : scale);
        }
      }
      return right;
    };
    const auto theory = c.explained(Op::kVCache, 219, at(Op::kVCache, in_int8));
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == "memory.int8");
    CHECK(theory->points.empty() == bare);
    CHECK(text_of(theory->parameters, "with their scale") == (bare ? "slots 0..11" : "slots 0..15"));
    CHECK(text_of(theory->parameters, "without their scale") == (bare ? "slots 12..15" : ""));
  }
}

TEST_CASE("a cache that decode steps alone keep in int8 without a scale is told by their slots", "[laws]") {
  Case c;
  const auto in_int8 = [](const auto&, const Step& step, Values right) {
    const std::int64_t slots = step.valid_length();
    for (std::int64_t start = 0; start < std::ssize(right); start += kHeadDim) {
      if (step.phase == Phase::kPrefill || start / (2 * kHeadDim) % slots < step.past_length) continue;
      double largest = 0.0;
      for (std::int64_t i = start; i < start + kHeadDim; ++i) largest = std::max(largest, std::fabs(right[index(i)]));
      const double scale = round_to(DType::kF32, largest / 127.0);
      for (std::int64_t i = start; i < start + kHeadDim; ++i) {
        right[index(i)] = std::nearbyint(right[index(i)] / scale);
      }
    }
    return right;
  };
  const auto theory = c.explained(Op::kVCache, 233, at(Op::kVCache, in_int8));
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "memory.int8");
  CHECK(text_of(theory->parameters, "without their scale") == "slots 12..15");
  CHECK(text_of(theory->parameters, "with their scale") == "");
}

// ---- Norms, frequencies and sums of a softmax ----------------------------------------------------------------------

TEST_CASE("an epsilon outside the root is told where rows are small", "[laws]") {
  Case c;
  const auto small = [&](const TensorKey& key, const auto& in, const Step&, Values right) {
    if (key.id == TensorId{Op::kOutput, 0}) {
      for (double& x : right) x *= 1e-4;
    }
    if (key.id != TensorId{Op::kInputLayernorm, 1}) return right;
    const Values& w = c.oracle.weight(key.id);
    for (std::size_t start = 0; start < right.size(); start += 48) {
      double sum = 0.0;
      for (std::size_t i = start; i < start + 48; ++i) sum += in[0][i] * in[0][i];
      for (std::size_t i = start; i < start + 48; ++i)
        right[i] = in[0][i] / (std::sqrt(sum / 48.0) + 1e-6) * w[i - start];
    }
    return right;
  };
  const auto theory = c.explained(Op::kInputLayernorm, 220, small);
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "norm.eps");
  CHECK(theory->hypothesis == "H09");
}

TEST_CASE("pairs that all turn faster, or more slowly, are told", "[laws]") {
  struct Turn {
    double factor;
    std::string words;
  };
  for (const Turn& turn :
       {Turn{8.0, "turns pairs 8 times as fast"}, Turn{1.0 / 3.0, "turns pairs 1/3 times as fast"}}) {
    INFO(turn.words);
    Case c;
    const auto turned = [&](const auto& in, const Step& step, Values y) {
      for (std::int64_t e = 0; e < std::ssize(y); ++e) {
        const std::int64_t i = e % kHeadDim, token = e / kWidth, half = kHeadDim / 2;
        const double p =
            static_cast<double>(step.positions[index(token / step.num_tokens())][index(token % step.num_tokens())]);
        const double angle = turn.factor * p * std::pow(1e4, -2.0 * static_cast<double>(i % half) / kHeadDim);
        const double other = in[0][index(i < half ? e + half : e - half)] * (i < half ? -1.0 : 1.0);
        y[index(e)] = in[0][index(e)] * std::cos(angle) + other * std::sin(angle);
      }
      return y;
    };
    const auto theory = c.explained(Op::kQRope, 221, at(Op::kQRope, turned));
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK_THAT(theory->sentence, ContainsSubstring(turn.words));
    CHECK(theory->mechanism == "rotation.frequency");
  }
}

TEST_CASE("so many scores of 0 that a softmax counts are told", "[laws]") {
  for (const int added : {2, 5}) {
    Case c;
    const auto counting = [added](const auto& in, const Step& step, Values right) {
      const auto slots = static_cast<std::size_t>(step.valid_length());
      for (std::size_t start = 0; start < right.size(); start += slots) {
        double sum = 0.0;
        for (std::size_t s = start; s < start + slots; ++s) sum += std::exp(in[0][s]);
        for (std::size_t s = start; s < start + slots; ++s) right[s] *= sum / (sum + added);
      }
      return right;
    };
    const auto theory = c.explained(Op::kProbs, 222, at(Op::kProbs, counting));
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    CHECK(theory->mechanism == "beyond_end");
    CHECK(theory->hypothesis == "H02");
    CHECK(text_of(theory->parameters, "more slots") == std::to_string(added));
  }
}

TEST_CASE("rows that hold those of another batch row are told", "[laws]") {
  Case c;
  const auto of_row_1 = [](const auto&, const Step& step, Values right) {
    const std::size_t of_row = index(step.num_tokens()) * 64;
    std::copy(right.begin() + static_cast<std::ptrdiff_t>(of_row), right.end(), right.begin());
    return right;
  };
  const auto theory = c.explained(Op::kGateProj, 223, at(Op::kGateProj, of_row_1));
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(theory->mechanism == "copy.vectors");
  CHECK_THAT(theory->sentence, ContainsSubstring("mlp.gate_proj of batch row b + 1"));
}

// ---- Words ---------------------------------------------------------------------------------------------------------

TEST_CASE("a law of vectors is said with its tensor, its shifts and its heads", "[laws]") {
  const TensorId keys{Op::kKCache, 1};
  CHECK(describe({keys, 0, {0, 1}, 0}, 1, false) == "self_attn.k_cache");
  CHECK(describe({keys, -2, {0, 1}, 0}, 1, false) == "self_attn.k_cache of 2 before");
  CHECK(describe({keys, 3, {1, 0}, -1}, 0, false) ==
        "self_attn.k_cache of layer 1 of 3 behind of batch row b - 1, heads 0..1 from 1, 0");
  CHECK(describe({keys, 0, {1, 0}, 1}, 1, true) == "self_attn.k_cache of batch row b + 1");
  CHECK(bits_of(Law{keys, 0, {0, 1}, 0}) == 7.0);
  CHECK(bits_of(Law{keys, -6, {0, 1}, 0}) == 9.0);
}

TEST_CASE("runs are said by columns or heads, with their source", "[laws]") {
  const std::vector<std::string> sources = {"q", "k"};
  CHECK(
      describe_runs({{0, 7, {0, 0}}, {8, 15, {0, 16}}, {16, 31, {1, 8}}, {32, 34, {0, 1}}, {35, 35, {1, 0}}}, sources,
                    8) ==
      "head 1 holds head 2, heads 2..3 hold heads 1..2 of k, columns 32..34 hold columns 1..3, column 35 holds column "
      "0 of k");
  CHECK(permuted_block({{0, 0, {1, 1}}, {1, 1, {0, 0}}}, 2) == 0);
  CHECK(permuted_block({{0, 0, {0, 1}}, {1, 1, {0, 0}}, {2, 2, {0, 3}}, {3, 3, {0, 2}}}, 4) == 2);
  CHECK(permuted_block({{0, 1, {0, 2}}, {2, 3, {0, 0}}}, 4) == 4);
}

}  // namespace
}  // namespace qdiff::explain
