#include "harness/diagnose/attribution.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <tuple>

#include "harness/compare/layout.h"
#include "harness/compare/sums.h"
#include "harness/diagnose/beyond_rounding.h"
#include "harness/diagnose/roundings.h"
#include "harness/diagnose/row_oracle.h"
#include "harness/diagnose/thresholds.h"
#include "harness/diagnose/value_search.h"
#include "harness/diagnose/variants.h"

namespace qdiff::diagnose {
namespace {

using compare::Outcome;
using Rows = std::vector<const RowJudgement*>;

// The mean, with that of storing, over the elements of which some rounding is expected.
double mean_deviation(const Expectation& expected, DType stored) {
  double sum = 0.0;
  std::int64_t count = 0;
  for (std::size_t i = 0; i < expected.sigma_independent.size(); ++i) {
    const double shared = i < expected.sigma_shared.size() ? expected.sigma_shared[i] : 0.0;
    const double independent = expected.sigma_independent[i];
    if (!std::isfinite(independent + shared) || independent + shared == 0.0) continue;
    sum += compare::deviation(independent, shared, spacing(stored, expected.value[i]));
    ++count;
  }
  return count > 0 ? sum / static_cast<double>(count) : 0.0;
}

// There is most to fit where most was compared.
const RowJudgement& largest(const Rows& rows) {
  return **std::ranges::max_element(
      rows, {}, [](const RowJudgement* row) { return row->wrong() ? row->judgement.statistics.elements_compared : 0; });
}

// The wrong row of the fewest tokens, the latest of these: it costs least, and most slots stand behind it.
const RowJudgement& shortest(const Rows& rows) {
  return **std::ranges::min_element(rows, {}, [](const RowJudgement* row) {
    return std::tuple(!row->wrong(), row->step().num_tokens(), -row->step().valid_length());
  });
}

// The wrong rows stay in front: one of a decode step refutes nearly all variants that one of a long prefill would.
Rows cheapest_first(Rows rows) {
  std::ranges::stable_sort(
      rows, {}, [](const RowJudgement* row) { return std::pair(!row->wrong(), num_elements(row->actual().shape)); });
  return rows;
}

class LayerAttribution {
 public:
  LayerAttribution(Oracle& oracle, const std::vector<RowJudgement>& rows, const Precision& precision, Known& known)
      : oracle_(oracle, precision), rows_(rows), known_(known), fits_(rows.size()) {
    for (const RowJudgement& row : rows_) {
      if (row.explainable()) wrong_ops_.insert(row.key.id.op);
    }
  }

  // Each step sees what the ones before it explained.
  std::vector<std::vector<Fit>> explain() {
    if (wrong_ops_.empty()) return fits_;
    try_known();
    if (!std::ranges::all_of(wrong_ops_, [this](Op op) { return explained(op); })) try_variants();
    try_capacities();
    try_whole_numbers();
    for (Op op : wrong_ops_) {
      if (!explained(op) || explained_by_rounding(op) || !closely_explained(op)) try_roundings(op);
    }
    share_roundings();
    for (const RowJudgement& row : rows_) keep_nearest(row, fits_of(row));
    return fits_;
  }

  // Of the operations that neither a fit nor anything else explains.
  void explain_what_is_left(std::vector<std::vector<Fit>>& fits, const std::set<Op>& explained_otherwise) {
    fits_ = fits;
    for (Op op : wrong_ops_) {
      if (explained(op) || explained_otherwise.contains(op)) continue;
      try_declaring(op);
      if (!explained(op)) try_pairs(op);
      for (const RowJudgement& row : rows_) {
        if (row.key.id.op == op) keep_nearest(row, fits_of(row));
      }
    }
    fits = fits_;
  }

 private:
  std::vector<Fit>& fits_of(const RowJudgement& row) { return fits_[static_cast<std::size_t>(&row - rows_.data())]; }

  // Rows to reproduce: the wrong ones first, for they refute most variants at once.
  template <typename Wanted>
  Rows rows_where(Wanted wanted) const {
    Rows found;
    for (const RowJudgement& row : rows_) {
      const bool judged = row.judgement.outcome == Outcome::kMatch || row.explainable();
      if (judged && wanted(row)) found.push_back(&row);
    }
    std::stable_partition(found.begin(), found.end(), std::mem_fn(&RowJudgement::wrong));
    return found;
  }
  Rows rows_of(Op op) const {
    return rows_where([op](const RowJudgement& row) { return row.key.id.op == op; });
  }

