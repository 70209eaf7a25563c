#include "harness/diagnose/free_ranking.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <map>
#include <span>

#include "harness/compare/gates.h"
#include "harness/compare/layout.h"
#include "harness/contract/error.h"
#include "harness/contract/splitmix64.h"
#include "harness/diagnose/span_evidence.h"

namespace qdiff::diagnose {
namespace {

using findings::RankedVariant;

// The largest distance from the reference that rounds as declared, in units of that reference's own distance from gold,
// that rounding explains. Two engines that round independently are sqrt(2) apart. Measured on the CPU engine, three toy
// models and 40 seeds each (harness/cli/tests/trace_run_test.cpp with more seeds): at most 1.3 in bfloat16, 0.75 in
// float16. In float32 it is 2.6, since the order of a sum decides how much it rounds, and the reference's own order is
// a good one; an engine that adds one product after the other has several times that, and a bug thousands of times.
double explained_up_to(const Precision& precision) { return size_of(precision.activations) == 2 ? 3.0 : 10.0; }
// A bug that comes so many times less near than the nearest does is no second explanation.
constexpr double kClearlyFarther = 2.0;
constexpr std::size_t kRightPasses = 5;  // of right code, each rounding in a way of its own
constexpr std::size_t kRefined = 8;      // leading variants of which every listed value is tried
constexpr std::size_t kListed = 10;      // variants in the report
constexpr std::size_t kLeading = 4;      // variants whose rows are to be recorded next

// One row of logits: the mean divergence of the candidate's distribution from the other's is -sum p log(q / p).
double divergence(std::span<const double> candidate, std::span<const double> other) {
  const auto log_sum = [](std::span<const double> logits) {
    const double top = *std::max_element(logits.begin(), logits.end());
    double sum = 0.0;
    for (double x : logits) sum += std::exp(x - top);
    return top + std::log(sum);
  };
  const double candidate_sum = log_sum(candidate), other_sum = log_sum(other);
  double result = 0.0;
  for (std::size_t i = 0; i < candidate.size(); ++i) {
    const double log_p = candidate[i] - candidate_sum;
    result += std::exp(log_p) * (log_p - (other[i] - other_sum));
  }
  return result;
}

bool has_nan(std::span<const double> row) {
  return std::any_of(row.begin(), row.end(), [](double x) { return std::isnan(x); });
}

// Whether both choose the same token; not where the other has NaN.
bool same_top_token(std::span<const double> candidate, std::span<const double> other) {
  if (has_nan(other)) return false;
  return std::max_element(candidate.begin(), candidate.end()) - candidate.begin() ==
         std::max_element(other.begin(), other.end()) - other.begin();
}

// A target as the candidate recorded it. lm_head may hold the last row of the step alone.
struct Target {
  TensorKey key;
  TensorView view;
  compare::Layout layout;
  std::vector<double> candidate;
  std::vector<bool> compared = {};  // by row: not pads, nor where the candidate has NaN
  std::int64_t rows_compared = 0;
  std::int64_t rows_with_nan = 0;
  std::vector<double> gold = {};
  double norm = 0.0;      // of gold, over what is compared
  double rounding = 0.0;  // mean square of ||right reference that rounds - gold|| over passes that round differently

