#include "harness/pattern/scale.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace qdiff::pattern {
namespace {

// A fit explains errors that leave at most this share of their root mean square: what honest rounding leaves is at
// most one allowance, and an error that is no larger than that by itself has not been explained by anything.
constexpr double kLargestRemainder = 0.5;

std::int64_t num_groups(const Values& v, Grouping by) {
  const std::int64_t heads = std::max<std::int64_t>(1, v.layout().num_heads());
  switch (by) {
    case Grouping::kWhole:
      return 1;
    case Grouping::kRow:
      return v.num_rows();
    case Grouping::kHead:
      return heads;
    case Grouping::kColumn:
      return v.num_columns();
    case Grouping::kRowAndHead:
      break;
  }
  // A row of scores has one head, and without heads this is kRow again.
  return v.layout().is_scores() || heads == 1 ? 1 : v.num_rows() * heads;
}

std::size_t group_of(const Values& v, Grouping by, const Element& e) {
  const std::int64_t head = v.head_of(e.row, e.column);
  switch (by) {
    case Grouping::kWhole:
      return 0;
    case Grouping::kRow:
      return static_cast<std::size_t>(e.row);
    case Grouping::kHead:
      return static_cast<std::size_t>(head);
    case Grouping::kColumn:
      return static_cast<std::size_t>(e.column);
    case Grouping::kRowAndHead:
      break;
  }
  return static_cast<std::size_t>(e.row * std::max<std::int64_t>(1, v.layout().num_heads()) + head);
}

bool is_finite(const Element& e) { return std::isfinite(e.actual) && std::isfinite(e.expected); }

// How often an explanation held, and how much error it left, in units of each element's allowance.
class Check {
 public:
  void add(double remainder, double error, bool holds) {
    ++count_;
    if (holds) ++explained_;
    // An error is squared below; this keeps one absurd element from making both sums infinite.
    constexpr double kLargest = 1e100;
    remainder_ += std::pow(std::min(std::fabs(remainder), kLargest), 2);
    error_ += std::pow(std::min(std::fabs(error), kLargest), 2);
  }
  std::int64_t count() const { return count_; }
  bool holds() const {
    return static_cast<double>(explained_) >= kNearlyAll * static_cast<double>(count_) &&
           remainder_ <= kLargestRemainder * kLargestRemainder * error_;
  }

 private:
  std::int64_t count_ = 0, explained_ = 0;
  double remainder_ = 0.0, error_ = 0.0;
};

// One number for each group, by least squares in units of the allowance; twice reweighted, so that a few elements with
// a cause of their own do not bend it.
class Fit {
 public:
  Fit(const Values& values, std::span<const Element> elements, Scale::Kind kind, Grouping by)
      : values_(values), elements_(elements), kind_(kind), by_(by) {
    const auto groups = static_cast<std::size_t>(num_groups(values, by));
    number_.assign(groups, 0.0);
    weight_.assign(groups, 0.0);
    count_.assign(groups, 0);
    for (const Element& e : elements) {
      if (is_finite(e)) ++count_[group_of(values, by, e)];
    }
    for (int round = 0; round < 3; ++round) solve(round > 0);
  }

  // Whether the numbers explain nearly all elements. A group of one element says nothing of its number.
  bool explains(std::int64_t least_spare) const {
    Check check;
    std::int64_t fitted = 0;
    for (const std::int64_t n : count_) fitted += n > 1 ? 1 : 0;
    std::int64_t judged = 0;
    for (const Element& e : elements_) {
      const std::size_t group = group_of(values_, by_, e);
      if (is_finite(e) && count_[group] < 2) continue;
      ++judged;
      if (!is_finite(e)) {
        check.add(1.0, 1.0, false);
        continue;
      }
      const double value = predicted(e, group);
      const double allowed = allowance(e, value, group);
      const double error = (e.actual - e.expected) / values_.allowance(e.actual, e.expected, e.sigma);
      check.add((e.actual - value) / allowed, error, std::fabs(e.actual - value) <= allowed);
    }
    const auto all = static_cast<double>(elements_.size());
    return static_cast<double>(judged) >= kMost * all && judged - fitted >= least_spare && check.holds();
  }

