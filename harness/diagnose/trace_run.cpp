#include "harness/diagnose/trace_run.h"

#include <algorithm>
#include <chrono>

#include "harness/diagnose/conclusions.h"
#include "harness/diagnose/far/ranking.h"
#include "harness/diagnose/free_run.h"
#include "harness/diagnose/infer_points.h"
#include "harness/diagnose/record.h"
#include "harness/diagnose/thresholds.h"
#include "harness/diagnose/trace_checks.h"

namespace qdiff::diagnose {
namespace {

// A trace without the tensors that replay cannot reach.
class WithoutFar final : public TensorStore {
 public:
  WithoutFar(const TensorStore& all, const std::set<TensorKey>& far) : all_(all), far_(far) {}
  bool has(const TensorKey& key) const override { return all_.has(key) && !far_.contains(key); }
  TensorView get(const TensorKey& key) const override { return all_.get(key); }

 private:
  const TensorStore& all_;
  const std::set<TensorKey>& far_;
};

// The trace as it is judged: one case in one mode.
struct TraceCase {
  const TraceParties& parties;
  const TraceOptions& options;
  CaseInput input;
  std::vector<Subject> subjects = {};  // one
  std::set<TensorKey> far = {};

  const trace::Trace& trace() const { return parties.trace; }
  const Precision& precision() const { return parties.trace.manifest().precision; }
  const ModelConfig& config() const { return parties.model.config(); }
  const std::set<int>& steps() const { return subjects.front().steps; }
};

CaseInput input_of(const trace::Manifest& manifest, const std::string& id) {
  return {.id = id,
          .title = "A trace of " + manifest.engine.name + ' ' + manifest.engine.version,
          .hypothesis = std::nullopt,
          .argument = "",
          .seed = 0,
          .capacity = manifest.cache_capacity.value_or(0),
          .steps = manifest.steps};
}

// Whole forward passes say whether far tensors are right, and which bug comes nearest to them. Where replay has found
// something wrong already, it reaches them too and they say nothing more.
std::optional<findings::FreeRanking> judge_far(const TraceCase& of, Judged& judged) {
  if (!only_roundings(judged)) {
    for (const TensorKey& key : of.far) {
      judged.not_compared.push_back({of.input.id, "trace", key.step, tensor_name(key.id),
                                     "it lies more than " + std::to_string(kMostLayersOfSpan) +
                                         " layers behind the last recorded tensor, and what is wrong before it "
                                         "reaches it"});
    }
    return std::nullopt;
  }
  const Precision precision = declaring_found(of.precision(), judged);
  auto ranking = rank_free_runs({.trace = of.trace(),
                                 .subject = of.subjects.front(),
                                 .targets = of.far,
                                 .precision = precision,
                                 .config = of.config(),
                                 .catalogue = of.parties.oracle.catalogue(),
                                 .make_reference = of.parties.make_reference,
                                 .progress = of.options.progress,
                                 .probing = of.options.probing},
                                judged);
  of.trace().forget();
  return ranking;
}

// Logits that were recorded, beside those of the reference feeding itself: what a user reads, never a verdict.
std::optional<findings::FreeRun> beside_reference(const TraceCase& of) {
  const bool recorded = std::ranges::any_of(of.steps(), [&](int step) {
    return of.trace().has({step, {Op::kLmHead}});
  });
  if (!recorded) return std::nullopt;
  CaseInput input = of.input;
  input.capacity = std::max(input.capacity, input.steps.back().valid_length());
  const auto reference = of.parties.make_reference(gold_precision(of.precision().weights));
  const std::vector<ReferenceChain> chains =
      run_reference(*reference, {&input}, {*of.steps().rbegin()}, of.precision().activations, of.config(),
                    static_cast<int>(of.config().num_layers), of.options.progress);
  findings::FreeRun figures = free_run_figures(input.id, input.steps, of.trace(), chains.front(), of.config());
  of.trace().forget();
  if (figures.expected_tokens.empty()) return std::nullopt;
  return figures;
}

}  // namespace

bool is_far(const std::vector<TensorKey>& span) {
  std::set<int> layers;
  for (const TensorKey& key : span) {
    if (key.id.layer != kNoLayer) layers.insert(key.id.layer);
  }
  return layers.size() > kMostLayersOfSpan;
}

findings::RunResult judge_trace(const TraceParties& parties, const TraceOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const trace::Manifest& manifest = parties.trace.manifest();
  findings::RunResult result;
  result.notes = check_trace(parties.trace, parties.model);
  if (options.before_judging) options.before_judging();
  result.of_trace = true;
  result.command = options.command;
  result.model = parties.model.description();
  result.config = to_string(parties.model.config());
  result.engine = manifest.engine.name;
  result.device = manifest.engine.device;
  result.precision = manifest.precision;
  result.precision_allowed = options.allow_precision;

  TraceCase of{parties, options, input_of(manifest, options.id)};
  const Extent extent = select_layers(options.layers, of.config());
  const WithoutFar near(parties.trace, of.far);
  of.subjects.push_back({&of.input, "trace", &near, &parties.trace, select_steps(options.steps, manifest.steps), 0.0});
  for (const TensorKey& key : parties.trace.keys()) {
    const bool judged = of.steps().contains(key.step) && extent.has(key.id);
    if (judged && is_far(compare::replay_span(key, parties.trace, of.config()))) of.far.insert(key);
  }
  const JudgingOptions judging{
      .probing = options.probing, .progress = options.progress, .after_part = [&parties] { parties.trace.forget(); }};
  Judged judged = judge_subjects(of.subjects, parties.oracle, of.precision(), extent, judging);
  // Recorded in every judged step, though replay does not reach it.
  std::erase_if(judged.missing, [&](const TensorId& id) {
    return std::ranges::all_of(of.steps(), [&](int step) { return parties.trace.has({step, id}); });
  });
  if (options.infer_points) {
    result.inferred_points = infer_points(of.subjects, parties.oracle, of.precision(), extent, judged, judging);
  }
  if (!of.far.empty()) result.ranking = judge_far(of, judged);
  if (options.beside_reference && extent.outside_layers) {
    if (auto figures = beside_reference(of)) result.free_runs.push_back(std::move(*figures));
  }
  if (extent.outside_layers) {
    result.fed_tokens = fed_tokens(manifest.steps, of.steps(), parties.trace, of.config());
    parties.trace.forget();
  }
  const auto repeat_command = [&](const Subject&, const TensorKey& key) {
    return options.command + options_selecting(key);
  };
  conclude(judged, of.subjects, {&of.input, 1}, extent, parties.oracle.catalogue(), repeat_command, result);
  if (result.ranking) add_evidence(*result.ranking, result.hypotheses);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace qdiff::diagnose
