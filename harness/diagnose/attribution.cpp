#include "harness/diagnose/attribution.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <map>

#include "harness/compare/layout.h"
#include "harness/compare/sums.h"
#include "harness/diagnose/fitting.h"
#include "harness/diagnose/screening.h"

namespace qdiff::diagnose {

using compare::Judgement;
using compare::Outcome;

Precision declaring(Precision precision, std::span<const DeclarablePoint> points) {
  for (const DeclarablePoint& declared : points) declared.declare(precision);
  return precision;
}

namespace {

// A variant may ask for any tensor of the case; one that was handed out in a wrong shape is as good as not recorded.
class WellShaped final : public TensorStore {
 public:
  WellShaped(const Subject& subject, const ModelConfig& config) : subject_(subject), config_(config) {}
  bool has(const TensorKey& key) const override {
    const Step& step = subject_.input->steps[static_cast<std::size_t>(key.step)];
    return subject_.inputs->has(key) && compare::shape_fits(key.id.op, get(key).shape, step, config_);
  }
  TensorView get(const TensorKey& key) const override { return subject_.inputs->get(key); }

 private:
  const Subject& subject_;
  const ModelConfig& config_;
};

// The query of a row under a supposition; what it refers to lives here.
struct RowQuery {
  Precision precision;
  WellShaped recorded;
  Query query;

  RowQuery(const RowJudgement& row, const Precision& declared, const Supposition& supposition,
           const ModelConfig& config)
      : precision(declaring(declared, supposition.points)),
        recorded(*row.subject, config),
        query{.operations = row.span,
              .recorded = recorded,
              .steps = row.subject->input->steps,
              .precision = precision,
              .stored = row.actual().dtype,
              .variant = supposition.variant,
              .capacity = row.subject->input->capacity,
              .unwritten = row.subject->unwritten} {}
};

}  // namespace

Judgement judge_against(const RowJudgement& row, const TensorView& actual, const Expectation& expected,
                        const Precision& precision, const ModelConfig& config) {
  return compare::judge({.op = row.key.id.op,
                         .actual = actual,
                         .expected = expected,
                         .step = row.step(),
                         .precision = precision,
                         .config = config,
                         .operations = row.span});
}

Expectation evaluate(Oracle& oracle, const RowJudgement& row, const Precision& precision,
                     const Supposition& supposition, bool with_noise) {
  RowQuery q(row, precision, supposition, oracle.config());
  q.query.with_noise = with_noise;
  return oracle.evaluate(q.query);
}

std::vector<Expectation> evaluate_all(Oracle& oracle, std::span<const RowJudgement> rows, const Precision& precision) {
  std::deque<RowQuery> kept;  // queries refer to what lives there
  std::vector<Query> queries;
  for (const RowJudgement& row : rows) {
    kept.emplace_back(row, precision, Supposition{}, oracle.config());
    queries.push_back(kept.back().query);
  }
  return oracle.evaluate_all(queries);
}

Judgement judge_as(Oracle& oracle, const RowJudgement& row, const Precision& precision,
                   const Supposition& supposition) {
  const Expectation expected = evaluate(oracle, row, precision, supposition);
  return judge_against(row, row.actual(), expected, declaring(precision, supposition.points), oracle.config());
}

Tensor emulated(Oracle& oracle, const RowJudgement& row, const Precision& precision, const Supposition& supposition,
                bool divides_last) {
  RowQuery q(row, precision, supposition, oracle.config());
  q.query.divides_last = divides_last;
  const TensorView actual = row.actual();
  return Tensor::rounded(actual.dtype, actual.shape, oracle.emulate(q.query));
}

std::vector<Variant> doses(const VariantFacts& facts) {
  if (facts.values.empty()) return {{facts.id, std::nullopt}};
  std::vector<Variant> variants;
  for (double value : facts.values) variants.push_back({facts.id, value});
  return variants;
}

bool concerns(const VariantFacts& facts, std::span<const TensorKey> span) {
  return std::any_of(span.begin(), span.end(), [&](const TensorKey& key) {
    return std::find(facts.ops.begin(), facts.ops.end(), key.id.op) != facts.ops.end();
  });
}

bool Fit::operator==(const Fit& other) const { return variant == other.variant && points == other.points; }

std::string hypothesis_of(const std::string& variant_id) {
  return variant_id.starts_with('H') ? variant_id.substr(0, variant_id.find('.')) : std::string();
}

namespace {

using Rows = std::vector<const RowJudgement*>;

// With that of storing, of the elements of which some rounding is expected.
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

class LayerAttribution {
 public:
  LayerAttribution(Oracle& oracle, const std::vector<RowJudgement>& rows, const Precision& precision, Known& known)
      : oracle_(oracle),
        rows_(rows),
        precision_(precision),
        known_(known),
        screening_(oracle, precision),
        fits_(rows.size()) {}