  std::int64_t width() const { return layout.num_columns(); }
  std::int64_t num_rows() const { return layout.num_rows(); }
  bool counts(std::int64_t r) const { return compared[static_cast<std::size_t>(r)]; }
  void look_for_nan() {
    for (std::int64_t r = 0; r < num_rows(); ++r) {
      const bool nan = layout.counts(r) && has_nan(row_of(candidate, r));
      compared.push_back(layout.counts(r) && !nan);
      rows_compared += compared.back() ? 1 : 0;
      rows_with_nan += nan ? 1 : 0;
    }
  }
  // What the whole tensor of a pass holds of the rows that the candidate recorded.
  std::vector<double> same_rows(const TensorView& whole) const {
    if (whole.shape == view.shape) return to_doubles(whole);
    const std::int64_t tokens = whole.shape[1];
    std::vector<double> rows;
    rows.reserve(candidate.size());
    for (std::int64_t b = 0; b < layout.batch(); ++b) {
      for (std::int64_t i = 0; i < width(); ++i) {
        const std::int64_t from = (b * tokens + tokens - 1) * width() + i;
        rows.push_back(load_element(whole.data, whole.dtype, static_cast<std::size_t>(from)));
      }
    }
    return rows;
  }
  std::span<const double> row_of(std::span<const double> values, std::int64_t r) const {
    return values.subspan(static_cast<std::size_t>(r * width()), static_cast<std::size_t>(width()));
  }
  double distance(std::span<const double> a, std::span<const double> b) const {
    double sum = 0.0;
    for (std::int64_t r = 0; r < num_rows(); ++r) {
      if (!counts(r)) continue;
      for (std::int64_t i = r * width(); i < (r + 1) * width(); ++i) {
        const double x = a[static_cast<std::size_t>(i)], y = b[static_cast<std::size_t>(i)];
        if (x != y) sum += (x - y) * (x - y);  // masked scores are -inf in both
      }
    }
    return std::isnan(sum) ? HUGE_VAL : std::sqrt(sum);
  }
  // Engines mask with -inf or with any number that the softmax takes for it (compare/gates.h), and what stands in rows
  // that are masked as a whole nobody reads. After this only a mask that is wrong differs from gold.
  void take_gold(const TensorView& whole, DType accumulate) {
    gold = same_rows(whole);
    if (key.id.op != Op::kScores && key.id.op != Op::kProbs) return;
    const double masked = key.id.op == Op::kScores ? -HUGE_VAL : 0.0;
    for (std::int64_t r = 0; r < num_rows(); ++r) {
      const std::span<const double> of_gold(gold.data() + r * width(), static_cast<std::size_t>(width()));
      const std::span<double> of_candidate(candidate.data() + r * width(), static_cast<std::size_t>(width()));
      const double top = *std::max_element(of_gold.begin(), of_gold.end());
      for (std::size_t i = 0; i < of_gold.size(); ++i) {
        const bool stands_in = key.id.op == Op::kScores && of_candidate[i] - top < compare::exp_underflow(accumulate);
        if (of_gold[i] == masked && (top == masked || stands_in)) of_candidate[i] = masked;
      }
    }
  }
};

// What one pass shows.
struct Pass {
  std::optional<Variant> variant;
  std::map<TensorKey, double> distance = {};   // from the candidate, by target
  std::map<TensorKey, double> from_gold = {};  // by target
  double divergence = 0.0;                     // summed over tokens
  std::int64_t same_top_token = 0;
  bool ran = true;          // false: the variant cannot be planted here
  std::uint64_t nudge = 0;  // other than 0: rounds the residual stream in a way of its own
};

// Hands each target to `use` as soon as it is computed.
class TargetSink final : public TensorSink {
 public:
  using Use = std::function<void(Target& target, const TensorView& whole)>;
  TargetSink(std::map<TensorKey, Target>& targets, int step, Use use)
      : targets_(targets), step_(step), use_(std::move(use)) {}
  void take(const TensorId& id, const TensorView& view) override {
    const auto found = targets_.find({step_, id});
    if (found != targets_.end()) use_(found->second, view);
  }

 private:
  std::map<TensorKey, Target>& targets_;
  int step_;
  Use use_;
};

std::uint64_t mix(std::uint64_t a, std::uint64_t b) { return splitmix64(a * kGoldenGamma + b + 1); }

// Moves each element by a spacing, up or down or not at all: the rounding of an engine that sums in another order.
void nudge(Tensor& tensor, std::uint64_t seed) {
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    const std::uint64_t bits = mix(seed, static_cast<std::uint64_t>(i)) >> 62;
    if (bits > 1) continue;
    const double value = tensor.at(i);
    // Between 0.6 and 1.2 spacings, wherever the value lies between two powers of two.
    tensor.set(i, value * (1.0 + (bits == 0 ? 1.2 : -1.2) * unit_roundoff(tensor.dtype())));
  }
}

class FreeRuns {
 public:
  explicit FreeRuns(const FreeRankingQuery& query) : query_(query), input_(*query.subject.input) {
    for (const TensorKey& key : query.targets) {
      const TensorView view = query.trace.get(key);
      const Step& step = input_.steps[static_cast<std::size_t>(key.step)];
      Target target{.key = key,
                    .view = view,
                    .layout = {key.id.op, view.shape, step, query.config},
                    .candidate = to_doubles(view)};
      target.look_for_nan();
      rows_compared_ += target.rows_compared;
      rows_with_nan_ += target.rows_with_nan;
      targets_.emplace(key, std::move(target));
      last_step_ = std::max(last_step_, key.step);
      needs_head_ |= row(key.id.op).scope == Scope::kAfterLayers;
      end_layer_ = std::max(end_layer_, key.id.layer + 1);
    }
    if (needs_head_) end_layer_ = static_cast<int>(query.config.num_layers);
  }