  bool explained(Op op) {
    return std::ranges::none_of(rows_, [&](const RowJudgement& row) {
      return row.explainable() && row.key.id.op == op && fits_of(row).empty();
    });
  }

  bool explained_by_rounding(Op op) {
    const auto only_rounds = [this](const Fit& fit) {
      return fit.variant && oracle_.facts_of(*fit.variant).only_rounds;
    };
    return std::ranges::any_of(rows_, [&](const RowJudgement& row) {
      return row.key.id.op == op && std::ranges::any_of(fits_of(row), only_rounds);
    });
  }

  // A bug whose own rounding is coarse, such as sums in 16 bits, fits what a single rounding that nobody declared does;
  // what it computes to the bit lies elsewhere then, and the rounding has to be tried as well.
  bool closely_explained(Op op) {
    const RowJudgement& row = largest(rows_of(op));
    return std::ranges::any_of(fits_of(row),
                               [&](const Fit& fit) { return oracle_.distance(row, fit.supposition()) <= kCloseFit; });
  }

  // What a variant changes within this layer: all rows together, or those of one operation.
  std::vector<Rows> groups_of(const VariantFacts& facts) const {
    std::vector<Rows> groups;
    if (facts.reach == Reach::kTogether) {
      groups.push_back(rows_where([&](const RowJudgement& row) { return concerns(facts, row.span); }));
    } else {
      for (Op op : wrong_ops_) {
        groups.push_back(
            rows_where([&](const RowJudgement& row) { return row.key.id.op == op && concerns(facts, row.span); }));
      }
    }
    std::erase_if(groups, [](const Rows& group) { return group.empty() || !group.front()->wrong(); });
    return groups;
  }

  bool reproduces(const Supposition& supposition, const Rows& rows) {
    try {
      if (!std::ranges::all_of(rows, [&](const auto* row) { return oracle_.may_reproduce(*row, supposition); })) {
        return false;
      }
      bool any = false;
      for (const RowJudgement* row : cheapest_first(rows)) {
        const Expectation expected = oracle_.evaluate(*row, supposition);
        const Outcome outcome = oracle_.judge_against(*row, row->actual(), expected, supposition.points).outcome;
        if (outcome == Outcome::kUnjudged) continue;  // nothing is expected of any element
        if (outcome != Outcome::kMatch) return false;
        // With a capacity of one's choice many strides leave unwritten whatever is wrong.
        any |= row->wrong() && ((supposition.capacity == 0 && leaves_one_value(*row, expected)) ||
                                expects_what_is_wrong(*row, expected));
      }
      return any;
    } catch (const NotEvaluable&) {
      return false;
    }
  }

  // Whether all that is unknown holds one value, as memory does that was cleared, or never written.
  bool holds_one_value(const RowJudgement& row, const std::vector<std::uint8_t>& unknown) {
    const TensorView actual = row.actual();
    const compare::Layout layout(row.key.id.op, actual.shape, row.step(), oracle_.config());
    std::optional<double> held;
    std::int64_t count = 0;
    for (std::int64_t r = 0; r < layout.num_rows(); ++r) {
      if (!layout.counts(r)) continue;
      for (std::int64_t i = r * layout.num_columns(); i < (r + 1) * layout.num_columns(); ++i) {
        if (unknown[static_cast<std::size_t>(i)] == 0) continue;
        const double value = load_element(actual.data, actual.dtype, static_cast<std::size_t>(i));
        if (held && !(value == *held || (std::isnan(value) && std::isnan(*held)))) return false;
        held = value;
        ++count;
      }
    }
    return count >= kEnoughUnwritten;
  }

  bool leaves_one_value(const RowJudgement& row, const Expectation& expected) {
    return !expected.unknown.empty() && expected.shape == row.actual().shape && holds_one_value(row, expected.unknown);
  }

  // A bug that leaves memory unwritten expects nothing there, and would cover whatever is wrong in it.
  bool expects_what_is_wrong(const RowJudgement& row, const Expectation& expected) {
    if (expected.unknown.empty()) return true;
    Expectation right = oracle_.right(row);
    right.unknown = expected.unknown;
    for (std::size_t i = 0; i < right.unknown.size(); ++i) {
      if (right.unknown[i] == 0) continue;
      right.value[i] = 0.0;
      if (!right.sigma_independent.empty()) right.sigma_independent[i] = right.sigma_shared[i] = 0.0F;
    }
    return oracle_.judge_against(row, row.actual(), right).outcome == Outcome::kDiverged;
  }

