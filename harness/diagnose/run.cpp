#include "harness/diagnose/run.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>

#include "harness/contract/error.h"
#include "harness/diagnose/conclusions.h"
#include "harness/diagnose/free_run.h"
#include "harness/diagnose/judging.h"
#include "harness/diagnose/record.h"

namespace qdiff::diagnose {
namespace {

using compare::Outcome;

class Run {
 public:
  Run(std::span<const CaseInput> cases, const Parties& parties, const RunOptions& options)
      : cases_(cases), parties_(parties), options_(options), config_(parties.model.config()) {}

  findings::RunResult operator()() {
    const auto start = std::chrono::steady_clock::now();
    select();
    record();
    Judged judged = judge_subjects(subjects_, parties_.oracle, precision(), extent_,
                                   {.probing = options_.probing, .progress = options_.progress, .after_part = {}});
    judged.wrong.insert(judged.wrong.end(), seen_while_recording_.begin(), seen_while_recording_.end());
    drop_consequences(judged);
    conclude(
        judged, subjects_, cases_, extent_, parties_.oracle.catalogue(),
        [this](const Subject& subject, const TensorKey& key) { return repeat_command(subject, key); }, result_);
    describe();
    result_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return std::move(result_);
  }

 private:
  // ---- What is judged ----
  void select() {
    for (const CaseInput& input : cases_) {
      try {
        validate_steps(input.steps, config_.vocab, config_.max_position_embeddings);
      } catch (const std::invalid_argument& error) {
        throw InputError("case " + input.id + ": " + error.what());
      }
    }
    if (options_.layers) {
      for (int layer : *options_.layers) {
        if (layer < 0 || layer >= config_.num_layers) {
          throw InputError("--layers: the model has no layer " + std::to_string(layer) + "; its layers are 0.." +
                           std::to_string(config_.num_layers - 1));
        }
      }
      if (options_.layers->empty()) throw InputError("--layers: the list is empty");
      extent_.layers = *options_.layers;
    } else {
      for (int layer = 0; layer < config_.num_layers; ++layer) extent_.layers.insert(layer);
    }
    extent_.outside_layers = !options_.layers.has_value();
    for (const CaseInput& input : cases_) {
      std::set<int> steps;
      for (const Step& step : input.steps) {
        const bool wanted = !options_.steps || options_.steps->contains(step.index);
        if (wanted && step.has_real_tokens()) steps.insert(step.index);
      }
      steps_.push_back(std::move(steps));
    }
  }

  // ---- Recording: the candidate first, in memory that holds no right answers ----
  void record() {
    std::vector<const CaseInput*> lockstep_inputs;
    std::vector<int> last_steps;
    for (std::size_t c = 0; c < cases_.size(); ++c) {
      if (steps_[c].empty()) continue;  // the step filter leaves nothing of this case
      active_.push_back(c);
      lockstep_inputs.push_back(&cases_[c]);
      last_steps.push_back(*steps_[c].rbegin());
    }
    const auto num_layers = static_cast<int>(config_.num_layers);
    const bool free = options_.mode != Mode::kLockstep;
    if (free) {
      for (std::size_t i = 0; i < active_.size(); ++i) {
        progress("candidate, free run", static_cast<std::int64_t>(i), static_cast<std::int64_t>(active_.size()));
        const CaseInput& input = cases_[active_[i]];
        free_.push_back(std::make_unique<Recorded>(
            record_free(parties_.candidate, input, num_layers, last_steps[i], Poison::kNaN)));
        if (extent_.outside_layers) compare_untapped(i, last_steps[i]);
      }
    }
    // What enters the last judged layer is all that lockstep needs; the head needs every layer before it.
    const int end_layer = extent_.outside_layers ? num_layers : *extent_.layers.rbegin();
    chains_ = run_reference(parties_.reference, lockstep_inputs, last_steps, parties_.candidate.precision().activations,
                            config_, end_layer, options_);
    compare_free_runs();
    if (options_.mode != Mode::kFree) {
      for (std::size_t i = 0; i < active_.size(); ++i) {
        progress("candidate, lockstep", static_cast<std::int64_t>(i), static_cast<std::int64_t>(active_.size()));
        lockstep_.push_back(std::make_unique<Recorded>(
            record_lockstep(parties_.candidate, cases_[active_[i]], chains_[i], extent_.layers, extent_.outside_layers,
                            last_steps[i], Poison::kLargeFinite)));
        lockstep_stores_.push_back(std::make_unique<LockstepInputs>(lockstep_.back()->tensors, chains_[i]));
      }
    }
    add_subjects();
  }

  // Subjects stand still from here on: what was seen while recording points at them.
  void add_subjects() {
    std::vector<const Recorded*> recorded;
    for (std::size_t i = 0; i < active_.size(); ++i) {
      const CaseInput& input = cases_[active_[i]];
      const std::set<int>& steps = steps_[active_[i]];
      if (!lockstep_.empty()) {
        subjects_.push_back({&input, "lockstep", &lockstep_[i]->tensors, lockstep_stores_[i].get(), steps,
                             parties_.candidate.poison_value(Poison::kLargeFinite)});
        recorded.push_back(lockstep_[i].get());
      }
      if (!free_.empty()) {
        subjects_.push_back({&input, "free", &free_[i]->tensors, &free_[i]->tensors, steps,
                             parties_.candidate.poison_value(Poison::kNaN)});
        recorded.push_back(free_[i].get());
      }
    }
    for (std::size_t s = 0; s < subjects_.size(); ++s) {
      note_later_writes(subjects_[s], recorded[s]->later_writes);
      const auto difference = untapped_differences_.find(subjects_[s].input);
      if (subjects_[s].mode != "free" || difference == untapped_differences_.end()) continue;
      seen_while_recording_.push_back(wrong_tensor(subjects_[s], difference->second.first, difference->second.second));
    }
  }