  void run() {
    const auto gold_engine = query_.make_reference(gold_precision(query_.precision.weights));
    std::vector<Pass> passes(1);
    const DType accumulate = query_.precision.accumulate;
    walk(*gold_engine, passes, "the reference in float64", [&](Pass&, Target& target, const TensorView& whole) {
      target.take_gold(whole, accumulate);
      std::vector<double> nothing = target.gold;  // masked scores are as they must be
      std::replace_if(
          nothing.begin(), nothing.end(), [](double x) { return std::isfinite(x); }, 0.0);
      target.norm = target.distance(target.gold, nothing);
    });
    engine_ = query_.make_reference(query_.precision);
    passes.assign(kRightPasses, Pass{});
    for (std::size_t i = 0; i < passes.size(); ++i) passes[i].nudge = i;
    walk(*engine_, passes, "the reference that rounds", [&](Pass& pass, Target& target, const TensorView& whole) {
      const std::vector<double> values = target.same_rows(whole);
      const double distance = target.distance(values, target.gold);
      target.rounding += distance * distance / static_cast<double>(kRightPasses);
      if (pass.nudge == 0) measure(pass, target, values);
    });
    right_ = std::move(passes.front());
    drop_unbounded();
    pool_rounding();
    if (targets_.empty() || rows_compared_ == 0) return;
    if (query_.probing || times_rounding(right_) > explained_) plant_all();
  }

  // Where the candidate has NaN and right code has numbers, something is wrong. What is wrong beside it is compared: an
  // engine that reads what nobody wrote may find anything there. Where nothing else is wrong, nothing can be named.
  std::int64_t rows_with_nan() const { return rows_with_nan_; }
  bool reproduces(const Pass& pass) const {
    if (rows_with_nan_ > 0 && (!pass.variant || !(times_rounding(right_) > explained_))) return false;
    return times_rounding(pass) <= explained_;
  }

  const Pass& right() const { return right_; }
  const std::vector<Pass>& planted() const { return planted_; }
  const std::map<TensorKey, Target>& targets() const { return targets_; }
  const std::vector<TensorKey>& unbounded() const { return unbounded_; }
  // Whether these inputs tell the bug from right code.
  bool shows(const Pass& pass) const {
    return std::any_of(targets_.begin(), targets_.end(), [&](const auto& entry) {
      return !(pass.from_gold.at(entry.first) <= explained_ * rounding_.at(entry.first));
    });
  }
  // Whether the catalogue does not list the value.
  bool searched(const Variant& variant) const {
    const std::vector<Variant> listed = doses(facts_of(variant));
    return std::find(listed.begin(), listed.end(), variant) == listed.end();
  }

  double explained() const { return explained_; }
  double times_rounding(const Pass& pass, const TensorKey& key) const {
    const double distance = pass.distance.at(key);
    return distance / rounding_.at(key);
  }
  double times_rounding(const Pass& pass) const {
    if (rows_compared_ == 0) return HUGE_VAL;
    double worst = 0.0;
    for (const auto& [key, target] : targets_) worst = std::max(worst, times_rounding(pass, key));
    return worst;
  }
  double relative(double distance, const TensorKey& key) const {
    const double norm = targets_.at(key).norm;
    return norm > 0.0 ? distance / norm : distance;
  }
  double rounding_of(const TensorKey& key) const { return rounding_.at(key); }

