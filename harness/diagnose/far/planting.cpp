#include "harness/diagnose/far/planting.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>

#include "harness/contract/number_text.h"
#include "harness/diagnose/row_oracle.h"
#include "harness/diagnose/value_search.h"
#include "harness/diagnose/variants.h"

namespace qdiff::diagnose {

Planting::Planting(const FreeRankingQuery& query) : query_(query), course_{*query.subject.input} {
  if (!query.targets.empty()) course_.first_target_step = query.targets.begin()->step;
  for (const TensorKey& key : query.targets) {
    const Target& target =
        targets_.emplace(key, Target(key, query.trace.get(key), query.subject.step(key.step), query.config))
            .first->second;
    rows_compared_ += target.rows_compared();
    rows_with_nan_ += target.rows_with_nan();
    course_.last_step = std::max(course_.last_step, key.step);
    course_.end_layer = std::max(course_.end_layer, key.id.layer + 1);
    course_.needs_head |= row(key.id.op).scope == Scope::kAfterLayers;
  }
  if (course_.needs_head) course_.end_layer = static_cast<int>(query.config.num_layers);
}

void Planting::run() {
  std::vector<Pass> passes(1);
  walk_targets(
      *query_.make_reference(gold_precision(query_.precision.weights)), passes, "the reference in float64",
      [&](Pass&, Target& target, const TensorView& whole) { target.take_gold(whole, query_.precision.accumulate); });
  engine_ = query_.make_reference(query_.precision);
  measure_rounding();
  if (targets_.empty() || rows_compared_ == 0) return;
  if (query_.probing || !right_code_explains()) plant_all();
}

double Planting::times_rounding(const Pass& pass) const {
  if (rows_compared_ == 0) return HUGE_VAL;
  double worst = 0.0;
  for (const auto& [key, target] : targets_) {
    if (pass.distance.contains(key)) worst = std::max(worst, times_rounding(pass, key));
  }
  return worst;
}

// Where the candidate has NaN and right code has numbers, something is wrong. What is wrong beside it is compared: an
// engine that reads what nobody wrote may find anything there. Where nothing else is wrong, nothing can be named.
bool Planting::reproduces(const Pass& pass) const {
  if (rows_with_nan_ > 0 && (!pass.variant || right_code_explains())) return false;
  return explains(pass);
}

bool Planting::shows(const Pass& pass) const {
  return std::ranges::any_of(targets_, [&](const auto& entry) {
    const auto found = pass.from_gold.find(entry.first);
    return found != pass.from_gold.end() && !(found->second <= explained_ * rounding_.at(entry.first));
  });
}

bool Planting::searched(const Variant& variant) const {
  const std::vector<Variant> listed = doses(facts_of(variant));
  return std::ranges::find(listed, variant) == listed.end();
}

void Planting::walk_targets(Engine& engine, std::vector<Pass>& passes, const std::string& what, const Use& use,
                            const IsSettled& is_settled) {
  const auto take = [&](Pass& pass, const TensorKey& key, const TensorView& whole) {
    const auto found = targets_.find(key);
    if (found != targets_.end()) use(pass, found->second, whole);
  };
  walk(engine, passes, course_, take, query_.progress, what, is_settled);
}

void Planting::measure(Pass& pass, const Target& target, std::span<const double> values) {
  pass.distance[target.key()] = target.distance(target.candidate(), values);
  pass.from_gold[target.key()] = target.distance(target.gold(), values);
  if (target.key().id.op != Op::kLmHead) return;
  pass.divergence += target.divergence(values);
  pass.same_top_tokens += target.same_top_tokens(values);
}

void Planting::measure_rounding() {
  std::vector<Pass> passes(kRightPasses);
  for (std::size_t i = 0; i < passes.size(); ++i) passes[i].nudge = i;
  std::map<TensorKey, double> mean_square;
  walk_targets(*engine_, passes, "the reference that rounds", [&](Pass& pass, Target& target, const TensorView& whole) {
    const std::vector<double> values = target.same_rows(whole);
    const double distance = target.distance(values, target.gold());
    mean_square[target.key()] += distance * distance / static_cast<double>(kRightPasses);
    std::vector<double> recorded = target.as_recorded(whole);
    row_rounding_.try_emplace(target.key().id, query_.config.hidden, query_.precision.accumulate)
        .first->second.add(target, recorded);
    if (pass.nudge != 0) return;
    measure(pass, target, values);
    target.take_right(std::move(recorded));
  });
  right_ = std::move(passes.front());
  drop_unbounded(mean_square);
  pool_rounding(mean_square);
  measure_rows();
}

// Where right code that rounds as declared overflows, nothing can be said of the candidate.
void Planting::drop_unbounded(const std::map<TensorKey, double>& mean_square) {
  std::erase_if(targets_, [&](const auto& entry) {
    if (std::isfinite(mean_square.at(entry.first))) return false;
    unbounded_.push_back(entry.first);
    rows_compared_ -= entry.second.rows_compared();
    rows_with_nan_ -= entry.second.rows_with_nan();
    return true;
  });
}

void Planting::pool_rounding(const std::map<TensorKey, double>& mean_square) {
  // One token's logits are few draws of what rounding does to them, so a step is given what its like show in the mean
  // where that is more; and never less than the rounding of the stored type itself.
  std::map<TensorId, std::pair<double, double>> sums;
  for (const auto& [key, target] : targets_) {
    auto& [rounding, norm] = sums[key.id];
    rounding += mean_square.at(key);
    norm += target.norm() * target.norm();
  }
  for (const auto& [key, target] : targets_) {
    const auto& [rounding, norm] = sums.at(key.id);
    const double pooled = norm > 0.0 ? target.norm() * std::sqrt(rounding / norm) : 0.0;
    const double stored = target.norm() * unit_roundoff(target.recorded().dtype) / std::sqrt(3.0);
    rounding_[key] = std::max({std::sqrt(mean_square.at(key)), pooled, stored, std::numeric_limits<double>::min()});
  }
}

void Planting::measure_rows() {
  for (auto& [id, rounding] : row_rounding_) rounding.close();
  for (const auto& [key, target] : targets_) {
    rows_[key] = rows_of(target, target.candidate());
    right_.worst_row = std::max(right_.worst_row, verdict_of(rows_[key], query_.precision).ratio_to_bound);
  }
}

// Those that ran through or were settled, measured.
std::vector<Pass> Planting::walk_planted(std::vector<Pass> passes, const std::string& what,
                                         const IsSettled& is_settled) {
  const auto use = [&](Pass& pass, Target& target, const TensorView& whole) {
    const std::vector<double> values = target.same_rows(whole);
    measure(pass, target, values);
    if (times_rounding(pass, target.key()) > explained_) return;
    // Two that round independently lie between them.
    const RowFigures figures =
        row_rounding_.at(target.key().id).figures(target, target.candidate(), {values, values, /*roundings=*/2.0});
    pass.worst_row = std::max(pass.worst_row, verdict_of(figures, query_.precision).ratio_to_bound);
  };
  walk_targets(*engine_, passes, what, use, is_settled);
  std::erase_if(passes, [&](const Pass& pass) {
    return !pass.ran || (!pass.settled && pass.distance.size() != targets_.size());
  });
  return passes;
}

// A pass that is no explanation, and of a bug that these inputs show, tells no more, however far it is: unless it
// leads.
void Planting::plant(const std::vector<Variant>& variants, const std::string& what) {
  std::vector<Pass> passes;
  for (const Variant& variant : variants) {
    const std::optional<double>& right = facts_of(variant).right_value;
    if (right && variant.value == right) continue;  // that is right code
    const bool known = std::ranges::any_of(planted_, [&](const Pass& pass) { return pass.variant == variant; });
    if (!known) passes.push_back({.variant = variant, .order = next_order_++});
  }
  std::vector<Pass> walked = walk_planted(
      std::move(passes), what, [this](const Pass& pass) { return times_rounding(pass) > explained_ && shows(pass); });
  std::ranges::move(walked, std::back_inserter(planted_));
  sort_planted();
  complete_leading(what);
}

void Planting::sort_planted() {
  std::ranges::sort(planted_, {}, [&](const Pass& pass) { return std::pair(times_rounding(pass), pass.order); });
}

// Those that were settled and may be among the nearest, of which more is said: to be walked anew.
std::vector<Pass> Planting::leading_settled() const {
  std::set<FaultId> bugs, shown;
  std::vector<Pass> settled;
  for (std::size_t i = 0; i < planted_.size(); ++i) {
    if (bugs.size() >= kRankedVariants && shown.size() >= kFirstOfFarPairs && i >= kRefinedVariants) break;
    const Pass& pass = planted_[i];
    bugs.insert(pass.variant->id);
    if (shows(pass)) shown.insert(pass.variant->id);
    if (pass.settled) settled.push_back({.variant = pass.variant, .order = pass.order});
  }
  return settled;
}

// Walks them to the end. That may put them behind others, which then lead.
void Planting::complete_leading(const std::string& what) {
  for (std::vector<Pass> leading = leading_settled(); !leading.empty(); leading = leading_settled()) {
    std::erase_if(planted_, [&](const Pass& pass) {
      return std::ranges::find(leading, pass.order, &Pass::order) != leading.end();
    });
    std::vector<Pass> walked = walk_planted(std::move(leading), what, {});
    std::ranges::move(walked, std::back_inserter(planted_));
    sort_planted();
  }
}

// Every bug once, and those of a continuous parameter with each listed value; then all values of the leading ones;
// then, where the parameter of the leading one is continuous, values around it.
void Planting::plant_all() {
  std::vector<Variant> variants;
  for (const VariantFacts& facts : query_.catalogue) {
    if (facts.declares) continue;
    std::vector<Variant> values = doses(facts);
    if (!facts.right_value) values.resize(1);
    variants.insert(variants.end(), values.begin(), values.end());
  }
  plant(variants, "forward passes with each bug planted");
  variants.clear();
  for (std::size_t i = 0; i < std::min(kRefinedVariants, planted_.size()); ++i) {
    const std::vector<Variant> values = doses(facts_of(*planted_[i].variant));
    if (values.size() > 1) variants.insert(variants.end(), values.begin(), values.end());
  }
  plant(variants, "other values of the leading bugs");
  for (double width : {0.5, 0.1}) plant_around(width);
  plant_pairs();
}

// Where no bug alone is an explanation, the leading ones each beside all others.
void Planting::plant_pairs() {
  if (planted_.empty() || right_code_explains() || explains(planted_.front())) return;
  std::vector<const Pass*> best;  // of each bug
  for (const Pass& pass : planted_) {
    const auto is_same = [&](const Pass* other) { return other->variant->id == pass.variant->id; };
    if (shows(pass) && std::ranges::none_of(best, is_same)) best.push_back(&pass);
  }
  std::vector<Pass> pairs;
  for (std::size_t i = 0; i < std::min(kFirstOfFarPairs, best.size()); ++i) {
    for (std::size_t j = i + 1; j < best.size(); ++j) {
      pairs.push_back({.variant = best[i]->variant, .beside = best[j]->variant});
    }
  }
  pairs_ = walk_planted(std::move(pairs), "forward passes with two bugs planted",
                        [this](const Pass& pass) { return times_rounding(pass) > explained_; });
  std::ranges::stable_sort(pairs_, {}, [&](const Pass& pass) { return times_rounding(pass); });
}

// Values within a factor of 10^width of the leading one, as short numbers: somebody typed the value.
void Planting::plant_around(double width) {
  if (planted_.empty() || right_code_explains() || times_rounding(planted_.front()) <= explained_) return;
  const Variant leading = *planted_.front().variant;
  if (!facts_of(leading).right_value || !leading.value || !(*leading.value > 0.0)) return;
  constexpr int kEachSide = 4;
  std::vector<Variant> variants;
  for (int i = -kEachSide; i <= kEachSide; ++i) {
    variants.push_back({leading.id, to_digits(*leading.value * std::pow(10.0, width * i / kEachSide), 2)});
  }
  plant(variants, "values near the leading one");
}

}  // namespace qdiff::diagnose
