#include <array>
#include <chrono>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>

#include "harness/cli/commands.h"
#include "harness/cli/engines.h"
#include "harness/cli/gemm_table.h"
#include "harness/cli/inputs_runner.h"
#include "harness/cli/memory.h"
#include "harness/cli/output_folder.h"
#include "harness/cli/reduction.h"
#include "harness/cli/text.h"
#include "harness/contract/wording.h"
#include "harness/formats/duration.h"
#include "harness/model/model.h"
#include "harness/report/sentences.h"
#include "harness/selftest/random_case.h"

namespace qdiff::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t kUsualRuns = 100;

struct Tally {
  std::int64_t runs = 0, diverged = 0, inconclusive = 0, tensors = 0;
  std::optional<findings::ClosestToBound> closest = {};  // of what matches
};

struct FailingRuns {
  std::uint64_t first_seed = 0;
  std::int64_t others = 0;
};

class Fuzzing {
 public:
  explicit Fuzzing(const FuzzArguments& arguments)
      : arguments_(arguments), run_(arguments.run), progress_(run_.common.quiet) {
    if (run_.model) model_ = model::open_model(*run_.model);
  }

  ExitStatus run() {
    for (std::uint64_t i = 0; !is_done(i); ++i) {
      show(i);
      run_one(arguments_.seed + i);
    }
    progress_.clear();
    if (!run_.common.quiet) print_tallies();
    return status();
  }

 private:
  struct Drawn {
    std::uint64_t seed = 0;
    std::shared_ptr<const WeightSource> model;
    DType dtype = DType::kBF16;
    CaseInput input;
  };

  bool is_done(std::uint64_t made) const {
    if (arguments_.minutes) return made > 0 && seconds() > 60.0 * *arguments_.minutes;
    return made >= static_cast<std::uint64_t>(arguments_.runs.value_or(kUsualRuns));
  }
  double seconds() const { return std::chrono::duration<double>(Clock::now() - started_).count(); }
  void show(std::uint64_t made) {
    const std::int64_t total = arguments_.minutes ? 0 : arguments_.runs.value_or(kUsualRuns);
    progress_.show("random cases, " + counted(num_diverged_, "failure"), static_cast<std::int64_t>(made), total);
  }

  Drawn draw(std::uint64_t seed) const {
    constexpr std::array kTypes = {DType::kF32, DType::kBF16, DType::kF16};
    Drawn drawn{.seed = seed, .model = model_, .dtype = kTypes[seed % kTypes.size()], .input = {}};
    if (model_ != nullptr) {
      drawn.input = selftest::draw_random_input(seed, model_->config(), selftest::Variety::kWide);
    } else {
      selftest::RandomCase random = selftest::draw_random_case(seed, selftest::Variety::kWide);
      drawn.model = std::move(random.weights);
      drawn.input = std::move(random.input);
    }
    if (run_.dtype) drawn.dtype = *run_.dtype;
    return drawn;
  }

  std::int64_t resident_bytes(const Drawn& drawn) const {
    const PlannedCase planned{.steps = drawn.input.steps, .capacity = drawn.input.capacity, .recordings = 2};
    return checked_plan(drawn.model->config(), drawn.dtype, {planned}, run_.common.max_memory).max_resident_bytes;
  }

  // What is judged of the case; none where it has none of the wanted layers or steps.
  std::optional<Judging> judging_of(const Drawn& drawn) const {
    Judging judging{.mode = run_.mode};
    if (run_.layers) judging.layers = run_.layers->below(drawn.model->config().num_layers);
    if (run_.steps) judging.steps = run_.steps->below(static_cast<std::int64_t>(drawn.input.steps.size()));
    const auto is_nothing = [](const auto& wanted) { return wanted && wanted->empty(); };
    if (is_nothing(judging.layers) || is_nothing(judging.steps)) return std::nullopt;
    return judging;
  }

  // The fault, where this model has a place for it; a model without one is judged clean.
  std::optional<Injection> injection_for(const Drawn& drawn) {
    if (!run_.inject) return std::nullopt;
    try {
      check_place(*run_.inject, drawn.model->config());
      return run_.inject;
    } catch (const InputError&) {
      if (model_ != nullptr) throw;
      ++num_without_place_;
      return std::nullopt;
    }
  }

  void run_one(std::uint64_t seed) {
    const Drawn drawn = draw(seed);
    const std::optional<Judging> judging = judging_of(drawn);
    if (!judging) return;
    EngineInQuestion engine{.model = drawn.model,
                            .backend = run_.backend,
                            .reference = run_.reference,
                            .dtype = drawn.dtype,
                            .threads = run_.common.threads,
                            .max_resident_bytes = resident_bytes(drawn),
                            .inject = injection_for(drawn)};
    if (run_.print_gemms) print_gemms(drawn);
    InputsRunner runner(engine);
    const reduce::Inputs whole =
        reduce::whole_case(drawn.input.steps, drawn.input.capacity, drawn.model->config().num_layers);
    const findings::RunResult result = runner(whole, *judging);
    num_planted_ += result.planted_executions;
    count(drawn.dtype, result);
    if (result.verdict == compare::Verdict::kInconclusive) {
      say("INCONCLUSIVE  seed " + std::to_string(seed) + ", " + std::string(name(drawn.dtype)) + ": " + result.reason);
    }
    if (result.first_divergence() != nullptr) keep_failure(drawn, engine.inject, runner, whole, result);
  }

  void print_gemms(const Drawn& drawn) {
    const auto engine = make_engine(run_.backend, *drawn.model, {.dtype = drawn.dtype, .threads = run_.common.threads});
    progress_.clear();
    std::fputs(gemm_table(engine->gemms(), drawn.model->config(), engine->name(), drawn.model->description()).c_str(),
               stdout);
  }