 private:
  // Steps within layers, passes within steps: each layer's weights are read once for a group of passes.
  template <typename Use>
  void walk(Engine& engine, std::vector<Pass>& passes, const std::string& what, Use use) {
    for (std::size_t first = 0; first < passes.size(); first += kPassesAtOnce) {
      const std::size_t count = std::min(kPassesAtOnce, passes.size() - first);
      walk_group(
          engine, {passes.data() + first, count},
          [&](int layer) {
            if (!query_.progress) return;
            const auto layers = static_cast<std::int64_t>(end_layer_) + 1;
            const auto groups = static_cast<std::int64_t>((passes.size() + kPassesAtOnce - 1) / kPassesAtOnce);
            query_.progress(what, static_cast<std::int64_t>(first / kPassesAtOnce) * layers + layer, groups * layers);
          },
          use);
    }
  }

  template <typename Report, typename Use>
  void walk_group(Engine& engine, std::span<Pass> passes, Report report, Use use) {
    struct Running {
      Pass* pass;
      std::unique_ptr<Session> session;
      std::vector<Tensor> residual;  // [step]
    };
    const Step& first = input_.steps.front();
    const std::int64_t capacity = input_.capacity > 0 ? input_.capacity : input_.steps.back().valid_length();
    std::vector<Running> running;
    for (Pass& pass : passes) {
      try {
        if (pass.variant) engine.plant({pass.variant->id, pass.variant->value, std::nullopt});
        running.push_back({&pass,
                           engine.open({.batch = first.batch(),
                                        .capacity = capacity,
                                        .left_padding = first.left_padding,
                                        .poison = Poison::kNaN}),
                           {}});
      } catch (const InputError&) {
        pass.ran = false;
      }
    }
    const auto each_step = [&](Running& r, const auto& part) {
      if (!r.pass->ran) return;
      try {
        for (int s = 0; s <= last_step_; ++s) {
          TargetSink sink(targets_, s, [&](Target& target, const TensorView& whole) { use(*r.pass, target, whole); });
          part(s, sink);
        }
      } catch (const InputError&) {  // it needs what a walk layer by layer does not have
        r.pass->ran = false;
      }
    };
    const auto step_at = [&](int s) -> const Step& { return input_.steps[static_cast<std::size_t>(s)]; };
    for (Running& r : running) {
      each_step(r, [&](int s, TensorSink& sink) {
        r.residual.push_back(Tensor::copy_of(r.session->run_embedding(step_at(s), &sink)));
      });
    }
    for (int layer = 0; layer < end_layer_; ++layer) {
      report(layer);
      for (Running& r : running) {
        each_step(r, [&](int s, TensorSink& sink) {
          Tensor& residual = r.residual[static_cast<std::size_t>(s)];
          residual = Tensor::copy_of(r.session->run_layer(layer, step_at(s), residual.view(), &sink));
          if (r.pass->nudge != 0)
            nudge(residual, mix(r.pass->nudge, static_cast<std::uint64_t>(layer * (last_step_ + 1) + s)));
        });
      }
    }
    report(end_layer_);
    if (!needs_head_) return;
    for (Running& r : running) {
      each_step(r, [&](int s, TensorSink& sink) {
        r.session->run_head(step_at(s), r.residual[static_cast<std::size_t>(s)].view(), &sink);
      });
    }
  }

  static void measure(Pass& pass, const Target& target, std::span<const double> values) {
    pass.distance[target.key] = target.distance(target.candidate, values);
    pass.from_gold[target.key] = target.distance(target.gold, values);
    if (target.key.id.op != Op::kLmHead) return;
    for (std::int64_t r = 0; r < target.num_rows(); ++r) {
      if (!target.counts(r)) continue;
      const std::span<const double> candidate = target.row_of(target.candidate, r), other = target.row_of(values, r);
      pass.divergence += divergence(candidate, other);
      pass.same_top_token += same_top_token(candidate, other) ? 1 : 0;
    }
  }

  // Where right code that rounds as declared overflows, nothing can be said of the candidate.
  void drop_unbounded() {
    std::erase_if(targets_, [&](const auto& entry) {
      if (std::isfinite(entry.second.rounding)) return false;
      unbounded_.push_back(entry.first);
      rows_compared_ -= entry.second.rows_compared;
      rows_with_nan_ -= entry.second.rows_with_nan;
      return true;
    });
  }

