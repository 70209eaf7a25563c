#include "harness/diagnose/reconcile/reconcile.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "harness/diagnose/reconcile/bounds.h"
#include "harness/diagnose/reconcile/log_probabilities.h"
#include "harness/diagnose/reconcile/predictions.h"
#include "harness/diagnose/thresholds.h"
#include "harness/diagnose/trace_checks.h"

namespace qdiff::diagnose {
namespace {

using findings::BoundedFigure;
using findings::FindingKind;
using findings::kNumSides;
using findings::ReconciledSide;
using findings::ReconciledToken;
using findings::Reconciliation;

const LogitsPlace& logits_of(const Prediction& prediction, std::size_t side) {
  return side == 0 ? prediction.a : prediction.b;
}

std::vector<PredictedToken> tokens_of(const std::vector<Prediction>& predictions, const trace::Trace& trace,
                                      std::size_t side) {
  std::vector<PredictedToken> tokens;
  for (const Prediction& prediction : predictions) {
    const LogitsPlace& place = logits_of(prediction, side);
    tokens.push_back({place, prediction.token, trace.dtype({place.step, {Op::kLmHead}})});
  }
  return tokens;
}

std::map<std::string, std::string> undeclared_points(const findings::RunResult& diagnosis) {
  std::map<std::string, std::string> points;
  for (const findings::Finding& finding : diagnosis.findings) {
    if (finding.kind != FindingKind::kPrecision) continue;
    points.insert(finding.explanation.points.begin(), finding.explanation.points.end());
  }
  return points;
}

// What the walks of the two sides have in common is walked once.
class Measured {
 public:
  Measured(const ReconcileParties& parties, const std::array<ReconciledTrace, kNumSides>& traces,
           const std::vector<Prediction>& predictions)
      : parties_(parties), traces_(traces), predictions_(predictions) {}

  void measure(const std::array<Precision, kNumSides>& precisions) {
    for (std::size_t side = 0; side < kNumSides; ++side) {
      const trace::Trace& trace = traces_[side].trace;
      const CaseInput input = case_of(trace.manifest(), traces_[side].options.id);
      const LogProbabilities walks(input, parties_.model.config(), parties_.make_reference,
                                   traces_[side].options.progress);
      const std::vector<PredictedToken> tokens = tokens_of(predictions_, trace, side);
      const Precision& precision = precisions[side];
      const bool same_weights = side > 0 && (precision.weights == precisions[0].weights ||
                                             (holds_all(precision.weights) && holds_all(precisions[0].weights)));
      expected_[side] = same_weights ? expected_[0] : walks.expected(tokens, precision.weights);
      tokens_[side] = tokens;
      const bool same_roundings =
          side > 0 && precision == precisions[0] &&
          std::ranges::equal(tokens, tokens_[0], {}, &PredictedToken::stored, &PredictedToken::stored);
      roundings_[side] = same_roundings ? roundings_[0] : walks.roundings(tokens, expected_[side], precision);
    }
  }
  double expected(std::size_t side, std::size_t token) const { return expected_[side][token].log_probability; }
  double rounding(std::size_t side, std::size_t token) const { return roundings_[side].tokens[token]; }
  double stream_rounding(std::size_t side, std::size_t layer) const { return roundings_[side].streams[layer]; }
  std::span<const double> stream(std::size_t token, std::size_t layer) const {
    return expected_[0][token].streams[layer];
  }

 private:
  // Whether the model's weights lose nothing in that type.
  bool holds_all(DType type) const {
    return std::ranges::all_of(parties_.model.weights(), [type](const WeightInfo& weight) {
      return weight.dtype == type || (type == DType::kF32 && size_of(weight.dtype) == 2);
    });
  }