  bool holds_where_told() const {
    Check check;
    for (const Element& e : elements_) {
      const std::size_t group = group_of(values_, by_, e);
      if (is_finite(e) && count_[group] < 2) continue;
      const double value = is_finite(e) ? predicted(e, group) : 0.0;
      const bool holds = is_finite(e) && std::fabs(e.actual - value) <= allowance(e, value, group);
      check.add(0.0, 0.0, holds);
    }
    return check.holds();
  }

  // Whether the errors pass one allowance by far. Of values that are off by a last bit, those are wrong that rounding
  // happened to move the same way, and these agree on a ratio by that choice alone.
  bool is_clear() const {
    constexpr double kFar = 2.0;  // root mean square, in allowances
    double error = 0.0;
    double count = 0.0;
    for (const Element& e : elements_) {
      if (!is_finite(e)) continue;
      error += std::pow((e.actual - e.expected) / values_.allowance(e.actual, e.expected, e.sigma), 2);
      count += 1.0;
    }
    return error >= kFar * kFar * count;
  }

  Scale scale(std::span<const std::int64_t> rows) const {
    Scale found{kind_, by_, HUGE_VAL, -HUGE_VAL, 0.0, holds_throughout(rows)};
    for (std::size_t group = 0; group < number_.size(); ++group) {
      if (count_[group] < 2) continue;
      found.least = std::min(found.least, number_[group]);
      found.most = std::max(found.most, number_[group]);
      found.doubt = std::max(found.doubt, doubt(group));
    }
    return found;
  }

 private:
  // Elements that are right by themselves, too, must lie nearer to what the number makes of them than to what is right:
  // a number so near to right that rounding hides it in each of them is still seen in their sum.
  bool holds_throughout(std::span<const std::int64_t> rows) const {
    std::int64_t met = 0;
    std::int64_t explained = 0;
    double with_number = 0.0, without = 0.0;
    for (const std::int64_t row : rows) {
      for (std::int64_t c = 0; c < values_.num_columns(); ++c) {
        if (!values_.compared(row, c)) continue;
        const Element e{values_.actual(row, c), values_.expected(row, c), values_.sigma(row, c),
                        static_cast<std::int32_t>(row), static_cast<std::int32_t>(c)};
        const std::size_t group = group_of(values_, by_, e);
        if (count_[group] < 2 || !is_finite(e)) continue;
        ++met;
        const double value = predicted(e, group);
        if (std::fabs(e.actual - value) <= allowance(e, value, group)) ++explained;
        if (values_.wrong(row, c)) continue;
        const double unit = values_.allowance(e.actual, e.expected, e.sigma);
        with_number += std::pow((e.actual - value) / unit, 2);
        without += std::pow((e.actual - e.expected) / unit, 2);
      }
    }
    return static_cast<double>(explained) >= kMost * static_cast<double>(met) && with_number <= without;
  }
  // One allowance, averaged over the group.
  double doubt(std::size_t group) const { return weight_[group] > 0.0 ? 1.0 / std::sqrt(weight_[group]) : 0.0; }
  double predicted(const Element& e, std::size_t group) const {
    return kind_ == Scale::Kind::kRatio ? number_[group] * e.expected : e.expected + number_[group];
  }
  double allowance(const Element& e, double value, std::size_t group) const {
    const bool ratio = kind_ == Scale::Kind::kRatio;
    const double sigma = ratio ? std::fabs(number_[group]) * e.sigma : e.sigma;
    return values_.allowance(e.actual, value, sigma) + doubt(group) * (ratio ? std::fabs(e.expected) : 1.0);
  }
  void solve(bool reweighted) {
    std::vector<double> weights(number_.size(), 0.0);
    std::vector<double> sums(number_.size(), 0.0);
    for (const Element& e : elements_) {
      if (!is_finite(e)) continue;
      const std::size_t group = group_of(values_, by_, e);
      const double allowed = values_.allowance(e.actual, e.expected, e.sigma);
      double weight = 1.0 / (allowed * allowed);
      if (reweighted) {
        const double off = (e.actual - predicted(e, group)) / allowed;
        weight /= 1.0 + off * off;
      }
      const bool ratio = kind_ == Scale::Kind::kRatio;
      weights[group] += weight * (ratio ? e.expected * e.expected : 1.0);
      sums[group] += weight * (ratio ? e.expected * e.actual : e.actual - e.expected);
    }
    for (std::size_t group = 0; group < number_.size(); ++group) {
      number_[group] = weights[group] > 0.0 ? sums[group] / weights[group] : 0.0;
    }
    weight_ = std::move(weights);
  }

