#include "harness/compare/error_profile.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "cmake/catch2.h"
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
  CHECK(column.rms.size() <= 128);
  CHECK(static_cast<std::int64_t>(column.rms.size()) * column.indices_a_bar >= sample.config.vocab);
  double shares = 0.0;
  for (const double share : profile.histogram) shares += share;
  CHECK(shares == Approx(1.0));
}

}  // namespace
}  // namespace qdiff::compare
