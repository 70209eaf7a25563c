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

constexpr auto kHead = static_cast<std::size_t>(Axis::kHead), kColumn = static_cast<std::size_t>(Axis::kColumn);

// Whether the head changes along a row.
bool has_heads_in_columns(const compare::Layout& layout) { return !layout.is_scores() && layout.head_columns() > 0; }

// The first axes, whose index is the same in all columns of a row.
std::size_t num_axes_of_row(bool heads_in_columns) { return heads_in_columns ? kHead : kHead + 1; }

std::span<const float> gains_of_row(const Gains& gains, const compare::Layout& layout, std::int64_t row) {
  const auto width = static_cast<std::size_t>(layout.num_columns());
  return std::span(gains.of_element).subspan(static_cast<std::size_t>(row) * width, width);
}

// visit(instance, row, gain) of each row in which some element lies inside the domain, with what those gain together.
template <typename Visit>
void for_each_row_inside(Scene& scene, const std::vector<Gains>& gains, const Domain& domain, Visit visit) {
  for (const Gains& of : gains) {
    const compare::Layout& layout = scene.layout(*of.instance);
    const Inside inside(*of.instance, layout, domain);
    for (std::int64_t r = 0; r < layout.num_rows(); ++r) {
      const std::span<const std::uint8_t> columns =
          layout.counts(r) ? inside.of_row(r) : std::span<const std::uint8_t>();
      if (columns.empty()) continue;
      const std::span<const float> of_row = gains_of_row(of, layout, r);
      double gain = 0.0;
      for (std::size_t c = 0; c < columns.size(); ++c) gain += columns[c] != 0 ? static_cast<double>(of_row[c]) : 0.0;
      visit(*of.instance, r, gain);
    }
  }
}

// For each axis the gain at each of its indices, within the choices of the other axes.
class GainsAlong {
 public:
  GainsAlong(Scene& scene, const std::vector<Gains>& gains, const Domain& domain) : domain_(domain) {
    along_[0].resize(2, 0.0);
    for (const Gains& of : gains) {
      const compare::Layout& layout = scene.layout(*of.instance);
      look_at_columns(*of.instance, layout);
      for (std::int64_t r = 0; r < layout.num_rows(); ++r) {
        if (layout.counts(r)) add_row(indices_of(*of.instance, layout, r, 0), gains_of_row(of, layout, r));
      }
    }
  }
  const std::vector<double>& at(std::size_t axis) const { return along_[axis]; }

 private:
  struct Column {
    std::size_t head, column;
    bool head_inside, column_inside;
  };

  void look_at_columns(const Instance& instance, const compare::Layout& layout) {
    heads_in_columns_ = has_heads_in_columns(layout);
    columns_.clear();
    for (std::int64_t c = 0; c < layout.num_columns(); ++c) {
      const Indices at = indices_of(instance, layout, 0, c);
      columns_.push_back({static_cast<std::size_t>(at[kHead]), static_cast<std::size_t>(at[kColumn]),
                          !heads_in_columns_ || domain_.choices[kHead].holds(at[kHead]),
                          domain_.choices[kColumn].holds(at[kColumn])});
      along(kHead, at[kHead]);
      along(kColumn, at[kColumn]);
    }
  }

  // An element counts along each axis where it lies inside by all, and along one where it lies outside by that alone.
  void add_row(const Indices& row, std::span<const float> gains) {
    const std::size_t num_axes = num_axes_of_row(heads_in_columns_);
    std::size_t outside = kNumAxes, num_outside = 0;
    for (std::size_t a = 0; a < num_axes; ++a) {
      if (domain_.choices[a].holds(row[a])) continue;
      outside = a;
      if (++num_outside > 1) return;
    }
    double sum = 0.0;
    for (std::size_t c = 0; c < columns_.size(); ++c) {
      const double gain = gains[c];
      const Column& of = columns_[c];
      if (of.head_inside && of.column_inside) sum += gain;
      if (num_outside > 0) continue;
      if (heads_in_columns_ && of.column_inside) along_[kHead][of.head] += gain;
      if (of.head_inside) along_[kColumn][of.column] += gain;
    }
    for (std::size_t a = 0; a < num_axes; ++a) {
      if (num_outside == 0 || a == outside) along(a, row[a]) += sum;
    }
  }

  double& along(std::size_t axis, std::int64_t index) {
    const auto i = static_cast<std::size_t>(index);
    if (i >= along_[axis].size()) along_[axis].resize(i + 1, 0.0);
    return along_[axis][i];
  }

  const Domain& domain_;
  bool heads_in_columns_ = false;
  std::vector<Column> columns_;
  std::array<std::vector<double>, kNumAxes> along_;
};

// The axis that gains most by another choice is chosen anew, until none gains.
Domain settle(Scene& scene, const std::vector<Gains>& gains, Domain domain) {
  constexpr int kMostChanges = 12;
  double now = gain_within(scene, gains, domain) - domain.bits();
  for (int change = 0; change < kMostChanges; ++change) {
    const GainsAlong along(scene, gains, domain);
    std::size_t axis = kNumAxes;
    Choice chosen;
    double best = now;
    for (std::size_t a = 0; a < kNumAxes; ++a) {
      Best other = best_choice(along.at(a));
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

Inside::Inside(const Instance& instance, const compare::Layout& layout, const Domain& domain)
    : instance_(instance), layout_(layout), domain_(domain) {
  for (std::int64_t c = 0; c < layout.num_columns(); ++c) {
    const Indices at = indices_of(instance, layout, 0, c);
    const bool head = !has_heads_in_columns(layout) || domain.choices[kHead].holds(at[kHead]);
    columns_.push_back(head && domain.choices[kColumn].holds(at[kColumn]) ? 1 : 0);
  }
}

std::span<const std::uint8_t> Inside::of_row(std::int64_t row) const {
  const Indices at = indices_of(instance_, layout_, row, 0);
  const std::size_t num_axes = num_axes_of_row(has_heads_in_columns(layout_));
  for (std::size_t a = 0; a < num_axes; ++a) {
    if (!domain_.choices[a].holds(at[a])) return {};
  }
  return columns_;
}

double gain_within(Scene& scene, const std::vector<Gains>& gains, const Domain& domain) {
  double sum = 0.0;
  for_each_row_inside(scene, gains, domain, [&](const Instance&, std::int64_t, double gain) { sum += gain; });
  return sum;
}

std::int64_t tokens_gained(Scene& scene, const std::vector<Gains>& gains, const Domain& domain, double bits) {
  std::map<std::array<std::int64_t, 3>, double> tokens;
  for_each_row_inside(scene, gains, domain, [&](const Instance& instance, std::int64_t row, double gain) {
    const Indices at = indices_of(instance, scene.layout(instance), row, 0);
    tokens[{at[1], at[2], at[3]}] += gain;  // step, batch row, token
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
