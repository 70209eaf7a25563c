// Which head is read. Two looks: heads of the result that are another head of right code's result (a query head out of
// place); and query heads that read other key or value heads than theirs: right code is evaluated with every key/value
// head replaced by head j, once for each j (and for each pair, where keys and values are both inside the span), and
// each query head is the one of these that comes nearest.
#include <algorithm>
#include <cmath>

#include "harness/explain/mechanisms.h"
#include "harness/explain/rows.h"

namespace qdiff::explain {
namespace {

// Elements of head h as (row, column) pairs; heads lie in rows of scores and in columns elsewhere.
template <typename Visit>
void for_each_element_of(const compare::Layout& layout, std::int64_t head, Visit visit) {
  const std::int64_t width = layout.num_columns();
  for (std::int64_t r = 0; r < layout.num_rows(); ++r) {
    if (!layout.counts(r)) continue;
    if (layout.is_scores()) {
      if (layout.head_of(r) != head) continue;
      for (std::int64_t c = 0; c < width; ++c) visit(r, c);
    } else {
      const std::int64_t d = layout.head_columns();
      for (std::int64_t c = head * d; c < (head + 1) * d; ++c) visit(r, c);
    }
  }
}

// Bits of error of head `head` of the candidate beside head `other` of the expectation, in wrong elements: a mistake
// may be one of some tokens or columns, and in the others right code's head is the nearest.
double head_misfit(Scene& scene, const Instance& instance, const Expectation& expected, std::int64_t head,
                   std::int64_t other) {
  const compare::Layout& layout = scene.layout(instance);
  const std::int64_t width = layout.num_columns();
  const std::vector<double>& actual = scene.actual(instance);
  double sum = 0.0;
  for_each_element_of(layout, head, [&](std::int64_t r, std::int64_t c) {
    const auto here = static_cast<std::size_t>(r * width + c);
    if (!scene.is_wrong(instance, here)) return;
    std::int64_t there_row = r, there_column = c;
    if (layout.is_scores()) {
      there_row = r + (other - head) * layout.num_positions();
    } else {
      there_column = c + (other - head) * layout.head_columns();
    }
    const auto there = static_cast<std::size_t>(there_row * width + there_column);
    const double gold = expected.value[there];
    if (!std::isfinite(gold) || !std::isfinite(actual[here])) {
      sum += gold == actual[here] ? 0.0 : 40.0;
      return;
    }
    const double independent = expected.sigma_independent.empty() ? 0.0 : expected.sigma_independent[there];
    const double shared = expected.sigma_shared.empty() ? 0.0 : expected.sigma_shared[there];
    sum += bits_of_error((actual[here] - gold) / std::hypot(independent, shared, spacing(instance.actual.dtype, gold)));
  });
  return sum;
}

std::string table_text(const std::vector<std::int64_t>& table) {
  std::string text;
  for (std::int64_t head : table) text += (text.empty() ? "" : " ") + std::to_string(head);
  return text;
}

// A formula for the table, else the table; and its bits.
std::pair<std::string, double> law_of(const std::vector<std::int64_t>& table, std::int64_t kv_heads) {
  const auto heads = static_cast<std::int64_t>(table.size());
  struct Law {
    std::string words;
    std::function<std::int64_t(std::int64_t)> at;
  };
  std::vector<Law> laws = {{"h % " + std::to_string(kv_heads), [kv_heads](std::int64_t h) { return h % kv_heads; }}};
  for (std::int64_t divisor = 1; divisor <= heads; ++divisor) {
    laws.push_back({"h / " + std::to_string(divisor),
                    [divisor, kv_heads](std::int64_t h) { return std::min(h / divisor, kv_heads - 1); }});
  }
  laws.push_back({std::to_string(heads - 1) + " - h", [heads](std::int64_t h) { return heads - 1 - h; }});
  for (std::int64_t shift = 1; shift < heads; ++shift) {
    laws.push_back({"(h + " + std::to_string(shift) + ") % " + std::to_string(heads),
                    [shift, heads](std::int64_t h) { return (h + shift) % heads; }});
  }
  for (std::int64_t j = 0; j < kv_heads; ++j) laws.push_back({std::to_string(j), [j](std::int64_t) { return j; }});
  for (const Law& law : laws) {
    bool fits = true;
    for (std::int64_t h = 0; h < heads; ++h) fits &= law.at(h) == table[static_cast<std::size_t>(h)];
    if (fits) return {law.words, bits_of_choice(laws.size())};
  }
  return {table_text(table),
          static_cast<double>(heads) * bits_of_choice(static_cast<std::size_t>(std::max<std::int64_t>(kv_heads, 2)))};
}

void copy_head(const compare::Layout& layout, const Expectation& from, std::int64_t from_head, std::int64_t to_head,
               Expectation& to) {
  const std::int64_t width = layout.num_columns();
  for_each_element_of(layout, to_head, [&](std::int64_t r, std::int64_t c) {
    const auto here = static_cast<std::size_t>(r * width + c);
    const std::int64_t there_row = layout.is_scores() ? r + (from_head - to_head) * layout.num_positions() : r;
    const std::int64_t there_column = layout.is_scores() ? c : c + (from_head - to_head) * layout.head_columns();
    const auto there = static_cast<std::size_t>(there_row * width + there_column);
    set_moved(to, here, from, there);
  });
}

void add_moved(Scene& scene, const std::vector<const Instance*>& wrong, std::int64_t heads,
               std::vector<Candidate>& candidates) {
  constexpr std::int64_t kMostHeads = 64;
  if (heads > kMostHeads) return;
  std::vector<std::int64_t> table;
  for (std::int64_t h = 0; h < heads; ++h) {
    const auto misfit = [&](std::int64_t other) {
      double sum = 0.0;
      for (const Instance* instance : wrong) sum += head_misfit(scene, *instance, scene.right(*instance), h, other);
      return sum;
    };
    std::int64_t best = h;
    double least = misfit(h);
    for (std::int64_t other = 0; other < heads; ++other) {
      if (const double sum = misfit(other); sum < least) {
        least = sum;
        best = other;
      }
    }
    table.push_back(best);
  }
  const auto [words, bits] = law_of(table, heads);
  Candidate candidate =
      candidate_of(scene, "heads.moved", bits, " holds in head h what right code has in head " + words);
  candidate.theory.hypothesis = "H05";
  candidate.theory.parameters = {{"head", words}};
  candidate.predict = [&scene, table](const Instance& instance) -> std::optional<Expectation> {
    const Expectation& right = scene.right(instance);
    Expectation theory = right;
    for (std::size_t h = 0; h < table.size(); ++h) {
      copy_head(scene.layout(instance), right, table[h], static_cast<std::int64_t>(h), theory);
    }
    return theory;
  };
  candidates.push_back(std::move(candidate));
}

// What lies in memory as [B,H,T,d] was taken for [B,T,H,d], or the other way round. One token alone lies the same in
// both.
void add_layouts(Scene& scene, std::vector<Candidate>& candidates) {
  const std::int64_t d = scene.layout(scene.instances().front()).head_columns();
  if (d == 0) return;
  for (const bool heads_first : {true, false}) {
    const std::string held = heads_first ? "[B,H,T,d]" : "[B,T,H,d]", taken = heads_first ? "[B,T,H,d]" : "[B,H,T,d]";
    Candidate candidate =
        candidate_of(scene, "heads.layout", 1.0, " lies in memory as " + held + " and is taken for " + taken);
    candidate.theory.parameters = {{"held as", held}, {"taken for", taken}};
    candidate.predict = [&scene, d, heads_first](const Instance& instance) -> std::optional<Expectation> {
      const Expectation& right = scene.right(instance);
      const compare::Layout& layout = scene.layout(instance);
      const std::int64_t tokens = layout.num_positions(), heads = layout.num_heads();
      const std::int64_t outer = heads_first ? heads : tokens, inner = heads_first ? tokens : heads;
      Expectation theory = right;
      const std::int64_t of_row = tokens * heads * d;
      for (std::int64_t i = 0; i < static_cast<std::int64_t>(right.value.size()); ++i) {
        const std::int64_t flat = i % of_row;  // where it was written, as (outer, inner, dimension)
        const std::int64_t o = flat / (inner * d) % outer, n = flat / d % inner;
        const std::int64_t t = heads_first ? n : o, h = heads_first ? o : n;
        const std::int64_t there = heads_first ? (t * heads + h) * d : (h * tokens + t) * d;
        const auto from = static_cast<std::size_t>(i - flat + there + flat % d), to = static_cast<std::size_t>(i);
        set_moved(theory, to, right, from);
      }
      return theory;
    };
    candidates.push_back(std::move(candidate));
  }
}

// Every head of a cache holds what head j does.
Tensor all_heads(const TensorView& cache, std::int64_t j) {
  const std::int64_t heads = cache.shape[2], d = cache.shape[3];
  std::vector<double> values = to_doubles(cache);
  for (std::size_t start = 0; start < values.size(); start += static_cast<std::size_t>(heads * d)) {
    const std::vector<double> one(values.begin() + static_cast<std::ptrdiff_t>(start) + j * d,
                                  values.begin() + static_cast<std::ptrdiff_t>(start) + (j + 1) * d);
    for (std::int64_t h = 0; h < heads; ++h) {
      std::copy(one.begin(), one.end(), values.begin() + static_cast<std::ptrdiff_t>(start) + h * d);
    }
  }
  return Tensor::rounded(cache.dtype, cache.shape, values);
}

struct Reading {
  std::vector<std::int64_t> heads;  // one for each cache of the span
  auto operator<=>(const Reading&) const = default;
};

Expectation expected_by_reading(Scene& scene, const Instance& instance, const std::vector<TensorId>& caches,
                                const Reading& read) {
  Overlay overlay(*instance.recorded);
  for (std::size_t i = 0; i < caches.size(); ++i) {
    const TensorKey key{instance.key.step, caches[i]};
    overlay.replace(key, all_heads(instance.recorded->get(key), read.heads[i]));
  }
  return scene.evaluate(instance, overlay);
}

void add_read(Scene& scene, const std::vector<const Instance*>& wrong, const std::vector<TensorId>& caches,
              std::vector<Candidate>& candidates) {
  constexpr std::size_t kMostReadings = 64;
  const std::int64_t kv_heads = scene.config().num_kv_heads, heads = scene.config().num_q_heads;
  std::vector<Reading> readings = {{}};
  for (std::size_t i = 0; i < caches.size(); ++i) {
    std::vector<Reading> longer;
    for (const Reading& read : readings) {
      for (std::int64_t j = 0; j < kv_heads; ++j) {
        longer.push_back(read);
        longer.back().heads.push_back(j);
      }
    }
    readings = std::move(longer);
  }
  if (kv_heads < 2 || readings.size() > kMostReadings) return;
  std::vector<std::vector<double>> misfits(readings.size(), std::vector<double>(static_cast<std::size_t>(heads), 0.0));
  constexpr std::size_t kMostInstances = 2;
  for (std::size_t n = 0; n < std::min(kMostInstances, wrong.size()); ++n) {
    for (std::size_t i = 0; i < readings.size(); ++i) {
      const Expectation expected = expected_by_reading(scene, *wrong[n], caches, readings[i]);
      for (std::int64_t h = 0; h < heads; ++h) {
        misfits[i][static_cast<std::size_t>(h)] += head_misfit(scene, *wrong[n], expected, h, h);
      }
    }
  }
  std::vector<std::size_t> chosen;
  std::vector<std::vector<std::int64_t>> tables(caches.size());
  for (std::int64_t h = 0; h < heads; ++h) {
    // Its own key/value head, where no other comes nearer.
    const Reading own{std::vector<std::int64_t>(caches.size(), h / scene.config().group_size())};
    auto best = static_cast<std::size_t>(std::ranges::find(readings, own) - readings.begin());
    for (std::size_t i = 0; i < readings.size(); ++i) {
      if (misfits[i][static_cast<std::size_t>(h)] < misfits[best][static_cast<std::size_t>(h)]) best = i;
    }
    chosen.push_back(best);
    for (std::size_t c = 0; c < caches.size(); ++c) tables[c].push_back(readings[best].heads[c]);
  }
  double bits = 0.0;
  Facts parameters;
  std::string heads_read;
  for (std::size_t c = 0; c < caches.size(); ++c) {
    const auto [words, of_law] = law_of(tables[c], kv_heads);
    const std::string name = short_name(caches[c], scene.layer());
    bits += of_law;
    parameters.emplace_back("head of " + name, words);
    heads_read += (heads_read.empty() ? "" : " and ") + ("head " + words) + " of " + name;
  }
  Candidate candidate = candidate_of(scene, "heads.read", bits, ": query head h reads " + heads_read);
  candidate.theory.hypothesis = "H05";
  candidate.theory.parameters = std::move(parameters);
  candidate.predict = [&scene, caches, readings, chosen](const Instance& instance) -> std::optional<Expectation> {
    for (const TensorId& cache : caches) {
      if (!scene.is_recorded(instance, {instance.key.step, cache})) return std::nullopt;
    }
    Expectation theory = scene.right(instance);
    for (std::size_t i = 0; i < readings.size(); ++i) {
      if (std::find(chosen.begin(), chosen.end(), i) == chosen.end()) continue;
      const Expectation expected = expected_by_reading(scene, instance, caches, readings[i]);
      for (std::size_t h = 0; h < chosen.size(); ++h) {
        const auto head = static_cast<std::int64_t>(h);
        if (chosen[h] == i) copy_head(scene.layout(instance), expected, head, head, theory);
      }
    }
    return theory;
  };
  candidates.push_back(std::move(candidate));
}

}  // namespace

std::vector<Candidate> recover_heads(Scene& scene) {
  std::vector<Candidate> candidates;
  std::vector<const Instance*> wrong;
  for (const Instance& instance : scene.instances()) {
    if (instance.wrong) wrong.push_back(&instance);
  }
  const std::int64_t heads = scene.layout(scene.instances().front()).num_heads();
  if (wrong.empty() || heads < 2) return candidates;
  add_moved(scene, wrong, heads, candidates);
  add_layouts(scene, candidates);
  std::vector<TensorId> caches;
  for (const TensorKey& key : span_inputs(scene, *wrong.front())) {
    if (is_cache(key.id.op)) caches.push_back(key.id);
  }
  if (heads == scene.config().num_q_heads && !caches.empty()) add_read(scene, wrong, caches, candidates);
  return candidates;
}

}  // namespace qdiff::explain
