#include "harness/diagnose/run.h"

#include <algorithm>
#include <chrono>
#include <iterator>

#include "harness/contract/error.h"
#include "harness/diagnose/conclusions.h"
#include "harness/diagnose/judging.h"
#include "harness/diagnose/recordings.h"

namespace qdiff::diagnose {
namespace {

// What two runs of the engine show of each other counts where nothing else of the case is wrong: a wrong tensor
// brings different logits with it.
void drop_consequences(std::vector<WrongTensor>& wrong) {
  const auto has_cause = [&](const WrongTensor& tensor) {
    return tensor.seen_by == SeenBy::kUntappedRun && std::ranges::any_of(wrong, [&](const WrongTensor& other) {
             return other.subject->input == tensor.subject->input && !(other.key == tensor.key);
           });
  };
  std::vector<WrongTensor> kept;
  std::ranges::remove_copy_if(wrong, std::back_inserter(kept), has_cause);
  wrong = std::move(kept);
}

}  // namespace

findings::RunResult run_cases(std::span<const CaseInput> cases, const Parties& parties, const RunOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const ModelConfig& config = parties.model.config();
  for (const CaseInput& input : cases) {
    try {
      validate_steps(input.steps, config.vocab, config.max_position_embeddings);
    } catch (const std::invalid_argument& error) {
      throw InputError("case " + input.id + ": " + error.what());
    }
  }
  const Extent extent = select_layers(options.layers, config);
  Recordings recordings = record_cases(cases, parties, options, extent);
  const Precision& precision = parties.candidate.precision();
  Judged judged = judge_subjects(
      recordings.subjects, parties.oracle, precision, extent,
      {.probing = options.probing, .progress = options.progress, .after_part = {}, .kept = options.kept});
  std::ranges::move(recordings.wrong, std::back_inserter(judged.wrong));
  drop_consequences(judged.wrong);

  findings::RunResult result;
  result.config = to_string(config);
  result.model = parties.model.description();
  result.engine = parties.candidate.name();
  result.device = parties.candidate.device().kind == DeviceKind::kCpu ? "cpu" : "cuda";
  result.precision = precision;
  if (options.inject) {
    result.injected = options.inject;
    result.planted_executions = parties.candidate.planted_executions();
  }
  result.free_runs = std::move(recordings.free_runs);
  const auto repeat_command = [&](const Subject& subject, const TensorKey& key) {
    return "qdiff run " + subject.input->argument + options.repeat_arguments + " --mode " + subject.mode +
           options_selecting(key);
  };
  conclude(judged, recordings.subjects, cases, extent, parties.oracle.catalogue(), repeat_command, result);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace qdiff::diagnose