  // Whether a bug beside roundings changes some value of the row; where it does not, the roundings alone explain it.
  bool acts(const Fit& fit, const RowJudgement& row) const {
    if (!fit.variant || fit.points.empty()) return true;
    const Expectation without = oracle_.evaluate(row, {nullptr, fit.points}, /*with_noise=*/false);
    return oracle_.evaluate(row, fit.supposition(), /*with_noise=*/false).value != without.value;
  }

  void add(const Fit& fit, const Rows& rows) {
    for (const RowJudgement* row : rows) {
      if (!row->wrong()) continue;
      const Fit here = acts(fit, *row) ? fit : Fit{std::nullopt, fit.points};
      std::vector<Fit>& fits = fits_of(*row);
      if (std::ranges::find(fits, here) == fits.end()) fits.push_back(here);
    }
    if (std::ranges::find(known_.fits, fit) == known_.fits.end()) known_.fits.push_back(fit);
  }
  bool add_if_it_reproduces(const Fit& fit, const Rows& rows) {
    if (!reproduces(fit.supposition(), rows)) return false;
    if (!fit.variant && is_denied(fit, rows)) return false;
    add(fit, rows);
    return true;
  }

  void try_known() {
    const std::vector<Fit> before = known_.fits;
    for (const Fit& fit : before) {
      if (!fit.variant) continue;
      if (fit.beside) {
        add_if_it_reproduces(fit, rows_of_both(*fit.variant, *fit.beside));
        continue;
      }
      for (const Rows& group : groups_of(oracle_.facts_of(*fit.variant))) add_if_it_reproduces(fit, group);
    }
    for (const Fit& fit : before) {
      if (fit.variant) continue;
      for (Op op : wrong_ops_) {
        if (!explained(op)) add_if_it_reproduces(fit, rows_of(op));
      }
    }
  }

  void try_variants() {
    for (const VariantFacts& facts : oracle_.catalogue()) {
      if (facts.declares) continue;
      for (const Rows& group : groups_of(facts)) try_variant(facts, group);
    }
  }

  void try_variant(const VariantFacts& facts, const Rows& group) {
    std::vector<Variant> listed;
    for (const Variant& variant : doses(facts)) {
      if (reproduces({&variant}, group)) listed.push_back(variant);
      if (!listed.empty() && !facts.right_value) break;
    }
    const RowJudgement& sample = largest(group);
    if (!listed.empty()) {
      // Several listed values of a continuous parameter may reproduce a row: an epsilon of 1e-12, and none at all.
      const auto distance = [&](const Variant& variant) { return oracle_.distance(sample, {&variant}); };
      const Variant nearest = listed.size() == 1 ? listed.front() : *std::ranges::min_element(listed, {}, distance);
      return add({nearest, {}}, group);
    }
    if (!facts.right_value) return;
    try {
      const std::vector<Variant> fitted = fitted_values(oracle_, sample, facts);
      // A full judgement of a long span is dear: where the nearest value does not do, shorter numbers are not asked.
      if (fitted.empty() || (sample.is_long() && !reproduces({&fitted.back()}, group))) return;
      for (const Variant& variant : fitted) {
        if (add_if_it_reproduces({variant, {}, true}, group)) return;
      }
    } catch (const NotEvaluable&) {
    }
  }

  // A cache may have more slots than the steps fill, of which a recording need not say how many.
  void try_capacities() {
    for (const VariantFacts& facts : oracle_.catalogue()) {
      if (!depends_on_capacity(facts) && !depends_on_room(facts)) continue;
      for (const Rows& group : groups_of(facts)) {
        if (group.front()->subject->input->capacity > 0) return;
        const Op op = group.front()->key.id.op;
        int& in_vain = known_.searched_in_vain[{facts.id, op}];
        const bool all_explained =
            std::ranges::all_of(group, [&](const auto* row) { return explained(row->key.id.op); });
        if (all_explained || in_vain >= kMostVainSearches) continue;
        if (!explained_by_capacity(facts, group)) ++in_vain;
      }
    }
  }

