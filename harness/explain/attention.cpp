// Attention that was computed in one piece, from recorded queries and caches. Two unknowns:
//
//   y = sum_i w_i round(o_i)      parts of n slots each, every part's output rounded before they are put together with
//                                 w_i = Z_i / Z, Z_i = sum of exp(score) over the part
//   y = sum_s exp(score_s) v_s / (Z + e)   e slots behind the last one that hold zeros: their score is 0, their weight
//   1
//
// n is searched for among those up to the number of slots; e follows from the ratio f of y to right code's output of a
// token and head, e = Z (1 / f - 1), and with it the number of slots that the cache has. Or the mask lets each query
// see some slots behind its own, of which those behind the last one hold zeros.
#include <algorithm>
#include <cmath>

#include "harness/explain/mechanisms.h"
#include "harness/explain/rows.h"
#include "harness/explain/scores_of_zero.h"

namespace qdiff::explain {
namespace {

// What one query head of one token sees: slots with their scores, and where its values and its output lie.
struct QueryHead {
  std::int64_t first = 0, last = 0;  // written slots that are seen
  std::int64_t behind = 0;           // slots behind the last written one that the mask lets it see
  std::vector<double> scores;        // of slots first..last
  std::size_t values = 0;            // of slot 0: the first element of its key/value head
  std::size_t output = 0;
};

// Which slots behind its own a query sees.
struct Ahead {
  bool causal = true;      // false: all that are written
  std::int64_t slots = 0;  // under a causal mask, written or not
};

// The recorded tensors of a fused attention.
class Fused {
 public:
  Fused(Scene& scene, const Instance& instance, Ahead ahead)
      : config_(scene.config()), step_(instance.step()), ahead_(ahead) {
    const std::vector<TensorKey> of_scores = input_keys(instance.span.front(), scene.config());
    const std::vector<TensorKey> of_output = input_keys(instance.span.back(), scene.config());
    auto q = scene.recorded(instance, of_scores.at(0)), k = scene.recorded(instance, of_scores.at(1)),
         v = scene.recorded(instance, of_output.at(1));
    if (!q || !k || !v) return;
    q_ = std::move(*q);
    k_ = std::move(*k);
    v_ = std::move(*v);
  }

  bool is_recorded() const { return !v_.empty(); }
  std::int64_t slots() const { return step_.valid_length(); }
  std::size_t stride() const { return static_cast<std::size_t>(config_.kv_width()); }  // from slot to slot
  std::int64_t head_dim() const { return config_.head_dim; }
  const std::vector<double>& values() const { return v_; }

  QueryHead query(std::int64_t b, std::int64_t t, std::int64_t h) const {
    const std::int64_t d = config_.head_dim, heads = config_.num_q_heads;
    QueryHead query;
    query.first = step_.left_padding.empty() ? 0 : step_.left_padding[static_cast<std::size_t>(b)];
    const std::int64_t last = ahead_.causal ? step_.past_length + t + ahead_.slots : slots() - 1;
    query.last = std::min(last, slots() - 1);
    query.behind = last - query.last;
    const std::int64_t of_query = ((b * step_.num_tokens() + t) * heads + h) * d;
    query.output = static_cast<std::size_t>(of_query);
    query.values = static_cast<std::size_t>(b * slots() * config_.kv_width() + h / config_.group_size() * d);
    for (std::int64_t s = query.first; s <= query.last; ++s) {
      const double* key = k_.data() + query.values + static_cast<std::size_t>(s) * stride();
      double sum = 0.0;
      for (std::int64_t i = 0; i < d; ++i) sum += q_[static_cast<std::size_t>(of_query + i)] * key[i];
      query.scores.push_back(sum / std::sqrt(static_cast<double>(d)));
    }
    return query;
  }

