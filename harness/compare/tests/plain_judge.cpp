#include "harness/compare/tests/plain_judge.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <set>

#include "harness/compare/bounds.h"
#include "harness/compare/distinct.h"
#include "harness/compare/layout.h"

namespace qdiff::compare {
namespace {

int significant_bits(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return 53;
    case DType::kF32:
      return 24;
    case DType::kF16:
      return 11;
    case DType::kBF16:
      break;
  }
  return 8;
}

// The distance between neighbours of this type at a magnitude; float32 and bfloat16 may flush what is subnormal.
double spacing_at(DType dtype, double magnitude) {
  const double least = dtype == DType::kF64 ? 0x1p-500 : dtype == DType::kF16 ? 0x1p-24 : 0x1p-126;
  if (magnitude == 0.0) return least;
  return std::max(least, std::ldexp(1.0, std::ilogb(magnitude) + 1 - significant_bits(dtype)));
}

struct Element {
  std::int64_t index = 0, row = 0, column = 0, batch = 0, head = 0, position = 0;
  double gold = 0.0, actual = 0.0, error = 0.0, spacing = 0.0;
  double v = 0.0, w = 0.0, explained = 0.0, excess = 0.0;
};

// One element a place of the tensor, by its index; pads and fully masked rows left out.
struct Elements {
  std::vector<Element> counted;  // what statistics see
  std::int64_t seen = 0;         // those, and the zeros and masks that say nothing
  std::int64_t rows = 0, columns = 0, batch = 0, heads = 0, positions = 0;
  bool heads_in_rows = false;
};

Elements elements_of(const DrawnComparison& drawn) {
  const Sample& s = drawn.sample;
  const Shape& shape = s.actual.shape();
  const bool cache = s.op == Op::kKCache || s.op == Op::kVCache;
  Elements result;
  result.heads_in_rows = s.op == Op::kScores || s.op == Op::kProbs;
  result.batch = shape[0];
  result.heads = result.heads_in_rows ? shape[1] : 1;
  result.positions = result.heads_in_rows ? shape[2] : shape[1];
  result.columns = result.heads_in_rows ? shape[3] : shape[2] * (shape.size() == 4 ? shape[3] : 1);
  result.rows = result.batch * result.heads * result.positions;
  const double roundings = cache ? 2.0 : 1.0;
  for (std::int64_t row = 0; row < result.rows; ++row) {
    const std::int64_t b = row / (result.heads * result.positions), position = row % result.positions;
    const std::int64_t all_positions = s.expected.shape[result.heads_in_rows ? 2 : 1];
    const std::int64_t gold_position = position + all_positions - result.positions;  // the last row of logits
    const std::int64_t slot = cache ? position : s.step.past_length + gold_position;
    if (slot < s.step.left_padding[static_cast<std::size_t>(b)]) continue;
    const std::int64_t gold_row =
        (b * result.heads + row / result.positions % result.heads) * all_positions + gold_position;
    const auto gold_at = [&](std::int64_t c) { return static_cast<std::size_t>(gold_row * result.columns + c); };
    if (result.heads_in_rows) {
      const double masked = s.op == Op::kScores ? -kInf : 0.0;
      std::int64_t unmasked = 0;
      for (std::int64_t c = 0; c < result.columns; ++c) unmasked += s.expected.value[gold_at(c)] != masked ? 1 : 0;
      // A row with an unknown element is looked at by the same rule; the draws have none there.
      if (unmasked == 0) continue;
    }
    for (std::int64_t c = 0; c < result.columns; ++c) {
      const std::size_t gold_index = gold_at(c);
      if (!s.expected.unknown.empty() && s.expected.unknown[gold_index] != 0) continue;
      ++result.seen;
      Element e;
      e.index = row * result.columns + c;
      e.row = row, e.column = c, e.batch = b, e.position = position;
      e.head = row / result.positions % result.heads;
      e.gold = s.expected.value[gold_index];
      e.actual = s.actual.at(e.index);
      const double sigma = s.expected.sigma_independent[gold_index], shared = s.expected.sigma_shared[gold_index];
      if (std::isinf(e.gold) || (e.gold == 0.0 && sigma == 0.0 && shared == 0.0)) continue;
      e.error = e.actual - e.gold;
      e.spacing = spacing_at(s.actual.dtype(), std::max(std::fabs(e.gold), std::fabs(e.actual)));
      e.v = sigma * sigma + roundings * e.spacing * e.spacing / 12.0;
      e.w = shared * shared;
      e.explained = sigma * sigma + e.w;
      // Gold has roundings of its own: 2^-24 of a spacing.
      const double beyond_cast = std::fabs(e.error) - roundings * e.spacing / 2.0 * (1.0 + 0x1p-24);
      e.excess = beyond_cast > 0.0 ? beyond_cast / std::sqrt(e.explained) : 0.0;
      result.counted.push_back(e);
    }
  }
  return result;
}

struct Coherent {
  std::int64_t columns = 1;
  bool rows = false;
};
Coherent coherent_errors(const DrawnComparison& drawn) {
  const Sample& s = drawn.sample;
  const std::int64_t width = s.actual.shape().back();  // of a head where heads have a dimension of their own
  if (from_ensemble({s.op, s.actual.view(), s.expected, s.step, s.precision, s.config, drawn.operations})) {
    return {width, true};
  }
  switch (arithmetic_of(s.op)) {
    case Arithmetic::kWeightedSum:
      return {s.config.head_dim, false};
    case Arithmetic::kScores:
      return {s.precision.points.contains(RoundingPoint::kAttentionQuery) ? width : 1, false};
    case Arithmetic::kRotate:
      if (!s.precision.points.contains(RoundingPoint::kRopeTable)) return {};
      return {s.config.num_q_heads * s.config.head_dim, true};
    case Arithmetic::kAdd:
      return {1, true};
    default:
      return {};
  }
}

struct Slice {
  std::string name;
  Block block;
  std::vector<const Element*> elements;
};

double sum(const std::vector<const Element*>& elements, const std::function<double(const Element&)>& term) {
  double total = 0.0;
  for (const Element* e : elements) total += term(*e);
  return total;
}

class Plain {
 public:
  explicit Plain(const DrawnComparison& drawn)
      : drawn_(drawn), s_(drawn.sample), all_(elements_of(drawn)), coherent_(coherent_errors(drawn)) {
    for (const Element& e : all_.counted) by_place_[{e.row, e.column}] = &e;
    add_slices();
  }

