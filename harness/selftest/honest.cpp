#include "harness/selftest/honest.h"

#include <array>

#include "harness/selftest/parallel.h"
#include "harness/selftest/random_case.h"

namespace qdiff::selftest {

HonestRun run_random_case(std::uint64_t seed, DType dtype, const Makers& makers, std::size_t engine) {
  const RandomCase drawn = draw_random_case(seed);
  const auto candidate = makers.engines[engine].second(*drawn.weights, dtype);
  const auto gold = makers.gold(*drawn.weights, dtype);
  const auto oracle = makers.oracle(*drawn.weights);
  diagnose::RunOptions options;
  options.probing = false;
  const findings::RunResult result =
      diagnose::run_cases(std::span(&drawn.input, 1), {*candidate, *gold, *oracle, *drawn.weights}, options);
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
                                   const RunHonest& run, int threads, const Progress& progress) {
  constexpr std::array kTypes = {DType::kF32, DType::kBF16, DType::kF16};
  const auto of_each = static_cast<std::size_t>(runs);
  std::vector<HonestRun> done(of_each * kTypes.size());
  struct NoState {};
  in_parallel(
      done.size(), threads, [] { return NoState{}; },
      [&](NoState&, std::size_t i) { done[i] = run(first_seed + i % of_each, kTypes[i / of_each]); },
      [&](std::size_t, std::size_t finished) {
        progress("honest runs, " + what, static_cast<std::int64_t>(finished), static_cast<std::int64_t>(done.size()));
      });
  std::vector<HonestRuns> result;
  for (std::size_t t = 0; t < kTypes.size(); ++t) {
    HonestRuns of_type{what, kTypes[t], runs, 0, {}};
    for (std::size_t i = t * of_each; i < (t + 1) * of_each; ++i) {
      of_type.tensors += done[i].tensors;
      if (!done[i].alarm.empty()) of_type.alarms.push_back(done[i].alarm);
    }
    result.push_back(std::move(of_type));
  }
  return result;
}

}  // namespace qdiff::selftest
