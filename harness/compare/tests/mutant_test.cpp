// Built against a judge with QDIFF_JUDGE_MUTANTS: the same sources, with each planted mistake able to run.
#include "cmake/catch2.h"
#include "harness/compare/mutants.h"
#include "harness/compare/tests/judge_checks.h"

namespace qdiff::compare {
namespace {

std::vector<std::string> failed_checks(Mutant mutant) {
  active_mutant = mutant;
  std::vector<std::string> failed;
  for (const Check& check : judge_checks()) {
    if (!check.holds()) failed.push_back(check.name);
  }
  active_mutant = Mutant::kNone;
  return failed;
}

TEST_CASE("with no mutant active every assertion holds", "[mutants]") {
  CHECK(failed_checks(Mutant::kNone) == std::vector<std::string>{});
}

TEST_CASE("no mutant of the judge survives", "[mutants]") {
  REQUIRE(static_cast<int>(Mutant::kUnjudgedIsMatch) + 1 == kNumMutants);
  for (int i = 1; i < kNumMutants; ++i) {
    INFO("mutant number " << i << " of enum Mutant");
    CHECK_FALSE(failed_checks(static_cast<Mutant>(i)).empty());
  }
}

}  // namespace
}  // namespace qdiff::compare