  PlainJudgement judgement() const {
    PlainJudgement result;
    result.elements_compared = all_.seen;
    if (all_.counted.empty()) return result;
    const Slice& whole = slices_.back();
    const auto n = static_cast<double>(whole.elements.size());
    double worst_score = 0.0, largest = 0.0;
    for (const Slice& slice : slices_) {
      if (slice.elements.empty()) continue;
      const double distinct = inverse_distinct(slice);
      const double score = rms_score(slice, distinct, std::log(num_slices() + 10.0));
      result.slice_score.emplace(slice.name, score);
      result.slice_rms.emplace(slice.name, rms(slice));
      worst_score = std::max(worst_score, score);
      result.bias = std::max(result.bias, bias(slice, distinct));
    }
    double error_squared = 0.0, gold_squared = 0.0, beyond = 0.0, expected_beyond = 0.0;
    for (const Element& e : all_.counted) {
      if (e.excess > largest) {
        largest = e.excess;
        result.worst_element = e.index;
      }
      result.max_abs_error = std::max(result.max_abs_error, std::fabs(e.error));
      error_squared += e.error * e.error;
      gold_squared += e.gold * e.gold;
      if (std::fabs(e.error) > e.spacing * (1.0 + 0x1p-24)) beyond += 1.0;
      const double in_spacings = e.explained / (e.spacing * e.spacing);
      expected_beyond += std::min(1.0, 48.0 * in_spacings * in_spacings);
    }
    result.max_excess = largest;
    result.rms = rms(whole);
    const double distinct = inverse_distinct(whole);
    result.slope = slope(whole, distinct);
    result.relative_rms_error = error_squared == 0.0 ? 0.0 : std::sqrt(error_squared / gold_squared);
    result.share_beyond = beyond / n;
    result.normalised = {largest / std::sqrt(2.0 * std::log(n + 10.0)),
                         rms_score(whole, distinct, std::log(10.0)),
                         worst_score,
                         result.bias / std::sqrt(2.0 * std::log(num_slices() + 10.0)),
                         result.slope,
                         beyond / (expected_beyond + 6.0 * std::sqrt(expected_beyond) + 6.0)};
    const bool ensemble =
        from_ensemble({s_.op, s_.actual.view(), s_.expected, s_.step, s_.precision, s_.config, drawn_.operations});
    const std::size_t type = s_.actual.dtype() == DType::kBF16 ? 1 : s_.actual.dtype() == DType::kF16 ? 2 : 0;
    for (std::size_t i = 0; i < kNumStatistics; ++i) {
      const double measured = ensemble ? kWorstHonestEnsemble[type][i]
                                       : kWorstHonest[static_cast<std::size_t>(arithmetic_of(s_.op))].by_dtype[type][i];
      result.ratio[i] = result.normalised[i] / ((ensemble ? 3.0 : 2.0) * std::max(measured, kLeast[i]));
    }
    return result;
  }

