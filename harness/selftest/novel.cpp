#include "harness/selftest/novel.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "harness/compare/judge.h"
#include "harness/compare/layout.h"
#include "harness/compare/sums.h"
#include "harness/contract/error.h"
#include "harness/contract/number_text.h"
#include "harness/contract/wording.h"
#include "harness/diagnose/record.h"
#include "harness/explain/domain.h"
#include "harness/report/injection.h"
#include "harness/selftest/archive.h"
#include "harness/selftest/novel_draw.h"
#include "harness/selftest/spoiled.h"

namespace qdiff::selftest {
namespace {

bool is_unknown(const Expectation& expected, std::size_t element) {
  return !expected.unknown.empty() && expected.unknown[element] != 0;
}

// A random model and batch, and what an engine with mistakes makes of it.
class NovelBench {
 public:
  NovelBench(std::uint64_t seed, DType dtype, const Makers& makers, const MakeMistaken& mistaken)
      : drawn_(draw_small_case(seed)),
        dtype_(dtype),
        mistaken_(mistaken),
        gold_(makers.gold(*drawn_.weights, dtype)),
        oracle_(makers.oracle(*drawn_.weights)) {}

  const ModelConfig& config() const { return drawn_.weights->config(); }
  const CaseInput& input() const { return drawn_.input; }

  std::unique_ptr<Engine> engine(const std::vector<Mistake>& mistakes) const {
    return mistaken_(*drawn_.weights, dtype_, mistakes);
  }
  trace::Recording record(Engine& engine) const {
    return std::move(diagnose::record_free(engine, drawn_.input, static_cast<int>(config().num_layers),
                                           static_cast<int>(drawn_.input.steps.size()) - 1, Poison::kNaN)
                         .tensors);
  }
  findings::RunResult judge(Engine& engine) {
    diagnose::RunOptions options;
    options.mode = diagnose::Mode::kFree;
    return diagnose::run_cases(std::span(&drawn_.input, 1), {engine, *gold_, *oracle_, *drawn_.weights}, options);
  }

  // The tensors of an operation where a mistake is made, in execution order.
  std::vector<TensorKey> keys_of(const Mistake& mistake) const {
    std::vector<TensorKey> keys;
    for (const Step& step : drawn_.input.steps) {
      if (mistake.scope.phase && step.phase != *mistake.scope.phase) continue;
      for (const TensorId& id : all_tensors(config(), /*optional_too=*/true)) {
        const bool inside = id.layer == kNoLayer || mistake.scope.layers.holds(id.layer);
        if (id.op == mistake.op && inside) keys.push_back({step.index, id});
      }
    }
    return keys;
  }

  // The largest distance between a tensor and what a known bug makes of the recorded inputs, within its scope.
  double from_bug(const trace::Recording& recording, const Precision& precision, const TensorKey& key,
                  const Variant& variant, const explain::Domain& scope) {
    const std::vector<TensorKey> span = compare::replay_span(key, recording, config());
    Query query = query_of(recording, precision, key, span);
    query.variant = &variant;
    const Expectation planted = oracle_->evaluate(query);
    const Expectation right = expected(recording, precision, key);
    const TensorView actual = recording.get(key);
    const explain::Instance instance{
        .key = key, .span = span, .actual = actual, .recorded = &recording, .steps = &drawn_.input.steps};
    const compare::Layout layout(key.id.op, actual.shape, instance.step(), config());
    std::vector<double> computed = right.value;
    for (std::int64_t i = 0; i < num_elements(actual.shape); ++i) {
      const auto element = static_cast<std::size_t>(i);
      const std::int64_t row = i / layout.num_columns(), column = i % layout.num_columns();
      if (!layout.counts(row) || !scope.holds(explain::indices_of(instance, layout, row, column))) continue;
      // Of a slot that nobody writes neither says anything.
      if (is_unknown(planted, element)) {
        if (!is_unknown(right, element)) return HUGE_VAL;
        continue;
      }
      computed[element] = planted.value[element];
    }
    return distance(key, actual, to_doubles(actual), computed, right);
  }
  // The largest distance between a tensor and what right code makes of the recorded inputs, or between two recordings
  // of it, in deviations of a correct engine.
  double from_right_code(const trace::Recording& recording, const Precision& precision, const TensorKey& key) {
    const Expectation right = expected(recording, precision, key);
    return distance(key, recording.get(key), to_doubles(recording.get(key)), right.value, right);
  }
  double between(const trace::Recording& a, const trace::Recording& b, const Precision& precision,
                 const TensorKey& key) {
    if (!b.has(key)) return HUGE_VAL;
    return distance(key, a.get(key), to_doubles(a.get(key)), to_doubles(b.get(key)), expected(a, precision, key));
  }

