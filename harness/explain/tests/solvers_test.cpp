// What the mechanisms solve with, by itself: runs of columns, derived scopes, and least squares.
#include "cmake/catch2.h"
#include "harness/explain/column_runs.h"
#include "harness/explain/domain.h"
#include "harness/explain/least_squares.h"
#include "harness/explain/tests/solved_case.h"

namespace qdiff::explain {
namespace {

TEST_CASE("columns are covered by the longest runs, and a permutation within blocks is seen", "[runs]") {
  const auto from = [](std::vector<std::int64_t> columns) {
    std::vector<std::vector<Origin>> possible;
    for (std::int64_t c : columns) possible.push_back({{0, c}});
    return possible;
  };
  CHECK(runs_of(from({4, 5, 6, 0, 1})).size() == 2);
  CHECK(permuted_block(runs_of(from({1, 0, 3, 2, 5, 4})), 6) == 2);
  CHECK(permuted_block(runs_of(from({1, 0, 3, 2, 4, 5})), 6) == 6);
  CHECK(permuted_block(runs_of(from({1, 0, 2, 2})), 4) == 4);  // the second block has another order
  CHECK(runs_of({{{0, 0}}, {}}).empty());
}

TEST_CASE("a scope is complete where it is data, and cut short where it is read", "[domain]") {
  Domain domain;
  Choice& tokens = domain.choices[static_cast<std::size_t>(Axis::kToken)];
  tokens = {{Selection::Kind::kOnly, 0, {0, 2, 4, 6, 8, 10, 12}}, 1.0};
  const Facts facts = domain.facts();
  CHECK(text_of(facts, "tokens") == "0, 2, 4, 6, 8, 10, 12");
  CHECK(parse_selection(text_of(facts, "tokens")) == std::optional<Selection>(tokens));
  CHECK(domain.words(Op::kQRope) == ", at positions 0, 2, 4, 6, 8, 10, ...");
  tokens.only = {3};
  CHECK(domain.words(Op::kKCache) == ", at slot 3");
}

TEST_CASE("least squares solve what is determined and nothing else", "[least_squares]") {
  const auto solved = least_squares({1, 0, 1, 1, 1, 2}, {1, 3, 5}, 3, 2);
  REQUIRE(solved.has_value());
  CHECK((*solved)[0] == Approx(1.0));
  CHECK((*solved)[1] == Approx(2.0));
  CHECK_FALSE(least_squares({1, 2, 1, 2, 1, 2}, {1, 2, 3}, 3, 2).has_value());
}

TEST_CASE("least squares tell apart columns that are nearly the same", "[least_squares]") {
  // Two columns that differ by `apart` in one equation of a hundred: the farther apart, the better they are told apart.
  const auto solve = [](double apart) {
    std::vector<double> a, b;
    for (int i = 0; i < 100; ++i) {
      const double x = 1.0 + 0.01 * i, y = i == 7 ? x + apart : x;
      a.insert(a.end(), {x, y});
      b.push_back(3.0 * x - 2.0 * y);
    }
    return least_squares(a, b, 100, 2);
  };
  for (const double apart : {10.0, 0.1, 1e-3, 1e-6}) {
    const auto solved = solve(apart);
    REQUIRE(solved.has_value());
    CHECK((*solved)[0] == Approx(3.0).epsilon(1e-7));
    CHECK((*solved)[1] == Approx(-2.0).epsilon(1e-7));
  }
  CHECK_FALSE(solve(0.0).has_value());
}

TEST_CASE("a caller's own squares are factored and solved, where no column is nearly a sum of others",
          "[least_squares]") {
  // (4 2; 2 5) = L L^T with L = (2 0; 1 2), and its inverse times (8, 9) is (22, 20) / 16.
  const auto lower = factored({4, 0, 2, 5}, 2);
  REQUIRE(lower.has_value());
  CHECK((*lower)[0] == Approx(2.0));
  CHECK((*lower)[2] == Approx(1.0));
  CHECK((*lower)[3] == Approx(2.0));
  std::vector<double> x = {8, 9};
  substitute(*lower, x, 2);
  CHECK(x[0] == Approx(22.0 / 16.0));
  CHECK(x[1] == Approx(20.0 / 16.0));
  // What is left of the second column's squared length beside the first: a millionth is asked for.
  CHECK(factored({1, 0, 1, 1 + 2e-6}, 2).has_value());
  CHECK_FALSE(factored({1, 0, 1, 1 + 5e-7}, 2).has_value());
}

TEST_CASE("least squares of several right sides are those of each", "[laws]") {
  // 4 equations of 2 unknowns that contradict each other; by hand from the normal equations.
  const std::vector<double> a = {1, 0, 1, 1, 1, 2, 1, 3};
  const auto both = least_squares(a, {0, 1, 1, 1, 3, 4, 4, 2}, 4, 2, 2);
  REQUIRE(both.has_value());
  const std::vector<double> expected = {-0.1, 1.1, 1.4, 0.6};  // [unknown, side]
  for (std::size_t i = 0; i < 4; ++i) CHECK((*both)[i] == Approx(expected[i]).margin(1e-12));
  CHECK_FALSE(least_squares({1.0, 2.0}, {1.0}, 1, 2).has_value());
  CHECK_FALSE(least_squares({}, {}, 0, 0).has_value());
  CHECK_FALSE(least_squares({0, 1, 0, 2}, {1, 2}, 2, 2).has_value());
}

}  // namespace
}  // namespace qdiff::explain