 private:
  static constexpr std::array<double, kNumStatistics> kLeast = {1.3, 1.2, 1.4, 1.4, 4.0, 0.7};  // bounds.h says why

  double num_slices() const { return static_cast<double>(all_.rows + all_.columns + all_.columns / 8 + 2); }

  void add(std::string name, Block block) {
    Slice slice{std::move(name), block, {}};
    for (std::int64_t r = 0; r < block.num_rows; ++r) {
      for (std::int64_t c = 0; c < block.num_columns; ++c) {
        const auto found =
            by_place_.find({block.first_row + r * block.row_stride, block.first_column + c * block.column_stride});
        if (found != by_place_.end()) slice.elements.push_back(found->second);
      }
    }
    slices_.push_back(std::move(slice));
  }

  void add_slices() {
    const auto columns = [&](std::string name, std::int64_t first, std::int64_t stride, std::int64_t count) {
      add(std::move(name), {0, 1, all_.rows, first, stride, count});
    };
    const auto rows = [&](std::string name, std::int64_t first, std::int64_t stride, std::int64_t count) {
      add(std::move(name), {first, stride, count, 0, 1, all_.columns});
    };
    const auto text = [](std::int64_t i) { return std::to_string(i); };
    for (std::int64_t c = 0; c < all_.columns && all_.rows > 1; ++c) columns("column " + text(c), c, 1, 1);
    for (const std::int64_t tile : {16, 64, 128}) {
      for (std::int64_t first = 0; first < all_.columns; first += tile) {
        const std::int64_t count = std::min(tile, all_.columns - first);
        columns("columns " + text(first) + ".." + text(first + count - 1), first, 1, count);
      }
    }
    static const std::set<Op> by_heads = {Op::kQProjMatmul, Op::kQProj,  Op::kKProjMatmul, Op::kKProj,
                                          Op::kVProjMatmul, Op::kVProj,  Op::kQRope,       Op::kKRope,
                                          Op::kKCache,      Op::kVCache, Op::kAttnOutput};
    if (by_heads.contains(s_.op)) {
      const std::int64_t d = s_.config.head_dim, heads = all_.columns / d;
      for (std::int64_t h = 0; h < heads; ++h) columns("head " + text(h), h * d, 1, d);
      for (std::int64_t i = 0; i < d; ++i) columns("dimension " + text(i) + " of every head", i, d, heads);
    }
    const std::string position_word = s_.op == Op::kKCache || s_.op == Op::kVCache ? "cache slot " : "token row ";
    for (std::int64_t r = 0; r < all_.rows; ++r) {
      const std::int64_t p = r % all_.positions, h = r / all_.positions % all_.heads;
      rows((all_.heads_in_rows ? "head " + text(h) + ", " : "") + position_word + text(p) + " of batch row " +
               text(r / all_.positions / all_.heads),
           r, 1, 1);
    }
    for (std::int64_t b = 0; b < all_.batch; ++b) {
      const std::int64_t first = b * all_.heads * all_.positions;
      rows("batch row " + text(b), first, 1, all_.heads * all_.positions);
      if (!all_.heads_in_rows) continue;
      const std::string of_batch_row = " of batch row " + text(b);
      for (std::int64_t h = 0; h < all_.heads; ++h) {
        rows("head " + text(h) + of_batch_row, first + h * all_.positions, 1, all_.positions);
      }
      for (std::int64_t p = 0; p < all_.positions; ++p) {
        rows("every head of token row " + text(p) + of_batch_row, first + p, all_.positions, all_.heads);
      }
    }
    rows("the whole tensor", 0, 1, all_.rows);
  }