 private:
  Query query_of(const trace::Recording& recording, const Precision& precision, const TensorKey& key,
                 const std::vector<TensorKey>& span) const {
    return {.operations = span,
            .recorded = recording,
            .steps = drawn_.input.steps,
            .precision = precision,
            .stored = recording.get(key).dtype,
            .capacity = drawn_.input.capacity};
  }
  Expectation expected(const trace::Recording& recording, const Precision& precision, const TensorKey& key) {
    const std::vector<TensorKey> span = compare::replay_span(key, recording, config());
    return oracle_->evaluate(query_of(recording, precision, key, span));
  }

  double distance(const TensorKey& key, const TensorView& view, const std::vector<double>& a,
                  const std::vector<double>& b, const Expectation& right) const {
    const Step& step = drawn_.input.steps[static_cast<std::size_t>(key.step)];
    const compare::Layout layout(key.id.op, view.shape, step, config());
    const auto columns = static_cast<std::size_t>(layout.num_columns());
    double largest = 0.0;
    for (std::int64_t row = 0; row < layout.num_rows(); ++row) {
      if (!layout.counts(row)) continue;
      for (std::size_t i = static_cast<std::size_t>(row) * columns, end = i + columns; i < end; ++i) {
        if (is_unknown(right, i) || a[i] == b[i] || (std::isnan(a[i]) && std::isnan(b[i]))) continue;
        if (!std::isfinite(a[i]) || !std::isfinite(b[i])) return HUGE_VAL;
        // A wrong value may be far larger than right code's, and so is its own rounding.
        const double size = std::max({std::fabs(right.value[i]), std::fabs(a[i]), std::fabs(b[i])});
        const double grown = std::isfinite(right.value[i]) && right.value[i] != 0.0
                                 ? std::max(1.0, size / std::fabs(right.value[i]))
                                 : 1.0;
        const double deviation = compare::deviation(right.sigma_independent[i] * grown, right.sigma_shared[i] * grown,
                                                    spacing(view.dtype, size));
        largest = std::max(largest, std::fabs(a[i] - b[i]) / deviation);
      }
    }
    return largest;
  }

