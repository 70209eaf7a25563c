#include "harness/selftest/doses.h"

#include <algorithm>
#include <cmath>

#include "harness/compare/judge.h"
#include "harness/compare/layout.h"
#include "harness/contract/error.h"
#include "harness/contract/overlay.h"
#include "harness/selftest/dose_search.h"
#include "harness/selftest/spec.h"

namespace qdiff::selftest {
namespace {

double keep_bits(double value, int bits) {
  if (value == 0.0 || !std::isfinite(value)) return value;
  int exponent = 0;
  const double mantissa = std::frexp(value, &exponent);  // [0.5, 1)
  return std::ldexp(std::nearbyint(std::ldexp(mantissa, bits)), exponent - bits);
}

// One tensor of a clean recording, and candidates for it.
class Stand {
 public:
  Stand(Bench& bench, const cases::Case& test_case, Op op)
      : bench_(bench), recorded_(bench.recording(test_case)), input_(bench.input(test_case)), key_{0, {op, 0}} {
    if (!recorded_.has(key_)) throw InputError("the engine hands out no " + tensor_name(key_.id));
    span_ = compare::replay_span(key_, recorded_, bench.config());
    expected_ = bench.oracle().evaluate(query(span_, recorded_, bench.precision(), nullptr));
    const compare::Layout layout(op, expected_.shape, step(), bench.config());
    for (std::int64_t row = 0; row < layout.num_rows(); ++row) {
      counted_.insert(counted_.end(), static_cast<std::size_t>(layout.num_columns()), layout.counts(row));
    }
    gold_ = counted(expected_.value);
    Precision low = bench.precision();  // an implementation that rounds everywhere
    for (std::size_t i = 0; i < kNumRoundingPoints; ++i) low.points[static_cast<RoundingPoint>(i)] = stored();
    naive_ = counted(bench.oracle().emulate(query(span_, recorded_, low, nullptr)));
    right_ = counted(to_doubles(recorded_.get(key_)));
  }

  std::string tensor() const { return tensor_name(key_.id); }
  const Expectation& expected() const { return expected_; }
  const Step& step() const { return input_.steps.front(); }
  DType stored() const { return recorded_.get(key_).dtype; }
  const ModelConfig& config() const { return bench_.config(); }

  // The emulated reference under a variant, or with other tensors in the recording's place.
  std::vector<double> under(const Variant& variant) const {
    return bench_.oracle().emulate(query(span_, recorded_, bench_.precision(), &variant));
  }
  std::vector<double> with_attention_kept_to(Op op, int bits) const {
    const std::vector<Op> rows = {Op::kScores, Op::kProbs, Op::kAttnOutput};
    std::vector<TensorKey> before, after;
    for (Op part : rows) (part <= op ? before : after).push_back({0, {part, 0}});
    const Expectation exact = bench_.oracle().evaluate(query(before, recorded_, bench_.precision(), nullptr));
    std::vector<double> kept = exact.value;
    for (double& value : kept) value = keep_bits(value, bits);
    Overlay overlay(recorded_);
    overlay.replace(before.back(), Tensor::rounded(DType::kF64, exact.shape, kept));
    return bench_.oracle().emulate(query(after, overlay, bench_.precision(), nullptr));
  }

  bool judge_finds(const std::vector<double>& values) const {
    const Tensor actual = Tensor::rounded(stored(), expected_.shape, values);
    return compare::judge({.op = key_.id.op,
                           .actual = actual.view(),
                           .expected = expected_,
                           .step = step(),
                           .precision = bench_.precision(),
                           .config = bench_.config(),
                           .operations = span_})
               .outcome == compare::Outcome::kDiverged;
  }
  bool rival_finds(Rival rival, const std::vector<double>& values) const { return finds(rival, counted(values)); }
  bool alarms_on_right_code(Rival rival) const { return finds(rival, right_); }