  // 1 / (number of different errors) of a slice: 1/n + the probability that two are equal, n counting those once that a
  // rounded operand moves together.
  double inverse_distinct(const Slice& slice) const {
    const Block& b = slice.block;
    std::int64_t together = 1;
    if (b.column_stride == 1 || coherent_.columns > b.column_stride) {
      together = std::min(coherent_.columns, b.num_columns);
    }
    if (coherent_.rows) together *= b.num_rows;
    const auto n = static_cast<double>(slice.elements.size());
    const double inverse = std::min(1.0, static_cast<double>(together) / n);
    double equal = 0.0;
    if (b.num_rows * b.num_columns <= kDistinctSample) {
      std::vector<double> values;  // pads aside, all of them: also those of which nothing is expected
      for (std::int64_t r = 0; r < b.num_rows; ++r) {
        const std::int64_t row = b.first_row + r * b.row_stride;
        if (!layout_.counts(row)) continue;
        for (std::int64_t c = 0; c < b.num_columns; ++c) {
          values.push_back(s_.actual.at(row * all_.columns + b.first_column + c * b.column_stride));
        }
      }
      equal = plain_probability_of_equal(values);
    } else {
      equal = probability_of_equal(b, layout_, s_.actual.view());
    }
    return inverse + (1.0 - inverse) * equal;
  }

  static double rms(const Slice& slice) {
    const double z_squared = sum(slice.elements, [](const Element& e) { return e.error * e.error / (e.v + e.w); });
    return std::sqrt(z_squared / static_cast<double>(slice.elements.size()));
  }

  static double rms_score(const Slice& slice, double distinct, double x) {
    const auto n = static_cast<double>(slice.elements.size());
    const double r = sum(slice.elements, [](const Element& e) { return e.w / (e.v + e.w); }) / n;
    const double inverse = std::min(1.0, r * r + (1.0 - r * r) * distinct);
    return rms(slice) / std::sqrt(1.0 + 2.0 * std::sqrt(x * inverse) + 2.0 * x * inverse);
  }

  double bias(const Slice& slice, double distinct) const {
    const auto n = static_cast<double>(slice.elements.size());
    const double mean_error = sum(slice.elements, [](const Element& e) { return e.error; }) / n;
    const double mean_v = sum(slice.elements, [](const Element& e) { return e.v; }) / n;
    const double mean_w = sum(slice.elements, [](const Element& e) { return e.w; }) / n;
    const double of_rounding = 12.0 * std::pow(4.0, -(significant_bits(s_.actual.dtype()) + 2));
    return std::fabs(mean_error) / std::sqrt(mean_v * (std::max(distinct, 1.0 / 256.0) + of_rounding) + mean_w);
  }