  void count(DType dtype, const findings::RunResult& result) {
    Tally& tally = tallies_[dtype];
    ++tally.runs;
    tally.tensors += result.coverage.tensors_compared;
    if (result.verdict == compare::Verdict::kDiverged) {
      ++tally.diverged;
      ++num_diverged_;
    } else if (result.verdict == compare::Verdict::kInconclusive) {
      ++tally.inconclusive;
    } else if (result.closest && !(tally.closest && result.closest->ratio <= tally.closest->ratio)) {
      tally.closest = result.closest;
    }
  }

  void say(const std::string& text) {
    if (run_.common.quiet) return;
    progress_.clear();
    std::printf("%s\n", one_line(text).c_str());
    std::fflush(stdout);
  }

  // The first of its kind is shrunk and written; others of the same cause at the same operation are counted.
  void keep_failure(const Drawn& drawn, const std::optional<Injection>& inject, InputsRunner& runner,
                    const reduce::Inputs& whole, const findings::RunResult& result) {
    const findings::Finding& first = *result.first_divergence();
    const std::string kind =
        std::string(row(first.tensor.op).name) + ": " + report::cause_without_extent(first.explanation);
    const auto known = failures_.find(kind);
    if (known != failures_.end()) {
      ++known->second.others;
      return;
    }
    failures_[kind] = {drawn.seed, 0};
    reduce::Reduced reduced{.inputs = whole, .finding = first};
    if (!run_.layers && !run_.steps) {
      reduced = reduce_inputs(std::ref(runner), whole, result, run_.mode, arguments_.tries, progress_);
    }
    cases::Case smaller = reduced_case(reduced, "fuzz-" + std::to_string(drawn.seed));
    const std::string spec = run_.model.value_or(drawn.model->description());
    if (spec.starts_with("synthetic:")) smaller.model = spec;
    if (reduced.inputs.layers.size() == whole.layers.size()) smaller.layers.clear();
    RunArguments again = run_;
    again.dtype = drawn.dtype;
    if (!smaller.model.empty()) again.model.reset();
    const auto planted = inject ? reduce::in_layers(*inject, reduced.inputs.layers) : std::nullopt;
    std::string repeat = "qdiff run " + shell_quote(write_case(smaller, run_.out)) + repeat_arguments(again, planted);
    if (run_.layers) repeat += " --layers " + run_.layers->text;
    if (run_.steps) repeat += " --steps " + run_.steps->text;
    say("DIVERGED  seed " + std::to_string(drawn.seed) + ", " + std::string(name(drawn.dtype)) + ": " + kind);
    say("  was     " + in_words(whole) + " of " + to_string(drawn.model->config()));
    say("  is      " + in_words(reduced.inputs) + ", after " + std::to_string(reduced.tries) +
        (reduced.tries == 1 ? " try" : " tries"));
    say("  repeat  " + repeat);
  }

  void print_tallies() const {
    const double took = seconds();
    std::printf("FUZZED  seeds %llu and up, %s\n", static_cast<unsigned long long>(arguments_.seed),
                formats::duration_text(took).c_str());
    for (const auto& [dtype, tally] : tallies_) {
      std::string text = counted(tally.runs, "run") + ", " + std::to_string(tally.diverged) + " diverged, " +
                         std::to_string(tally.inconclusive) + " inconclusive, " + counted(tally.tensors, "tensor");
      if (tally.closest) {
        char ratio[32];
        std::snprintf(ratio, sizeof ratio, "%.3g", tally.closest->ratio);
        text += "; of a match nearest to a bound: " + compare::in_words(tally.closest->statistic) + " at " + ratio +
                " of it, in " + tally.closest->tensor;
      }
      std::printf("  %-8s  %s\n", std::string(name(dtype)).c_str(), one_line(text).c_str());
    }
    for (const auto& [kind, failing] : failures_) {
      std::printf("  %s: seed %llu", one_line(kind).c_str(), static_cast<unsigned long long>(failing.first_seed));
      if (failing.others > 0) std::printf(" and %lld more", static_cast<long long>(failing.others));
      std::printf("\n");
    }
    if (num_without_place_ > 0) {
      std::printf("  note: %lld of the models had no place for %s and ran without it\n",
                  static_cast<long long>(num_without_place_), one_line(to_string(*run_.inject)).c_str());
    }
  }

  ExitStatus status() const {
    if (num_diverged_ > 0) return ExitStatus::kDiverged;
    if (run_.inject && num_planted_ == 0) {
      throw CannotJudgeError(never_ran(*run_.inject) + "; draw more cases");
    }
    std::int64_t judged = 0;
    for (const auto& [dtype, tally] : tallies_) judged += tally.runs - tally.inconclusive;
    if (judged == 0)
      throw CannotJudgeError(
          "no random case could be judged: each is inconclusive or has none of these layers and steps");
    return ExitStatus::kMatch;
  }

  const FuzzArguments& arguments_;
  const RunArguments& run_;
  Progress progress_;
  std::shared_ptr<const WeightSource> model_;  // the one of all cases; null: each has its own
  Clock::time_point started_ = Clock::now();
  std::map<DType, Tally> tallies_;
  std::map<std::string, FailingRuns> failures_;  // by operation and cause
  std::int64_t num_diverged_ = 0, num_planted_ = 0, num_without_place_ = 0;
};

}  // namespace

ExitStatus fuzz_command(const FuzzArguments& arguments) {
  check_available(arguments.run.backend);
  if (arguments.run.inject) check_plantable(arguments.run.backend, *arguments.run.inject);
  check_output_folder(arguments.run.out);
  return Fuzzing(arguments).run();
}

}  // namespace qdiff::cli
