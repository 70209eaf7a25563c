#include "harness/explain/domain.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <map>
#include <numeric>
#include <utility>

#include "harness/explain/rows.h"

namespace qdiff::explain {
namespace {

// Gains are sums of many small numbers: what differs by less is the same.
constexpr double kSame = 1e-6;

double choice_bits(std::int64_t size) { return 1.0 + std::log2(static_cast<double>(std::max<std::int64_t>(size, 2))); }

struct Best {
  Choice choice;
  double gain = 0.0;  // the choice's bits taken off
};

// The choice of the largest gain along one axis. Everywhere is free.
Best best_choice(const std::vector<double>& gains) {
  const auto size = static_cast<std::int64_t>(gains.size());
  const double all = std::accumulate(gains.begin(), gains.end(), 0.0);
  Best best{{}, all};
  const auto offer = [&](Choice choice, double gain) {
    gain -= choice.bits;
    if (gain > best.gain) best = {std::move(choice), gain};
  };
  double before = 0.0;
  for (std::int64_t i = 1; i < size; ++i) {
    before += gains[static_cast<std::size_t>(i - 1)];
    offer({{Choice::Kind::kBelow, i}, choice_bits(size)}, before);
    offer({{Choice::Kind::kFrom, i}, choice_bits(size)}, all - before);
  }
  Choice some{{Choice::Kind::kOnly}, 1.0};
  double gain = 0.0;
  const double bits = std::log2(static_cast<double>(std::max<std::int64_t>(size, 2)));
  for (std::int64_t i = 0; i < size; ++i) {
    if (!(gains[static_cast<std::size_t>(i)] > bits)) continue;
    some.only.push_back(i);
    some.bits += bits;
    gain += gains[static_cast<std::size_t>(i)];
  }
  if (!some.only.empty()) offer(some, gain);
  return best;
}

// Element by element, all its indices.
template <typename Visit>
void for_each_element(Scene& scene, const std::vector<Gains>& gains, Visit visit) {
  for (const Gains& of : gains) {
    const compare::Layout& layout = scene.layout(*of.instance);
    const std::int64_t width = layout.num_columns();
    for (std::int64_t r = 0; r < layout.num_rows(); ++r) {
      if (!layout.counts(r)) continue;
      for (std::int64_t c = 0; c < width; ++c) {
        const float gain = of.of_element[static_cast<std::size_t>(r * width + c)];
        if (gain != 0.0F) visit(indices_of(*of.instance, layout, r, c), static_cast<double>(gain));
      }
    }
  }
}

// For each axis the gain at each of its indices, within the choices of the other axes.
std::array<std::vector<double>, kNumAxes> gains_along(Scene& scene, const std::vector<Gains>& gains,
                                                      const Domain& domain) {
  std::array<std::vector<double>, kNumAxes> along;
  along[0].resize(2, 0.0);
  for_each_element(scene, gains, [&](const Indices& at, double gain) {
    std::size_t outside = kNumAxes, num_outside = 0;
    for (std::size_t a = 0; a < kNumAxes; ++a) {
      if (domain.choices[a].holds(at[a])) continue;
      outside = a;
      if (++num_outside > 1) return;
    }
    for (std::size_t a = 0; a < kNumAxes; ++a) {
      if (num_outside == 1 && a != outside) continue;
      const auto index = static_cast<std::size_t>(at[a]);
      if (index >= along[a].size()) along[a].resize(index + 1, 0.0);
      along[a][index] += gain;
    }
  });
  return along;
}

// The axis that gains most by another choice is chosen anew, until none gains.
Domain settle(Scene& scene, const std::vector<Gains>& gains, Domain domain) {
  constexpr int kMostChanges = 12;
  double now = gain_within(scene, gains, domain) - domain.bits();
  for (int change = 0; change < kMostChanges; ++change) {
    const auto along = gains_along(scene, gains, domain);
    std::size_t axis = kNumAxes;
    Choice chosen;
    double best = now;
    for (std::size_t a = 0; a < kNumAxes; ++a) {
      Best other = best_choice(along[a]);
      const double gain = other.gain - (domain.bits() - domain.choices[a].bits);
      if (!(gain > best + kSame)) continue;
      best = gain;
      axis = a;
      chosen = std::move(other.choice);
    }
    if (axis == kNumAxes) break;
    domain.choices[axis] = std::move(chosen);
    now = best;
  }
  return domain;
}

// Of a long list the first entries are enough for a reader.
std::string shortened(const std::string& list) {
  constexpr int kMostEntries = 6;
  std::size_t end = 0;
  for (int i = 0; i < kMostEntries; ++i) {
    end = list.find(", ", end + 1);
    if (end == std::string::npos) return list;
  }
  return list.substr(0, end) + ", ...";
}

const char* key_of(Axis axis) {
  constexpr std::array<const char*, kNumAxes> kKeys = {"phase", "steps", "batch_rows", "tokens", "heads", "columns"};
  return kKeys[static_cast<std::size_t>(axis)];
}

std::string word_of(Axis axis, Op op) {
  switch (axis) {
    case Axis::kStep:
      return "step";
    case Axis::kBatchRow:
      return "batch row";
    case Axis::kToken:
      return is_cache(op) ? "slot" : "position";
    case Axis::kHead:
      return "head";
    case Axis::kPhase:
    case Axis::kColumn:
      break;
  }
  return "column";
}

}  // namespace

Choice only_in(Phase phase) { return {{Choice::Kind::kOnly, 0, {phase == Phase::kDecode ? 1 : 0}}, choice_bits(2)}; }

Indices indices_of(const Instance& instance, const compare::Layout& layout, std::int64_t row, std::int64_t column) {
  const Step& step = instance.step();
  const std::int64_t b = layout.batch_of(row);
  std::int64_t token = layout.position_of(row);
  if (!is_cache(instance.key.id.op)) {
    const std::int64_t pad = step.left_padding.empty() ? 0 : step.left_padding[static_cast<std::size_t>(b)];
    token += step.past_length + step.num_tokens() - layout.num_positions() - pad;
  }
  const std::int64_t in_head = layout.head_columns();
  const std::int64_t head = layout.is_scores() ? layout.head_of(row) : (in_head > 0 ? column / in_head : 0);
  return {step.phase == Phase::kDecode ? 1 : 0,   instance.key.step, b, token, head,
          in_head > 0 ? column % in_head : column};
}

bool Domain::holds(const Indices& indices) const {
  for (std::size_t a = 0; a < kNumAxes; ++a) {
    if (!choices[a].holds(indices[a])) return false;
  }
  return true;
}

double Domain::bits() const {
  return std::accumulate(choices.begin(), choices.end(), 0.0,
                         [](double sum, const Choice& choice) { return sum + choice.bits; });
}

Facts Domain::facts() const {
  Facts facts;
  for (std::size_t a = 0; a < kNumAxes; ++a) {
    if (choices[a].kind == Choice::Kind::kAll) continue;
    const auto axis = static_cast<Axis>(a);
    const std::string text =
        axis == Axis::kPhase ? std::string(choices[a].holds(1) ? "decode" : "prefill") : to_string(choices[a]);
    facts.emplace_back(key_of(axis), text);
  }
  return facts;
}

std::string Domain::words(Op op) const {
  std::string words;
  for (std::size_t a = 0; a < kNumAxes; ++a) {
    const Choice& choice = choices[a];
    if (choice.kind == Choice::Kind::kAll) continue;
    const auto axis = static_cast<Axis>(a);
    if (axis == Axis::kPhase) {
      words += choice.holds(1) ? ", in decode alone" : ", in prefill alone";
      continue;
    }
    words += ", at " + word_of(axis, op);
    if (choice.kind == Choice::Kind::kFrom) {
      words += " " + std::to_string(choice.bound) + " and beyond";
    } else if (choice.kind == Choice::Kind::kBelow) {
      words += (choice.bound > 1 ? "s 0.." : " ") + std::to_string(choice.bound - 1);
    } else {
      words += (choice.only.size() > 1 ? "s " : " ") + shortened(to_string(choice));
    }
  }
  return words;
}

double gain_within(Scene& scene, const std::vector<Gains>& gains, const Domain& domain) {
  double sum = 0.0;
  for_each_element(scene, gains, [&](const Indices& at, double gain) {
    if (domain.holds(at)) sum += gain;
  });
  return sum;
}

std::int64_t tokens_gained(Scene& scene, const std::vector<Gains>& gains, const Domain& domain, double bits) {
  std::map<std::array<std::int64_t, 3>, double> tokens;
  for_each_element(scene, gains, [&](const Indices& at, double gain) {
    if (domain.holds(at)) tokens[{at[1], at[2], at[3]}] += gain;  // step, batch row, token
  });
  return std::ranges::count_if(tokens, [bits](const auto& token) { return token.second > bits; });
}

std::vector<Domain> derive_domains(Scene& scene, const std::vector<Gains>& gains) {
  // A scope of several axes at once may look bad along each alone: where everywhere is no start, one phase or one
  // batch row may be.
  std::vector<Domain> starts(3);
  starts[1].choices[0] = only_in(Phase::kPrefill);
  starts[2].choices[0] = only_in(Phase::kDecode);
  std::vector<std::pair<double, Domain>> settled;
  for (const Domain& start : starts) {
    Domain domain = settle(scene, gains, start);
    const Facts facts = domain.facts();
    if (std::ranges::any_of(settled, [&](const auto& other) { return other.second.facts() == facts; })) continue;
    const double gain = gain_within(scene, gains, domain) - domain.bits();
    settled.emplace_back(gain, std::move(domain));
  }
  std::ranges::stable_sort(settled, std::greater{}, &std::pair<double, Domain>::first);
  std::vector<Domain> domains;
  for (auto& [gain, domain] : settled) domains.push_back(std::move(domain));
  return domains;
}

}  // namespace qdiff::explain