  double slope(const Slice& whole, double distinct) const {
    const auto& all = whole.elements;
    const auto n = static_cast<double>(all.size());
    const auto weight = [](const Element& e) { return 1.0 / (e.v + e.w); };
    const double numerator = sum(all, [&](const Element& e) { return e.gold * e.error * weight(e); });
    const double own = sum(all, [&](const Element& e) { return std::pow(e.gold * weight(e), 2.0) * e.v; }) * n *
                       std::max(distinct, 1.0 / 256.0);
    const double shared = sum(all, [&](const Element& e) { return std::fabs(e.gold) * std::sqrt(e.w) * weight(e); });
    const double rounding = sum(all, [&](const Element& e) { return e.spacing * e.spacing * weight(e); }) / 8.0;
    const double constant = std::ldexp(1.0, -significant_bits(s_.precision.accumulate)) *
                            sum(all, [&](const Element& e) { return e.gold * e.gold * weight(e); });
    return std::fabs(numerator) / std::sqrt(own + shared * shared + rounding * rounding + constant * constant / 3.0);
  }

  const DrawnComparison& drawn_;
  const Sample& s_;
  Layout layout_{s_.op, s_.actual.shape(), s_.step, s_.config};
  Elements all_;
  Coherent coherent_;
  std::map<std::pair<std::int64_t, std::int64_t>, const Element*> by_place_;
  std::vector<Slice> slices_;
};

}  // namespace

double plain_probability_of_equal(const std::vector<double>& values) {
  std::map<double, double> counts;
  double n = 0.0;
  for (const double value : values) {
    if (!std::isfinite(value) || value == 0.0) continue;
    const double unit = std::ldexp(1.0, std::ilogb(value) - 7);
    counts[std::nearbyint(value / unit) * unit] += 1.0;
    n += 1.0;
  }
  double pairs = 0.0;
  for (const auto& [value, count] : counts) pairs += count * (count - 1.0);
  return n < 2.0 ? 0.0 : pairs / (n * (n - 1.0));
}

Judgement DrawnComparison::judge() const {
  return compare::judge(
      {sample.op, sample.actual.view(), sample.expected, sample.step, sample.precision, sample.config, operations});
}

std::string DrawnComparison::describe() const {
  std::string text = std::string(row(sample.op).name) + ' ' + to_string(sample.actual.shape()) + ' ' +
                     std::string(name(sample.actual.dtype())) + " past " + std::to_string(sample.step.past_length);
  for (const std::int64_t padding : sample.step.left_padding) text += " pad " + std::to_string(padding);
  return text + (operations.empty() ? "" : ", a long span");
}

namespace {

// Which elements, by their index, are wrong together: those of one of the slices that a bug gets wrong, or none.
std::function<bool(const Shape&)> draw_loud_slice(const Shape& shape, std::int64_t head_dim, Random& random) {
  const std::int64_t columns = shape.back(), b = random.below(shape[0]), second = random.below(shape[1]),
                     third = random.below(shape[2]), c = random.below(columns);
  switch (random.below(9)) {
    case 0:
      return [=](const Shape& at) { return at.back() == c; };
    case 1:
      return [=](const Shape& at) { return at.back() / 16 == c / 16; };
    case 2:
      return [=](const Shape& at) { return at.back() / 64 == c / 64; };
    case 3:
      return [=](const Shape& at) { return at.back() / 128 == c / 128; };
    case 4:
      return [=](const Shape& at) { return at.back() % head_dim == c % head_dim; };
    case 5:
      return [=](const Shape& at) { return at[0] == b; };
    case 6:
      return [=](const Shape& at) { return at[0] == b && at[1] == second; };
    case 7:
      return [=](const Shape& at) { return at[0] == b && at[2] == third; };
    default:
      return [](const Shape&) { return false; };
  }
}

}  // namespace

