// An element that is far from two expectations: no tensor that holds it matches any mixture of the two.
#include <cmath>

#include "cmake/catch2.h"
#include "harness/compare/judge.h"
#include "harness/compare/tests/sample.h"

namespace qdiff::compare {
namespace {

bool misses_both(const Sample& sample, const Expectation& other) {
  return compare::misses_both({.op = sample.op,
                               .actual = sample.actual.view(),
                               .expected = sample.expected,
                               .step = sample.step,
                               .precision = sample.precision,
                               .config = sample.config},
                              other);
}

// Each element from the expectation that lies nearer: what is furthest from being told apart.
Expectation nearest_of(const Sample& sample, const Expectation& other) {
  Expectation mixed = sample.expected;
  const TensorView actual = sample.actual.view();
  for (std::size_t i = 0; i < mixed.value.size(); ++i) {
    const double value = load_element(actual.data, actual.dtype, i);
    if (!(std::fabs(value - other.value[i]) < std::fabs(value - mixed.value[i]))) continue;
    mixed.value[i] = other.value[i];
    mixed.sigma_independent[i] = other.sigma_independent[i];
    mixed.sigma_shared[i] = other.sigma_shared[i];
  }
  return mixed;
}

Outcome judged(Sample sample, const Expectation& expected) {
  sample.expected = expected;
  return sample.judge().outcome;
}

void put(Sample& sample, std::int64_t element, double value) {
  std::vector<double> values = to_doubles(sample.actual.view());
  values[static_cast<std::size_t>(element)] = value;
  sample.actual = Tensor::rounded(sample.actual.dtype(), sample.actual.shape(), values);
}

Expectation negated(Expectation expected) {
  for (double& value : expected.value) value = -value;
  return expected;
}

}  // namespace

TEST_CASE("An element beyond both expectations is seen, and no mixture of them matches") {
  for (const Op op : {Op::kOProj, Op::kScores, Op::kInputLayernorm, Op::kAct, Op::kOutput}) {
    for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
      for (const double sigma_shared : {0.0, 0x1p-12}) {
        Sample sample = honest_sample({.op = op, .dtype = dtype, .sigma = 0x1p-10, .sigma_shared = sigma_shared});
        const Expectation other = negated(sample.expected);
        CAPTURE(row(op).name, facts(dtype).name, sigma_shared);
        CHECK_FALSE(misses_both(sample, other));
        const std::int64_t element =
            sample.at(op == Op::kScores ? std::vector<std::int64_t>{1, 2, 3, 0} : std::vector<std::int64_t>{1, 2, 3});
        bool seen = false;
        for (double far = 0x1p-10; far < 16.0; far *= 1.25) {
          CAPTURE(far);
          put(sample, element, std::fabs(sample.expected.value[static_cast<std::size_t>(element)]) + far);
          const bool missed = misses_both(sample, other);
          if (missed) CHECK(judged(sample, nearest_of(sample, other)) != Outcome::kMatch);
          CHECK((missed || !seen));  // what is further is seen as well
          seen = missed;
        }
        CHECK(seen);
      }
    }
  }
}

TEST_CASE("What either expectation holds, or says nothing of, is not missed by both") {
  Sample sample = honest_sample({.op = Op::kOProj});
  Expectation other = negated(sample.expected);
  const std::int64_t element = sample.at({0, 1, 7});
  const auto at = static_cast<std::size_t>(element);

  SECTION("as right code has the rest") {
    put(sample, element, other.value[at]);
    CHECK_FALSE(misses_both(sample, other));
  }
  put(sample, element, 100.0);
  REQUIRE(misses_both(sample, other));
  SECTION("the other says nothing of it") {
    other.unknown.assign(other.value.size(), 0);
    other.unknown[at] = 1;
    CHECK_FALSE(misses_both(sample, other));
  }
  SECTION("right code says nothing of it") {
    sample.expected.unknown.assign(other.value.size(), 0);
    sample.expected.unknown[at] = 1;
    CHECK_FALSE(misses_both(sample, other));
  }
  SECTION("no number is expected there, or none stands there") {
    Expectation infinite = other;
    infinite.value[at] = kInf;
    CHECK_FALSE(misses_both(sample, infinite));
    put(sample, element, kNan);
    CHECK_FALSE(misses_both(sample, other));
  }
  SECTION("it is padding") {
    Sample padded = honest_sample({.op = Op::kOProj, .left_padding = {2, 0}});
    const Expectation of_padded = negated(padded.expected);
    put(padded, padded.at({0, 1, 7}), 100.0);
    CHECK_FALSE(misses_both(padded, of_padded));
  }
  SECTION("one of the two only moves data") {
    other.exact = true;
    CHECK_FALSE(misses_both(sample, other));
  }
}

TEST_CASE("A row of probabilities that may be fully masked is not missed by both") {
  Sample sample = honest_sample({.op = Op::kProbs, .sigma = 0x1p-10});
  const std::int64_t element = sample.at({0, 0, 4, 4});
  put(sample, element, 1000.0);
  CHECK(misses_both(sample, sample.expected));
  Expectation nothing = sample.expected;
  for (double& value : nothing.value) value = 0.0;
  CHECK_FALSE(misses_both(sample, nothing));
}

}  // namespace qdiff::compare