  const ReconcileParties& parties_;
  const std::array<ReconciledTrace, kNumSides>& traces_;
  const std::vector<Prediction>& predictions_;
  std::array<std::vector<PredictedToken>, kNumSides> tokens_;
  std::array<std::vector<ExpectedToken>, kNumSides> expected_;
  std::array<Roundings, kNumSides> roundings_;
};

std::vector<double> log_probabilities(const trace::Trace& trace, const std::vector<Prediction>& predictions,
                                      std::size_t side) {
  std::vector<double> values;
  int step = -1;
  for (const Prediction& prediction : predictions) {
    const LogitsPlace& place = logits_of(prediction, side);
    if (place.step != step) trace.forget();
    step = place.step;
    const std::int64_t num_tokens = trace.manifest().steps[static_cast<std::size_t>(step)].num_tokens();
    values.push_back(log_probability(row_at(trace.get({step, {Op::kLmHead}}), place, num_tokens), prediction.token));
  }
  trace.forget();
  return values;
}

void add_tokens(const std::vector<Prediction>& predictions, const std::array<ReconciledTrace, kNumSides>& traces,
                const Measured& measured, Reconciliation& result) {
  std::array<std::vector<double>, kNumSides> actual;
  for (std::size_t side = 0; side < kNumSides; ++side) {
    actual[side] = log_probabilities(traces[side].trace, predictions, side);
  }
  std::int64_t overflows = 0;
  for (std::size_t i = 0; i < predictions.size(); ++i) {
    ReconciledToken token{.batch_row = predictions[i].place.batch_row,
                          .index = predictions[i].place.index,
                          .token = predictions[i].token};
    bool bounded = true;
    for (std::size_t side = 0; side < kNumSides; ++side) {
      token.log_probability[side] = actual[side][i];
      token.expected[side] = measured.expected(side, i);
      token.rounding[side] = measured.rounding(side, i);
      bounded = bounded && std::isfinite(token.rounding[side]);
      token.explained_up_to += result.sides[side].worst.bound * token.rounding[side];
    }
    token.explained_up_to += std::abs(token.expected[0] - token.expected[1]);
    if (bounded) {
      result.tokens.push_back(token);
    } else {
      ++overflows;
    }
  }
  if (overflows > 0) {
    result.notes.push_back("right code that rounds as declared overflows before the logits of " +
                           std::to_string(overflows) + " tokens, of which nothing is said");
  }
}

// Behind each layer whose output both recorded, how far apart the two are.
void add_streams(const std::vector<Prediction>& predictions, const std::array<ReconciledTrace, kNumSides>& traces,
                 const Measured& measured, const std::array<Precision, kNumSides>& precisions, std::int64_t num_layers,
                 Reconciliation& result) {
  for (int layer = 0; layer < num_layers; ++layer) {
    double square = 0.0, size = 0.0;
    bool recorded = !predictions.empty();
    for (std::size_t i = 0; i < predictions.size() && recorded; ++i) {
      std::array<std::vector<double>, kNumSides> rows;
      for (std::size_t s = 0; s < kNumSides && recorded; ++s) {
        const LogitsPlace& place = logits_of(predictions[i], s);
        const TensorKey key{place.step, {Op::kOutput, layer}};
        recorded = traces[s].trace.has(key);
        if (!recorded) continue;
        const Step& step = traces[s].trace.manifest().steps[static_cast<std::size_t>(place.step)];
        rows[s] = stream_sample(row_at(traces[s].trace.get(key), place, step.num_tokens()));
      }
      if (!recorded) continue;
      const std::span<const double> expected = measured.stream(i, static_cast<std::size_t>(layer));
      for (std::size_t c = 0; c < expected.size(); ++c) {
        const double difference = rows[0][c] - rows[1][c];
        square += difference * difference;
        size += expected[c] * expected[c];
      }
    }
    for (const ReconciledTrace& side : traces) side.trace.forget();
    if (!recorded || size <= 0.0) continue;
    double bound = 0.0;
    for (std::size_t s = 0; s < kNumSides; ++s) {
      bound += explained_by_rounding(precisions[s]) * measured.stream_rounding(s, static_cast<std::size_t>(layer));
    }
    const double relative = std::sqrt(square / size);
    result.streams.push_back({layer, {std::isnan(relative) ? HUGE_VAL : relative, bound}});
  }
}

void measure_errors(Reconciliation& result) {
  for (std::size_t s = 0; s < kNumSides; ++s) {
    ReconciledSide& side = result.sides[s];
    double sum = 0.0;
    for (std::size_t i = 0; i < result.tokens.size(); ++i) {
      const ReconciledToken& token = result.tokens[i];
      const double error = std::abs(token.error(s)) / token.rounding[s];
      const double ratio = std::isnan(error) ? HUGE_VAL : error;
      sum += ratio * ratio;
      if (!(ratio > side.worst.value)) continue;
      side.worst.value = ratio;
      side.worst_token = i;
    }
    if (!result.tokens.empty())
      side.all.bound = bound_of_mean({side.all.bound, side.worst.bound}, result.tokens.size());
    side.all.value = result.tokens.empty() ? 0.0 : std::sqrt(sum / static_cast<double>(result.tokens.size()));
  }
}

std::string named(std::size_t side) { return std::string(findings::kSideNames[side]); }

void conclude(Reconciliation& result) {
  using compare::Verdict;
  const auto decide = [&](Verdict verdict, const std::string& reason) {
    result.verdict = verdict;
    result.reason = reason;
  };
  // A wrong tensor says most, and an undeclared rounding is no bug.
  for (const FindingKind kind : {FindingKind::kLogic, FindingKind::kPrecision}) {
    for (std::size_t s = 0; s < kNumSides; ++s) {
      const findings::RunResult& diagnosis = result.sides[s].diagnosis;
      const findings::Finding* first = diagnosis.first_divergence();
      if (diagnosis.verdict != Verdict::kDiverged || first == nullptr || first->kind != kind) continue;
      const std::string where = tensor_name(first->tensor);
      return decide(Verdict::kDiverged, kind == FindingKind::kLogic
                                            ? "a bug in " + named(s) + ", first at " + where
                                            : named(s) + " rounds where it does not declare to, first at " + where);
    }
  }
  for (std::size_t s = 0; s < kNumSides; ++s) {
    if (result.sides[s].within()) continue;
    return decide(Verdict::kDiverged, "the log-probabilities of " + named(s) +
                                          " stray further than its roundings explain, and no recorded tensor shows "
                                          "why; record more of its tensors");
  }
  if (result.tokens.empty()) {
    return decide(Verdict::kInconclusive, "the traces hold logits of no token in common whose next token is known");
  }
  for (std::size_t s = 0; s < kNumSides; ++s) {
    const findings::RunResult& diagnosis = result.sides[s].diagnosis;
    if (diagnosis.verdict == Verdict::kMatch) continue;
    return decide(diagnosis.verdict,
                  named(s) + (diagnosis.verdict == Verdict::kDiverged ? " is wrong: " : " cannot be judged: ") +
                      diagnosis.reason);
  }
  decide(Verdict::kMatch, "not a bug: what the two differ by is what their roundings make of right code");
}

}  // namespace

Precision declaring(Precision declared, const std::map<std::string, std::string>& points) {
  for (const auto& [key, value] : points) {
    const auto point = parse_rounding_point(key);
    const auto dtype = parse_dtype(value);
    if (point && dtype) declared.points[*point] = *dtype;
  }
  return declared;
}

findings::Reconciliation reconcile(const ReconcileParties& parties,
                                   const std::array<ReconciledTrace, kNumSides>& traces) {
  const auto start = std::chrono::steady_clock::now();
  Reconciliation result;
  for (const ReconciledTrace& side : traces) check_trace(side.trace, parties.model);
  const std::vector<Prediction> predictions = common_predictions(traces[0].trace, traces[1].trace, result.notes);
  std::array<Precision, kNumSides> precisions;
  for (std::size_t s = 0; s < kNumSides; ++s) {
    ReconciledSide& side = result.sides[s];
    const trace::Trace& trace = traces[s].trace;
    side.trace = traces[s].options.id;
    side.diagnosis = judge_trace({trace, parties.model, parties.oracle, parties.make_reference}, traces[s].options);
    side.undeclared = undeclared_points(side.diagnosis);
    precisions[s] = declaring(side.diagnosis.precision, side.undeclared);
    const WorstHonestLogProbabilities bounds = log_probability_bounds(precisions[s]);
    side.all.bound = bounds.all;
    side.worst.bound = bounds.worst;
    result.logits_alone |=
        std::ranges::all_of(trace.keys(), [](const TensorKey& key) { return key.id.op == Op::kLmHead; });
  }
  result.model = parties.model.description();
  result.honest_verified = kVerifiedPairs;
  result.honest_accused = kAccusedPairs;
  Measured measured(parties, traces, predictions);
  if (!predictions.empty()) measured.measure(precisions);
  add_tokens(predictions, traces, measured, result);
  add_streams(predictions, traces, measured, precisions, parties.model.config().num_layers, result);
  measure_errors(result);
  conclude(result);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace qdiff::diagnose
