#include "harness/diagnose/far/ranking.h"

#include <algorithm>
#include <cmath>

#include "harness/contract/number_text.h"
#include "harness/diagnose/span_evidence.h"
#include "harness/diagnose/variants.h"

namespace qdiff::diagnose {
namespace {

using findings::RankedVariant;

// NaN in rows where right code gives numbers.
compare::Judgement judgement_of_nan(const Target& target) {
  compare::Judgement judgement;
  const std::int64_t rows = target.rows_with_nan();
  judgement.outcome = compare::Outcome::kDiverged;
  judgement.decisive_statistic = "non_finite";
  judgement.reason =
      "NaN in " + std::to_string(rows) + (rows == 1 ? " row" : " rows") + " where right code gives numbers";
  for (std::size_t i = 0; i < target.candidate().size(); ++i) {
    const auto element = static_cast<std::int64_t>(i);
    if (!std::isnan(target.candidate()[i]) || !target.layout().counts(element / target.width())) continue;
    judgement.worst_index = compare::unravel(element, target.recorded().shape);
    judgement.actual = target.candidate()[i];
    judgement.expected = target.gold()[i];
    break;
  }
  return judgement;
}

std::string reason_of(RowStatistic statistic, const RowFigure& figure, const Target& target) {
  const std::string where = target.layout().row_name(figure.element / target.width());
  switch (statistic) {
    case RowStatistic::kRow:
      return "the error of " + where + " is " + digits(figure.value, 3) + " times what rounding does to it";
    case RowStatistic::kScale:
      return where + " is " + digits(1.0 + figure.measured, 6) +
             " times as large as right code's, a factor that rounding moves by " + digits(figure.expected, 2);
    case RowStatistic::kElement:
      break;
  }
  return "one element of " + where + " has an error of " + digits(figure.measured, 3) +
         " times what its row has, where rounding makes " + digits(figure.expected, 3) + " at most";
}

// Rows and elements that lie further out than in any honest engine are wrong, whatever the whole tensor shows.
compare::Judgement judgement_of_rows(const Planting& passes, const Target& target, const RowVerdict& verdict) {
  const RowFigure& figure = passes.rows_of(target.key())[static_cast<std::size_t>(verdict.statistic)];
  const auto element = static_cast<std::size_t>(figure.element);
  compare::Judgement judgement;
  judgement.outcome = compare::Outcome::kDiverged;
  judgement.decisive_statistic = name(verdict.statistic);
  judgement.ratio_to_bound = verdict.ratio_to_bound;
  judgement.reason = reason_of(verdict.statistic, figure, target);
  judgement.worst_index = compare::unravel(figure.element, target.recorded().shape);
  judgement.actual = target.candidate()[element];
  judgement.expected = target.gold()[element];
  return judgement;
}

compare::Judgement judgement_of_distance(const Planting& passes, const Target& target) {
  compare::Judgement judgement;
  const double times = passes.times_rounding(passes.right(), target.key());
  judgement.decisive_statistic = "free_run_distance";
  judgement.ratio_to_bound = times / passes.explained();
  judgement.outcome = compare::outcome_of(judgement.ratio_to_bound);
  judgement.reason = "a whole forward pass of right code comes within " +
                     digits(target.relative(passes.right().distance.at(target.key())), 3) +
                     " of it (relative RMS), which is " + digits(times, 3) + " times what rounding alone does; up to " +
                     digits(passes.explained(), 3) + " is explained";
  return judgement;
}

// By the statistic that is furthest beyond its bound.
compare::Judgement judgement_of(const Planting& passes, const Target& target) {
  if (target.rows_with_nan() > 0) return judgement_of_nan(target);
  compare::Judgement judgement = judgement_of_distance(passes, target);
  const RowVerdict rows = verdict_of(passes.rows_of(target.key()), passes.precision());
  const bool by_rows = rows.ratio_to_bound > 1.0 && judgement.outcome != compare::Outcome::kDiverged;
  if (by_rows) judgement = judgement_of_rows(passes, target, rows);
  judgement.statistics.relative_rms_error = target.relative(target.distance(target.candidate(), target.gold()));
  double worst = -1.0;
  for (std::int64_t r = 0; r < target.num_rows(); ++r) {
    if (!target.counts(r)) continue;
    judgement.statistics.elements_compared += target.width();
    for (std::int64_t i = r * target.width(); i < (r + 1) * target.width(); ++i) {
      const double actual = target.candidate()[static_cast<std::size_t>(i)];
      const double expected = target.gold()[static_cast<std::size_t>(i)];
      const double error = actual == expected ? 0.0 : std::abs(actual - expected);  // -inf in both among them
      if (error <= worst) continue;
      worst = std::isnan(error) ? HUGE_VAL : error;
      if (by_rows) continue;
      judgement.worst_index = compare::unravel(i, target.recorded().shape);
      judgement.actual = actual;
      judgement.expected = expected;
    }
  }
  judgement.statistics.max_abs_error = worst;
  return judgement;
}

RankedVariant ranked(const Planting& passes, const Pass& pass, std::int64_t tokens) {
  const Target& last = passes.targets().rbegin()->second;
  RankedVariant result;
  if (pass.variant) {
    result.variant = pass.variant->id;
    result.value = pass.variant->value;
  }
  result.times_rounding = passes.times_rounding(pass);
  result.relative_rms_error = last.relative(pass.distance.at(last.key()));
  result.kl_divergence = tokens > 0 ? pass.divergence / static_cast<double>(tokens) : 0.0;
  result.same_top_token = pass.same_top_tokens;
  result.reproduces = passes.reproduces(pass);
  return result;
}

// The tensors that the leading variants change, and those that divide a layer into its parts.
std::vector<std::string> record_next(const std::vector<RankedVariant>& nearest,
                                     const std::vector<VariantFacts>& catalogue) {
  std::set<Op> ops = {Op::kOutput, Op::kQRope, Op::kKRope, Op::kVProj, Op::kAttnOutput, Op::kResidMid};
  for (std::size_t i = 0; i < std::min(kRecordedVariants, nearest.size()); ++i) {
    for (const VariantFacts& facts : catalogue) {
      if (facts.id == nearest[i].variant && facts.ops.size() < 2 * kRecordedVariants)
        ops.insert(facts.ops.begin(), facts.ops.end());
    }
  }
  std::vector<std::string> names;
  for (Op op : ops) {
    names.push_back((row(op).scope == Scope::kLayer ? "model.layers.*." : "") + std::string(row(op).name));
  }
  return names;
}

}  // namespace

std::optional<findings::FreeRanking> rank_free_runs(const FreeRankingQuery& query, Judged& judged) {
  Planting passes(query);
  passes.run();
  for (const TensorKey& key : passes.unbounded()) {
    judged.not_compared.push_back({query.subject.input->id, query.subject.mode, key.step, tensor_name(key.id),
                                   "a forward pass of right code that rounds as declared overflows before it"});
  }
  if (passes.targets().empty()) return std::nullopt;
  findings::FreeRanking ranking;
  ranking.case_id = query.subject.input->id;
  std::set<std::string> names;
  for (const auto& [key, target] : passes.targets()) {
    names.insert(tensor_name(key.id));
    if (key.id.op == Op::kLmHead) ranking.tokens_compared += target.rows_compared();
  }
  ranking.tensors.assign(names.begin(), names.end());
  const Target& last = passes.targets().rbegin()->second;
  ranking.rounding = last.relative(passes.rounding_of(last.key()));
  ranking.explained_up_to = passes.explained();
  ranking.right = ranked(passes, passes.right(), ranking.tokens_compared);
  ranking.variants_tried = static_cast<std::int64_t>(passes.planted().size());

  std::vector<Fit> fits;
  const std::string& case_id = query.subject.input->id;
  for (const Pass& pass : passes.planted()) {
    judged.detectability.tried.insert(pass.variant->id);
    if (pass.settled) {  // as one that is shown and does not lead
      judged.detectability.cases_that_show[pass.variant->id].insert(case_id);
      continue;
    }
    const RankedVariant variant = ranked(passes, pass, ranking.tokens_compared);
    const bool listed =
        std::ranges::find(ranking.nearest, variant.variant, &RankedVariant::variant) != ranking.nearest.end();
    if (!listed && ranking.nearest.size() < kRankedVariants) ranking.nearest.push_back(variant);
    // What right code explains as well was not shown, however near it lies to the edge.
    if (passes.shows(pass) && !(variant.reproduces && ranking.right.reproduces)) {
      judged.detectability.cases_that_show[pass.variant->id].insert(case_id);
    }
    if (!variant.reproduces) continue;
    if (variant.times_rounding <= kClearlyFarther * ranking.nearest.front().times_rounding && !listed) {
      Fit fit{pass.variant, {}, passes.searched(*pass.variant), variant.times_rounding};
      if (fit.fitted) {
        fit.doubt = kSearchedOverSpan;
      } else if (passes.rows_with_nan() > 0) {
        fit.doubt = "tokens at which the candidate has NaN are left aside";
      }
      fits.push_back(std::move(fit));
    }
  }
  ranking.record_next = record_next(ranking.nearest, query.catalogue);
  for (const Pass& pass : passes.pairs()) {
    const double times = passes.times_rounding(pass);
    if (!passes.reproduces(pass) || times > kClearlyFarther * passes.times_rounding(passes.pairs().front())) continue;
    Fit fit{pass.variant, {}, false, times};
    fit.beside = pass.beside;
    fits.push_back(std::move(fit));
  }

  for (const auto& [key, target] : passes.targets()) {
    ++judged.compared.front();
    compare::Judgement judgement = judgement_of(passes, target);
    if (judgement.outcome == compare::Outcome::kMatch) continue;
    if (judgement.outcome == compare::Outcome::kInconclusive) {
      judged.not_compared.push_back({case_id, query.subject.mode, key.step, tensor_name(key.id), judgement.reason});
      continue;
    }
    const auto span = compare::replay_span(key, query.trace, query.config);
    judged.wrong.push_back({.subject = &query.subject,
                            .key = key,
                            .span_start = compare::span_start(span, query.trace, query.config),
                            .judgement = std::move(judgement),
                            .fits = fits,
                            .seen_by = SeenBy::kWholePass});
  }
  return ranking;
}

void add_evidence(const findings::FreeRanking& ranking, std::vector<findings::HypothesisResult>& hypotheses) {
  for (findings::HypothesisResult& hypothesis : hypotheses) {
    for (std::size_t i = 0; i < ranking.nearest.size(); ++i) {
      const RankedVariant& variant = ranking.nearest[i];
      if (!variant.variant || hypothesis_of(*variant.variant) != hypothesis.id) continue;
      hypothesis.evidence.push_back(
          "of " + std::to_string(ranking.variants_tried) + " forward passes, each with one bug planted, the one with " +
          std::string(name(*variant.variant)) + " comes " + (i == 0 ? "nearest" : "nearest but " + std::to_string(i)) +
          ": its error is " + digits(variant.times_rounding, 3) +
          " times what rounding alone does, that of right code " + digits(ranking.right.times_rounding, 3));
      break;
    }
  }
}

}  // namespace qdiff::diagnose
