#include "harness/pattern/moved.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

namespace qdiff::pattern {
namespace {

// Where an element's value would come from under a rule; row -1: nowhere.
struct Place {
  std::int64_t row = -1;
  std::int64_t column = 0;
};

Place source_of(const Rearranged& rule, const Values& v, std::int64_t row, std::int64_t column) {
  const std::int64_t width = v.num_columns();
  const std::int64_t positions = v.layout().num_positions();
  const std::int64_t flat = row * width + column;
  const std::int64_t d = v.layout().head_columns();
  switch (rule.rule) {
    case Rule::kColumnMajor:
      return {flat % v.num_rows(), flat / v.num_rows()};
    case Rule::kColumnMajorByBatch: {
      const std::int64_t first = row / positions * positions;
      const std::int64_t within = flat - first * width;
      return {first + within % positions, within / positions};
    }
    case Rule::kOtherStride: {
      // Rows overlap where the stride is too short, and the later one stays.
      const std::int64_t stride = width + rule.value;
      const std::int64_t from = std::min(flat / stride, v.num_rows() - 1);
      const std::int64_t at = flat - from * stride;
      return at < width ? Place{from, at} : Place{};
    }
    case Rule::kShiftedColumns:
      return column - rule.value >= 0 && column - rule.value < width ? Place{row, column - rule.value} : Place{};
    case Rule::kHeadsBeforeTokens: {
      const std::int64_t first = row / positions * positions;
      const std::int64_t vector = (flat - first * width) / d;  // of d elements, counted as [head, token]
      return {first + vector % positions, vector / positions * d + column % d};
    }
    case Rule::kHalvesSwapped:
      return {row, column % d < d / 2 ? column + d / 2 : column - d / 2};
    case Rule::kInterleaved: {
      const std::int64_t at = column % d;
      return {row, column - at + at / 2 + at % 2 * (d / 2)};
    }
    case Rule::kDeinterleaved: {
      const std::int64_t at = column % d;
      return {row, column - at + at % (d / 2) * 2 + at / (d / 2)};
    }
  }
  return {};
}

bool holds(const Rearranged& rule, const Values& v, std::span<const Element> wrong) {
  std::int64_t met = 0;
  std::int64_t explained = 0;
  for (const Element& e : wrong) {
    const Place from = source_of(rule, v, e.row, e.column);
    if (from.row < 0 || !v.compared(from.row, from.column)) continue;
    ++met;
    const double value = v.expected(from.row, from.column);
    if (std::isfinite(value) && v.explains(value, v.sigma(from.row, from.column), e.actual)) ++explained;
    // A rule that is not the one is given up after a few elements.
    if (met == 64 && explained < 48) return false;
  }
  return met >= kLeastSpare && 2 * met >= static_cast<std::int64_t>(wrong.size()) &&
         static_cast<double>(explained) >= kNearlyAll * static_cast<double>(met);
}

// Vectors: heads of a row, or rows.
class Vectors {
 public:
  explicit Vectors(const Values& values)
      : v_(values),
        in_row_(values.layout().is_scores() ? 1 : std::max<std::int64_t>(1, values.layout().num_heads())),
        size_(values.num_columns() / in_row_) {}

  std::int64_t count() const { return v_.num_rows() * in_row_; }
  std::int64_t size() const { return size_; }
  std::int64_t row_of(std::int64_t vector) const { return vector / in_row_; }
  std::int64_t first_column(std::int64_t vector) const { return vector % in_row_ * size_; }
  std::int64_t head_of(std::int64_t vector) const { return v_.head_of(row_of(vector), first_column(vector)); }
  std::int64_t batch_of(std::int64_t vector) const { return v_.layout().batch_of(row_of(vector)); }
  std::int64_t position_of(std::int64_t vector) const { return v_.layout().position_of(row_of(vector)); }

  // Wrong, and holding numbers that can be recognised: at least three different ones, none of them infinite or NaN but
  // for masked scores.
  bool is_telling(std::int64_t vector) const {
    if (v_.wrong_in_row(row_of(vector)) == 0) return false;
    bool wrong = false;
    std::array<double, 3> seen{};
    std::size_t different = 0;
    for (std::int64_t i = 0; i < size_; ++i) {
      const std::int64_t column = first_column(vector) + i;
      wrong = wrong || v_.wrong(row_of(vector), column);
      const double a = v_.actual(row_of(vector), column);
      if (v_.op() == Op::kScores && std::isinf(a) && a < 0.0) continue;
      if (!std::isfinite(a)) return false;
      const auto end = seen.begin() + static_cast<std::ptrdiff_t>(different);
      if (different < seen.size() && std::find(seen.begin(), end, a) == end) seen[different++] = a;
    }
    return wrong && different == seen.size();
  }