  // One token's logits are few draws of what rounding does to them, so a step is given what its like show in the mean
  // where that is more; and never less than the rounding of the stored type itself.
  void pool_rounding() {
    std::map<TensorId, std::pair<double, double>> sums;
    for (const auto& [key, target] : targets_) {
      auto& [rounding, norm] = sums[key.id];
      rounding += target.rounding;
      norm += target.norm * target.norm;
    }
    for (const auto& [key, target] : targets_) {
      const auto& [rounding, norm] = sums.at(key.id);
      const double pooled = norm > 0.0 ? target.norm * std::sqrt(rounding / norm) : 0.0;
      const double stored = target.norm * unit_roundoff(target.view.dtype) / std::sqrt(3.0);
      rounding_[key] = std::max({std::sqrt(target.rounding), pooled, stored, std::numeric_limits<double>::min()});
    }
  }

  // ---- Bugs ----
  void plant(std::vector<Variant> variants, const std::string& what) {
    std::erase_if(variants, [&](const Variant& variant) {
      const std::optional<double>& right = facts_of(variant).right_value;
      if (right && variant.value == right) return true;  // that is right code
      return std::any_of(planted_.begin(), planted_.end(), [&](const Pass& pass) { return pass.variant == variant; });
    });
    std::vector<Pass> passes;
    for (Variant& variant : variants) passes.push_back({std::move(variant)});
    walk(*engine_, passes, what,
         [](Pass& pass, Target& target, const TensorView& whole) { measure(pass, target, target.same_rows(whole)); });
    for (Pass& pass : passes) {
      if (pass.ran && pass.distance.size() == targets_.size()) planted_.push_back(std::move(pass));
    }
    std::stable_sort(planted_.begin(), planted_.end(),
                     [&](const Pass& a, const Pass& b) { return times_rounding(a) < times_rounding(b); });
  }

  const VariantFacts& facts_of(const Variant& variant) const {
    return *find_variant(query_.catalogue, variant.id);  // ids come from the catalogue
  }

  // Every bug once, and those of a continuous parameter with each listed value; then all values of the leading ones;
  // then, where the parameter of the leading one is continuous, values around it.
  void plant_all() {
    std::vector<Variant> variants;
    for (const VariantFacts& facts : query_.catalogue) {
      if (facts.declares) continue;
      std::vector<Variant> values = doses(facts);
      if (!facts.right_value) values.resize(1);
      variants.insert(variants.end(), values.begin(), values.end());
    }
    plant(std::move(variants), "forward passes with each bug planted");
    variants.clear();
    for (std::size_t i = 0; i < std::min(kRefined, planted_.size()); ++i) {
      const std::vector<Variant> values = doses(facts_of(*planted_[i].variant));
      if (values.size() > 1) variants.insert(variants.end(), values.begin(), values.end());
    }
    plant(std::move(variants), "other values of the leading bugs");
    for (double width : {0.5, 0.1}) plant_around(width);
  }

  // Values within a factor of 10^width of the leading one, and short numbers near it: somebody typed the value.
  void plant_around(double width) {
    if (planted_.empty() || times_rounding(right_) <= explained_ || times_rounding(planted_.front()) <= explained_)
      return;
    const Variant leading = *planted_.front().variant;
    if (!facts_of(leading).right_value || !leading.value || !(*leading.value > 0.0)) return;
    constexpr int kEachSide = 4;
    std::vector<Variant> variants;
    for (int i = -kEachSide; i <= kEachSide; ++i) {
      const double value = *leading.value * std::pow(10.0, width * i / kEachSide);
      char text[32];
      std::snprintf(text, sizeof text, "%.2g", value);
      variants.push_back({leading.id, std::strtod(text, nullptr)});
    }
    plant(std::move(variants), "values near the leading one");
  }