  // The reference's own logits serve here alone, and are as large as everything else together.
  void compare_free_runs() {
    for (std::size_t i = 0; i < free_.size(); ++i) {
      const CaseInput& input = cases_[active_[i]];
      findings::FreeRun figures = free_run_figures(input.id, input.steps, free_[i]->tensors, chains_[i], config_);
      if (figures.tokens_compared > 0) result_.free_runs.push_back(std::move(figures));
    }
    for (ReferenceChain& chain : chains_) chain.logits.clear();
  }

  // An untapped run in other poison must give the same logits: recording changes nothing, no unwritten memory is read,
  // and two runs agree.
  void compare_untapped(std::size_t active_index, int last_step) {
    const std::size_t c = active_[active_index];
    const std::vector<Tensor> logits = run_untapped(parties_.candidate, cases_[c], last_step, Poison::kLargeFinite);
    for (int step : steps_[c]) {
      const TensorKey key{step, {Op::kLmHead}};
      if (!free_[active_index]->tensors.has(key)) continue;
      const Step& s = cases_[c].steps[static_cast<std::size_t>(step)];
      const auto difference =
          first_difference(free_[active_index]->tensors.get(key), logits[static_cast<std::size_t>(step)].view(), s);
      if (!difference) continue;
      untapped_differences_[&cases_[c]] = {key, *difference};
      return;
    }
  }

  WrongTensor wrong_tensor(const Subject& subject, const TensorKey& key, compare::Judgement judgement) const {
    WrongTensor wrong;
    wrong.subject = &subject;
    wrong.key = key;
    wrong.span_start = key.id;
    wrong.judgement = std::move(judgement);
    return wrong;
  }

  void note_later_writes(const Subject& subject, const std::vector<LaterWrite>& writes) {
    for (const LaterWrite& write : writes) {
      const auto id = parse_tensor_name(write.tensor);
      if (!id || !subject.steps.contains(write.step) || !judged(*id)) continue;
      compare::Judgement judgement;
      judgement.outcome = Outcome::kDiverged;
      judgement.reason = "its buffer was written again after the engine had handed it out";
      seen_while_recording_.push_back(wrong_tensor(subject, {write.step, *id}, std::move(judgement)));
      seen_while_recording_.back().overwritten = true;
    }
  }

  bool judged(const TensorId& id) const {
    return id.layer == kNoLayer ? extent_.outside_layers : extent_.layers.contains(id.layer);
  }

  // What two runs of the engine show of each other counts where nothing else of the case is wrong: a wrong tensor
  // brings different logits with it.
  void drop_consequences(Judged& judged) const {
    std::erase_if(judged.wrong, [&](const WrongTensor& tensor) {
      const auto difference = untapped_differences_.find(tensor.subject->input);
      const bool from_two_runs = difference != untapped_differences_.end() && tensor.key == difference->second.first &&
                                 tensor.judgement.reason == difference->second.second.reason;
      if (!from_two_runs) return false;
      return std::any_of(judged.wrong.begin(), judged.wrong.end(), [&](const WrongTensor& other) {
        return other.subject->input == tensor.subject->input && !(other.key == tensor.key);
      });
    });
  }

  std::string repeat_command(const Subject& subject, const TensorKey& key) const {
    return "qdiff run " + subject.input->argument + options_.repeat_arguments + " --mode " + subject.mode +
           (key.id.layer == kNoLayer ? "" : " --layers " + std::to_string(key.id.layer)) + " --steps " +
           std::to_string(key.step);
  }

  void describe() {
    result_.config = to_string(config_);
    result_.model = parties_.model.description();
    result_.engine = parties_.candidate.name();
    result_.device = parties_.candidate.device().kind == DeviceKind::kCpu ? "cpu" : "cuda";
    result_.precision = precision();
    if (options_.inject) {
      result_.injected = to_string(*options_.inject);
      result_.planted_executions = parties_.candidate.planted_executions();
    }
  }

  const Precision& precision() const { return parties_.candidate.precision(); }
  void progress(const std::string& what, std::int64_t done, std::int64_t total) const {
    if (options_.progress) options_.progress(what, done, total);
  }

  std::span<const CaseInput> cases_;
  const Parties& parties_;
  const RunOptions& options_;
  const ModelConfig& config_;

  Extent extent_;
  std::vector<std::set<int>> steps_;                        // by case
  std::vector<std::size_t> active_;                         // cases with a step to judge
  std::vector<std::unique_ptr<Recorded>> free_, lockstep_;  // by active case
  std::vector<ReferenceChain> chains_;                      // by active case
  std::vector<std::unique_ptr<LockstepInputs>> lockstep_stores_;
  std::vector<Subject> subjects_;
  std::vector<WrongTensor> seen_while_recording_;
  // Logits of a step in which a second, untapped run differs from the recorded one.
  std::map<const CaseInput*, std::pair<TensorKey, compare::Judgement>> untapped_differences_;
  findings::RunResult result_;
};

}  // namespace

findings::RunResult run_cases(std::span<const CaseInput> cases, const Parties& parties, const RunOptions& options) {
  return Run(cases, parties, options)();
}

}  // namespace qdiff::diagnose
