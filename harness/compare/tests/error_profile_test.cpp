#include "harness/compare/error_profile.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <stdexcept>

#include "cmake/catch2.h"
#include "harness/compare/layout.h"
#include "harness/compare/tests/sample.h"

namespace qdiff::compare {
namespace {

ErrorProfile profile_of(const Sample& sample) {
  return error_profile(
      {sample.op, sample.actual.view(), sample.expected, sample.step, sample.precision, sample.config});
}

const ErrorProfile::Axis& axis(const ErrorProfile& profile, const std::string& name) {
  for (const ErrorProfile::Axis& candidate : profile.axes) {
    if (candidate.name == name) return candidate;
  }
  throw std::out_of_range(name);
}

void set(Sample& sample, std::vector<std::int64_t> index, double value) {
  sample.actual.set(sample.at(std::move(index)), value);
}

TEST_CASE("the profile of honest rounding is near 1 everywhere", "[profile]") {
  const ErrorProfile profile = profile_of(honest_sample({.op = Op::kOProj, .dtype = DType::kF32}));
  for (const double rms : axis(profile, "token row").rms) {
    CHECK(rms > 0.5);
    CHECK(rms < 1.5);
  }
  CHECK(profile.worst.size() == 8);
  CHECK(profile.worst.front().error < 7.0);
}

TEST_CASE("one wrong element is the worst, in its row and its column", "[profile]") {
  Sample sample = honest_sample({.op = Op::kOProj, .dtype = DType::kF32});
  set(sample, {1, 3, 42}, 5.0);
  const ErrorProfile profile = profile_of(sample);
  REQUIRE_FALSE(profile.worst.empty());
  CHECK(profile.worst.front().index == std::vector<std::int64_t>{1, 3, 42});
  CHECK(profile.worst.front().actual == 5.0);
  const std::vector<double>& rows = axis(profile, "token row").rms;
  CHECK(std::max_element(rows.begin(), rows.end()) - rows.begin() == 3);
  const std::vector<double>& columns = axis(profile, "column").rms;
  CHECK(std::max_element(columns.begin(), columns.end()) - columns.begin() == 42);
  CHECK(axis(profile, "batch row").rms[0] < 2.0);
}

TEST_CASE("NaN is infinite error, and the rest of the profile stands", "[profile]") {
  Sample sample = honest_sample({.op = Op::kQRope, .dtype = DType::kF32});
  set(sample, {0, 2, 4, 7}, std::nan(""));
  const ErrorProfile profile = profile_of(sample);
  CHECK(std::isinf(profile.worst.front().error));
  CHECK(std::isinf(axis(profile, "head").rms[4]));
  CHECK(axis(profile, "head").rms[3] < 2.0);
  CHECK(std::isinf(axis(profile, "dimension of the head").rms[7]));
}

TEST_CASE("an error in deviations that are no number counts as beyond all", "[profile]") {
  Sample sample = honest_sample({.op = Op::kOProj, .dtype = DType::kF32});
  sample.expected.sigma_independent[10] = std::nanf("");
  sample.actual.set(10, 5.0);
  const ErrorProfile profile = profile_of(sample);
  CHECK(profile.histogram.back() == Approx(1e-3));
}

TEST_CASE("padding and what nobody knows are no error", "[profile]") {
  Sample sample = honest_sample({.op = Op::kOProj, .dtype = DType::kF32, .left_padding = {2, 0}});
  set(sample, {0, 1, 0}, 1e6);  // a pad row
  set(sample, {1, 4, 9}, 1e6);
  sample.expected.unknown.assign(sample.expected.value.size(), 0);
  sample.expected.unknown[static_cast<std::size_t>(sample.at({1, 4, 9}))] = 1;
  CHECK(profile_of(sample).worst.front().error < 7.0);
}

TEST_CASE("a long axis is drawn in bars of neighbouring indices, and the shares add up to one", "[profile]") {
  Sample sample = honest_sample({.op = Op::kLmHead, .dtype = DType::kF32, .num_tokens = 2});
  const ErrorProfile profile = profile_of(sample);
  const ErrorProfile::Axis& column = axis(profile, "column");
  CHECK(column.rms.size() == 126);  // of at most 128
  CHECK(column.indices_a_bar == 8);
  CHECK(static_cast<std::int64_t>(column.rms.size()) * column.indices_a_bar >= sample.config.vocab);
  double shares = 0.0;
  for (const double share : profile.histogram) shares += share;
  CHECK(shares == Approx(1.0));
}

// The profile once more, element by element.
struct PlainProfile {
  std::map<std::string, std::map<std::int64_t, std::pair<double, double>>> axes;  // name, index: sum of z^2, count
  std::vector<double> z;
  std::vector<ErrorProfile::Element> elements;
};
PlainProfile plain_profile(const Sample& s) {
  PlainProfile plain;
  const Shape& shape = s.actual.shape();
  const bool scores = s.op == Op::kScores || s.op == Op::kProbs, cache = s.op == Op::kKCache;
  const bool by_heads = cache || s.op == Op::kQRope || s.op == Op::kAttnOutput;
  for (std::int64_t i = 0; i < s.actual.size(); ++i) {
    const std::vector<std::int64_t> index = unravel(i, shape);
    const std::int64_t position = index[scores ? 2 : 1];
    const std::int64_t slot = cache ? position : s.step.past_length + position;
    const auto at = static_cast<std::size_t>(i);
    const double gold = s.expected.value[at], value = s.actual.at(i);
    if (slot < s.step.left_padding[static_cast<std::size_t>(index[0])] || !std::isfinite(gold)) continue;
    if (!s.expected.unknown.empty() && s.expected.unknown[at] != 0) continue;
    double z = HUGE_VAL;
    if (std::isfinite(value)) {
      double variance = 0.0;
      if (!s.expected.sigma_independent.empty()) {
        variance = std::pow(double{s.expected.sigma_independent[at]}, 2.0) +
                   std::pow(double{s.expected.sigma_shared[at]}, 2.0);
      }
      const double cast = spacing(s.actual.dtype(), std::max(std::fabs(gold), std::fabs(value)));
      z = value == gold ? 0.0 : std::fabs(value - gold) / std::sqrt(variance + cast * cast / 12.0);
    }
    const std::int64_t d = s.config.head_dim,
                       column = shape.size() == 4 && !scores ? index[2] * d + index[3] : index.back();
    const auto add = [&](const std::string& name, std::int64_t where) {
      auto& [squares, count] = plain.axes[name][where];
      squares += z * z;
      count += 1.0;
    };
    add("batch row", index[0]);
    add(cache ? "cache slot" : "token row", position);
    add("head", scores ? index[1] : by_heads ? column / d : 0);
    add(scores ? "key slot" : by_heads ? "dimension of the head" : "column", by_heads ? column % d : column);
    plain.z.push_back(z);
    plain.elements.push_back({index, value, gold, z});
  }
  std::stable_sort(plain.elements.begin(), plain.elements.end(),
                   [](const auto& a, const auto& b) { return a.error > b.error; });
  return plain;
}

TEST_CASE("a profile is what its elements give, whatever the tensor", "[profile]") {
  for (const Op op : {Op::kOProj, Op::kQRope, Op::kKCache, Op::kScores, Op::kAttnOutput, Op::kLmHead, Op::kProbs}) {
    for (const bool noise : {true, false}) {
      Sample s =
          honest_sample({.op = op,
                         .dtype = DType::kF32,
                         .num_tokens = 4,
                         .past_length = 2,
                         .left_padding = noise ? std::vector<std::int64_t>{3, 0} : std::vector<std::int64_t>{0, 3},
                         .sigma = 1e-4,
                         .sigma_shared = 1e-4,
                         .seed = 8});
      Random random(static_cast<std::uint64_t>(op));
      s.expected.unknown.assign(s.expected.value.size(), 0);
      for (std::int64_t i = 0; i < s.actual.size(); ++i) {
        if (random.below(9) == 0)
          s.actual.set(i, s.actual.at(i) + 1e-3 * random.gaussian() * static_cast<double>(random.below(400)));
        if (random.below(20) == 0) s.expected.unknown[static_cast<std::size_t>(i)] = 1;
        if (random.below(300) == 0) s.actual.set(i, std::nan(""));
      }
      if (!noise) {
        s.expected.unknown.clear();
        s.expected.sigma_independent.clear();
        s.expected.sigma_shared.clear();
      }
      INFO(row(op).name << (noise ? "" : ", without noise"));
      const ErrorProfile profile = profile_of(s);
      const PlainProfile plain = plain_profile(s);
      for (const auto& [name, sums] : plain.axes) {
        if (name == "head" && sums.size() == 1) continue;
        INFO(name);
        const ErrorProfile::Axis& drawn = axis(profile, name);
        std::map<std::int64_t, std::pair<double, double>> bars;
        for (const auto& [index, sum] : sums) {
          bars[index / drawn.indices_a_bar].first += sum.first;
          bars[index / drawn.indices_a_bar].second += sum.second;
        }
        for (std::size_t bar = 0; bar < drawn.rms.size(); ++bar) {
          const auto found = bars.find(static_cast<std::int64_t>(bar));
          const double expected = found == bars.end() ? 0.0 : std::sqrt(found->second.first / found->second.second);
          if (std::isinf(expected)) {
            CHECK(std::isinf(drawn.rms[bar]));
          } else {
            CHECK(drawn.rms[bar] == Approx(expected).epsilon(1e-9));
          }
        }
        CHECK(bars.rbegin()->first < static_cast<std::int64_t>(drawn.rms.size()));
      }
      CHECK(profile.axes.size() == plain.axes.size() - (plain.axes.at("head").size() == 1 ? 1 : 0));
      // The first bar ends at 1/8, each further one at the double; the last has no end.
      for (std::size_t bin = 0; bin < ErrorProfile::kHistogramBins; ++bin) {
        const double low = bin == 0 ? -1.0 : std::ldexp(0.125, static_cast<int>(bin) - 1);
        const double high =
            bin + 1 == ErrorProfile::kHistogramBins ? HUGE_VAL : std::ldexp(0.125, static_cast<int>(bin));
        const auto count = std::count_if(plain.z.begin(), plain.z.end(), [&](double z) {
          return z >= low && (z < high || (std::isinf(high) && std::isinf(z)));
        });
        CHECK(profile.histogram[bin] == Approx(static_cast<double>(count) / static_cast<double>(plain.z.size())));
      }
      REQUIRE(profile.worst.size() == 8);
      for (std::size_t i = 0; i < 8; ++i) {
        CHECK(profile.worst[i].index == plain.elements[i].index);
        CHECK(profile.worst[i].expected == plain.elements[i].expected);
        CHECK((profile.worst[i].error == Approx(plain.elements[i].error) || std::isinf(plain.elements[i].error)));
      }
    }
  }
}

TEST_CASE("a profile of few elements has no axis of one index and names no more than there are", "[profile]") {
  const Sample s = honest_sample({.op = Op::kOProj, .dtype = DType::kF32, .num_tokens = 1, .left_padding = {0}});
  const ErrorProfile profile = profile_of(s);
  REQUIRE(profile.axes.size() == 1);
  CHECK(profile.axes[0].name == "column");
  CHECK(profile.axes[0].indices_a_bar == 1);
  CHECK(profile.axes[0].rms.size() == 100);
  const Sample pads = honest_sample({.op = Op::kOProj, .num_tokens = 1, .left_padding = {1}});
  CHECK(profile_of(pads).worst.empty());
  for (const double share : profile_of(pads).histogram) CHECK(share == 0.0);
}

TEST_CASE("an axis has as many bars as indices up to 128, and two a bar from 129 on", "[profile]") {
  for (const std::int64_t width : {128, 129}) {
    Sample s = honest_sample({.op = Op::kGateProj, .dtype = DType::kF32, .num_tokens = 1, .left_padding = {0}});
    s.config.intermediate = width;
    s.expected.shape = {1, 1, width};
    s.actual = Tensor(DType::kF32, s.expected.shape);
    for (std::vector<float>* sigma : {&s.expected.sigma_independent, &s.expected.sigma_shared}) {
      sigma->resize(static_cast<std::size_t>(width));
    }
    s.expected.value.resize(static_cast<std::size_t>(width));
    CHECK(axis(profile_of(s), "column").indices_a_bar == (width > 128 ? 2 : 1));
  }
}

TEST_CASE("a single head is no axis", "[profile]") {
  Sample s = honest_sample({.op = Op::kQRope, .dtype = DType::kF32, .num_tokens = 2, .left_padding = {0}});
  s.config.num_q_heads = 1;
  s.expected.shape = {1, 2, 1, 32};
  s.actual = Tensor(DType::kF32, s.expected.shape);
  for (std::vector<float>* sigma : {&s.expected.sigma_independent, &s.expected.sigma_shared}) sigma->resize(64);
  s.expected.value.resize(64);
  const ErrorProfile profile = profile_of(s);
  REQUIRE(profile.axes.size() == 2);
  CHECK(profile.axes[0].name == "token row");
  CHECK(profile.axes[1].name == "dimension of the head");
}

}  // namespace
}  // namespace qdiff::compare