 private:
  const ModelConfig& config_;
  const Step& step_;
  Ahead ahead_;
  std::vector<double> q_, k_, v_;
};

// Weights of a query's slots relative to exp(`top`), their sum, and the weighted sum of values [d].
struct Weighted {
  double sum = 0.0;
  std::vector<double> values;
};
Weighted weighted(const Fused& fused, const QueryHead& query, double top, std::int64_t from, std::int64_t until) {
  const auto d = static_cast<std::size_t>(fused.head_dim());
  Weighted result{0.0, std::vector<double>(d)};
  for (std::int64_t s = std::max(from, query.first); s <= std::min(until, query.last); ++s) {
    const double weight = std::exp(query.scores[static_cast<std::size_t>(s - query.first)] - top);
    const double* value = fused.values().data() + query.values + static_cast<std::size_t>(s) * fused.stride();
    result.sum += weight;
    for (std::size_t i = 0; i < d; ++i) result.values[i] += weight * value[i];
  }
  return result;
}

double largest(const QueryHead& query) { return *std::max_element(query.scores.begin(), query.scores.end()); }

// Calls visit(query) for each head of each real token.
template <typename Visit>
void for_each_query(Scene& scene, const Instance& instance, const Fused& fused, Visit visit) {
  const compare::Layout& layout = scene.layout(instance);
  for (std::int64_t r : scene.real_rows(instance)) {
    for (std::int64_t h = 0; h < scene.config().num_q_heads; ++h) {
      const QueryHead query = fused.query(layout.batch_of(r), layout.position_of(r), h);
      if (!query.scores.empty()) visit(query);
    }
  }
}

// ---- Parts that are rounded ----------------------------------------------------------------------------------------

struct Parts {
  std::int64_t slots;
  DType type;
};

// Value and variance of the roundings. Where a part lies so near to the middle of two numbers that its own error may
// carry it across, it may have become either of them.
constexpr double kDeviationsAcross = 5.0;
void attend_in_parts(const Fused& fused, const QueryHead& query, const Parts& parts, const Expectation& right,
                     Expectation& theory) {
  const double top = largest(query);
  const auto d = static_cast<std::size_t>(fused.head_dim());
  std::vector<double> value(d), variance(d);
  double sum = 0.0;
  for (std::int64_t from = 0; from <= query.last; from += parts.slots) {
    const Weighted part = weighted(fused, query, top, from, from + parts.slots - 1);
    if (part.sum == 0.0) continue;
    sum += part.sum;
    for (std::size_t i = 0; i < d; ++i) {
      const double output = part.values[i] / part.sum, rounded = round_to(parts.type, output);
      value[i] += part.sum * rounded;
      const double step = spacing(parts.type, output), to_middle = 0.5 * step - std::fabs(output - rounded);
      const double error = std::hypot(right.sigma_independent[query.output + i], right.sigma_shared[query.output + i]);
      if (to_middle < kDeviationsAcross * error) variance[i] += part.sum * part.sum * 0.25 * step * step;
    }
  }
  for (std::size_t i = 0; i < d; ++i) {
    const std::size_t e = query.output + i;
    theory.value[e] = value[i] / sum;
    theory.sigma_independent[e] =
        static_cast<float>(std::hypot(double{right.sigma_independent[e]}, std::sqrt(variance[i]) / sum));
    theory.sigma_shared[e] = right.sigma_shared[e];
  }
}

Expectation in_parts(Scene& scene, const Instance& instance, const Fused& fused, const Parts& parts) {
  const Expectation& right = scene.right(instance);
  Expectation theory = right;
  for_each_query(scene, instance, fused,
                 [&](const QueryHead& query) { attend_in_parts(fused, query, parts, right, theory); });
  return theory;
}

double misfit(Scene& scene, const Instance& instance, const Expectation& theory) {
  double sum = 0.0;
  for (std::int64_t r : scene.real_rows(instance)) {
    const std::int64_t width = scene.layout(instance).num_columns();
    for (std::int64_t c = 0; c < width; ++c) {
      sum += bits_of_error(scene.deviations(instance, theory, static_cast<std::size_t>(r * width + c)));
    }
  }
  return sum;
}

// The wrong instance of the fewest tokens, the latest of these: no two numbers of slots look the same there.
const Instance* sample_of(const Scene& scene) {
  const Instance* sample = nullptr;
  for (const Instance& instance : scene.instances()) {
    if (!instance.wrong) continue;
    const auto size = [](const Instance& i) { return std::pair(i.step().num_tokens(), -i.key.step); };
    if (sample == nullptr || size(instance) < size(*sample)) sample = &instance;
  }
  return sample;
}

void add_parts(Scene& scene, const Instance& sample, const Fused& fused, std::vector<Candidate>& candidates) {
  constexpr std::int64_t kAllBelow = 64;
  std::vector<std::int64_t> sizes;
  for (std::int64_t n = 1; n < fused.slots(); n += n < kAllBelow ? 1 : n / 8) sizes.push_back(n);
  for (DType type : {DType::kBF16, DType::kF16}) {
    Parts best{0, type};
    double least = misfit(scene, sample, scene.right(sample));
    for (std::int64_t n : sizes) {
      const double here = misfit(scene, sample, in_parts(scene, sample, fused, {n, type}));
      if (!(here < least)) continue;
      least = here;
      best.slots = n;
    }
    if (best.slots == 0) continue;
    Candidate candidate = candidate_of(scene, "attention.parts", 1.0 + bits_of_choice(sizes.size()),
                                       " is put together from parts of " + std::to_string(best.slots) +
                                           " slots, each rounded to " + std::string(name(type)));
    candidate.theory.hypothesis = "H02";
    candidate.theory.parameters = {{"slots of a part", static_cast<double>(best.slots)},
                                   {"type", std::string(name(type))}};
    candidate.theory.points = {{RoundingPoint::kAttentionAccumulate, type}};
    candidate.predict = [&scene, best](const Instance& instance) -> std::optional<Expectation> {
      const Fused of(scene, instance, {});
      if (!of.is_recorded() || scene.right(instance).sigma_independent.empty()) return std::nullopt;
      return in_parts(scene, instance, of, best);
    };
    candidates.push_back(std::move(candidate));
  }
}

// ---- Zeros behind the end ------------------------------------------------------------------------------------------

// One with zeros behind the last written slot, as many as `zeros_of` says of a query.
template <typename ZerosOf>
Expectation with_zeros(Scene& scene, const Instance& instance, const Fused& fused, ZerosOf zeros_of) {
  const Expectation& right = scene.right(instance);
  Expectation theory = right;
  const double unit = unit_roundoff(scene.precision().accumulate);
  const double smallest =
      std::ldexp(static_cast<double>(fused.slots()), facts(scene.precision().accumulate).min_exponent);
  for_each_query(scene, instance, fused, [&](const QueryHead& query) {
    const auto zeros = static_cast<double>(std::max<std::int64_t>(0, zeros_of(query)));
    const double top = std::max(largest(query), 0.0);
    const Weighted seen = weighted(fused, query, top, query.first, query.last);
    const double sum = seen.sum + zeros * std::exp(-top);
    for (std::size_t i = 0; i < seen.values.size(); ++i) {
      const double before = seen.values[i] / seen.sum, value = seen.values[i] / sum;
      const std::size_t e = query.output + i;
      // Weights err as they do in right code, and their common part, which the softmax takes out there, stays: the
      // error of the scores, and what lies below the smallest number of the type.
      const double scale = std::fabs(right.value[e]) > 0.0 ? std::fabs(before / right.value[e]) : 1.0;
      const double own = std::fabs(value) * unit * (1.0 + std::fabs(largest(query)));
      theory.value[e] = value;
      theory.sigma_independent[e] =
          static_cast<float>(std::max({double{right.sigma_independent[e]} * std::max(scale, 1.0), own, smallest}));
    }
  });
  return theory;
}

// What tokens and heads say of the number of zeros.
void add_zeros_said(Scene& scene, const Instance& instance, const Fused& fused, std::vector<ScoresOfZero>& said) {
  const std::vector<double>& actual = scene.actual(instance);
  for_each_query(scene, instance, fused, [&](const QueryHead& query) {
    const double top = largest(query);
    const Weighted seen = weighted(fused, query, top, query.first, query.last);
    double along = 0.0, whole = 0.0;
    for (std::size_t i = 0; i < seen.values.size(); ++i) {
      const double right = seen.values[i] / seen.sum;
      along += right * actual[query.output + i];
      whole += right * right;
    }
    said.push_back({along / whole, seen.sum * std::exp(top)});
  });
}

// The slots behind the last one up to a cache's end.
Candidate zeros_up_to(Scene& scene, bool causal, std::int64_t capacity) {
  Candidate candidate =
      candidate_of(scene, "beyond_end", (causal ? 1.0 : 2.0) + std::log2(static_cast<double>(capacity)),
                   std::string(": a query sees ") + (causal ? "" : "later tokens of its step and ") +
                       "the zeros behind the last slot of " + std::to_string(capacity));
  candidate.theory.hypothesis = causal ? "H08" : "H10";
  candidate.theory.parameters = {{"slots", static_cast<double>(capacity)},
                                 {"mask", std::string(causal ? "causal" : "none")}};
  candidate.predict = [&scene, causal, capacity](const Instance& instance) -> std::optional<Expectation> {
    const Fused of(scene, instance, {causal});
    if (!of.is_recorded() || scene.right(instance).sigma_independent.empty()) return std::nullopt;
    return with_zeros(scene, instance, of, [&](const QueryHead&) { return capacity - of.slots(); });
  };
  return candidate;
}

Candidate zeros_added(Scene& scene, bool causal, std::int64_t added) {
  Candidate candidate =
      candidate_of(scene, "beyond_end", (causal ? 1.0 : 2.0) + std::log2(1.0 + static_cast<double>(added)),
                   ": the softmax counts " + std::to_string(added) + (added == 1 ? " score" : " scores") +
                       " of 0 more than there are slots" + (causal ? "" : ", and later tokens of its step"));
  candidate.theory.hypothesis = "H02";
  candidate.theory.parameters = {{"more slots", static_cast<double>(added)},
                                 {"mask", std::string(causal ? "causal" : "none")}};
  candidate.predict = [&scene, causal, added](const Instance& instance) -> std::optional<Expectation> {
    const Fused of(scene, instance, {causal});
    if (!of.is_recorded() || scene.right(instance).sigma_independent.empty()) return std::nullopt;
    return with_zeros(scene, instance, of, [added](const QueryHead&) { return added; });
  };
  return candidate;
}

void add_zeros(Scene& scene, const Instance& sample, std::vector<Candidate>& candidates) {
  for (const bool causal : {true, false}) {
    const Fused fused(scene, sample, {causal});
    std::vector<ScoresOfZero> of_sample;
    add_zeros_said(scene, sample, fused, of_sample);
    const std::int64_t capacity = fused.slots() + counted_zeros(of_sample);
    if (capacity > fused.slots()) candidates.push_back(zeros_up_to(scene, causal, capacity));
    // As many in every step: a sum of the softmax that has something added to it.
    std::vector<ScoresOfZero> of_all;
    for (const Instance& instance : scene.instances()) {
      const Fused of(scene, instance, {causal});
      if (instance.wrong && of.is_recorded()) add_zeros_said(scene, instance, of, of_all);
    }
    const std::int64_t added = counted_zeros(of_all);
    if (added > 0) candidates.push_back(zeros_added(scene, causal, added));
  }
}

// A mask whose edge lies some slots late, over a cache that was cleared.
void add_ahead(Scene& scene, std::vector<Candidate>& candidates) {
  constexpr std::int64_t kMostAhead = 2;
  for (std::int64_t slots = 1; slots <= kMostAhead; ++slots) {
    Candidate candidate =
        candidate_of(scene, "beyond_end", 1.0 + bits_of_choice(kMostAhead),
                     ": a query sees " + (slots == 1 ? "the slot" : "the " + std::to_string(slots) + " slots") +
                         " behind its own, and behind the last one that was written zeros");
    candidate.theory.hypothesis = "H10";
    candidate.theory.parameters = {{"mask", std::to_string(slots) + " ahead"}};
    candidate.predict = [&scene, slots](const Instance& instance) -> std::optional<Expectation> {
      const Fused of(scene, instance, {true, slots});
      if (!of.is_recorded() || scene.right(instance).sigma_independent.empty()) return std::nullopt;
      return with_zeros(scene, instance, of, [](const QueryHead& query) { return query.behind; });
    };
    candidates.push_back(std::move(candidate));
  }
}

}  // namespace

std::vector<Candidate> recover_attention(Scene& scene) {
  std::vector<Candidate> candidates;
  const Instance* sample = sample_of(scene);
  const bool is_fused = sample != nullptr && arithmetic_of(scene.op()) == Arithmetic::kWeightedSum &&
                        arithmetic_of(sample->span.front().id.op) == Arithmetic::kScores && sample->span.size() == 3;
  if (!is_fused || scene.right(*sample).sigma_independent.empty()) return candidates;
  const Fused fused(scene, *sample, {});
  if (!fused.is_recorded()) return candidates;
  add_zeros(scene, *sample, candidates);
  add_ahead(scene, candidates);
  add_parts(scene, *sample, fused, candidates);
  return candidates;
}

}  // namespace qdiff::explain
