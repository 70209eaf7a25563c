// qdiff_random_runs: the main job on clean engines over random shapes, batches, chunks, paddings, profiles and seeds.
// None may be flagged. Prints, by dtype, how near the worst statistic came to its bound; ends with 1 if any run did not
// match.
#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <string>

#include "harness/cli/engines.h"
#include "harness/contract/error.h"
#include "harness/diagnose/run.h"
#include "harness/selftest/random_case.h"
#include "reference/reference.h"

namespace qdiff {
namespace {

struct Tally {
  std::int64_t runs = 0, flagged = 0, tensors = 0;
  findings::ClosestToBound closest;
};

void run_one(cli::EngineKind backend, std::uint64_t seed, DType dtype, Tally& tally) {
  const auto [weights, profile, input] = selftest::draw_random_case(seed);
  const auto candidate = cli::make_engine(backend, *weights, {.dtype = dtype});
  const auto reference = reference::make_engine(*weights, gold_precision(dtype), {});
  const auto oracle = reference::make_oracle(*weights, {});
  diagnose::RunOptions options;
  options.probing = false;
  const findings::RunResult result =
      diagnose::run_cases(std::span(&input, 1), {*candidate, *reference, *oracle, *weights}, options);
  ++tally.runs;
  tally.tensors += result.coverage.tensors_compared;
  if (result.closest && !(result.closest->ratio <= tally.closest.ratio)) tally.closest = *result.closest;
  if (result.verdict == compare::Verdict::kMatch) return;
  ++tally.flagged;
  std::string why = result.reason;
  if (const findings::Finding* first = result.first_divergence()) {
    why = tensor_name(first->tensor) + " step " + std::to_string(first->step) + ": " + first->judgement.reason;
  }
  std::printf("flagged: seed %llu, %s, profile %s, %s: %s\n", static_cast<unsigned long long>(seed),
              std::string(name(dtype)).c_str(), std::string(model::name(profile)).c_str(),
              to_string(weights->config()).c_str(), why.c_str());
}

int run_all(cli::EngineKind backend, std::int64_t count, std::uint64_t seed) {
  std::int64_t flagged = 0;
  for (DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    Tally tally;
    for (std::int64_t i = 0; i < count; ++i) run_one(backend, seed + static_cast<std::uint64_t>(i), dtype, tally);
    flagged += tally.flagged;
    std::printf("%-8s  %lld runs, %lld flagged, %lld tensors; nearest to a bound: %s at %.3g of it, in %s\n",
                std::string(name(dtype)).c_str(), static_cast<long long>(tally.runs),
                static_cast<long long>(tally.flagged), static_cast<long long>(tally.tensors),
                tally.closest.statistic.c_str(), tally.closest.ratio, tally.closest.tensor.c_str());
    std::fflush(stdout);
  }
  return flagged == 0 ? 0 : 1;
}

}  // namespace
}  // namespace qdiff

int main(int argc, char** argv) {
  CLI::App app{"The main job on clean engines over random shapes, batches, chunks, paddings, profiles and seeds"};
  std::int64_t count = 200;
  std::uint64_t seed = 1;
  app.add_option("--count", count, "runs of each dtype")->check(CLI::Range(1, 1000000));
  app.add_option("--seed", seed, "of the first run; the others follow");
  auto backend = qdiff::cli::EngineKind::kCpu;
  const std::map<std::string, qdiff::cli::EngineKind> backends = {{"cpu", qdiff::cli::EngineKind::kCpu},
                                                                  {"cuda", qdiff::cli::EngineKind::kCuda}};
  app.add_option("--backend", backend, "cpu or cuda")->transform(CLI::CheckedTransformer(backends));
  CLI11_PARSE(app, argc, argv);
  try {
    qdiff::cli::check_available(backend);
    return qdiff::run_all(backend, count, seed);
  } catch (const qdiff::CannotJudgeError& error) {
    std::fprintf(stderr, "qdiff_random_runs: %s\n", error.what());
    return static_cast<int>(qdiff::ExitStatus::kCannotJudge);
  }
}
