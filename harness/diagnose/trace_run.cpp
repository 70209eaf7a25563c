#include "harness/diagnose/trace_run.h"

#include <algorithm>
#include <chrono>

#include "harness/contract/error.h"
#include "harness/contract/wording.h"
#include "harness/diagnose/cache_scales.h"
#include "harness/diagnose/conclusions.h"
#include "harness/diagnose/declaration.h"
#include "harness/diagnose/far/ranking.h"
#include "harness/diagnose/free_run.h"
#include "harness/diagnose/infer_points.h"
#include "harness/diagnose/misrecorded.h"
#include "harness/diagnose/record.h"
#include "harness/diagnose/repeats.h"
#include "harness/diagnose/row_oracle.h"
#include "harness/diagnose/thresholds.h"
#include "harness/diagnose/trace_checks.h"

namespace qdiff::diagnose {
namespace {

// The trace as it is judged: one case in one mode.
struct TraceCase {
  const TraceParties& parties;
  const TraceOptions& options;
  CaseInput input;
  std::vector<Subject> subjects = {};  // one
  std::set<TensorKey> far = {};
  Precision declared = parties.trace.manifest().precision;  // as the trace is judged

  const trace::Trace& trace() const { return parties.trace; }
  const Precision& precision() const { return declared; }
  const ModelConfig& config() const { return parties.model.config(); }
  const std::set<int>& steps() const { return subjects.front().steps; }
};

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

using Judge = std::function<Judged()>;

// What the recorder got wrong, and the trace without it.
struct Recorder {
  TraceCase& of;
  std::vector<WrongTensor> wrong = {};
  std::vector<findings::JudgedTensor> tensors = {};
  std::set<TensorKey> keys = {};
  Without right;  // all other tensors
  Without near;   // those of them that replay reaches

  explicit Recorder(TraceCase& judged_case)
      : of(judged_case), right(of.trace(), keys), near(*of.subjects.front().candidate, keys) {}
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;

  // Whether anything is the recorder's. Then the trace has to be judged again: `judge` does it without explanations.
  bool find(const Judged& judged, const Judge& judge) {
    if (judged.wrong.empty()) return false;
    const std::optional<Judged> unrounded = find_rounded(judged, judge);
    const Judged& now = unrounded ? *unrounded : judged;
    for (const Misrecorded& misrecorded : find_misrecorded(of.subjects.front(), now, of.parties.oracle, of.precision(),
                                                           [this] { of.trace().forget(); })) {
      WrongTensor tensor = *std::ranges::find(now.wrong, misrecorded.key, &WrongTensor::key);
      tensor.seen_by = SeenBy::kRecorder;
      tensor.holds = misrecorded.holds;
      wrong.push_back(std::move(tensor));
      keys.insert(misrecorded.key);
    }
    std::ranges::copy_if(now.tensors, std::back_inserter(tensors), [this](const auto& tensor) {
      return keys.contains({tensor.step, tensor.id});
    });
    return !wrong.empty();
  }

  void add_to(Judged& judged) const {
    judged.wrong.insert(judged.wrong.end(), wrong.begin(), wrong.end());
    judged.tensors.insert(judged.tensors.end(), tensors.begin(), tensors.end());
  }