  const FreeRankingQuery& query_;
  const CaseInput& input_;
  const double explained_ = explained_up_to(query_.precision);
  std::map<TensorKey, Target> targets_;
  int last_step_ = 0;
  int end_layer_ = 0;
  bool needs_head_ = false;
  std::unique_ptr<Engine> engine_;
  Pass right_;
  std::int64_t rows_compared_ = 0;  // of all targets
  std::int64_t rows_with_nan_ = 0;
  std::vector<TensorKey> unbounded_;      // were targets
  std::vector<Pass> planted_;             // the nearest first
  std::map<TensorKey, double> rounding_;  // of each target
};

compare::Judgement judgement_of(const FreeRuns& runs, const Target& target) {
  compare::Judgement judgement;
  if (const std::int64_t rows = target.rows_with_nan; rows > 0) {
    judgement.outcome = compare::Outcome::kDiverged;
    judgement.decisive_statistic = "non_finite";
    judgement.reason =
        "NaN in " + std::to_string(rows) + (rows == 1 ? " row" : " rows") + " where right code gives numbers";
    for (std::size_t i = 0; i < target.candidate.size() && judgement.worst_index.empty(); ++i) {
      const auto element = static_cast<std::int64_t>(i);
      if (!std::isnan(target.candidate[i]) || !target.layout.counts(element / target.width())) continue;
      judgement.worst_index = compare::unravel(element, target.view.shape);
      judgement.actual = target.candidate[i];
      judgement.expected = target.gold[i];
    }
    return judgement;
  }
  const double times = runs.times_rounding(runs.right(), target.key);
  judgement.decisive_statistic = "free_run_distance";
  judgement.ratio_to_bound = times / runs.explained();
  judgement.outcome = compare::outcome_of(judgement.ratio_to_bound);
  char text[160];
  std::snprintf(text, sizeof text,
                "a whole forward pass of right code comes within %.3g of it (relative RMS), which is %.3g times what "
                "rounding alone does; up to %.3g is explained",
                runs.relative(runs.right().distance.at(target.key), target.key), times, runs.explained());
  judgement.reason = text;
  judgement.statistics.relative_rms_error = runs.relative(target.distance(target.candidate, target.gold), target.key);
  double worst = -1.0;
  for (std::int64_t r = 0; r < target.num_rows(); ++r) {
    if (!target.counts(r)) continue;
    judgement.statistics.elements_compared += target.width();
    for (std::int64_t i = 0; i < target.width(); ++i) {
      const auto e = static_cast<std::size_t>(r * target.width() + i);
      const bool same = target.candidate[e] == target.gold[e];  // -inf in both among them
      const double error = same ? 0.0 : std::abs(target.candidate[e] - target.gold[e]);
      if (error <= worst) continue;
      worst = std::isnan(error) ? HUGE_VAL : error;
      judgement.worst_index = compare::unravel(r * target.width() + i, target.view.shape);
      judgement.actual = target.candidate[e];
      judgement.expected = target.gold[e];
    }
  }
  judgement.statistics.max_abs_error = worst;
  return judgement;
}

RankedVariant ranked(const FreeRuns& runs, const Pass& pass, std::int64_t tokens) {
  const TensorKey last = runs.targets().rbegin()->first;
  RankedVariant result;
  if (pass.variant) {
    result.variant = pass.variant->id;
    result.value = pass.variant->value;
  }
  result.times_rounding = runs.times_rounding(pass);
  result.relative_rms_error = runs.relative(pass.distance.at(last), last);
  result.kl_divergence = tokens > 0 ? pass.divergence / static_cast<double>(tokens) : 0.0;
  result.same_top_token = pass.same_top_token;
  result.reproduces = runs.reproduces(pass);
  return result;
}

// The tensors that the leading variants change, and those that divide a layer into its parts.
std::vector<std::string> record_next(const std::vector<RankedVariant>& nearest,
                                     const std::vector<VariantFacts>& catalogue) {
  std::set<Op> ops = {Op::kOutput, Op::kQRope, Op::kKRope, Op::kVProj, Op::kAttnOutput, Op::kResidMid};
  for (std::size_t i = 0; i < std::min(kLeading, nearest.size()); ++i) {
    for (const VariantFacts& facts : catalogue) {
      if (facts.id == nearest[i].variant && facts.ops.size() < kLeading * 2)
        ops.insert(facts.ops.begin(), facts.ops.end());
    }
  }
  std::vector<std::string> names;
  for (Op op : ops) {
    names.push_back((row(op).scope == Scope::kLayer ? "model.layers.*." : "") + std::string(row(op).name));
  }
  return names;
}

std::string shown(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", value);
  return text;
}

}  // namespace