 private:
  Query query(const std::vector<TensorKey>& operations, const TensorStore& recorded, const Precision& precision,
              const Variant* variant) const {
    return {.operations = operations,
            .recorded = recorded,
            .steps = input_.steps,
            .precision = precision,
            .stored = recorded_.get(key_).dtype,
            .variant = variant,
            .capacity = input_.capacity};
  }
  std::vector<double> counted(const std::vector<double>& values) const {
    std::vector<double> result;
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (counted_[i]) result.push_back(values[i]);
    }
    return result;
  }
  bool finds(Rival rival, const std::vector<double>& actual) const {
    return selftest::finds(rival, actual, gold_, naive_, stored());
  }

  Bench& bench_;
  const TensorStore& recorded_;
  const CaseInput& input_;
  TensorKey key_;
  std::vector<TensorKey> span_;
  Expectation expected_;
  std::vector<bool> counted_;
  std::vector<double> gold_, naive_, right_;  // elements that count
};

std::optional<double> most_bits(const Finds& finds) {
  for (int bits = 23; bits >= 2; --bits) {
    if (finds(bits)) return bits;
  }
  return std::nullopt;
}

// A wrong position moves the angle of pair i by offset * theta^(-2i/d): gold turned on by that.
std::vector<double> turned_on(const Stand& stand, double offset) {
  std::vector<double> values = stand.expected().value;
  const auto d = static_cast<std::size_t>(stand.config().head_dim);
  for (std::size_t head = 0; head < values.size(); head += d) {
    for (std::size_t i = 0; i < d / 2; ++i) {
      const double angle =
          offset * std::pow(stand.config().rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(d));
      const double a = values[head + i], b = values[head + i + d / 2];
      values[head + i] = a * std::cos(angle) - b * std::sin(angle);
      values[head + i + d / 2] = b * std::cos(angle) + a * std::sin(angle);
    }
  }
  return values;
}

}  // namespace

std::vector<SmallestDose> smallest_doses(const std::vector<cases::Case>& suite, const Makers& makers, DType dtype) {
  constexpr double kTiny = 1e-8;
  constexpr double kFewestBits = 2.0;
  const cases::Case& ordinary = first_of(suite, std::nullopt);
  const cases::Case& tiny_rows = first_of(suite, "H09");
  Bench bench(spec_in(ordinary.model, dtype), makers, 0, dtype);
  Bench norm_bench(spec_in(tiny_rows.model, dtype), makers, 0, dtype);
  const Stand rope(bench, ordinary, Op::kQRope), attention(bench, ordinary, Op::kAttnOutput),
      norm(norm_bench, tiny_rows, Op::kInputLayernorm);

  const auto bisecting = [&](double largest) {
    return Search([=](const Finds& finds) { return diagnose::smallest_dose(kTiny, largest, kHalvings, finds); });
  };
  const auto relative = [&](const Stand& stand, FaultId id, double right, double largest, double sign) {
    return search_dose(
        stand, std::string(name(id)), "relative", largest,
        [&stand, id, right, sign](double dose) {
          return stand.under({id, right * (1.0 + sign * dose)});
        },
        bisecting(largest));
  };
  const auto kept_bits = [&](const std::string& parameter, Op op) {
    return search_dose(
        attention, parameter, "bits kept", kFewestBits,
        [&attention, op](double bits) { return attention.with_attention_kept_to(op, static_cast<int>(bits)); },
        most_bits);
  };
  // A theta of 1e4 for 1e6 is a dose of 0.99; an epsilon of 1e-5 for 1e-6 one of 9.
  return {
      relative(rope, FaultId::kTheta, bench.config().rope_theta, 0.99, -1.0),
      search_dose(
          rope, "position", "positions", 64.0, [&rope](double dose) { return turned_on(rope, dose); }, bisecting(64.0)),
      relative(attention, FaultId::kScale, 1.0, 10.0, 1.0),
      kept_bits("probabilities", Op::kProbs),
      kept_bits("scores", Op::kScores),
      relative(norm, FaultId::kEps, norm_bench.config().rms_norm_eps, 1000.0, 1.0)};
}

}  // namespace qdiff::selftest
