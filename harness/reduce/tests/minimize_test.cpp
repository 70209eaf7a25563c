#include "harness/reduce/minimize.h"

#include <algorithm>

#include "cmake/catch2.h"

using qdiff::reduce::all_indices;
using qdiff::reduce::Indices;
using qdiff::reduce::minimize;

namespace {

bool has(const Indices& kept, std::size_t index) { return std::ranges::count(kept, index) == 1; }

}  // namespace

TEST_CASE("minimize finds the one item that matters, in about twice as many tries as there are halves") {
  for (std::size_t count : {1U, 2U, 3U, 7U, 64U, 200U, 1000U}) {
    for (std::size_t needed : {std::size_t{0}, count / 3, count - 1}) {
      CAPTURE(count, needed);
      std::size_t tries = 0;
      const Indices kept = minimize(count, [&](const Indices& part) {
        ++tries;
        REQUIRE(!part.empty());
        REQUIRE(std::is_sorted(part.begin(), part.end()));
        return has(part, needed);
      });
      CHECK(kept == Indices{needed});
      std::size_t halves = 0;
      for (std::size_t rest = count; rest > 1; rest = (rest + 1) / 2) ++halves;
      CHECK(tries <= 2 * halves + 2);
    }
  }
}

TEST_CASE("minimize keeps items that lie apart, and leaves out all others") {
  std::size_t tries = 0;
  const Indices kept = minimize(200, [&](const Indices& part) {
    ++tries;
    return has(part, 0) && has(part, 77) && has(part, 199);
  });
  CHECK(kept == Indices{0, 77, 199});
  CHECK(tries < 80);
}

TEST_CASE("minimize stops at a least size, and asks no more than a few times an item") {
  std::size_t tries = 0;
  const Indices kept = minimize(200, [&](const Indices& part) {
    ++tries;
    return part.size() > 64;  // a tile of 64 and one slot more
  });
  CHECK(kept.size() == 65);
  CHECK(tries < 3 * 200);
}

TEST_CASE("how often minimize asks in vain is known before") {
  using qdiff::reduce::questions_in_vain;
  CHECK(questions_in_vain(1) == 0);
  CHECK(questions_in_vain(2) == 2);
  CHECK(questions_in_vain(8) == 2 + 4 + 8);
  CHECK(questions_in_vain(200) < 450);
}

TEST_CASE("what minimize keeps cannot do without any single item") {
  // An odd number of the first ten: leaving one out breaks it, leaving two out does not.
  const auto holds = [](const Indices& part) {
    return std::ranges::count_if(part, [](std::size_t index) { return index < 9; }) % 2 == 1;
  };
  const Indices kept = minimize(30, holds);
  REQUIRE(holds(kept));
  for (std::size_t i = 0; i < kept.size() && kept.size() > 1; ++i) {
    Indices rest = kept;
    rest.erase(rest.begin() + static_cast<std::ptrdiff_t>(i));
    CHECK_FALSE(holds(rest));
  }
  CHECK(minimize(5, [](const Indices&) { return false; }) == all_indices(5));
}