  std::vector<std::vector<Fit>> operator()() {
    for (const RowJudgement& row : rows_) {
      if (row.explainable()) wrong_ops_.insert(row.key.id.op);
    }
    if (wrong_ops_.empty()) return fits_;
    try_known();
    if (!all_explained()) try_variants();
    for (Op op : wrong_ops_) {
      if (!explained(op) || explained_by_rounding(op) || !closely_explained(op)) try_roundings(op);
    }
    for (std::size_t i = 0; i < rows_.size(); ++i) keep_nearest(rows_[i], fits_[i]);
    return fits_;
  }

 private:
  // Rows to reproduce: the wrong ones first, for they refute most variants at once.
  Rows rows_where(const std::function<bool(const RowJudgement&)>& wanted) const {
    Rows found;
    for (const bool wrong : {true, false}) {
      for (const RowJudgement& row : rows_) {
        const bool judged = row.judgement.outcome == Outcome::kMatch || row.explainable();
        if (judged && row.wrong() == wrong && wanted(row)) found.push_back(&row);
      }
    }
    return found;
  }

  bool explained(Op op) const {
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      if (rows_[i].explainable() && rows_[i].key.id.op == op && fits_[i].empty()) return false;
    }
    return true;
  }
  bool all_explained() const {
    return std::all_of(wrong_ops_.begin(), wrong_ops_.end(), [this](Op op) { return explained(op); });
  }

  bool explained_by_rounding(Op op) const {
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      if (rows_[i].key.id.op != op) continue;
      const auto only_rounds = [this](const Fit& fit) { return fit.variant && facts_of(fit.variant->id).only_rounds; };
      if (std::any_of(fits_[i].begin(), fits_[i].end(), only_rounds)) return true;
    }
    return false;
  }

  // A bug whose own rounding is coarse, such as sums in 16 bits, fits what a single rounding that nobody declared does;
  // what it computes to the bit lies elsewhere then, and the rounding has to be tried as well.
  bool closely_explained(Op op) {
    constexpr double kClose = 2.0;  // deviations of right code, RMS: a bug that is the right one leaves one, or less
    const RowJudgement& row = largest(rows_where([&](const RowJudgement& r) { return r.key.id.op == op; }));
    const std::vector<Fit>& fits = fits_[static_cast<std::size_t>(&row - rows_.data())];
    return std::any_of(fits.begin(), fits.end(), [&](const Fit& fit) {
      const Supposition supposition{fit.variant ? &*fit.variant : nullptr, fit.points};
      return distance(oracle_, row, precision_, supposition, screening_.right(row)) <= kClose;
    });
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
    bool any = false;
    try {
      for (const RowJudgement* row : rows) {
        if (!screening_.may_reproduce(*row, supposition)) return false;
      }
      for (const RowJudgement* row : rows) {
        const Outcome outcome = judge_as(oracle_, *row, precision_, supposition).outcome;
        if (outcome == Outcome::kUnjudged) continue;  // nothing is expected of any element
        if (outcome != Outcome::kMatch) return false;
        any |= row->wrong();
      }
    } catch (const NotEvaluable&) {
      return false;
    }
    return any;
  }

  void add(const Fit& fit, const Rows& rows) {
    for (const RowJudgement* row : rows) {
      if (row->wrong()) fits_[static_cast<std::size_t>(row - rows_.data())].push_back(fit);
    }
    if (std::find(known_.fits.begin(), known_.fits.end(), fit) == known_.fits.end()) known_.fits.push_back(fit);
  }

  const VariantFacts& facts_of(const std::string& id) const {
    return *find_variant(oracle_.catalogue(), id);  // ids come from the catalogue
  }

