// Slots that a query sees. Which scores the candidate hid is read off them (minus infinity, or so low that their
// exponential is 0); a law for the first and the last visible slot follows from the intervals, or the mask is inverted.
// Scores that right code hides and the candidate does not are the product of query and key, times d^-1/2.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "harness/compare/gates.h"
#include "harness/explain/mechanisms.h"
#include "harness/explain/rows.h"

namespace qdiff::explain {
namespace {

constexpr double kHidden = -std::numeric_limits<double>::infinity();

// A query of one batch row: its own slot, the first slot that is no padding, the slots that there are.
struct QueryRow {
  std::int64_t batch, slot, pad, slots;
};

struct VisibleLaw {
  std::string words;
  double bits;
  std::function<bool(const QueryRow&, std::int64_t slot)> sees;
};

bool sees_rightly(const QueryRow& query, std::int64_t slot) { return slot >= query.pad && slot <= query.slot; }

// Products of each query with each key.
std::vector<double> all_scores(const Scene& scene, const Instance& instance, const std::vector<double>& q,
                               const std::vector<double>& k) {
  const ModelConfig& config = scene.config();
  const std::int64_t d = config.head_dim, heads = config.num_q_heads, kv_heads = config.num_kv_heads;
  const compare::Layout& layout = scene.layout(instance);
  const std::int64_t slots = layout.num_columns(), tokens = layout.num_positions();
  std::vector<double> scores(static_cast<std::size_t>(layout.num_rows() * slots));
  for (std::int64_t r = 0; r < layout.num_rows(); ++r) {
    const std::int64_t b = layout.batch_of(r), h = layout.head_of(r), t = layout.position_of(r);
    const double* query = q.data() + ((b * tokens + t) * heads + h) * d;
    for (std::int64_t s = 0; s < slots; ++s) {
      const double* key = k.data() + ((b * slots + s) * kv_heads + h / config.group_size()) * d;
      double sum = 0.0;
      for (std::int64_t i = 0; i < d; ++i) sum += query[i] * key[i];
      scores[static_cast<std::size_t>(r * slots + s)] = sum / std::sqrt(static_cast<double>(d));
    }
  }
  return scores;
}

QueryRow query_row_of(const Instance& instance, const compare::Layout& layout, std::int64_t row) {
  const Step& step = instance.step();
  const std::int64_t b = layout.batch_of(row);
  const std::int64_t pad = step.left_padding.empty() ? 0 : step.left_padding[static_cast<std::size_t>(b)];
  return {b, step.past_length + layout.position_of(row), pad, step.valid_length()};
}

// How often the first or the last visible slot stands at a distance from the query's own.
std::int64_t most_frequent(const std::map<std::int64_t, int>& counts) {
  std::int64_t best = 0;
  int most = 0;
  for (const auto& [value, count] : counts) {
    if (count <= most) continue;
    most = count;
    best = value;
  }
  return best;
}

std::vector<VisibleLaw> laws_of(Scene& scene, const std::vector<SampledRow>& rows) {
  std::map<std::int64_t, int> windows, ends;
  const compare::MaskRule mask(scene.precision().accumulate);
  for (const SampledRow& sampled : rows) {
    const compare::Layout& layout = scene.layout(*sampled.instance);
    const std::vector<double>& actual = scene.actual(*sampled.instance);
    const double* scores = actual.data() + sampled.row * layout.num_columns();
    const double largest = *std::max_element(scores, scores + layout.num_columns());
    std::int64_t first = -1, last = -1;
    for (std::int64_t s = 0; s < layout.num_columns(); ++s) {
      if (!std::isfinite(scores[s]) || mask.hides(scores[s], largest)) continue;
      if (first < 0) first = s;
      last = s;
    }
    if (first < 0) continue;
    const QueryRow query = query_row_of(*sampled.instance, layout, sampled.row);
    if (first > query.pad) ++windows[query.slot - first + 1];
    ++ends[last - query.slot];
  }
  std::vector<VisibleLaw> laws;
  laws.push_back({"exactly what it should hide (the mask is inverted)", 3.0,
                  [](const QueryRow& q, std::int64_t s) { return !sees_rightly(q, s); }});
  struct Bound {
    std::string words;
    double bits;
    std::function<std::int64_t(const QueryRow&)> at;
  };
  std::vector<Bound> firsts = {{"its first token", 0.0, [](const QueryRow& q) { return q.pad; }},
                               {"slot 0", 1.0, [](const QueryRow&) { return std::int64_t{0}; }}};
  if (!windows.empty()) {
    const std::int64_t window = most_frequent(windows);
    firsts.push_back({"the last " + std::to_string(window) + " slots up to its own", 1.0 + bits_of_digits(2),
                      [window](const QueryRow& q) { return std::max(q.pad, q.slot - window + 1); }});
  }
  const std::int64_t end = most_frequent(ends);
  std::vector<Bound> lasts = {{"its own slot", 0.0, [](const QueryRow& q) { return q.slot; }},
                              {"the last slot there is", 1.0, [](const QueryRow& q) { return q.slots - 1; }}};
  if (end != 0) {
    lasts.push_back({"its own slot " + std::string(end < 0 ? "- " : "+ ") + std::to_string(std::abs(end)),
                     2.0 + std::log2(1.0 + std::fabs(static_cast<double>(end))),
                     [end](const QueryRow& q) { return std::min(q.slot + end, q.slots - 1); }});
  }
  for (std::size_t i = 0; i < firsts.size(); ++i) {
    for (std::size_t j = 0; j < lasts.size(); ++j) {
      if (i == 0 && j == 0) continue;
      laws.push_back({"from " + firsts[i].words + " to " + lasts[j].words, 2.0 + firsts[i].bits + lasts[j].bits,
                      [first = firsts[i].at, last = lasts[j].at](const QueryRow& q, std::int64_t s) {
                        return s >= first(q) && s <= last(q);
                      }});
    }
  }
  return laws;
}

}  // namespace

std::vector<Candidate> recover_visible(Scene& scene) {
  std::vector<Candidate> candidates;
  const Instance& first = scene.instances().front();
  const std::vector<TensorKey> inputs = input_keys(first.key, scene.config());
  const bool are_scores = scene.layout(first).is_scores() && inputs.size() == 2 && first.span.size() == 1;
  if (!are_scores) return candidates;
  std::vector<SampledRow> rows;
  for (const Instance& instance : scene.instances()) {
    for (std::int64_t r : scene.wrong_rows(instance)) rows.push_back({&instance, r});
  }
  if (rows.empty()) return candidates;
  for (const VisibleLaw& law : laws_of(scene, rows)) {
    Candidate candidate = candidate_of(scene, "visible", law.bits, ": a query sees " + law.words);
    candidate.theory.hypothesis = "H10";
    candidate.theory.parameters = {{"visible", law.words}};
    candidate.predict = [&scene, law, q_id = inputs[0].id,
                         k_id = inputs[1].id](const Instance& instance) -> std::optional<Expectation> {
      const auto q = scene.recorded(instance, {instance.key.step, q_id});
      const auto k = scene.recorded(instance, {instance.key.step, k_id});
      if (!q || !k) return std::nullopt;
      const std::vector<double> scores = all_scores(scene, instance, *q, *k);
      Expectation theory = scene.right(instance);
      const compare::Layout& layout = scene.layout(instance);
      const std::int64_t slots = layout.num_columns();
      // Of scores that right code hides nobody says the rounding: that of the widest one it shows.
      float widest = 0.0F;
      for (std::size_t i = 0; i < theory.value.size(); ++i) {
        if (std::isfinite(theory.value[i]))
          widest = std::max(widest, std::hypot(theory.sigma_independent[i], theory.sigma_shared[i]));
      }
      for (std::int64_t r = 0; r < layout.num_rows(); ++r) {
        const QueryRow query = query_row_of(instance, layout, r);
        for (std::int64_t s = 0; s < slots; ++s) {
          const auto i = static_cast<std::size_t>(r * slots + s);
          if (!law.sees(query, s)) {
            theory.value[i] = kHidden;
            theory.sigma_independent[i] = theory.sigma_shared[i] = 0.0F;
          } else if (!std::isfinite(theory.value[i])) {
            theory.value[i] = scores[i];
            theory.sigma_independent[i] = widest;
          }
        }
      }
      return theory;
    };
    candidates.push_back(std::move(candidate));
  }
  return candidates;
}

}  // namespace qdiff::explain