  const Values& values_;
  std::span<const Element> elements_;
  Scale::Kind kind_;
  Grouping by_;
  std::vector<double> number_, weight_;
  std::vector<std::int64_t> count_;
};

}  // namespace

std::optional<Scale> find_scale(const Values& values, std::span<const Element> wrong,
                                std::span<const std::int64_t> rows) {
  for (const Grouping by :
       {Grouping::kWhole, Grouping::kRow, Grouping::kHead, Grouping::kColumn, Grouping::kRowAndHead}) {
    if (by != Grouping::kWhole && num_groups(values, by) < 2) continue;
    const Fit ratio(values, wrong, Scale::Kind::kRatio, by);
    const Fit offset(values, wrong, Scale::Kind::kOffset, by);
    const bool is_ratio = ratio.explains(kLeastSpare);
    const bool is_offset = offset.explains(kLeastSpare);
    if (is_ratio && is_offset) return std::nullopt;
    if (!is_ratio && !is_offset) continue;
    const Fit& fit = is_ratio ? ratio : offset;
    const Scale found = fit.scale(rows);
    // Large values that shrink by a last bit, as under a soft cap, are no constant ratio: of the others none is seen.
    if (found.throughout || fit.is_clear()) return found;
    return std::nullopt;
  }
  return std::nullopt;
}

std::string group_name(const Values& values, Grouping by) {
  const std::string position = values.is_cache() ? "slot" : "token row";
  switch (by) {
    case Grouping::kWhole:
      return "";
    case Grouping::kRow:
      return values.layout().is_scores() ? "head and token row" : position;
    case Grouping::kHead:
      return "head";
    case Grouping::kColumn:
      return values.layout().is_scores() ? "key slot" : "column";
    case Grouping::kRowAndHead:
      break;
  }
  return "head and " + position;
}

bool is_multiple_by_row(const Values& values, std::span<const Element> elements) {
  return elements.empty() || Fit(values, elements, Scale::Kind::kRatio, Grouping::kRow).holds_where_told();
}

