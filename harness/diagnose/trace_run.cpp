#include "harness/diagnose/trace_run.h"

#include <algorithm>
#include <chrono>

#include "harness/contract/error.h"
#include "harness/diagnose/conclusions.h"
#include "harness/diagnose/free_ranking.h"
#include "harness/diagnose/free_run.h"
#include "harness/diagnose/infer_points.h"
#include "harness/diagnose/record.h"
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

class TraceRun {
 public:
  TraceRun(const TraceParties& parties, const TraceOptions& options)
      : trace_(parties.trace),
        manifest_(parties.trace.manifest()),
        parties_(parties),
        options_(options),
        near_(parties.trace, far_) {}

  findings::RunResult operator()() {
    const auto start = std::chrono::steady_clock::now();
    result_.notes = check_trace(trace_, parties_.model);
    if (options_.before_judging) options_.before_judging();
    select();
    describe();
    const JudgingOptions judging{
        .probing = options_.probing, .progress = options_.progress, .after_part = [this] { trace_.forget(); }};
    Judged judged = judge_subjects(subjects_, parties_.oracle, manifest_.precision, extent_, judging);
    std::erase_if(judged.missing, [this](const TensorId& id) { return only_far(id); });
    if (options_.infer_points) {
      result_.inferred_points = infer_points(subjects_, parties_.oracle, manifest_.precision, extent_, judged, judging);
    }
    if (!far_.empty()) judge_far(judged);
    if (options_.beside_reference) lay_beside_reference();
    conclude(
        judged, subjects_, inputs_, extent_, parties_.oracle.catalogue(),
        [this](const Subject&, const TensorKey& key) { return repeat_command(key); }, result_);
    if (result_.ranking) add_evidence(*result_.ranking, result_.hypotheses);
    result_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return std::move(result_);
  }

 private:
  void select() {
    const ModelConfig& config = parties_.model.config();
    if (options_.layers) {
      for (int layer : *options_.layers) {
        if (layer < 0 || layer >= config.num_layers) {
          throw InputError("--layers: the model has no layer " + std::to_string(layer) + "; its layers are 0 to " +
                           std::to_string(config.num_layers - 1));
        }
      }
      extent_.layers = *options_.layers;
    } else {
      for (int layer = 0; layer < config.num_layers; ++layer) extent_.layers.insert(layer);
    }
    extent_.outside_layers = !options_.layers.has_value();
    inputs_.push_back({.id = options_.id,
                       .title = "A trace of " + manifest_.engine.name + ' ' + manifest_.engine.version,
                       .hypothesis = std::nullopt,
                       .argument = "",
                       .seed = 0,
                       .capacity = manifest_.cache_capacity.value_or(0),
                       .steps = manifest_.steps});
    Subject subject{&inputs_.front(), "trace", &near_, &trace_, {}, 0.0};
    for (const Step& step : manifest_.steps) {
      const bool wanted = !options_.steps || options_.steps->contains(step.index);
      if (wanted && step.has_real_tokens()) subject.steps.insert(step.index);
    }
    for (const TensorKey& key : trace_.keys()) {
      if (subject.steps.contains(key.step) && is_judged(key.id) &&
          layers_of(compare::replay_span(key, trace_, config)) > kLongestSpan) {
        far_.insert(key);
      }
    }
    subjects_.push_back(std::move(subject));
  }

  bool is_judged(const TensorId& id) const {
    return id.layer == kNoLayer ? extent_.outside_layers : extent_.layers.contains(id.layer);
  }

  // Recorded in every judged step, though replay does not reach it.
  bool only_far(const TensorId& id) const {
    const std::set<int>& steps = subjects_.front().steps;
    return std::all_of(steps.begin(), steps.end(), [&](int step) { return trace_.has({step, id}); });
  }

  // Whole forward passes say whether far tensors are right, and which bug comes nearest to them. Where replay has found
  // something wrong already, it reaches them too and they say nothing more.
  void judge_far(Judged& judged) {
    if (!only_roundings(judged)) {
      for (const TensorKey& key : far_) {
        judged.not_compared.push_back({options_.id, "trace", key.step, tensor_name(key.id),
                                       "it lies more than " + std::to_string(kLongestSpan) +
                                           " layers behind the last recorded tensor, and what is wrong before it "
                                           "reaches it"});
      }
      return;
    }
    const Precision precision = declaring_found(manifest_.precision, judged);
    result_.ranking = rank_free_runs({.trace = trace_,
                                      .subject = subjects_.front(),
                                      .targets = far_,
                                      .precision = precision,
                                      .config = parties_.model.config(),
                                      .catalogue = parties_.oracle.catalogue(),
                                      .make_reference = parties_.make_reference,
                                      .progress = options_.progress,
                                      .probing = options_.probing},
                                     judged);
    trace_.forget();
  }

  // Logits that were recorded, beside those of the reference feeding itself: what a user reads, never a verdict.
  void lay_beside_reference() {
    const std::set<int>& steps = subjects_.front().steps;
    const bool recorded = std::any_of(steps.begin(), steps.end(), [&](int step) {
      return trace_.has({step, {Op::kLmHead}});
    });
    if (!recorded || !extent_.outside_layers) return;
    CaseInput input = inputs_.front();
    input.capacity = std::max(input.capacity, input.steps.back().valid_length());
    const auto reference = parties_.make_reference(gold_precision(manifest_.precision.weights));
    RunOptions options;
    options.progress = options_.progress;
    const ModelConfig& config = parties_.model.config();
    const std::vector<ReferenceChain> chains =
        run_reference(*reference, {&input}, {*steps.rbegin()}, manifest_.precision.activations, config,
                      static_cast<int>(config.num_layers), options);
    findings::FreeRun figures = free_run_figures(input.id, input.steps, trace_, chains.front(), config);
    if (!figures.expected_tokens.empty()) result_.free_runs.push_back(std::move(figures));
    trace_.forget();
  }

  std::string repeat_command(const TensorKey& key) const {
    return options_.command + (key.id.layer == kNoLayer ? "" : " --layers " + std::to_string(key.id.layer)) +
           " --steps " + std::to_string(key.step);
  }

  void describe() {
    result_.of_trace = true;
    result_.command = options_.command;
    result_.model = parties_.model.description();
    result_.config = to_string(parties_.model.config());
    result_.engine = manifest_.engine.name;
    result_.device = manifest_.engine.device;
    result_.precision = manifest_.precision;
    result_.precision_allowed = options_.allow_precision;
  }

  const trace::Trace& trace_;
  const trace::Manifest& manifest_;
  const TraceParties& parties_;
  const TraceOptions& options_;
  Extent extent_;
  std::vector<CaseInput> inputs_;  // one
  std::set<TensorKey> far_;
  WithoutFar near_;
  std::vector<Subject> subjects_;  // one
  findings::RunResult result_;
};

}  // namespace

std::size_t layers_of(const std::vector<TensorKey>& span) {
  std::set<int> layers;
  for (const TensorKey& key : span) {
    if (key.id.layer != kNoLayer) layers.insert(key.id.layer);
  }
  return layers.size();
}

findings::RunResult judge_trace(const TraceParties& parties, const TraceOptions& options) {
  return TraceRun(parties, options)();
}

}  // namespace qdiff::diagnose
