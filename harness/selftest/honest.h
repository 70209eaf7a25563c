// Clean runs that nobody has seen before: whatever is flagged there is a false alarm.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "harness/selftest/bench.h"
#include "harness/selftest/planting.h"
#include "harness/selftest/scoring.h"

namespace qdiff::selftest {

// One honest engine from elsewhere on a seed: how many tensors were judged, and what was flagged.
struct HonestRun {
  std::int64_t tensors = 0;
  std::string alarm;  // empty: none
};
using RunHonest = std::function<HonestRun(std::uint64_t seed, DType dtype)>;

// The main job on the clean engine over a random model and batch. Anything but a match is an alarm.
HonestRun run_random_case(std::uint64_t seed, DType dtype, const Makers& makers, std::size_t engine);

// `runs` of each type, on seeds from `first_seed`.
std::vector<HonestRuns> run_honest(const std::string& what, std::int64_t runs, std::uint64_t first_seed,
                                   const RunHonest& run, const Crew& crew);

}  // namespace qdiff::selftest