  bool explained_by_capacity(const VariantFacts& facts, const Rows& group) {
    for (std::int64_t capacity : likely_capacities(*group.front()->subject->input)) {
      for (const Variant& variant : doses(facts)) {
        Fit fit{variant, {}};
        fit.capacity = capacity;
        if (add_if_it_reproduces(fit, group)) return true;
      }
      if (!depends_on_capacity(facts)) return false;  // one more slot is as good as many
    }
    return false;
  }

  // Bugs whose parameter is a whole number that nobody listed, where nothing listed fits.
  void try_whole_numbers() {
    for (const VariantFacts& facts : oracle_.catalogue()) {
      if (!takes_whole_number(facts)) continue;
      for (const Rows& group : groups_of(facts)) {
        const Op op = group.front()->key.id.op;
        int& in_vain = known_.searched_in_vain[{facts.id, op}];
        const RowJudgement& sample = shortest(group);
        if (explained(op) || sample.is_long() || in_vain >= kMostVainSearches) continue;
        bool found = false;
        const double right = oracle_.distance_beside(sample, {}).rms;
        for (const Variant& variant : nearest_whole_values(oracle_, sample, facts)) {
          if (!comes_near(oracle_.distance_beside(sample, {&variant}).rms, right)) break;
          found |= add_if_it_reproduces({variant, {}, true}, group);
        }
        if (!found) ++in_vain;
      }
    }
  }

  // Roundings that the engine makes in every step, and in some steps alone a bug beside them: those explain what the
  // bug leaves, which is looked for where they do not.
  bool explains_with_a_bug(Op op, const std::vector<DeclarablePoint>& points) {
    if (points.empty()) return false;
    const Fit rounding{std::nullopt, points};
    Rows rounded, left, without_bug;
    for (const RowJudgement* row : rows_of(op)) {
      const bool unexplained = row->wrong() && fits_of(*row).empty();
      const bool rounds = !unexplained || oracle_.judge(*row, rounding.supposition()).outcome == Outcome::kMatch;
      if (unexplained) (rounds ? rounded : left).push_back(row);
      if (rounds) without_bug.push_back(row);
    }
    if (rounded.empty() || is_denied(rounding, without_bug)) return false;
    add(rounding, rounded);
    if (left.empty()) return true;
    for (const Variant& variant : nearest_variants(oracle_, shortest(left), points)) {
      const Fit fit{variant, points};
      for (const Rows& group : groups_of(oracle_.facts_of(variant))) {
        add_if_it_reproduces(fit, group);
      }
      if (explained(op)) return true;
    }
    return true;
  }

  // No bug alone: roundings that were not declared, alone or beside a bug.
  void try_roundings(Op op) {
    const Rows rows = rows_of(op);
    // What an operation before this one, or a layer before, needed.
    const std::vector<Fit> before = known_.fits;
    for (const Fit& fit : before) {
      if (!fit.variant && add_if_it_reproduces(fit, rows)) return;
    }
    const bool is_explained = explained(op);
    const RowJudgement& sample = largest(rows);
    auto alone = undeclared_points(oracle_, sample, nullptr);
    if (!alone.empty() && add_if_it_reproduces({std::nullopt, alone}, rows)) return;
    // A narrower cache that prefill does not attend to: its own keys and values it takes as they were.
    const auto is_cache = [](const DeclarablePoint& point) { return point.point == RoundingPoint::kKvCache; };
    if (std::ranges::any_of(alone, is_cache)) {
      alone.push_back({RoundingPoint::kKvCachePrefill, oracle_.declared().activations});
      if (add_if_it_reproduces({std::nullopt, alone}, rows)) return;
    }
    if (is_explained || explains_with_a_bug(op, alone)) return;
    for (const Variant& variant : nearest_variants(oracle_, sample)) {
      const auto beside = undeclared_points(oracle_, sample, &variant);
      if (beside.empty()) continue;
      for (const Rows& group : groups_of(oracle_.facts_of(variant))) add_if_it_reproduces({variant, beside}, group);
      if (explained(op)) return;
    }
  }

