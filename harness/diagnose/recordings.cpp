#include "harness/diagnose/recordings.h"

#include <map>

#include "harness/diagnose/free_run.h"

namespace qdiff::diagnose {
namespace {

// An untapped run in other poison must give the same logits: recording changes nothing, no unwritten memory is read,
// and two runs agree.
std::optional<WrongTensor> untapped_difference(Engine& candidate, const CaseRecording& recorded,
                                               const std::function<void()>& step_done) {
  const std::vector<Tensor> logits =
      run_untapped(candidate, *recorded.input, recorded.last_step(), Poison::kLargeFinite, step_done);
  for (int step : recorded.steps) {
    const TensorKey key{step, {Op::kLmHead}};
    if (!recorded.free->tensors.has(key)) continue;
    auto difference = first_difference(recorded.free->tensors.get(key), logits[static_cast<std::size_t>(step)].view(),
                                       recorded.input->steps[static_cast<std::size_t>(step)]);
    if (!difference) continue;
    return WrongTensor{
        .key = key, .span_start = key.id, .judgement = std::move(*difference), .seen_by = SeenBy::kUntappedRun};
  }
  return std::nullopt;
}

void note_later_writes(const Subject& subject, const std::vector<LaterWrite>& writes, const Extent& extent,
                       std::vector<WrongTensor>& wrong) {
  for (const LaterWrite& write : writes) {
    const auto id = parse_tensor_name(write.tensor);
    if (!id || !subject.steps.contains(write.step) || !extent.has(*id)) continue;
    WrongTensor tensor{
        .subject = &subject, .key = {write.step, *id}, .span_start = *id, .seen_by = SeenBy::kLaterWrite};
    tensor.judgement.outcome = compare::Outcome::kDiverged;
    tensor.judgement.reason = "its buffer was written again after the engine had handed it out";
    wrong.push_back(std::move(tensor));
  }
}

}  // namespace

Recordings record_cases(std::span<const CaseInput> cases, const Parties& parties, const RunOptions& options,
                        const Extent& extent) {
  Recordings recordings;
  Engine& candidate = parties.candidate;
  const ModelConfig& config = parties.model.config();
  const auto num_layers = static_cast<int>(config.num_layers);
  std::vector<const CaseInput*> inputs;
  std::vector<int> last_steps;
  for (const CaseInput& input : cases) {
    std::set<int> steps = select_steps(options.steps, input.steps);
    if (steps.empty()) continue;  // the filter leaves nothing of this case
    inputs.push_back(&input);
    last_steps.push_back(*steps.rbegin());
    recordings.cases.push_back({&input, std::move(steps)});
  }
  // Each step of a case has so many parts, and `done(n)` reports n more of them.
  const auto each_case = [&](const char* what, int parts, auto record) {
    std::int64_t finished = 0, total = 0;
    for (const CaseRecording& recorded : recordings.cases) total += parts * (recorded.last_step() + 1);
    const auto done = [&](int more) {
      finished += more;
      if (options.progress) options.progress(what, finished, total);
    };
    done(0);
    for (CaseRecording& recorded : recordings.cases) record(recorded, done);
  };
  std::map<const CaseInput*, WrongTensor> untapped;
  if (options.mode != Mode::kLockstep) {
    // In memory that holds no right answers.
    const int parts = num_layers + kPartsOutsideLayers;
    const int runs = extent.outside_layers ? 2 : 1;
    each_case("candidate, free run", runs * parts, [&](CaseRecording& recorded, const auto& done) {
      recorded.free =
          record_free(candidate, *recorded.input, num_layers, recorded.last_step(), Poison::kNaN, [&] { done(1); });
      if (!extent.outside_layers) return;
      auto wrong = untapped_difference(candidate, recorded, [&] { done(parts); });
      if (wrong) untapped.emplace(recorded.input, std::move(*wrong));
    });
  }
  // What enters the last judged layer is all that lockstep needs; the head needs every layer before it.
  const int end_layer = extent.outside_layers ? num_layers : *extent.layers.rbegin();
  std::vector<ReferenceChain> chains = run_reference(
      parties.reference, inputs, last_steps, candidate.precision().activations, config, end_layer, options.progress);
  for (std::size_t i = 0; i < chains.size(); ++i) {
    CaseRecording& recorded = recordings.cases[i];
    recorded.chain = std::move(chains[i]);
    if (recorded.free) {
      findings::FreeRun figures =
          free_run_figures(recorded.input->id, recorded.input->steps, recorded.free->tensors, recorded.chain, config);
      if (figures.tokens_compared > 0) recordings.free_runs.push_back(std::move(figures));
    }
    recorded.chain.logits.clear();  // they serve here alone, and are as large as everything else together
  }
  if (options.mode != Mode::kFree) {
    const int parts = static_cast<int>(extent.layers.size()) + (extent.outside_layers ? kPartsOutsideLayers : 0);
    each_case("candidate, lockstep", parts, [&](CaseRecording& recorded, const auto& done) {
      recorded.lockstep =
          record_lockstep(candidate, *recorded.input, recorded.chain, extent.layers, extent.outside_layers,
                          recorded.last_step(), Poison::kLargeFinite, [&] { done(1); });
      recorded.lockstep_inputs.emplace(recorded.lockstep->tensors, recorded.chain);
    });
  }
  recordings.subjects.reserve(2 * recordings.cases.size());  // wrong tensors point at them
  const auto add_subject = [&](Subject subject, const Recorded& recorded) {
    recordings.subjects.push_back(std::move(subject));
    note_later_writes(recordings.subjects.back(), recorded.later_writes, extent, recordings.wrong);
  };
  for (const CaseRecording& of_case : recordings.cases) {
    if (const auto& lockstep = of_case.lockstep) {
      add_subject({of_case.input, "lockstep", &lockstep->tensors, &*of_case.lockstep_inputs, of_case.steps,
                   candidate.poison_value(Poison::kLargeFinite)},
                  *lockstep);
    }
    if (const auto& free = of_case.free) {
      add_subject(
          {of_case.input, "free", &free->tensors, &free->tensors, of_case.steps, candidate.poison_value(Poison::kNaN)},
          *free);
      if (const auto found = untapped.find(of_case.input); found != untapped.end()) {
        found->second.subject = &recordings.subjects.back();
        recordings.wrong.push_back(std::move(found->second));
      }
    }
  }
  return recordings;
}

}  // namespace qdiff::diagnose