 private:
  // Tensors stored in a narrower type than the engine held them in: nearly all that reads them is wrong, and right if
  // the engine went on with the unrounded ones. Then they are taken so; the first of each operation stands for all.
  std::optional<Judged> find_rounded(const Judged& judged, const Judge& judge) {
    const Subject& subject = of.subjects.front();
    const std::set<Op> ops = stored_narrower(judged, of.trace(), of.precision());
    of.trace().forget();
    if (ops.empty() || !misfits_readers(subject, judged, ops, of.config())) return std::nullopt;
    const Precision before = of.declared;
    for (Op op : ops) of.declared.taken_as[op] = of.declared.activations;
    Judged unrounded = judge();
    const double allowed = kLargestShareStillWrong * static_cast<double>(judged.wrong.size());
    if (!(static_cast<double>(unrounded.wrong.size()) <= allowed)) {
      of.declared = before;
      return std::nullopt;
    }
    std::set<Op> known;
    for (const findings::JudgedTensor& tensor : judged.tensors) {
      if (!ops.contains(tensor.id.op) || !known.insert(tensor.id.op).second) continue;
      const TensorKey key{tensor.step, tensor.id};
      const std::string stored(name(of.trace().dtype(key))), held(name(of.declared.activations));
      wrong.push_back({.subject = &subject,
                       .key = key,
                       .span_start = tensor.id,
                       .judgement = tensor.judgement,
                       .seen_by = SeenBy::kRecorder,
                       .holds = "recorded in " + stored + " where the engine is said to hold " + held +
                                ", and what was computed from it follows from a value that is not rounded"});
    }
    return unrounded;
  }
};

// Entries of the declaration that the trace does not need are named, and it is judged without them.
std::optional<Judged> judge_tighter(TraceCase& of, const Judged& judged, const Judge& judge_again,
                                    findings::RunResult& result) {
  const Declaration tighter = tightest_declaration(of.subjects.front(), judged, of.parties.oracle, of.declared);
  of.trace().forget();
  if (!tighter.condition.empty()) result.conditions.push_back(tighter.condition);
  if (tighter.unused.empty()) return std::nullopt;
  const Precision before = of.declared;
  of.declared = tighter.precision;
  Judged again = judge_again();
  if (again.wrong.size() > judged.wrong.size() || again.not_compared.size() > judged.not_compared.size()) {
    of.declared = before;
    return std::nullopt;
  }
  std::string text = "the manifest declares roundings that the trace does not need, and it is judged without them: ";
  for (const std::string& entry : tighter.unused) text += (entry == tighter.unused.front() ? "" : ", ") + entry;
  result.notes.push_back(text);
  return again;
}

// "self_attn.q_proj, mlp.act and 3 operations more"
std::string first_names(const std::set<Op>& ops) {
  constexpr std::size_t kMostNames = 4;
  std::vector<std::string> named = texts_of(ops, [](Op op) { return row(op).name; });
  named.resize(std::min(named.size(), kMostNames));
  std::string names = joined(named, ", ");
  if (ops.size() > named.size()) names += " and " + std::to_string(ops.size() - named.size()) + " operations more";
  return names;
}

// Which tensors are stored wider than the engine held them, as a note; empty: none. Rows of a table that were moved
// have few digits in any type.
std::string note_on_widened(const trace::Trace& trace) {
  std::set<Op> ops;
  for (const TensorKey& key : trace.widened()) {
    if (!only_moves(key.id.op)) ops.insert(key.id.op);
  }
  if (ops.empty()) return "";
  const std::string held(name(trace.manifest().precision.activations));
  return "stored in a wider type, but every value is one of " + held +
         ", so that they are judged as rounded to it: " + first_names(ops);
}

// Which tensors are stored in a type that the declaration does not give them and that is not wider, by stored type: one
// note for each. Each is judged as rounded to its own type, so that an engine of another type than the declared one may
// well match.
std::vector<std::string> notes_on_other_types(const trace::Trace& trace, const Precision& declared) {
  std::map<DType, std::set<Op>> stored_as;
  for (const TensorKey& key : trace.keys()) {
    const DType stored = trace.dtype(key);
    const bool as_declared = stored == declared.activations || stored == kept_as(key.id.op, declared) ||
                             declared.taken_as.contains(key.id.op);
    if (as_declared || size_of(stored) > size_of(declared.activations)) continue;
    stored_as[stored].insert(key.id.op);
  }
  std::vector<std::string> notes;
  for (const auto& [stored, ops] : stored_as) {
    notes.push_back("stored in " + std::string(name(stored)) + " where the manifest declares " +
                    std::string(name(declared.activations)) +
                    " for activations, and judged as rounded to what they are stored in: " + first_names(ops));
  }
  return notes;
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

// The scales of a float8 cache are the engine's own: what the manifest does not say of them is read off the caches.
void read_scales(TraceCase& of, findings::RunResult& result) {
  of.declared.cache_scales =
      read_cache_scales(of.trace(), of.input.steps, of.config(), of.declared, [&of] { of.trace().forget(); });
  const auto of_type = of.declared.cache_scales.find(of.declared.cache);
  if (of_type == of.declared.cache_scales.end() || of_type->second == result.precision.cache_scales[of.declared.cache])
    return;
  double least = HUGE_VAL, most = 0.0;
  for (const auto& [id, scales] : of_type->second) {
    const auto [low, high] = std::ranges::minmax(scales);
    least = std::min(least, low);
    most = std::max(most, high);
  }
  char text[64];
  std::snprintf(text, sizeof text, least == most ? "%.4g" : "%.4g to %.4g", least, most);
  result.conditions.push_back("judged with scales of the " + std::string(name(of.declared.cache)) +
                              " cache that were read off the recording, " + text);
}

// Whether the model's weights made some tensor of the trace: the first products that can be recomputed from what was
// recorded, or spans that hold some.
bool some_product_fits(const TraceCase& of) {
  constexpr std::size_t kMostAsked = 64, kMostLongAsked = 8;  // a long span costs twenty evaluations
  const RowOracle rows(of.parties.oracle, of.precision());
  const Subject& subject = of.subjects.front();
  std::size_t asked = 0, long_asked = 0;
  for (const bool long_spans : {false, true}) {
    for (const TensorKey& key : of.trace().keys()) {
      RowJudgement row{&subject, key, compare::replay_span(key, of.trace(), of.config()), {}, {}, {}};
      const bool holds_product = std::ranges::any_of(
          row.span, [](const TensorKey& in) { return arithmetic_of(in.id.op) == Arithmetic::kProduct; });
      if (!holds_product || is_far(row.span) || row.is_long() != long_spans ||
          row.span.front().id.op == Op::kEmbedTokens)
        continue;
      if (compare::what_is_unusable(row.span, of.trace(), of.input.steps, of.config())) continue;
      if (rows.judge(row, {}).outcome == compare::Outcome::kMatch) return true;
      of.trace().forget();
      if (++(long_spans ? long_asked : asked) == (long_spans ? kMostLongAsked : kMostAsked)) break;
    }
  }
  return false;
}

void check_weights(const TraceCase& of) {
  if (embedding_follows_from_table(of.trace(), of.parties.model) || some_product_fits(of)) return;
  throw InputError(
      "no row of the trace's model.embed_tokens follows from the model's embedding table, and no product that was "
      "recorded from its weights, so the trace was made with other weights; give --model the checkpoint that the "
      "engine ran");
}

}  // namespace

CaseInput case_of(const trace::Manifest& manifest, const std::string& id) {
  return {.id = id,
          .title = "A trace of " + manifest.engine.name + ' ' + manifest.engine.version,
          .hypothesis = std::nullopt,
          .argument = "",
          .seed = 0,
          .capacity = manifest.cache_capacity.value_or(0),
          .steps = manifest.steps};
}

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
  result.conditions = manifest.conditions;
  result.of_trace = true;
  result.command = options.command;
  result.model = parties.model.description();
  result.config = to_string(parties.model.config());
  result.engine = manifest.engine.name;
  result.device = manifest.engine.device;
  result.precision = manifest.precision;
  result.precision_allowed = options.allow_precision;