  // Roundings alone that explain an operation give way to those of another one which explain it as closely: an engine
  // that sums attention in 16 bits rounds its scores, and does not round them as well. Roundings explain all wrong rows
  // of an operation or none; what else explains some of these rows stays.
  void share_roundings() {
    std::map<Op, Fit> alone;
    for (Op op : wrong_ops_) {
      for (const RowJudgement* row : rows_of(op)) {
        const std::vector<Fit>& fits = fits_of(*row);
        if (fits.size() == 1 && !fits.front().variant) alone.emplace(op, fits.front());
      }
    }
    for (auto& entry : alone) {
      const Op own = entry.first;
      Fit& fit = entry.second;
      const auto needed = [&](const auto& other) { return other.first != own && other.second.points == fit.points; };
      if (std::ranges::any_of(alone, needed)) continue;
      const auto shared = std::ranges::find_if(
          alone, [&](const auto& other) { return other.first != own && explains_as_closely(other.second, fit, own); });
      if (shared == alone.end()) continue;
      std::erase(known_.fits, fit);
      for (const RowJudgement* row : rows_of(own)) std::ranges::replace(fits_of(*row), fit, shared->second);
      fit = shared->second;
    }
  }

  bool explains_as_closely(const Fit& other, const Fit& fit, Op op) {
    const Rows rows = rows_of(op);
    const RowJudgement& sample = largest(rows);
    try {
      const double reached = oracle_.distance(sample, fit.supposition());
      return oracle_.distance(sample, other.supposition()) <= reached + kSameDistance &&
             reproduces(other.supposition(), rows);
    } catch (const NotEvaluable&) {
      return false;
    }
  }

  // Roundings that an engine makes in an order of its own, so that the reference which makes them comes no nearer: once
  // they are declared all is right, and they move about as many elements as the engine has beyond rounding.
  void try_declaring(Op op) {
    const Rows rows = rows_of(op);
    const RowJudgement& sample = largest(rows);
    if (sample.is_long()) return;
    for (const std::vector<DeclarablePoint>& points : covering_declarations(oracle_, sample)) {
      const Fit fit{std::nullopt, points};
      if (moved_in(rows, fit).tells() && add_if_it_reproduces(fit, rows)) return;
    }
  }

  // What either of two bugs changes within this layer.
  Rows rows_of_both(const Variant& one, const Variant& other) const {
    return rows_where([&](const RowJudgement& row) {
      return concerns(oracle_.facts_of(one), row.span) || concerns(oracle_.facts_of(other), row.span);
    });
  }

  // Two bugs inside one span, each of which alone may bring the reference hardly nearer. On the earliest wrong step,
  // which the fewest operations stand behind, the nearest ones alone are each tried with all others.
  void try_pairs(Op op) {
    const Rows wrong = rows_where([op](const RowJudgement& row) { return row.key.id.op == op && row.wrong(); });
    const RowJudgement& sample =
        **std::ranges::min_element(wrong, {}, [](const RowJudgement* row) { return row->key.step; });
    int& in_vain = known_.paired_in_vain[op];
    if (!sample.is_long() || in_vain >= kMostVainSearches) return;
    const auto error_of = [&](const Supposition& supposition) {
      try {
        const double rms = oracle_.distance_beside(sample, supposition).rms;
        return std::isfinite(rms) ? rms : HUGE_VAL;
      } catch (const NotEvaluable&) {
        return HUGE_VAL;
      }
    };
    struct Alone {
      double error;
      Variant variant;
    };
    const double right = error_of({});
    std::vector<Alone> alone;
    for (const VariantFacts& facts : oracle_.catalogue()) {
      if (facts.declares || facts.only_rounds || !concerns(facts, sample.span)) continue;
      for (const Variant& variant : doses(facts)) {
        const double error = error_of({&variant});
        if (error != right) alone.push_back({error, variant});  // else this step does not show it
      }
    }
    std::ranges::stable_sort(alone, {}, &Alone::error);
    struct Pair {
      double error;
      Variant one, other;
    };
    std::vector<Pair> pairs;
    for (std::size_t i = 0; i < std::min(kFirstOfPairs, alone.size()); ++i) {
      for (std::size_t j = i + 1; j < alone.size(); ++j) {
        if (alone[i].variant.id == alone[j].variant.id) continue;
        const double error = error_of({&alone[i].variant, {}, &alone[j].variant});
        if (error <= kLargestShareLeft * alone[i].error) pairs.push_back({error, alone[i].variant, alone[j].variant});
      }
    }
    std::ranges::stable_sort(pairs, {}, &Pair::error);
    bool found = false;
    for (std::size_t i = 0; i < std::min(kJudgedPairs, pairs.size()) && !found; ++i) {
      Fit fit{pairs[i].one, {}};
      fit.beside = pairs[i].other;
      found = add_if_it_reproduces(fit, rows_of_both(pairs[i].one, pairs[i].other));
    }
    if (!found) ++in_vain;
  }