  // Whether `vector` holds what is expected of `other`.
  bool holds(std::int64_t vector, std::int64_t other) const {
    const std::int64_t from = row_of(other);
    for (std::int64_t i = 0; i < size_; ++i) {
      const std::int64_t column = first_column(other) + i;
      if (!v_.compared(from, column)) return false;
      const double a = v_.actual(row_of(vector), first_column(vector) + i);
      const double value = v_.expected(from, column);
      const bool masked = v_.op() == Op::kScores && std::isinf(value) && value < 0.0 && v_.vanishes(a, from);
      if (!masked && !v_.explains(value, v_.sigma(from, column), a)) return false;
    }
    return true;
  }

 private:
  const Values& v_;
  std::int64_t in_row_;  // vectors in a row
  std::int64_t size_;
};

// Which places along one axis the sampled vectors were found at, by vote: key -> place -> votes.
using Votes = std::map<std::int64_t, std::map<std::int64_t, std::int64_t>>;

std::pair<std::int64_t, std::int64_t> best_of(const std::map<std::int64_t, std::int64_t>& votes) {
  std::pair<std::int64_t, std::int64_t> best{0, 0};
  for (const auto& [place, count] : votes) {
    // The nearest shift wins among equals.
    if (count > best.second || (count == best.second && std::llabs(place) < std::llabs(best.first))) {
      best = {place, count};
    }
  }
  return best;
}

std::int64_t agreeing(const Votes& votes) {
  std::int64_t sum = 0;
  for (const auto& [key, places] : votes) sum += best_of(places).second;
  return sum;
}

std::string list_pairs(const std::vector<std::pair<std::int64_t, std::int64_t>>& pairs, const std::string& one) {
  if (pairs.size() == 1) {
    return one + ' ' + std::to_string(pairs[0].first) + " holds the values of " + one + ' ' +
           std::to_string(pairs[0].second);
  }
  const bool one_source = std::ranges::all_of(pairs, [&](const auto& pair) { return pair.second == pairs[0].second; });
  if (one_source) return one + "s hold the values of " + one + ' ' + std::to_string(pairs[0].second);
  constexpr std::size_t kMostPairs = 4;
  std::string text = one + "s hold other " + one + "s' values (";
  for (std::size_t i = 0; i < std::min(pairs.size(), kMostPairs); ++i) {
    text += (i > 0 ? ", " : "") + std::to_string(pairs[i].first) + " those of " + std::to_string(pairs[i].second);
  }
  return text + (pairs.size() > kMostPairs ? ", ...)" : ")");
}

}  // namespace

std::optional<Rearranged> find_rearrangement(const Values& values, std::span<const Element> wrong) {
  if (!values.same_shape() || values.layout().is_scores()) return std::nullopt;
  std::vector<Rearranged> rules;
  const std::int64_t d = values.layout().head_columns();
  if (d > 1 && d % 2 == 0) {
    rules.push_back({Rule::kHalvesSwapped, 0});
    // With two pairs the two are the same exchange.
    rules.push_back({Rule::kInterleaved, 0});
    if (d > 4) rules.push_back({Rule::kDeinterleaved, 0});
  }
  const std::int64_t rows = values.num_rows();
  const std::int64_t positions = values.layout().num_positions();
  if (d > 0 && values.layout().num_heads() > 1 && positions > 1) rules.push_back({Rule::kHeadsBeforeTokens, 0});
  if (rows > 1 && values.num_columns() > 1) rules.push_back({Rule::kColumnMajor, 0});
  if (positions > 1 && values.layout().batch() > 1 && values.num_columns() > 1) {
    rules.push_back({Rule::kColumnMajorByBatch, 0});
  }
  for (const std::int64_t by : {1, 2, 3, 4, 8, 16, 32, 64, 128}) {
    for (const std::int64_t value : {by, -by}) {
      if (by >= values.num_columns()) continue;
      rules.push_back({Rule::kShiftedColumns, value});
      if (rows > 1) rules.push_back({Rule::kOtherStride, value});
    }
  }
  for (const Rearranged& rule : rules) {
    if (holds(rule, values, wrong)) return rule;
  }
  return std::nullopt;
}

std::string describe(const Rearranged& found) {
  switch (found.rule) {
    case Rule::kColumnMajor:
      return "stored column by column";
    case Rule::kColumnMajorByBatch:
      return "each batch row stored column by column";
    case Rule::kOtherStride:
      return "rows stored " + std::to_string(std::llabs(found.value)) + " elements too " +
             (found.value > 0 ? "far apart" : "close");
    case Rule::kShiftedColumns:
      return "shifted by " + std::to_string(found.value) + (std::llabs(found.value) == 1 ? " column" : " columns");
    case Rule::kHeadsBeforeTokens:
      return "heads and tokens exchanged in memory";
    case Rule::kHalvesSwapped:
      return "halves of each head swapped";
    case Rule::kInterleaved:
      return "dimensions interleaved";
    case Rule::kDeinterleaved:
      return "even dimensions before odd ones";
  }
  return "";
}

std::optional<Mixup> find_mixup(const Values& values) {
  const Vectors vectors(values);
  if (!values.same_shape() || vectors.size() < 3 || vectors.count() < 2) return std::nullopt;
  std::vector<std::int64_t> telling;
  for (std::int64_t vector = 0; vector < vectors.count(); ++vector) {
    if (vectors.is_telling(vector)) telling.push_back(vector);
  }
  if (telling.empty()) return std::nullopt;

  // A comparison ends at the first element that differs, so a search costs about an element for each vector, and this
  // many searches about a pass over the tensor. The step is odd, or it would meet the same heads again and again.
  constexpr std::size_t kMostSearches = 64;
  const std::size_t step = telling.size() <= kMostSearches ? 1 : (telling.size() / kMostSearches) | 1U;
  Votes heads, batches, shifts;
  std::int64_t searched = 0;
  std::int64_t elsewhere = 0;  // found, at any place
  for (std::size_t i = 0; i < telling.size(); i += step) {
    const std::int64_t vector = telling[i];
    ++searched;
    bool found = false;
    for (std::int64_t other = 0; other < vectors.count(); ++other) {
      if (other == vector || !vectors.holds(vector, other)) continue;
      found = true;
      const bool same_head = vectors.head_of(vector) == vectors.head_of(other);
      const bool same_batch = vectors.batch_of(vector) == vectors.batch_of(other);
      const std::int64_t shift = vectors.position_of(other) - vectors.position_of(vector);
      if (same_batch && shift == 0) ++heads[vectors.head_of(vector)][vectors.head_of(other)];
      if (same_head && shift == 0) ++batches[vectors.batch_of(vector)][vectors.batch_of(other)];
      if (same_head && same_batch) ++shifts[0][shift];
    }
    if (found) ++elsewhere;
  }
  const auto most = [&](std::int64_t count) { return 2 * count > searched; };
  if (!most(elsewhere)) return std::nullopt;

  Mixup mixup;
  const auto pairs_of = [](const Votes& votes) {
    std::vector<std::pair<std::int64_t, std::int64_t>> pairs;
    for (const auto& [key, places] : votes) pairs.emplace_back(key, best_of(places).first);
    return pairs;
  };
  if (most(agreeing(heads))) {
    mixup.axis = Mixup::Axis::kHead;
    mixup.pairs = pairs_of(heads);
  } else if (most(agreeing(batches))) {
    mixup.axis = Mixup::Axis::kBatch;
    mixup.pairs = pairs_of(batches);
  } else if (most(agreeing(shifts))) {
    mixup.axis = Mixup::Axis::kPosition;
    mixup.shift = best_of(shifts[0]).first;
  }
  return mixup;
}

std::string describe(const Mixup& found, const Values& values) {
  const std::string position = values.is_cache() ? "slot" : "token row";
  switch (found.axis) {
    case Mixup::Axis::kHead:
      return list_pairs(found.pairs, "head");
    case Mixup::Axis::kBatch:
      return list_pairs(found.pairs, "batch row");
    case Mixup::Axis::kPosition:
      return position + (found.shift < 0 ? " n holds what belongs to n - " : " n holds what belongs to n + ") +
             std::to_string(std::llabs(found.shift));
    case Mixup::Axis::kSeveral:
      break;
  }
  return "values that belong elsewhere in the tensor";
}

}  // namespace qdiff::pattern
