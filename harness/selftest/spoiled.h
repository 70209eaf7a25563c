// Right code whose recording was spoiled at random places: something is wrong, and nothing explains it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "harness/compare/verdict.h"
#include "harness/selftest/bench.h"
#include "harness/selftest/planting.h"
#include "harness/selftest/scoring.h"

namespace qdiff::selftest {

struct SpoiledTrial {
  std::uint64_t seed = 0;
  DType dtype = DType::kBF16;
  std::string what = {};  // "3 elements of model.layers.0.mlp.act of step 1 negated"
  compare::Verdict verdict = compare::Verdict::kMatch;
  std::string explained_as = {};  // by a known bug, a mechanism or a rounding; empty: nothing explains it
};

// A clean engine, the first of the makers, on a small random case; its recording spoiled in one to three tensors.
SpoiledTrial run_spoiled(std::uint64_t seed, DType dtype, const Makers& makers);

std::vector<SpoiledTrial> run_all_spoiled(std::int64_t runs, std::uint64_t first_seed, const Makers& makers,
                                          const Crew& crew);

struct SpoiledScore {
  Ratio found;
  Ratio unexplained;
};
SpoiledScore score(const std::vector<SpoiledTrial>& trials);

}  // namespace qdiff::selftest
