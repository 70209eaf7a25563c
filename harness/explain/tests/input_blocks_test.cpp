// Coefficients of a product's inputs where a block of them does not show what is wrong in it: two errors that cancel,
// or edges between columns that hardly count.
#include <set>

#include "cmake/catch2.h"
#include "harness/explain/tests/solved_case.h"

namespace qdiff::explain {
namespace {

struct Coefficient {
  std::size_t column;
  double value;
};

// up_proj of inputs of which some count otherwise.
std::optional<Theory> explained(std::uint64_t seed, const std::vector<Coefficient>& coefficients,
                                const std::set<std::size_t>& small = {}, double size = 1.0) {
  Case c;
  return c.explained(Op::kUpProj, seed, [&](const TensorKey& key, const auto& in, const Step&, Values right) {
    if (key.id == TensorId{Op::kPostAttentionLayernorm, 1}) {
      for (std::size_t i = 0; i < right.size(); ++i) right[i] *= small.contains(i % 48) ? size : 1.0;
    }
    if (key.id != TensorId{Op::kUpProj, 1}) return right;
    Values x = in[0];
    for (std::size_t row = 0; row < x.size(); row += 48) {
      for (const Coefficient& of : coefficients) x[row + of.column] *= of.value;
    }
    return c.oracle.product(x, c.oracle.weight(key.id));
  });
}

TEST_CASE("coefficients of neighbours that cancel within a block are solved for", "[product]") {
  for (const std::uint64_t seed : {411, 412, 413}) {
    const auto theory = explained(seed, {{seed % 45, 2.0}, {seed % 45 + 1, 0.0}});
    REQUIRE(theory.has_value());
    INFO(theory->sentence);
    const std::string first = std::to_string(seed % 45), second = std::to_string(seed % 45 + 1);
    CHECK(theory->mechanism == "product.coefficients");
    REQUIRE(theory->parameters.size() == 2);
    CHECK(text_of(theory->parameters, "inputs " + first + ".." + first) == "2");
    CHECK(text_of(theory->parameters, "inputs " + second + ".." + second) == "0");
    CHECK_THAT(theory->sentence, ContainsSubstring(" counts inputs " + first + ".." + first +
                                                   " 2 times, leaves out inputs " + second + ".." + second));
  }
}

TEST_CASE("inputs at both ends of a row are solved for", "[product]") {
  const auto theory = explained(414, {{0, -2.0}, {47, 3.0}});
  REQUIRE(theory.has_value());
  INFO(theory->sentence);
  CHECK(text_of(theory->parameters, "inputs 0..0") == "-2");
  CHECK(text_of(theory->parameters, "inputs 47..47") == "3");
}

// Blocks are of three inputs at first.
TEST_CASE("an edge among inputs that hardly count stands where the error is smallest", "[product]") {
  for (const std::size_t first : {9, 10, 11}) {
    for (const std::size_t end : {22, 23, 24}) {
      INFO("inputs " << first << " to " << end);
      std::vector<Coefficient> left_out;
      for (std::size_t k = first; k < end; ++k) left_out.push_back({k, 0.0});
      const auto theory = explained(415, left_out, {8, 9, 10, 11, 21, 22, 23, 24}, 0.02);
      REQUIRE(theory.has_value());
      INFO(theory->sentence);
      CHECK_THAT(theory->sentence,
                 ContainsSubstring("leaves out inputs " + std::to_string(first) + ".." + std::to_string(end - 1)));
      CHECK(theory->parameters.size() == 1);
    }
  }
}

}  // namespace
}  // namespace qdiff::explain