std::optional<findings::FreeRanking> rank_free_runs(const FreeRankingQuery& query, Judged& judged) {
  FreeRuns runs(query);
  runs.run();
  for (const TensorKey& key : runs.unbounded()) {
    judged.not_compared.push_back({query.subject.input->id, query.subject.mode, key.step, tensor_name(key.id),
                                   "a forward pass of right code that rounds as declared overflows before it"});
  }
  if (runs.targets().empty()) return std::nullopt;
  findings::FreeRanking ranking;
  ranking.case_id = query.subject.input->id;
  std::set<std::string> names;
  for (const auto& [key, target] : runs.targets()) {
    names.insert(tensor_name(key.id));
    if (key.id.op != Op::kLmHead) continue;
    ranking.tokens_compared += target.rows_compared;
  }
  ranking.tensors.assign(names.begin(), names.end());
  const TensorKey last = runs.targets().rbegin()->first;
  ranking.rounding = runs.relative(runs.rounding_of(last), last);
  ranking.explained_up_to = runs.explained();
  ranking.right = ranked(runs, runs.right(), ranking.tokens_compared);
  ranking.variants_tried = static_cast<std::int64_t>(runs.planted().size());

  std::vector<Fit> fits;
  const std::string& case_id = query.subject.input->id;
  for (const Pass& pass : runs.planted()) {
    const RankedVariant variant = ranked(runs, pass, ranking.tokens_compared);
    const bool listed = std::any_of(ranking.nearest.begin(), ranking.nearest.end(),
                                    [&](const RankedVariant& other) { return other.variant == variant.variant; });
    if (!listed && ranking.nearest.size() < kListed) ranking.nearest.push_back(variant);
    judged.detectability.tried.insert(variant.variant);
    if (!variant.reproduces) {
      if (runs.shows(pass)) judged.detectability.cases_that_show[variant.variant].insert(case_id);
    } else if (variant.times_rounding <= kClearlyFarther * ranking.nearest.front().times_rounding && !listed) {
      Fit fit{pass.variant, {}, runs.searched(*pass.variant), variant.times_rounding};
      if (fit.fitted) {
        fit.doubt = kSearchedOverSpan;
      } else if (runs.rows_with_nan() > 0) {
        fit.doubt = "tokens at which the candidate has NaN are left aside";
      }
      fits.push_back(std::move(fit));
    }
  }
  ranking.record_next = record_next(ranking.nearest, query.catalogue);

  for (const auto& [key, target] : runs.targets()) {
    ++judged.compared.front();
    WrongTensor tensor;
    tensor.judgement = judgement_of(runs, target);
    if (tensor.judgement.outcome == compare::Outcome::kMatch) continue;
    if (tensor.judgement.outcome == compare::Outcome::kInconclusive) {
      judged.not_compared.push_back(
          {case_id, query.subject.mode, key.step, tensor_name(key.id), tensor.judgement.reason});
      continue;
    }
    tensor.subject = &query.subject;
    tensor.key = key;
    tensor.span_start =
        compare::span_start(compare::replay_span(key, query.trace, query.config), query.trace, query.config);
    tensor.fits = fits;
    judged.wrong.push_back(std::move(tensor));
  }
  return ranking;
}

void add_evidence(const findings::FreeRanking& ranking, std::vector<findings::HypothesisResult>& hypotheses) {
  for (findings::HypothesisResult& hypothesis : hypotheses) {
    for (std::size_t i = 0; i < ranking.nearest.size(); ++i) {
      const RankedVariant& variant = ranking.nearest[i];
      if (hypothesis_of(variant.variant) != hypothesis.id) continue;
      hypothesis.evidence.push_back(
          "of " + std::to_string(ranking.variants_tried) + " forward passes, each with one bug planted, the one with " +
          variant.variant + " comes " + (i == 0 ? "nearest" : "nearest but " + std::to_string(i)) + ": its error is " +
          shown(variant.times_rounding) + " times what rounding alone does, that of right code " +
          shown(ranking.right.times_rounding));
      break;
    }
  }
}

}  // namespace qdiff::diagnose
