#include "qdiff/expected.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>

#include "harness/compare/judge.h"
#include "harness/contract/number_text.h"
#include "harness/contract/splitmix64.h"

namespace qdiff::matcher {
namespace {

// As many as the reference's ensembles have (reference/memory.h), on which the bounds for them were measured.
constexpr int kMembers = 16;

// Variances over (u x)^2: reference/noise.h and noise.cpp derive and measure them.
constexpr double kSumRounding = 0.19;
constexpr double kOneRounding = 1.0 / 3;
constexpr double kTwoUlps = 16.0 / 3 * 0.541;
constexpr double kCutOffOfEach = 0.043;
constexpr double kCutOffOfAll = 0.034;

DType dtype_of(Type type) {
  switch (type) {
    case Type::kFloat32:
      return DType::kF32;
    case Type::kFloat16:
      return DType::kF16;
    case Type::kBFloat16:
      break;
  }
  return DType::kBF16;
}

double unit_of(const Arithmetic& arithmetic) { return unit_roundoff(dtype_of(arithmetic.accumulate)); }

double finite_or_zero(double x) { return std::isfinite(x) ? x : 0.0; }

// Mean square deviations of the members from gold, each row's apart. The part that a row shares is told from the rest
// as the reference's ensembles do it: the common offset of a row (its mean) and the common factor (its regression on
// gold), each less what independent errors alone would show. Sixteen members give a variance to 35 %, so an element's
// own estimate is averaged with its four neighbours', which count four times its own at most: next to a channel of
// massive values it must not go blind.
void set_deviations(Expected& expected, const std::vector<std::vector<double>>& members) {
  const auto width = static_cast<std::size_t>(expected.columns);
  std::vector<double> own(width), pooled(width);
  for (std::size_t row = 0; row < static_cast<std::size_t>(expected.rows); ++row) {
    const double* gold = expected.value.data() + row * width;
    std::fill(own.begin(), own.end(), 0.0);
    double power = 0.0;
    for (std::size_t i = 0; i < width; ++i) power += finite_or_zero(gold[i]) * finite_or_zero(gold[i]);
    const double safe_power = power == 0.0 ? 1.0 : power;
    double offset = 0.0, factor = 0.0;
    for (const std::vector<double>& member : members) {
      double sum = 0.0, along_gold = 0.0;
      for (std::size_t i = 0; i < width; ++i) {
        const double deviation = std::isfinite(gold[i]) ? member[row * width + i] - gold[i] : 0.0;
        own[i] += deviation * deviation / kMembers;
        sum += deviation;
        along_gold += deviation * finite_or_zero(gold[i]);
      }
      const auto n = static_cast<double>(width);
      offset += sum / n * (sum / n) / kMembers;
      factor += along_gold / safe_power * (along_gold / safe_power) / kMembers;
    }
    double mean_own = 0.0, own_along_gold = 0.0;
    for (std::size_t i = 0; i < width; ++i) {
      mean_own += own[i] / static_cast<double>(width);
      own_along_gold += own[i] * finite_or_zero(gold[i]) * finite_or_zero(gold[i]);
    }
    offset = std::max(0.0, offset - mean_own / static_cast<double>(width));
    factor = std::max(0.0, factor - own_along_gold / (safe_power * safe_power));
    for (std::size_t i = 0; i < width; ++i) {
      pooled[i] = own[i] * 0.5;
      for (std::size_t shift : {width - 2 % width, width - 1 % width, 1 % width, 2 % width}) {
        pooled[i] += std::min(own[(i + shift) % width], own[i] * 4.0) * 0.125;
      }
    }
    for (std::size_t i = 0; i < width; ++i) {
      const double squared = finite_or_zero(gold[i]) * finite_or_zero(gold[i]);
      const double shared = std::min(offset + factor * squared, pooled[i] * 0.9);
      expected.own.push_back(static_cast<float>(std::sqrt(pooled[i] - shared)));
      expected.shared.push_back(static_cast<float>(std::sqrt(shared)));
    }
  }
}

std::string bare(std::string text, const std::string& removed) {
  const std::size_t at = text.find(removed);
  if (at != std::string::npos) text.erase(at, removed.size());
  return text;
}

// In the words of a test, which knows rows and columns but neither batches nor layers.
std::string sentence_of(const compare::Judgement& judgement, std::int64_t row, std::int64_t column) {
  using compare::Outcome;
  const std::string statistic = compare::in_words(judgement.decisive_statistic) + " is " +
                                digits(judgement.ratio_to_bound, 4) + " times its bound";
  std::string text;
  if (judgement.outcome == Outcome::kMatch) {
    return "explained by rounding: nearest to its bound, " + statistic;
  }
  if (judgement.outcome == Outcome::kUnjudged) return "nothing was compared: the tensor is empty";
  if (judgement.ratio_to_bound == 0.0) {
    text = judgement.reason.substr(0, judgement.reason.rfind(" at ["));
  } else if (judgement.outcome == Outcome::kInconclusive) {
    text = statistic + ", beyond every honest engine measured and not far enough to be sure";
  } else {
    text = "not explained by rounding: " + statistic;
  }
  if (judgement.decisive_statistic == compare::name(compare::Statistic::kSliceRms)) {
    text += " (" + bare(judgement.statistics.worst_slice, " of batch row 0") + ")";
  }
  if (row < 0) return text;
  return text + "; worst at [" + std::to_string(row) + ", " + std::to_string(column) +
         "]: " + digits(judgement.actual, 6) + " where " + digits(judgement.expected, 6) + " is expected";
}

}  // namespace

double Rounding::error(double deviation) {
  if (member_ == 0) return 0.0;
  state_ += kGoldenGamma;
  const double uniform = static_cast<double>(splitmix64(state_) >> 11) * 0x1p-53 - 0.5;
  return std::isfinite(deviation) ? std::sqrt(12.0) * uniform * deviation : 0.0;
}

double Rounding::sum_of(double value, double squares, std::int64_t length) {
  if (member_ == 0) return value;
  const double unit = unit_of(arithmetic_);
  const auto n = static_cast<double>(length);
  const double mean_partial_square = value * value / 3.0 + squares / 6.0;
  double variance = kSumRounding * unit * unit * (n * mean_partial_square + squares);
  double sum = value;
  if (arithmetic_.matrix_units) {
    variance += n * n * unit * unit * kCutOffOfEach * kCutOffOfEach * mean_partial_square;
    // All sums are cut off towards zero, alike in a member and to another degree in the next.
    const double degree = static_cast<double>(splitmix64(member_) >> 11) * 0x1p-53 - 0.5;
    sum += std::sqrt(12.0) * degree * n * unit * kCutOffOfAll * value;
  }
  return sum + error(std::sqrt(variance));
}

double Rounding::once(double x) { return x + error(std::sqrt(kOneRounding) * unit_of(arithmetic_) * std::fabs(x)); }

double Rounding::function(double x) { return x + error(std::sqrt(kTwoUlps) * unit_of(arithmetic_) * std::fabs(x)); }

double Rounding::kept_as(Type type, double x) { return x + error(spacing(dtype_of(type), x) / std::sqrt(12.0)); }

Expected expect(std::int64_t rows, std::int64_t columns, Arithmetic arithmetic,
                const std::function<std::vector<double>(Rounding&)>& operation) {
  if (rows < 0 || columns < 0) throw std::invalid_argument("qdiff::matcher::expect: negative rows or columns");
  const auto run = [&](std::uint64_t member) {
    Rounding rounding(arithmetic, member);
    std::vector<double> values = operation(rounding);
    if (static_cast<std::int64_t>(values.size()) != rows * columns) {
      throw std::invalid_argument("qdiff::matcher::expect: the operation returned " + std::to_string(values.size()) +
                                  " values for " + std::to_string(rows) + " rows of " + std::to_string(columns));
    }
    return values;
  };
  Expected expected{rows, columns, run(0), {}, {}, arithmetic};
  std::vector<std::vector<double>> members;
  for (int member = 1; member <= kMembers; ++member)
    members.push_back(run(splitmix64(static_cast<std::uint64_t>(member))));
  set_deviations(expected, members);
  return expected;
}

Answer judge(const Stored& actual, const Expected& expected) {
  const std::int64_t size = expected.rows * expected.columns;
  if (actual.size != size) {
    return {false,
            std::to_string(actual.size) + " elements where " + std::to_string(expected.rows) + " rows of " +
                std::to_string(expected.columns) + " are expected",
            0.0, -1, -1};
  }
  if (size == 0) return {false, "nothing was compared: the tensor is empty", 0.0, -1, -1};
  // The judge knows the tensors of a model. Rows and columns without heads are those of an MLP's output, and a span of
  // several operations is one whose error an ensemble measured.
  constexpr std::array<TensorKey, 3> kSpan = {TensorKey{0, {Op::kGateProj, 0}}, TensorKey{0, {Op::kAct, 0}},
                                              TensorKey{0, {Op::kDownProj, 0}}};
  ModelConfig config;
  config.hidden = expected.columns;
  Step step;
  step.tokens.assign(1, std::vector<std::int32_t>(static_cast<std::size_t>(expected.rows), 0));
  const Shape shape = {1, expected.rows, expected.columns};
  const TensorView view{actual.data, dtype_of(actual.type), shape, {}, nullptr};
  Precision precision = plain_precision(dtype_of(actual.type));
  precision.accumulate = dtype_of(expected.arithmetic.accumulate);
  const Expectation expectation{shape, expected.value, expected.own, expected.shared, false, {}};
  const compare::Judgement judgement =
      compare::judge({Op::kDownProj, view, expectation, step, precision, config, kSpan});
  Answer answer{judgement.outcome == compare::Outcome::kMatch, {}, judgement.ratio_to_bound, -1, -1};
  if (!judgement.worst_index.empty()) {
    answer.row = judgement.worst_index[1];
    answer.column = judgement.worst_index[2];
  }
  answer.sentence = sentence_of(judgement, answer.row, answer.column);
  return answer;
}

}  // namespace qdiff::matcher