DrawnComparison draw_comparison(std::uint64_t seed) {
  Random random(seed);
  SampleOptions options;
  // Each operation in turn; logits are large, and come less often.
  options.op = static_cast<Op>(seed % kNumOps);
  if (options.op == Op::kLmHead && seed / kNumOps % 4 != 0) options.op = Op::kAttnOutput;
  constexpr std::array kTypes = {DType::kF32, DType::kBF16, DType::kF16, DType::kF64};
  options.dtype = kTypes[static_cast<std::size_t>(random.below(10) == 0 ? 3 : random.below(3))];
  options.num_tokens = random.between(1, 5);
  options.past_length = random.below(2) * random.between(1, 4);
  options.left_padding.assign(static_cast<std::size_t>(random.between(1, 3)), 0);
  for (std::int64_t& padding : options.left_padding) {
    padding = random.below(2) * random.between(0, options.past_length + options.num_tokens);
  }
  options.seed = seed + 1;
  DrawnComparison drawn;
  Sample& s = drawn.sample = honest_sample(options);
  s.expected.exact = false;
  s.precision.accumulate = random.below(3) == 0 ? options.dtype : DType::kF32;
  if (random.below(3) == 0) s.precision.points[RoundingPoint::kAttentionQuery] = DType::kBF16;
  if (random.below(3) == 0) s.precision.points[RoundingPoint::kRopeTable] = DType::kBF16;
  if (random.below(4) == 0) {
    drawn.operations = {{0, {Op::kOProj, 0}}, {0, {Op::kResidMid, 0}}};
  }
  const auto n = static_cast<std::int64_t>(s.expected.value.size());
  const std::int64_t width = s.expected.shape.back();
  const bool tiny = random.below(8) == 0, repeated = random.below(4) == 0, unknown = random.below(4) == 0;
  const double scale = tiny ? (options.dtype == DType::kF16 ? 1e-6 : 1e-39) : std::pow(10.0, random.between(-2, 2));
  const double sigma = scale * std::ldexp(1.0, static_cast<int>(random.between(-20, -5)));
  const double shared = random.below(2) == 0 ? 0.0 : scale * std::ldexp(1.0, static_cast<int>(random.between(-20, -5)));
  constexpr std::array kFactors = {0.3, 1.0, 3.0, 30.0};
  const double factor = kFactors[static_cast<std::size_t>(random.below(4))];
  const double shift = random.below(3) == 0 ? 0.5 * factor : 0.0, tilt = random.below(3) == 0 ? 3.0 * factor : 0.0;
  const std::function<bool(const Shape&)> is_loud = draw_loud_slice(s.expected.shape, s.config.head_dim, random);
  if (unknown) s.expected.unknown.assign(static_cast<std::size_t>(n), 0);
  for (std::int64_t i = 0; i < n; ++i) {
    const auto at = static_cast<std::size_t>(i);
    double& gold = s.expected.value[at];
    if (std::isinf(gold) || gold == 0.0) {
      s.actual.set(i, gold);
      continue;  // masked
    }
    gold = repeated && i >= width && s.op != Op::kScores && s.op != Op::kProbs
               ? s.expected.value[static_cast<std::size_t>(i % width)]
               : gold * scale;
    s.expected.sigma_independent[at] = static_cast<float>(sigma * (0.5 + random.uniform()));
    s.expected.sigma_shared[at] = static_cast<float>(shared * (0.5 + random.uniform()));
    double error = sigma * (random.gaussian() + shift) * factor + shared * random.gaussian();
    if (is_loud(unravel(i, s.expected.shape))) error *= 6.0;
    error += tilt * sigma * gold / scale;
    if (random.below(200) == 0) error += 40.0 * (sigma + shared);
    if (unknown && random.below(10) == 0 && s.op != Op::kScores && s.op != Op::kProbs) {
      s.expected.unknown[at] = 1;
      gold = 0.0;
      s.expected.sigma_independent[at] = s.expected.sigma_shared[at] = 0.0F;
      error = 1e3;
    }
    s.actual.set(i, gold + error);
  }
  if (s.op == Op::kLmHead && random.below(2) == 0) {
    const std::int64_t batch = s.expected.shape[0], tokens = s.expected.shape[1];
    Tensor last(options.dtype, {batch, 1, width});
    for (std::int64_t b = 0; b < batch; ++b) {
      for (std::int64_t c = 0; c < width; ++c) {
        last.set(b * width + c, s.actual.at(((b + 1) * tokens - 1) * width + c));
      }
    }
    s.actual = std::move(last);
  }
  return drawn;
}

PlainJudgement plain_judgement(const DrawnComparison& comparison) { return Plain(comparison).judgement(); }

}  // namespace qdiff::compare