  RandomCase drawn_;
  DType dtype_;
  const MakeMistaken& mistaken_;
  std::unique_ptr<Engine> gold_;
  std::unique_ptr<Oracle> oracle_;
};

// The first tensor that the mistake moves far, beside the others; nothing where it moves none.
std::optional<NovelMistake> moved_far(NovelBench& bench, const trace::Recording& recording, const Precision& precision,
                                      const Mistake& mistake) {
  for (const TensorKey& key : bench.keys_of(mistake)) {
    const double deviations = bench.from_right_code(recording, precision, key);
    if (deviations > kDetectable) return NovelMistake{.mistake = mistake, .first = key, .deviations = deviations};
  }
  return std::nullopt;
}

// The hypothesis that the mechanism speaks for there (docs/mechanisms.md).
std::string hypothesis_spoken_for(const Mistake& mistake) {
  if (mistake.kind == MistakeKind::kCopyVectors && arithmetic_of(mistake.op) == Arithmetic::kAppend) return "H01";
  if (mistake.kind == MistakeKind::kFactor && arithmetic_of(mistake.op) == Arithmetic::kScores) return "H02";
  return std::string(facts(mistake.kind).hypothesis);
}

std::string words_said(const findings::Explanation& explanation) {
  std::string text = explanation.sentence;
  if (explanation.variant) text = std::string(name(*explanation.variant));
  if (explanation.value) text += '=' + digits(*explanation.value, 4);
  for (const auto& [point, type] : explanation.points) text += (text.empty() ? "" : ", ") + point + " in " + type;
  return text;
}

// Where the explanation says that it holds, within the layers of its finding.
explain::Domain domain_of(const findings::Finding& finding) {
  const MistakeScope scope = report::scope_of(finding);
  explain::Domain domain;
  const std::array<const Selection*, explain::kNumAxes> selections = {nullptr,       &scope.steps, &scope.batch_rows,
                                                                      &scope.tokens, &scope.heads, &scope.columns};
  for (std::size_t axis = 0; axis < selections.size(); ++axis) {
    if (selections[axis] != nullptr) domain.choices[axis] = {*selections[axis]};
  }
  if (scope.phase) domain.choices[0] = explain::only_in(*scope.phase);
  return domain;
}

// Whether an engine planted with the explanation, in the place of mistake `i`, computes what the candidate did.
bool has_same_effect(NovelBench& bench, const NovelTrial& trial, std::size_t i, const findings::Finding& finding,
                     const trace::Recording& recording, const Precision& precision) {
  const Mistake& planted = trial.mistakes[i].mistake;
  const findings::Explanation& explanation = finding.explanation;
  std::vector<Mistake> others;
  for (std::size_t j = 0; j < trial.mistakes.size(); ++j) {
    if (j != i) others.push_back(trial.mistakes[j].mistake);
  }
  const auto mistake = report::mistake_of(finding);
  if (explanation.mechanism && !mistake) {
    // Its constants are not said one by one: there is nothing to plant. The words are held against the planted ones.
    const bool same = *explanation.mechanism == facts(planted.kind).name;
    return same && std::ranges::all_of(explanation.parameters, [&](const auto& said) {
             return std::ranges::find(planted.parameters, said) != planted.parameters.end();
           });
  }
  if (!mistake && !explanation.variant) return false;  // a rounding is no mistake
  const std::vector<TensorKey> keys = bench.keys_of(planted);
  try {
    if (!mistake) {
      // A known bug may act in further operations, each by itself: it is held against this one.
      const Variant variant{*explanation.variant, explanation.value};
      return std::ranges::all_of(keys, [&](const TensorKey& key) {
        return bench.from_bug(recording, precision, key, variant, domain_of(finding)) <= kDetectable;
      });
    }
    others.push_back(*mistake);
    const auto engine = bench.engine(others);
    const trace::Recording again = bench.record(*engine);
    return std::ranges::all_of(
        keys, [&](const TensorKey& key) { return bench.between(recording, again, precision, key) <= kDetectable; });
  } catch (const InputError&) {
    return false;
  } catch (const NotEvaluable&) {
    return false;
  }
}

void conclude_novel(NovelBench& bench, const trace::Recording& recording, const Precision& precision,
                    const findings::RunResult& result, NovelTrial& trial) {
  trial.verdict = result.verdict;
  for (std::size_t i = 0; i < trial.mistakes.size(); ++i) {
    NovelMistake& of = trial.mistakes[i];
    const findings::Finding* own = nullptr;
    for (const findings::Finding& finding : result.findings) {
      if (own == nullptr && finding.tensor == of.first.id) own = &finding;
    }
    of.found = own != nullptr;
    const auto is_planted = [&](const findings::Finding& finding) {
      return std::ranges::any_of(trial.mistakes,
                                 [&](const NovelMistake& other) { return finding.tensor == other.first.id; });
    };
    of.exact = own != nullptr && std::ranges::all_of(result.findings, is_planted) &&
               !(of.first < TensorKey{own->step, own->tensor});
    const std::string hypothesis = hypothesis_spoken_for(of.mistake);
    const bool refuted = std::ranges::any_of(result.hypotheses, [&](const auto& judged) {
      return judged.id == hypothesis && judged.verdict == findings::HypothesisVerdict::kRefuted;
    });
    of.hypothesis_refuted = refuted;
    if (own == nullptr || !own->explanation.verdict || !findings::is_explained(own->explanation)) continue;
    const auto mistake = report::mistake_of(*own);
    of.said = mistake ? to_string(*mistake) : words_said(own->explanation);
    of.same_mechanism = own->explanation.mechanism && *own->explanation.mechanism == facts(of.mistake.kind).name;
    of.same_effect = has_same_effect(bench, trial, i, *own, recording, precision);
    // Half of a sum is also half of its terms: what computes the same under another hypothesis covers the finding.
    of.hypothesis_refuted = refuted && !of.same_effect;
  }
}

}  // namespace

bool NovelTrial::is_found() const {
  return verdict == compare::Verdict::kDiverged &&
         std::ranges::all_of(mistakes, [](const NovelMistake& of) { return of.found; });
}

bool NovelTrial::is_exact() const {
  return is_found() && std::ranges::all_of(mistakes, [](const NovelMistake& of) { return of.exact; });
}

NovelTrial run_novel(std::uint64_t seed, DType dtype, std::size_t num_mistakes, const Makers& makers,
                     const MakeMistaken& mistaken) {
  NovelBench bench(seed, dtype, makers, mistaken);
  Draws draw(splitmix64(seed) + num_mistakes);
  NovelTrial trial{.seed = seed, .dtype = dtype, .model = to_string(bench.config())};
  while (true) {
    trial.mistakes.clear();
    std::vector<Mistake> mistakes;
    while (mistakes.size() < num_mistakes) {
      const auto mistake = draw_mistake(draw, bench.config(), bench.input());
      if (!mistake) continue;
      const bool same_tensor =
          std::ranges::any_of(mistakes, [&](const Mistake& other) { return other.op == mistake->op; });
      if (!same_tensor) mistakes.push_back(*mistake);
    }
    std::unique_ptr<Engine> engine;
    std::optional<trace::Recording> recording;
    try {
      engine = bench.engine(mistakes);
      recording = bench.record(*engine);
    } catch (const InputError&) {
      continue;  // the model has no place for it
    }
    const Precision& precision = engine->precision();
    for (const Mistake& mistake : mistakes) {
      if (auto of = moved_far(bench, *recording, precision, mistake)) trial.mistakes.push_back(std::move(*of));
    }
    if (trial.mistakes.size() < num_mistakes) continue;
    conclude_novel(bench, *recording, precision, bench.judge(*engine), trial);
    return trial;
  }
}

std::vector<NovelTrial> run_all_novel(std::int64_t runs, std::uint64_t first_seed, std::size_t num_mistakes,
                                      const Makers& makers, const MakeMistaken& mistaken, const Crew& crew) {
  constexpr std::array kTypes = {DType::kBF16, DType::kF32, DType::kF16};
  return in_units<NovelTrial>(
      seed_units(num_mistakes == 1 ? "novel" : "pairs", runs, first_seed), crew, no_state,
      [&](NoState&, std::size_t i) {
        const std::uint64_t seed = first_seed + i;
        return run_novel(seed, kTypes[seed % kTypes.size()], num_mistakes, makers, mistaken);
      },
      [&](std::size_t) { return num_mistakes == 1 ? "novel faults" : "novel faults, two at once"; });
}

NovelScore score(const std::vector<NovelTrial>& trials) {
  NovelScore result;
  for (const NovelTrial& trial : trials) {
    ++result.trials;
    result.found.count(trial.is_found());
    result.exact.count(trial.is_exact());
    bool all = true;
    for (const NovelMistake& of : trial.mistakes) {
      result.named.count(of.is_named());
      result.same_mechanism.count(of.is_named() && of.same_mechanism);
      result.not_false.count(!of.is_falsely_explained());
      result.not_refuted.count(!of.hypothesis_refuted);
      all &= of.is_named();
    }
    result.all_named.count(all);
  }
  return result;
}

std::vector<Goal> novel_goals(const NovelScore& novel, const NovelScore& pairs, const SpoiledScore& spoiled) {
  return {{"novel faults found", 0.99, novel.found},
          {"novel faults, exact tensor", 0.98, novel.exact},
          {"novel faults, mechanism and scope", 0.90, novel.named},
          {"novel faults without a false explanation", 0.995, novel.not_false},
          {"two at once, both named", 0.85, pairs.all_named},
          {"spoiled recordings unexplained", 1.0, spoiled.unexplained, true},
          {"hypotheses of novel faults not refuted", 1.0, novel.not_refuted, true},
          {"hypotheses of two at once not refuted", 1.0, pairs.not_refuted, true}};
}

std::string reason_of_miss(const NovelTrial& trial) {
  std::string text;
  for (const NovelMistake& of : trial.mistakes) {
    std::vector<std::string> reasons;
    if (!of.found) reasons.emplace_back("not found");
    if (of.found && !of.exact) reasons.emplace_back("found, and something before it or beside it too");
    if (!of.is_explained()) reasons.emplace_back("not explained");
    if (of.is_falsely_explained()) reasons.push_back("explained as " + of.said);
    if (of.hypothesis_refuted) reasons.emplace_back("its hypothesis is refuted");
    if (reasons.empty()) continue;
    text += (text.empty() ? "" : " | ") + to_string(of.mistake) + " (moves " + tensor_name(of.first.id) + " of step " +
            std::to_string(of.first.step) + " by " + digits(of.deviations, 3) +
            " deviations): " + joined(reasons, "; ");
  }
  return text;
}

}  // namespace qdiff::selftest