  TraceCase of{parties, options, case_of(manifest, options.id)};
  const Extent extent = select_layers(options.layers, of.config());
  result.some_layers_alone = !extent.outside_layers || std::ssize(extent.layers) < of.config().num_layers;
  const Without near(parties.trace, of.far);
  of.subjects.push_back({&of.input, "trace", &near, &parties.trace, select_steps(options.steps, manifest.steps), 0.0});
  for (const TensorKey& key : parties.trace.keys()) {
    const bool judged = of.steps().contains(key.step) && extent.has(key.id);
    if (judged && is_far(compare::replay_span(key, parties.trace, of.config()))) of.far.insert(key);
  }
  read_scales(of, result);
  check_weights(of);
  check_repeats(parties.trace, options.repeats);
  if (options.before_judging) options.before_judging();
  // What is not equal from run to run is known before anything is explained from one of them.
  std::optional<Repeated> repeated;
  if (!options.repeats.empty()) {
    repeated = compare_repeats(parties.trace, options.repeats, of.subjects.front(), parties.oracle, of.precision(),
                               options.progress);
    result.conditions.push_back(repeated->condition);
  }
  const auto forget = [&parties] { parties.trace.forget(); };
  JudgingOptions judging{
      .probing = options.probing, .progress = options.progress, .after_part = forget, .kept = options.kept};
  const auto judge_again = [&] { return judge_subjects(of.subjects, parties.oracle, of.precision(), extent, judging); };
  // What is the recorder's is known before anything is explained by the engine.
  Recorder recorder(of);
  bool judges_again = false;
  judging.is_explained_otherwise = [&](const Judged& judged) {
    const JudgingOptions judging_alone{.probing = false,
                                       .progress = {},
                                       .after_part = forget,
                                       .is_explained_otherwise = [](const Judged&) { return true; },
                                       .kept = options.kept};
    judges_again = recorder.find(
        judged, [&] { return judge_subjects(of.subjects, parties.oracle, of.precision(), extent, judging_alone); });
    return judges_again;
  };
  Judged judged = judge_again();
  judging.is_explained_otherwise = nullptr;
  if (judges_again) {
    of.subjects.front().candidate = &recorder.near;
    of.subjects.front().inputs = &recorder.right;
    judged = judge_again();
  } else if (auto tighter = judge_tighter(of, judged, judge_again, result)) {
    judged = std::move(*tighter);
  }
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
  recorder.add_to(judged);
  if (std::string note = note_on_widened(parties.trace); !note.empty()) result.notes.push_back(std::move(note));
  std::ranges::move(notes_on_other_types(parties.trace, manifest.precision), std::back_inserter(result.notes));
  if (repeated && repeated->wrong) {
    std::erase_if(judged.wrong, [&](const WrongTensor& tensor) { return repeated->unequal.contains(tensor.key); });
    judged.wrong.push_back(*repeated->wrong);
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
