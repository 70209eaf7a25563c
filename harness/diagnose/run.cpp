#include "harness/diagnose/run.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <numeric>

#include "harness/contract/error.h"
#include "harness/diagnose/attribution.h"
#include "harness/diagnose/free_run.h"
#include "harness/diagnose/hypotheses.h"
#include "harness/diagnose/pattern.h"
#include "harness/diagnose/record.h"

namespace qdiff::diagnose {
namespace {

using compare::Finding;
using compare::Outcome;
using compare::Verdict;

std::string layer_text(const std::set<int>& layers) {
  return layers.empty() ? "none" : std::to_string(*layers.begin()) + ".." + std::to_string(*layers.rbegin());
}

// A chunk may hold padding alone: then there is nothing in it that anybody would compare.
bool has_real_tokens(const Step& step) {
  for (std::int64_t b = 0; b < step.batch(); ++b) {
    if (!step.is_pad(b, step.num_tokens() - 1)) return true;
  }
  return false;
}

class Run {
 public:
  Run(std::span<const CaseInput> cases, const Parties& parties, const RunOptions& options)
      : cases_(cases), parties_(parties), options_(options), config_(parties.model.config()) {}

  compare::RunResult operator()() {
    const auto start = std::chrono::steady_clock::now();
    select();
    record();
    judge_all();
    conclude();
    describe();
    result_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return std::move(result_);
  }