  // A variant with much expected rounding of its own may cover what another one computes to the bit, and what no
  // variant computes.
  void keep_nearest(const RowJudgement& row, std::vector<Fit>& fits) {
    double nearest = HUGE_VAL;
    for (Fit& fit : fits) {
      fit.distance = oracle_.distance(row, fit.supposition());
      nearest = std::min(nearest, fit.distance);
    }
    std::erase_if(fits, [&](Fit& fit) {
      return fit.distance > kClearlyFarther * nearest + kSameDistance || (fit.variant && !weigh_coarse(row, fit));
    });
  }

  Moved moved_in(const Rows& rows, const Fit& fit) {
    Moved moved;
    for (const RowJudgement* row : rows) {
      if (const auto beyond = beyond_rounding(oracle_, *row, fit)) moved.add(beyond->elements);
    }
    return moved;
  }

  // Whether rows that a rounding would have moved were not. It may be made in one phase alone.
  bool is_denied(const Fit& rounding, const Rows& rows) {
    const auto phase_of = [](const RowJudgement* row) { return row->step().phase; };
    Rows of_phase;
    for (const RowJudgement* row : rows) {
      const bool is_wrong_there = std::ranges::any_of(
          rows, [&](const RowJudgement* other) { return other->wrong() && phase_of(other) == phase_of(row); });
      if (is_wrong_there) of_phase.push_back(row);
    }
    return moved_in(of_phase, rounding).denies();
  }

  // Over all steps: an engine that sums so in one does so in the others.
  const Moved& moved_in_all(Op op, const Fit& fit) {
    const auto [found, is_new] = moved_in_all_.try_emplace({op, *fit.variant});
    if (is_new) found->second = moved_in(rows_of(op), fit);
    return found->second;
  }

  // A fit that comes no nearer than right code does may cover any small error with the width of its own rounding. It
  // has to say why these elements are wrong: its own computation gives their errors, or, where the order of its sums
  // decides them (sums in 16 bits), it moves about as many. Of the latter an engine may have done the same in another
  // order, so it is in doubt. Returns whether it is a fit.
  bool weigh_coarse(const RowJudgement& row, Fit& fit) {
    if (fit.distance <= kLargestShareLeft * oracle_.distance(row)) return true;
    const VariantFacts& facts = oracle_.facts_of(*fit.variant);
    const auto beyond = beyond_rounding(oracle_, row, fit);
    const bool predicts = beyond && beyond->is_predicted();
    const DType stored = row.actual().dtype;
    const double right = mean_deviation(oracle_.right(row), stored);
    const double planted = mean_deviation(oracle_.evaluate(row, fit.supposition()), stored);
    const bool is_coarse = planted > kCoarseRounding * right;
    if (!is_coarse && !sums_in_16_bits(facts)) return predicts || !facts.only_rounds;
    if (is_coarse) {
      fit.doubt =
          "its own rounding is so coarse that it covers this error, and what it computes comes no nearer to the "
          "candidate than right code does";
    }
    const auto moves_in_all = [&](const Moved& all) { return all.as_many() && all.so_far >= kEnoughMoved; };
    const bool moves =
        !beyond || predicts || (beyond->elements.as_many() && moves_in_all(moved_in_all(row.key.id.op, fit)));
    return moves && row.judgement.statistics.rms * right >= kLeastShareOfCoarseRounding * planted;
  }

  RowOracle oracle_;
  const std::vector<RowJudgement>& rows_;
  Known& known_;
  std::set<Op> wrong_ops_;
  std::vector<std::vector<Fit>> fits_;  // by row
  std::map<std::pair<Op, Variant>, Moved> moved_in_all_;
};

}  // namespace

std::vector<std::vector<Fit>> explain_layer(Oracle& oracle, const std::vector<RowJudgement>& rows,
                                            const Precision& precision, Known& known) {
  return LayerAttribution(oracle, rows, precision, known).explain();
}

void explain_what_is_left(Oracle& oracle, const std::vector<RowJudgement>& rows, const Precision& precision,
                          Known& known, const std::set<Op>& explained_otherwise, std::vector<std::vector<Fit>>& fits) {
  LayerAttribution(oracle, rows, precision, known).explain_what_is_left(fits, explained_otherwise);
}

}  // namespace qdiff::diagnose
