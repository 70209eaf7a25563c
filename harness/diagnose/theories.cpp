#include "harness/diagnose/theories.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

#include "harness/diagnose/roundings.h"
#include "harness/diagnose/row_oracle.h"
#include "harness/diagnose/span_mistakes.h"
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
// So many wrong operations of one layer, not one of them explained: the next layer would tell no more, and in the rest
// of this one plain mistakes alone are looked for.
constexpr std::size_t kNothingFits = 6;
// Of saying that a layer has what another one has.
constexpr double kBitsOfTheSame = 1.0;

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

// Of a row and a variant that takes a whole number, those that come nearest: the search is dear.
using NearestValues = std::map<std::pair<const RowJudgement*, FaultId>, std::vector<Variant>>;

// Known bugs that come near to a wrong row and yet do not reproduce all that they change: they may act in some steps,
// heads or tokens alone. Their values are the listed ones and, of whole numbers, what comes nearest.
std::vector<Variant> near_variants(RowOracle& oracle, const std::vector<RowJudgement>& rows,
                                   const std::vector<const RowJudgement*>& samples, NearestValues& nearest) {
  std::vector<Variant> near;
  for (const RowJudgement* row : samples) {
    const double right = oracle.distance_beside(*row, {}).rms;
    const auto add = [&](const Variant& variant) {
      if (std::ranges::find(near, variant) != near.end()) return;
      if (!is_contradicted(oracle, rows, *row, variant)) near.push_back(variant);
    };
    for (const VariantFacts& facts : oracle.catalogue()) {
      if (facts.declares || facts.only_rounds || sums_in_16_bits(facts) || !concerns(facts, row->span)) continue;
      try {
        std::vector<Variant> tried = doses(facts);
        if (takes_whole_number(facts)) {
          const auto [found, is_new] = nearest.try_emplace({row, facts.id});
          if (is_new) found->second = nearest_whole_values(oracle, *row, facts);
          tried.insert(tried.end(), found->second.begin(), found->second.end());
        }
        for (const Variant& variant : tried) {
          if (comes_near(oracle.distance_beside(*row, {&variant}).rms, right)) add(variant);
        }
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

// A mistake inside a span as a theory. `rows` are those of the scene, in its order.
explain::Candidate span_theory(RowOracle& oracle, explain::Scene& scene, const std::vector<const RowJudgement*>& rows,
                               const Mistakes& mistakes, double bits) {
  const Mistake& first = mistakes.front();
  const MistakeFacts& mechanism = facts(first.kind);
  explain::Candidate candidate;
  explain::Theory& theory = candidate.theory;
  theory.mechanism = mechanism.name;
  theory.parameters = first.parameters;
  if (first.scope.phase) theory.scope = {{"phase", std::string(name(*first.scope.phase))}};
  theory.sentence = sentence_of(mistakes);
  if (!mechanism.hypothesis.empty()) theory.hypothesis = mechanism.hypothesis;
  theory.mistakes = mistakes;
  theory.bits = bits + (first.scope.phase ? 1.0 : 0.0);
  candidate.predict = [&oracle, &scene, rows,
                       mistakes](const explain::Instance& instance) -> std::optional<Expectation> {
    try {
      return oracle.evaluate(*rows[scene.index_of(instance)], {.mistakes = mistakes});
    } catch (const NotEvaluable&) {
      return std::nullopt;
    }
  };
  return candidate;
}

// The mistakes that come nearest to the shortest wrong row of the first wrong phase. One that is made everywhere and
// one that is made in that phase alone are not told apart there, and both are theories.
std::vector<explain::Candidate> span_theories(RowOracle& oracle, explain::Scene& scene,
                                              const std::vector<const RowJudgement*>& rows) {
  const RowJudgement* sample = samples_of(rows).front();
  const Phase phase = sample->step().phase;
  const double right = oracle.distance_beside(*sample, {}).rms;
  const std::vector<Mistakes> listed = span_mistakes(sample->span, oracle.config());
  struct Near {
    double error;
    const Mistakes* mistakes;
  };
  std::vector<Near> near;
  for (const Mistakes& mistakes : listed) {
    const Mistakes tried = phase == Phase::kDecode ? in_phase(mistakes, phase) : mistakes;
    try {
      const double error = oracle.distance_beside(*sample, {.mistakes = tried}).rms;
      if (error < right && comes_near(error, right)) near.push_back({error, &mistakes});
    } catch (const NotEvaluable&) {
    }
  }
  std::ranges::stable_sort(near, {}, &Near::error);
  near.resize(std::min(near.size(), kJudgedSpanMistakes));
  std::vector<explain::Candidate> theories;
  if (near.empty()) return theories;
  const double farthest = kClearlyFarther * near.front().error + kSameDistance;
  std::erase_if(near, [=](const Near& one) { return one.error > farthest; });
  // In the order of the list: what computes the same twice is named by the first of them.
  std::ranges::sort(near, {}, &Near::mistakes);
  const double bits = std::log2(static_cast<double>(listed.size()));
  for (const Near& one : near) {
    theories.push_back(span_theory(oracle, scene, rows, *one.mistakes, bits));
    theories.push_back(span_theory(oracle, scene, rows, in_phase(*one.mistakes, phase), bits));
  }
  return theories;
}

// What covers an error by the width of its own rounding gives way to a theory of the error itself.
bool is_named(const std::vector<Fit>& fits) {
  return std::ranges::any_of(fits, [](const Fit& fit) { return fit.doubt.empty(); });
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

// The rows of one operation that were judged, with what fits each of them.
struct Operation {
  std::vector<const RowJudgement*> rows;
  std::vector<const std::vector<Fit>*> fits;

  // A bug in doubt explains what it covers well enough, unless something simple computes just that.
  bool in_doubt() const {
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (rows[i]->explainable() && fits[i]->empty()) return false;
    }
    return true;
  }
};

// Of one operation; nothing where its tensors are not of the table's shapes, or follow from different ones.
std::optional<Operation> operation_of(Op op, const std::vector<RowJudgement>& rows,
                                      const std::vector<std::vector<Fit>>& fits, const ModelConfig& config) {
  Operation found;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const RowJudgement& row = rows[i];
    const bool judged = row.judgement.outcome == compare::Outcome::kMatch || row.explainable();
    if (row.key.id.op != op || !judged) continue;
    found.rows.push_back(&row);
    found.fits.push_back(&fits[i]);
    // A row of logits that stands for all of them is no tensor of the table's shape.
    const Step& step = row.step();
    const Shape shape = output_shape(op, config, step.batch(), step.num_tokens(), step.valid_length());
    const RowJudgement& first = *found.rows.front();
    const bool alike = first.is_long() ? row.is_long() : same_operations(first, row);
    if (row.actual().shape != shape || !(moves_data(row) || alike)) return std::nullopt;
  }
  return found;
}

bool has_softmax(const Operation& operation) {
  return std::ranges::any_of(operation.rows.front()->span,
                             [](const TensorKey& key) { return arithmetic_of(key.id.op) == Arithmetic::kSoftmax; });
}

// Roundings that explain some steps of the operation are made in the others too, where something else is wrong.
Precision with_roundings(Precision precision, const Operation& operation) {
  for (const std::vector<Fit>* fits : operation.fits) {
    for (const Fit& fit : *fits) {
      if (!fit.variant) precision = declaring(precision, fit.points);
    }
  }
  return precision;
}

// A theory of what is wrong under this precision; nothing where that is nothing.
std::optional<explain::Theory> solve(Oracle& oracle, const std::vector<RowJudgement>& rows, const Operation& operation,
                                     const Precision& declared, const Precision& precision, const Solved& solved,
                                     NearestValues& nearest, bool of_elements_alone) {
  const Op op = operation.rows.front()->key.id.op;
  RowOracle known(oracle, precision);
  std::vector<explain::Instance> instances;
  for (const RowJudgement* row : operation.rows) {
    instances.push_back(instance_of(*row));
    explain::Instance& instance = instances.back();
    if (instance.wrong && precision != declared) {
      instance.wrong = known.judge(*row, {}).outcome == compare::Outcome::kDiverged;
    }
  }
  if (std::ranges::none_of(instances, &explain::Instance::wrong)) return std::nullopt;
  explain::Scene scene(oracle, precision, std::move(instances));
  // Where scores are large a last bit before a softmax turns it over, so that beside roundings which nobody declared
  // any query looks like another, and elements that were spoiled in up to six tokens are covered.
  constexpr std::int64_t kMoreThanSpoiled = 8;
  const bool covers = precision != declared && has_softmax(operation);
  if (covers) scene.ask_for_tokens(kMoreThanSpoiled);
  const std::vector<const RowJudgement*>& of_op = operation.rows;
  if (const auto before = solved.by_variant.find(op); before != solved.by_variant.end()) {
    if (auto theory = explain::accept(scene, named_theory(known, scene, of_op, before->second))) return theory;
  }
  if (const auto before = solved.in_span.find(op); before != solved.in_span.end()) {
    if (auto theory = explain::accept(scene, span_theory(known, scene, of_op, before->second, kBitsOfTheSame))) {
      return theory;
    }
  }
  if (of_elements_alone) return explain::explain(scene, {}, explain::Asked::kOfElements);
  std::vector<explain::Candidate> candidates;
  for (const Variant& variant : near_variants(known, rows, samples_of(of_op), nearest)) {
    candidates.push_back(named_theory(known, scene, of_op, variant));
  }
  if (of_op.front()->is_long()) std::ranges::move(span_theories(known, scene, of_op), std::back_inserter(candidates));
  return explain::explain(scene, candidates, covers ? explain::Asked::kOfAttention : explain::Asked::kAll);
}

}  // namespace

Theories explain_unnamed(Oracle& oracle, const std::vector<RowJudgement>& rows,
                         const std::vector<std::vector<Fit>>& fits, const Precision& precision, Solved& solved) {
  Theories theories(rows.size());
  std::set<Op> unnamed;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].explainable() && !is_named(fits[i])) unnamed.insert(rows[i].key.id.op);
  }
  std::vector<Op> in_vain;
  bool any_explained = std::ranges::any_of(fits, is_named);
  for (Op op : unnamed) {
    if (solved.in_vain[op] >= kMostUnsolved) continue;
    const std::optional<Operation> operation = operation_of(op, rows, fits, oracle.config());
    if (!operation) continue;
    const bool nothing_fits = !any_explained && in_vain.size() >= kNothingFits;
    const bool of_elements_alone = nothing_fits || operation->in_doubt();
    NearestValues nearest;
    const auto solve_beside = [&](const Precision& supposed) {
      return solve(oracle, rows, *operation, precision, supposed, solved, nearest, of_elements_alone);
    };
    auto theory = solve_beside(with_roundings(precision, *operation));
    if (!theory && !of_elements_alone) {
      // An engine that declared too little may round wherever this operation can.
      const Precision widest = rounding_as_it_stores(precision, *operation->rows.front());
      if (widest != precision) theory = solve_beside(widest);
    }
    if (!theory) {
      ++solved.in_vain[op];
      in_vain.push_back(op);
      continue;
    }
    any_explained = true;
    if (theory->variant) solved.by_variant.insert_or_assign(op, *theory->variant);
    if (!theory->variant) solved.by_mechanism.insert(op);
    if (!theory->mistakes.empty()) solved.in_span.insert_or_assign(op, theory->mistakes);
    const auto shared = std::make_shared<const explain::Theory>(std::move(*theory));
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (rows[i].key.id.op == op && rows[i].explainable() && !is_named(fits[i])) theories[i] = shared;
    }
  }
  if (!any_explained && in_vain.size() >= kNothingFits) {
    for (Op op : in_vain) solved.in_vain[op] = kMostUnsolved;
  }
  return theories;
}

}  // namespace qdiff::diagnose