 private:
  struct Raw {
    Finding finding;
    std::vector<Variant> fits;
    std::size_t case_index;
  };

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
      layers_ = *options_.layers;
    } else {
      for (int layer = 0; layer < config_.num_layers; ++layer) layers_.insert(layer);
    }
    outside_layers_ = !options_.layers.has_value();
    for (const CaseInput& input : cases_) {
      std::set<int> steps;
      for (const Step& step : input.steps) {
        const bool wanted = !options_.steps || options_.steps->contains(step.index);
        if (wanted && has_real_tokens(step)) steps.insert(step.index);
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
        if (outside_layers_) compare_untapped(i, last_steps[i]);
      }
    }
    // What enters the last judged layer is all that lockstep needs; the head needs every layer before it.
    const int end_layer = outside_layers_ ? num_layers : *layers_.rbegin();
    chains_ = run_reference(parties_.reference, lockstep_inputs, last_steps, parties_.candidate.precision().activations,
                            config_, end_layer, options_);
    if (options_.mode != Mode::kFree) {
      for (std::size_t i = 0; i < active_.size(); ++i) {
        progress("candidate, lockstep", static_cast<std::int64_t>(i), static_cast<std::int64_t>(active_.size()));
        lockstep_.push_back(
            std::make_unique<Recorded>(record_lockstep(parties_.candidate, cases_[active_[i]], chains_[i], layers_,
                                                       outside_layers_, last_steps[i], Poison::kLargeFinite)));
        lockstep_stores_.push_back(std::make_unique<LockstepInputs>(lockstep_.back()->tensors, chains_[i]));
      }
    }
    for (std::size_t i = 0; i < active_.size(); ++i) {
      const std::size_t c = active_[i];
      if (!lockstep_.empty()) {
        subjects_.push_back({&cases_[c], "lockstep", &lockstep_[i]->tensors, lockstep_stores_[i].get(), steps_[c]});
        note_later_writes(c, "lockstep", lockstep_[i]->later_writes);
      }
      if (!free_.empty()) {
        subjects_.push_back({&cases_[c], "free", &free_[i]->tensors, &free_[i]->tensors, steps_[c]});
        note_later_writes(c, "free", free_[i]->later_writes);
      }
    }
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
      Finding finding = make_finding(c, "free", step, key.id);
      finding.judgement = *difference;
      raw_.push_back({std::move(finding), {}, c});
      return;
    }
  }

  void note_later_writes(std::size_t c, const std::string& mode, const std::vector<LaterWrite>& writes) {
    for (const LaterWrite& write : writes) {
      const auto id = parse_tensor_name(write.tensor);
      if (!id || !steps_[c].contains(write.step) || !judged(*id)) continue;
      Finding finding = make_finding(c, mode, write.step, *id);
      finding.judgement.outcome = Outcome::kDiverged;
      finding.judgement.reason = "its buffer was written again after the engine had handed it out";
      raw_.push_back({std::move(finding), {}, c});
    }
  }

  bool judged(const TensorId& id) const { return id.layer == kNoLayer ? outside_layers_ : layers_.contains(id.layer); }

  // ---- Judging: layer by layer, row by row, then all cases, modes and steps ----
  void judge_all() {
    std::vector<TensorId> rows;
    for (const TensorId& id : all_tensors(config_, true)) {
      if (judged(id)) rows.push_back(id);
    }
    for (std::size_t i = 0; i < rows.size(); ++i) {
      progress("judging", static_cast<std::int64_t>(i), static_cast<std::int64_t>(rows.size()));
      judge_row(rows[i]);
    }
    progress("judging", static_cast<std::int64_t>(rows.size()), static_cast<std::int64_t>(rows.size()));
  }

  void judge_row(const TensorId& id) {
    std::vector<RowJudgement> judgements;
    bool missing = false;
    for (const Subject& subject : subjects_) {
      for (int step : subject.steps) {
        const TensorKey key{step, id};
        if (!subject.candidate->has(key)) {
          missing = true;
          continue;
        }
        judgements.push_back(judge_one(subject, key));
      }
    }
    if (missing) missing_.push_back(id);
    const bool any_wrong = std::any_of(judgements.begin(), judgements.end(), [](const RowJudgement& row) {
      return row.judgement.outcome == Outcome::kDiverged;
    });
    const std::vector<Variant> fits =
        any_wrong ? fitting_variants(parties_.oracle, judgements, precision()) : std::vector<Variant>{};
    for (const RowJudgement& row : judgements) tally(row, fits);
  }

  RowJudgement judge_one(const Subject& subject, const TensorKey& key) {
    RowJudgement row{&subject, key, compare::replay_span(key, *subject.inputs, config_), {}, {}};
    std::string where;
    if (!compare::inputs_are_finite(row.span, *subject.inputs, subject.input->steps, config_, &where)) {
      row.judgement.outcome = Outcome::kUnjudged;
      row.judgement.reason = "its recorded input " + where + " holds NaN; the cause is upstream";
      return row;
    }
    const TensorView actual = subject.candidate->get(key);
    const Expectation expected = evaluate(parties_.oracle, subject, row, precision(), nullptr);
    row.judgement = judge_against(subject, row, actual, expected);
    if (row.judgement.outcome == Outcome::kDiverged) {
      row.pattern = describe_pattern(key.id.op, actual, expected, step_of(subject, key), config_);
    }
    if (probes_variants(key.id)) probe_variants(subject, row, expected);
    return row;
  }

  compare::Judgement judge_against(const Subject& subject, const RowJudgement& row, const TensorView& actual,
                                   const Expectation& expected) const {
    const compare::Comparison comparison{.op = row.key.id.op,
                                         .actual = actual,
                                         .expected = expected,
                                         .step = step_of(subject, row.key),
                                         .precision = precision(),
                                         .config = config_,
                                         .operations = row.span};
    return compare::judge(comparison);
  }

  // The first and the last judged layer stand for all: they differ most (large k biases, residual of no history).
  bool probes_variants(const TensorId& id) const {
    return id.layer == kNoLayer || id.layer == *layers_.begin() || id.layer == *layers_.rbegin();
  }

  // Would these inputs show each variant of this row? Asked of the reference alone, once for each case until one does.
  void probe_variants(const Subject& subject, const RowJudgement& row, const Expectation& expected) {
    for (const VariantFacts& facts : parties_.oracle.catalogue()) {
      if (!concerns(facts, row.span)) continue;
      std::set<std::string>& shown = detectability_.cases_that_show[facts.id];
      if (shown.contains(subject.input->id)) continue;
      detectability_.tried.insert(facts.id);
      for (const Variant& variant : doses(facts)) {
        const Expectation wrong = evaluate(parties_.oracle, subject, row, precision(), &variant);
        const Tensor planted = Tensor::rounded(subject.candidate->get(row.key).dtype, wrong.shape, wrong.value);
        if (judge_against(subject, row, planted.view(), expected).outcome == Outcome::kDiverged) {
          shown.insert(subject.input->id);
          break;
        }
      }
    }
  }

  // ---- Bookkeeping ----
  void tally(const RowJudgement& row, const std::vector<Variant>& fits) {
    const Subject& subject = *row.subject;
    const auto case_index = static_cast<std::size_t>(subject.input - cases_.data());
    const compare::Judgement& judgement = row.judgement;
    if (judgement.outcome != Outcome::kUnjudged) {
      ++result_.coverage.tensors_compared;
      ++compared_[case_index];
    }
    switch (judgement.outcome) {
      case Outcome::kMatch:
        if (!result_.closest || judgement.ratio_to_bound > result_.closest->ratio) {
          result_.closest = {subject.input->id,
                             subject.mode,
                             row.key.step,
                             tensor_name(row.key.id),
                             judgement.decisive_statistic,
                             judgement.ratio_to_bound};
        }
        break;
      case Outcome::kDiverged: {
        Finding finding = make_finding(case_index, subject.mode, row.key.step, row.key.id);
        finding.judgement = judgement;
        finding.span_start = compare::span_start(row.span, *subject.inputs, config_);
        finding.explanation.pattern = row.pattern;
        raw_.push_back({std::move(finding), fits, case_index});
        break;
      }
      case Outcome::kInconclusive:
      case Outcome::kUnjudged:
        inconclusive_.insert(case_index);
        result_.coverage.not_compared.push_back(
            {subject.input->id, subject.mode, row.key.step, tensor_name(row.key.id), judgement.reason});
        break;
    }
  }

  Finding make_finding(std::size_t case_index, const std::string& mode, int step, const TensorId& id) const {
    Finding finding;
    finding.case_id = cases_[case_index].id;
    finding.mode = mode;
    finding.step = step;
    finding.phase = cases_[case_index].steps[static_cast<std::size_t>(step)].phase;
    finding.tensor = id;
    finding.span_start = id;
    finding.command = "qdiff run " + cases_[case_index].argument + options_.repeat_arguments + " --mode " + mode +
                      (id.layer == kNoLayer ? "" : " --layers " + std::to_string(id.layer)) + " --steps " +
                      std::to_string(step);
    return finding;
  }

  // ---- Conclusions ----
  void conclude() {
    std::stable_sort(raw_.begin(), raw_.end(), [](const Raw& a, const Raw& b) {
      if (a.case_index != b.case_index) return a.case_index < b.case_index;
      return TensorKey{a.finding.step, a.finding.tensor} < TensorKey{b.finding.step, b.finding.tensor};
    });
    narrow_ties();
    for (Raw& raw : raw_) {
      const std::string pattern = raw.finding.explanation.pattern;
      raw.finding.explanation = explanation_of(raw.fits);
      for (const VariantFacts& facts : parties_.oracle.catalogue()) {
        if (facts.id == raw.finding.explanation.variant) raw.finding.explanation.expected_value = facts.right_value;
      }
      raw.finding.explanation.pattern = pattern;
    }
    for (Raw& raw : raw_) fill_extent(raw.finding.explanation);
    for (const Raw& raw : raw_) result_.findings.push_back(raw.finding);

    result_.hypotheses = judge_hypotheses(result_.findings, parties_.oracle.catalogue(), shown_only());
    result_.coverage.blind = blind_hypotheses(result_.hypotheses);
    result_.coverage.tensors_missing = missing_names();
    if (!result_.findings.empty()) {
      result_.verdict = Verdict::kDiverged;
    } else if (result_.coverage.tensors_compared == 0) {
      result_.verdict = Verdict::kInconclusive;
      result_.reason = "nothing was compared; do --layers and --steps (layers " + layer_text(layers_) +
                       ") leave anything of these cases?";
    } else if (!result_.coverage.not_compared.empty()) {
      result_.verdict = Verdict::kInconclusive;
      result_.reason =
          result_.coverage.not_compared.front().tensor + ": " + result_.coverage.not_compared.front().reason;
    }
  }

  // One bug explains several layers: where the variants that fit one layer's row include those that fit another's, the
  // common ones are the explanation of both.
  void narrow_ties() {
    for (Raw& raw : raw_) {
      for (const Raw& other : raw_) {
        if (other.finding.tensor.op != raw.finding.tensor.op || other.fits.empty()) continue;
        std::vector<Variant> common;
        for (const Variant& fit : raw.fits) {
          if (std::find(other.fits.begin(), other.fits.end(), fit) != other.fits.end()) common.push_back(fit);
        }
        if (!common.empty()) raw.fits = std::move(common);
      }
    }
  }

  // Layers and phases in which the same variant was found.
  void fill_extent(compare::Explanation& explanation) const {
    if (!explanation.variant) return;
    std::set<int> layers;
    std::set<Phase> phases;
    for (const Raw& raw : raw_) {
      if (raw.finding.explanation.variant != explanation.variant) continue;
      if (raw.finding.tensor.layer != kNoLayer) layers.insert(raw.finding.tensor.layer);
      phases.insert(raw.finding.phase);
    }
    explanation.layers.assign(layers.begin(), layers.end());
    explanation.phase = phases.size() > 1 ? "both" : std::string(name(*phases.begin()));
  }

  Detectability shown_only() const {
    Detectability shown = detectability_;
    std::erase_if(shown.cases_that_show, [](const auto& entry) { return entry.second.empty(); });
    return shown;
  }

  // A row that no judged layer handed out is one name for all of them.
  std::vector<std::string> missing_names() const {
    std::map<Op, std::vector<int>> layers;
    for (const TensorId& id : missing_) layers[id.op].push_back(id.layer);
    std::vector<std::string> names;
    for (const auto& [op, list] : layers) {
      if (row(op).scope == Scope::kLayer && list.size() == layers_.size() && list.size() > 1) {
        names.push_back("model.layers.*." + std::string(row(op).name));
        continue;
      }
      for (int layer : list) names.push_back(tensor_name({op, layer}));
    }
    return names;
  }

  void describe() {
    result_.config = to_string(config_);
    result_.model = parties_.model.description();
    result_.engine = parties_.candidate.name();
    result_.device = parties_.candidate.device().kind == DeviceKind::kCpu ? "cpu" : "cuda";
    result_.precision = precision();
    if (options_.inject) {
      result_.injected = options_.inject->id;
      if (options_.inject->value) *result_.injected += "=" + shortest(*options_.inject->value);
      if (options_.inject->layer) *result_.injected += "@" + std::to_string(*options_.inject->layer);
      result_.planted_executions = parties_.candidate.planted_executions();
    }
    for (std::size_t c = 0; c < cases_.size(); ++c) {
      compare::CaseSummary summary{cases_[c].id, cases_[c].title, cases_[c].hypothesis, cases_[c].seed, {}, {}};
      summary.tensors_compared = compared_[c];
      const bool diverged = std::any_of(raw_.begin(), raw_.end(), [&](const Raw& raw) { return raw.case_index == c; });
      summary.verdict = diverged                                         ? Verdict::kDiverged
                        : inconclusive_.contains(c) || compared_[c] == 0 ? Verdict::kInconclusive
                                                                         : Verdict::kMatch;
      result_.cases.push_back(std::move(summary));
    }
    for (std::size_t i = 0; i < free_.size(); ++i) {
      const CaseInput& input = cases_[active_[i]];
      compare::FreeRun figures = free_run_figures(input.id, input.steps, free_[i]->tensors, chains_[i], config_);
      if (figures.tokens_compared > 0) result_.free_runs.push_back(std::move(figures));
    }
  }

  static std::string shortest(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.17g", value);
    for (int digits = 1; digits < 17; ++digits) {
      char shorter[32];
      std::snprintf(shorter, sizeof shorter, "%.*g", digits, value);
      if (std::strtod(shorter, nullptr) == value) return shorter;
    }
    return text;
  }

  const Step& step_of(const Subject& subject, const TensorKey& key) const {
    return subject.input->steps[static_cast<std::size_t>(key.step)];
  }
  const Precision& precision() const { return parties_.candidate.precision(); }
  void progress(const std::string& what, std::int64_t done, std::int64_t total) const {
    if (options_.progress) options_.progress(what, done, total);
  }

  std::span<const CaseInput> cases_;
  const Parties& parties_;
  const RunOptions& options_;
  const ModelConfig& config_;

  std::set<int> layers_;
  bool outside_layers_ = true;
  std::vector<std::set<int>> steps_;                        // by case
  std::vector<std::size_t> active_;                         // cases with a step to judge
  std::vector<std::unique_ptr<Recorded>> free_, lockstep_;  // by active case
  std::vector<ReferenceChain> chains_;                      // by active case
  std::vector<std::unique_ptr<LockstepInputs>> lockstep_stores_;
  std::vector<Subject> subjects_;

  std::vector<Raw> raw_;
  std::vector<TensorId> missing_;
  std::set<std::size_t> inconclusive_;
  std::map<std::size_t, std::int64_t> compared_;
  Detectability detectability_;
  compare::RunResult result_;
};

}  // namespace

compare::RunResult run_cases(std::span<const CaseInput> cases, const Parties& parties, const RunOptions& options) {
  return Run(cases, parties, options)();
}

}  // namespace qdiff::diagnose