  void try_known() {
    const std::vector<Fit> before = known_.fits;
    for (const Fit& fit : before) {
      if (!fit.variant) continue;
      for (const Rows& group : groups_of(facts_of(fit.variant->id))) {
        if (reproduces({&*fit.variant, fit.points}, group)) add(fit, group);
      }
    }
    for (const Fit& fit : before) {
      if (fit.variant) continue;
      for (Op op : wrong_ops_) {
        const Rows rows = rows_where([&](const RowJudgement& row) { return row.key.id.op == op; });
        if (!explained(op) && reproduces({nullptr, fit.points}, rows)) add(fit, rows);
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
    if (!listed.empty()) return add({nearest_of(listed, largest(group)), {}, false}, group);
    if (!facts.right_value) return;
    try {
      const std::vector<Variant> fitted = fitted_values(oracle_, screening_, largest(group), precision_, facts);
      // A full judgement of a long span is dear: where the nearest value does not do, shorter numbers are not asked.
      if (fitted.empty() || (is_long_span(largest(group)) && !reproduces({&fitted.back()}, group))) return;
      for (const Variant& variant : fitted) {
        if (!reproduces({&variant}, group)) continue;
        add({variant, {}, true}, group);
        return;
      }
    } catch (const NotEvaluable&) {
    }
  }

  // Of a continuous parameter several listed values may reproduce a row: an epsilon of 1e-12, and none at all.
  Variant nearest_of(const std::vector<Variant>& listed, const RowJudgement& row) {
    if (listed.size() == 1) return listed.front();
    std::vector<double> distances;
    for (const Variant& variant : listed) distances.push_back(screening_.distance_of(row, &variant));
    return listed[static_cast<std::size_t>(std::min_element(distances.begin(), distances.end()) - distances.begin())];
  }

  // There is most to fit where most was compared.
  static const RowJudgement& largest(const Rows& group) {
    const auto weight = [](const RowJudgement* row) {
      return row->wrong() ? row->judgement.statistics.elements_compared : 0;
    };
    return **std::max_element(group.begin(), group.end(),
                              [&](const auto* a, const auto* b) { return weight(a) < weight(b); });
  }

  // No bug alone: roundings that were not declared, alone or beside a bug.
  void try_roundings(Op op) {
    const Rows rows = rows_where([&](const RowJudgement& row) { return row.key.id.op == op; });
    // What an operation before this one, or a layer before, needed.
    const std::vector<Fit> before = known_.fits;
    for (const Fit& fit : before) {
      if (!fit.variant && reproduces({nullptr, fit.points}, rows)) return add(fit, rows);
    }
    const bool is_explained = explained(op);
    const RowJudgement& sample = largest(rows);
    const auto alone = undeclared_points(oracle_, sample, precision_, nullptr);
    if (!alone.empty() && reproduces({nullptr, alone}, rows)) return add({std::nullopt, alone, false}, rows);
    if (is_explained) return;
    for (const Variant& variant : nearest_variants(oracle_, screening_, sample)) {
      const auto beside = undeclared_points(oracle_, sample, precision_, &variant);
      if (beside.empty()) continue;
      for (const Rows& group : groups_of(facts_of(variant.id))) {
        if (reproduces({&variant, beside}, group)) add({variant, beside, false}, group);
      }
      if (explained(op)) return;
    }
  }

  // A variant with much expected rounding of its own may cover what another one computes to the bit, and what no
  // variant computes.
  void keep_nearest(const RowJudgement& row, std::vector<Fit>& fits) {
    constexpr double kClearlyFarther = 2.0;
    constexpr double kSame = 0.1;  // of a deviation: distances that flips of a last bit make
    if (fits.empty()) return;
    const Expectation& scale = screening_.right(row);
    double nearest = HUGE_VAL;
    for (Fit& fit : fits) {
      fit.distance = distance(oracle_, row, precision_, {fit.variant ? &*fit.variant : nullptr, fit.points}, scale);
      nearest = std::min(nearest, fit.distance);
    }
    std::erase_if(fits, [&](const Fit& fit) { return fit.distance > kClearlyFarther * nearest + kSame; });
    std::erase_if(fits, [&](Fit& fit) { return fit.variant && !weigh_coarse(row, fit); });
  }

  // Sums in 16 bits in another order than the reference's lie as far from it as right code does, and so does any small
  // error. Such a fit proves nothing; and it is none where an engine with that bug would be off by far more. Returns
  // whether it is one.
  bool weigh_coarse(const RowJudgement& row, Fit& fit) {
    constexpr double kNear = 0.5;    // of the distance of right code; what computes the same takes nearly all away
    constexpr double kCoarse = 4.0;  // times the rounding of right code
    constexpr double kLeast = 0.05;  // of the bug's own rounding; engines of which it was seen err by 0.11 and more
    if (fit.distance <= kNear * screening_.distance_of(row, nullptr)) return true;
    const DType stored = row.actual().dtype;
    const double right = mean_deviation(screening_.right(row), stored);
    const double planted = mean_deviation(evaluate(oracle_, row, precision_, {&*fit.variant, fit.points}), stored);
    if (planted <= kCoarse * right) return true;
    fit.doubt =
        "its own rounding is so coarse that it covers this error, and what it computes comes no nearer to the "
        "candidate than right code does";
    return row.judgement.statistics.rms * right >= kLeast * planted;
  }

  Oracle& oracle_;
  const std::vector<RowJudgement>& rows_;
  const Precision& precision_;
  Known& known_;
  Screening screening_;
  std::set<Op> wrong_ops_;
  std::vector<std::vector<Fit>> fits_;  // by row
};

}  // namespace

std::vector<std::vector<Fit>> explain_layer(Oracle& oracle, const std::vector<RowJudgement>& rows,
                                            const Precision& precision, Known& known) {
  return LayerAttribution(oracle, rows, precision, known)();
}

}  // namespace qdiff::diagnose
