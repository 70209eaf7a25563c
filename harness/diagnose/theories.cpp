#include "harness/diagnose/theories.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "harness/diagnose/row_oracle.h"
#include "harness/diagnose/thresholds.h"
#include "harness/diagnose/value_search.h"
#include "harness/diagnose/variants.h"
#include "harness/explain/accept.h"
#include "harness/explain/explain.h"

namespace qdiff::diagnose {
namespace {

bool same_operations(const RowJudgement& a, const RowJudgement& b) {
  return std::equal(a.span.begin(), a.span.end(), b.span.begin(), b.span.end(),
                    [](const TensorKey& x, const TensorKey& y) { return x.id == y.id; });
}

// An engine has the same mistake in most of its layers, and to ask all mechanisms costs seconds where a model is large.
constexpr int kMostUnsolved = 2;

// Caches that were not recorded before reach back through the steps: of those the rows have different spans.
bool moves_data(const RowJudgement& row) { return only_moves(row.key.id.op); }

// The shortest wrong row of each phase: what a bug that acts in one of them is recognised by.
std::vector<const RowJudgement*> samples_of(const std::vector<const RowJudgement*>& rows) {
  std::map<Phase, const RowJudgement*> shortest;
  for (const RowJudgement* row : rows) {
    if (!row->wrong()) continue;
    const RowJudgement*& of_phase = shortest[row->step().phase];
    const auto size = [](const RowJudgement* r) {
      return std::pair(r->step().num_tokens(), -r->step().valid_length());
    };
    if (of_phase == nullptr || size(row) < size(of_phase)) of_phase = row;
  }
  std::vector<const RowJudgement*> samples;
  for (const auto& [phase, row] : shortest) samples.push_back(row);
  return samples;
}

// A running sum in 16 bits errs by so much of its own that it would cover errors of any cause.
bool sums_in_16_bits(const VariantFacts& facts) {
  return std::ranges::any_of(facts.changes, [](const Change& change) {
    const bool is_sum = change.parameter == Parameter::kRunningSum || change.parameter == Parameter::kDenominator ||
                        change.parameter == Parameter::kSumOfSquares;
    return is_sum && (change.law == Law::kInBF16 || change.law == Law::kInF16);
  });
}

// Whether a bug that changes several operations at once would have shown in another one where that is right, in the
// step of a wrong row.
bool is_contradicted(RowOracle& oracle, const std::vector<RowJudgement>& rows, const RowJudgement& sample,
                     const Variant& variant) {
  const VariantFacts& facts = oracle.facts_of(variant);
  if (facts.reach != Reach::kTogether) return false;
  return std::ranges::any_of(rows, [&](const RowJudgement& other) {
    const bool beside = other.subject == sample.subject && other.key.step == sample.key.step &&
                        other.key.id.op != sample.key.id.op && concerns(facts, other.span);
    if (!beside || other.judgement.outcome != compare::Outcome::kMatch) return false;
    try {
      return oracle.judge(other, {&variant}).outcome == compare::Outcome::kDiverged;
    } catch (const NotEvaluable&) {
      return false;
    }
  });
}

// Known bugs that come near to a wrong row and yet do not reproduce all that they change: they may act in some steps,
// heads or tokens alone. Their values are the listed ones and, of whole numbers, what comes nearest.
std::vector<Variant> near_variants(RowOracle& oracle, const std::vector<RowJudgement>& rows,
                                   const std::vector<const RowJudgement*>& samples) {
  std::vector<Variant> near;
  for (const RowJudgement* row : samples) {
    const auto add = [&](const Variant& variant) {
      if (std::ranges::find(near, variant) != near.end()) return;
      if (!is_contradicted(oracle, rows, *row, variant)) near.push_back(variant);
    };
    const double right = oracle.statistics_beside(*row, {}).rms;
    for (const VariantFacts& facts : oracle.catalogue()) {
      if (facts.declares || facts.only_rounds || sums_in_16_bits(facts) || !concerns(facts, row->span)) continue;
      try {
        for (const Variant& variant : doses(facts)) {
          const double error = oracle.statistics_beside(*row, {&variant}).rms;
          if (error <= std::max(kLargestShareLeft * right, kNearEnough)) add(variant);
        }
        if (!takes_whole_number(facts)) continue;
        for (const Variant& variant : whole_values(oracle, *row, facts)) add(variant);
      } catch (const NotEvaluable&) {
      }
    }
  }
  return near;
}

// One of them as a theory whose scope is to be derived. `rows` are those of the scene, in its order.
explain::Candidate named_theory(RowOracle& oracle, explain::Scene& scene, const std::vector<const RowJudgement*>& rows,
                                const Variant& variant) {
  const VariantFacts& facts = oracle.facts_of(variant);
  explain::Candidate candidate;
  explain::Theory& theory = candidate.theory;
  theory.variant = variant;
  if (const std::string_view id = hypothesis_of(variant.id); !id.empty()) theory.hypothesis = id;
  theory.sentence = facts.what;
  theory.bits = std::log2(static_cast<double>(oracle.catalogue().size()));
  const bool is_listed = !variant.value || std::ranges::find(facts.values, *variant.value) != facts.values.end();
  if (!is_listed) theory.bits += 2.0 * std::log2(1.0 + std::fabs(*variant.value));
  candidate.predict = [&oracle, &scene, rows,
                       variant](const explain::Instance& instance) -> std::optional<Expectation> {
    try {
      return oracle.evaluate(*rows[scene.index_of(instance)], {&variant});
    } catch (const NotEvaluable&) {
      return std::nullopt;
    }
  };
  return candidate;
}

explain::Instance instance_of(const RowJudgement& row) {
  return {.key = row.key,
          .span = row.span,
          .actual = row.actual(),
          .recorded = row.subject->inputs,
          .steps = &row.subject->input->steps,
          .capacity = row.subject->input->capacity,
          .unwritten = row.subject->unwritten,
          .wrong = row.wrong()};
}

}  // namespace

Theories explain_unnamed(Oracle& oracle, const std::vector<RowJudgement>& rows,
                         const std::vector<std::vector<Fit>>& fits, const Precision& precision, Solved& solved) {
  Theories theories(rows.size());
  RowOracle known(oracle, precision);
  std::set<Op> unnamed;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].explainable() && fits[i].empty()) unnamed.insert(rows[i].key.id.op);
  }
  for (Op op : unnamed) {
    if (solved.in_vain[op] >= kMostUnsolved) continue;
    const RowJudgement* first = nullptr;
    bool usual = true;
    std::vector<explain::Instance> instances;
    std::vector<const RowJudgement*> of_op;
    for (const RowJudgement& row : rows) {
      const bool judged = row.judgement.outcome == compare::Outcome::kMatch || row.explainable();
      if (row.key.id.op != op || !judged) continue;
      if (first == nullptr) first = &row;
      // A row of logits that stands for all of them is no tensor of the table's shape.
      const Step& step = row.step();
      const Shape shape = output_shape(op, oracle.config(), step.batch(), step.num_tokens(), step.valid_length());
      const bool alike = first->is_long() ? row.is_long() : same_operations(*first, row);
      usual &= row.actual().shape == shape && (moves_data(row) || alike);
      instances.push_back(instance_of(row));
      of_op.push_back(&row);
    }
    if (!usual) continue;
    explain::Scene scene(oracle, precision, std::move(instances));
    const auto before = solved.by_variant.find(op);
    std::optional<explain::Theory> theory;
    if (before != solved.by_variant.end()) {
      theory = explain::accept(scene, named_theory(known, scene, of_op, before->second));
    }
    if (!theory) {
      std::vector<explain::Candidate> named;
      if (!first->is_long()) {
        for (const Variant& variant : near_variants(known, rows, samples_of(of_op))) {
          named.push_back(named_theory(known, scene, of_op, variant));
        }
      }
      theory = explain::explain(scene, named);
    }
    if (!theory) {
      ++solved.in_vain[op];
      continue;
    }
    if (theory->variant) solved.by_variant.insert_or_assign(op, *theory->variant);
    const auto shared = std::make_shared<const explain::Theory>(std::move(*theory));
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (rows[i].key.id.op == op && rows[i].explainable() && fits[i].empty()) theories[i] = shared;
    }
  }
  return theories;
}

}  // namespace qdiff::diagnose