std::optional<double> find_power(const Values& values, std::span<const std::int64_t> rows) {
  // ln actual = p ln expected + a constant of the row, by least squares; the deviation of a logarithm is relative.
  struct Line {
    double weight = 0.0, x = 0.0, y = 0.0;
    std::int64_t count = 0;
  };
  const auto usable = [&](std::int64_t row, std::int64_t column, double& x, double& y, double& weight) {
    if (!values.compared(row, column)) return false;
    const double a = values.actual(row, column);
    const double g = values.expected(row, column);
    if (!(a > 0.0 && g > 0.0 && std::isfinite(a) && std::isfinite(g))) return false;
    x = std::log(g);
    y = std::log(a);
    const double relative = values.allowance(a, a, 0.0) / a + values.allowance(g, g, values.sigma(row, column)) / g;
    weight = 1.0 / (relative * relative);
    return true;
  };
  std::vector<Line> lines(rows.size());
  double xx = 0.0;
  double xy = 0.0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    Line& line = lines[i];
    double x = 0.0;
    double y = 0.0;
    double weight = 0.0;
    for (std::int64_t c = 0; c < values.num_columns(); ++c) {
      if (!usable(rows[i], c, x, y, weight)) continue;
      ++line.count;
      line.weight += weight;
      line.x += weight * x;
      line.y += weight * y;
    }
    if (line.count < 3) continue;
    line.x /= line.weight;
    line.y /= line.weight;
    for (std::int64_t c = 0; c < values.num_columns(); ++c) {
      if (!usable(rows[i], c, x, y, weight)) continue;
      xx += weight * (x - line.x) * (x - line.x);
      xy += weight * (x - line.x) * (y - line.y);
    }
  }
  const double power = xy / xx;
  if (!(power > 0.0) || !std::isfinite(power)) return std::nullopt;
  // A power that may as well be 1 is none.
  if (std::fabs(power - 1.0) * std::sqrt(xx) < 8.0) return std::nullopt;

  Check check;
  std::int64_t fitted = 1;
  std::int64_t skipped = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const Line& line = lines[i];
    if (line.count < 3) {
      skipped += values.wrong_in_row(rows[i]);
      continue;
    }
    ++fitted;
    const double doubt = 1.0 / std::sqrt(line.weight);
    for (std::int64_t c = 0; c < values.num_columns(); ++c) {
      if (!values.wrong(rows[i], c)) continue;
      const double a = values.actual(rows[i], c);
      const double g = values.expected(rows[i], c);
      const double sigma = values.sigma(rows[i], c);
      if (!(g > 0.0) || !std::isfinite(a)) {
        check.add(1.0, 1.0, false);
        continue;
      }
      const double value = std::exp(line.y + power * (std::log(g) - line.x));
      const double slack = doubt + std::fabs(std::log(g) - line.x) / std::sqrt(xx);
      const double allowed = values.allowance(a, value, power * sigma / g * value) + slack * value;
      check.add((a - value) / allowed, (a - g) / values.allowance(a, g, sigma), std::fabs(a - value) <= allowed);
    }
  }
  const double all = static_cast<double>(check.count() + skipped);
  const bool enough = static_cast<double>(check.count()) >= kMost * all && check.count() - fitted >= kLeastSpare;
  if (!enough || !check.holds()) return std::nullopt;
  return power;
}

KeptLength find_kept_length(const Values& values, std::span<const Element> wrong) {
  const std::int64_t d = values.layout().head_columns();
  if (d < 2 || d % 2 != 0) return KeptLength::kNone;
  // `stride` apart, `count` dimensions from `first` on.
  const auto add = [&](Check& check, std::int64_t row, std::int64_t first, std::int64_t stride, std::int64_t count) {
    double expected = 0.0;
    double actual = 0.0;
    double error = 0.0;
    double allowed = 0.0;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int64_t column = first + i * stride;
      const double a = values.actual(row, column);
      const double g = values.expected(row, column);
      const double allowance = values.allowance(a, g, values.sigma(row, column));
      if (!values.compared(row, column) || !std::isfinite(a) || !std::isfinite(g)) return check.add(1.0, 1.0, false);
      actual += a * a;
      expected += g * g;
      error += (a - g) * (a - g);
      allowed += allowance * allowance;
    }
    // Rounding moves each dimension on its own: at most the length of all allowances together. Of an error without
    // direction its share along the expected vector is left in the length.
    const double off = std::sqrt(actual) - std::sqrt(expected);
    check.add(off / std::sqrt(allowed), std::sqrt(error / allowed / static_cast<double>(count)),
              std::fabs(off) <= std::sqrt(allowed));
  };
  Check pairs, heads;
  std::int64_t last_head = -1;
  for (const Element& e : wrong) {
    const bool second = e.column % d >= d / 2;
    // A pair whose first dimension is wrong, too, was met there.
    const bool met = second && values.wrong(e.row, e.column - d / 2);
    if (!met) add(pairs, e.row, second ? e.column - d / 2 : e.column, d / 2, 2);
    const std::int64_t head = (e.row * values.num_columns() + e.column) / d;
    if (head != last_head) add(heads, e.row, e.column / d * d, 1, d);
    last_head = head;
  }
  if (pairs.count() >= kLeastSpare && pairs.holds()) return KeptLength::kPairs;
  return heads.count() >= kLeastSpare && heads.holds() ? KeptLength::kHeads : KeptLength::kNone;
}

}  // namespace qdiff::pattern
