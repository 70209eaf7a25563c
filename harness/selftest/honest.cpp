#include "harness/selftest/honest.h"

#include <algorithm>
#include <array>

#include "harness/selftest/archive.h"
#include "harness/selftest/random_case.h"

namespace qdiff::selftest {

HonestRun run_random_case(std::uint64_t seed, DType dtype, const Makers& makers, std::size_t engine) {
  const RandomCase drawn = draw_random_case(seed);
  const auto candidate = makers.engines[engine].second(*drawn.weights, dtype);
  const findings::RunResult result = judge_random_case(drawn, *candidate, makers, dtype, diagnose::Mode::kBoth);
  HonestRun run{result.coverage.tensors_compared, ""};
  if (result.verdict == compare::Verdict::kMatch) return run;
  run.alarm = "seed " + std::to_string(seed) + ", " + std::string(name(dtype)) + ", profile " +
              std::string(model::name(drawn.profile)) + ", " + to_string(drawn.weights->config()) + ": ";
  if (const findings::Finding* first = result.first_divergence()) {
    run.alarm += tensor_name(first->tensor) + " step " + std::to_string(first->step) + ": " + first->judgement.reason;
  } else {
    run.alarm += std::string(compare::name(result.verdict)) + ": " + result.reason;
  }
  return run;
}

std::vector<HonestRuns> run_honest(const std::string& what, std::int64_t runs, std::uint64_t first_seed,
                                   const RunHonest& run, const Crew& crew) {
  constexpr std::array kTypes = {DType::kF32, DType::kBF16, DType::kF16};
  std::vector<HonestRuns> result;
  std::string kind = "honest/" + what;
  std::ranges::replace(kind, ' ', '-');
  for (const DType dtype : kTypes) {
    const auto done = in_units<HonestRun>(
        seed_units(kind + '/' + std::string(name(dtype)), runs, first_seed), crew, no_state,
        [&](NoState&, std::size_t i) { return run(first_seed + i, dtype); },
        [&](std::size_t) { return "honest runs, " + what + ", " + std::string(name(dtype)); });
    HonestRuns of_type{what, dtype, runs, 0, {}};
    for (const HonestRun& one : done) {
      of_type.tensors += one.tensors;
      if (!one.alarm.empty()) of_type.alarms.push_back(one.alarm);
    }
    result.push_back(std::move(of_type));
  }
  return result;
}

}  // namespace qdiff::selftest
