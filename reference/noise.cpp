// Models of honest rounding. u is the unit roundoff of the type that sums are kept in.
//
// One rounding. The error of rounding x to nearest is uniform over half a spacing to either side, and a spacing lies
// between u|x| and 2u|x|. Where one rounding stands alone its variance is taken as u^2 x^2 / 3, the largest of the
// binade. In a sum of many the mean over a binade counts: with the significand m in [1, 2) distributed as 1/(m ln 2),
// E[1/m^2] = 3/(8 ln 2) = 0.541 and the variance is 4 u^2 x^2 / 12 * 0.541 = 0.18 u^2 x^2; kSumRounding rounds it up.
//
// A sum of products s = sum a_k b_k of length n, one after the other: partial sum s_k takes one rounding, so the
// variance is 0.19 u^2 sum_k s_k^2. Seen as a random walk with steps a_k b_k that ends in s (a Brownian bridge with
// quadratic variation Q = ||a o b||^2), E s_k^2 = (k/n)^2 s^2 + (k/n)(1 - k/n) Q, and the sum over k is
// n (s^2/3 + Q/6). The products themselves add 0.19 u^2 Q where no fused multiply-add spares their rounding. This is
// the probabilistic bound of Higham & Mary 2019 ("A New Approach to Probabilistic Rounding Error Analysis") with its
// constant worked out. Blocked, pairwise and vectorised sums have shorter chains and lie below it.
//
// A matrix unit adds some products to the sum so far and cuts the result off (Fasi, Higham, Mikaitis and Pranesh,
// "Numerical behavior of NVIDIA tensor cores", PeerJ Computer Science 7:e330, 2021). Such errors all go towards zero:
// over the n/16 steps of a sum they grow with n, not with its root, and shrink all elements of a tensor alike. Measured
// on an H100 (cuBLAS, bfloat16, 256 rows): with the random walk's mean square M = s^2/3 + Q/6, rms(error / (u sqrt(M)))
// was 0.021 n to 0.024 n for n = 896, 3584 and 4864 of normal elements, 0.040 n to 0.043 n where one channel is 300
// times the others; errors regressed on s had a slope of 0.014 n u to 0.016 n u, and 0.033 n u to 0.034 n u.
#include "reference/noise.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace qdiff::reference {
namespace {

using enum RoundingPoint;

constexpr double kSumRounding = 0.19;     // variance / (u x)^2 of a rounding among many
constexpr double kOneRounding = 1.0 / 3;  // of one that stands alone
// Library functions are allowed two units in the last place (CUDA C++ Programming Guide, appendix on mathematical
// functions: expf 2, rsqrtf 2, sinf and cosf 2 at most). A unit is up to 2u|x|; uniform over two of them on both sides
// gives (4u)^2 / 3 at most, and 0.541 of that over a binade.
constexpr double kTwoUlps = 16.0 / 3 * 0.541;

at::Tensor zeros_like_result(const at::Tensor& x) { return at::zeros({}, of_type(at::kDouble)).expand_as(x); }

// Relative variance of a sum of n positive terms: s_k = (k/n) s, so sum_k s_k^2 = n s^2 / 3.
at::Tensor positive_sum(const at::Tensor& length, double unit) { return length * (kSumRounding / 3 * unit * unit); }

}  // namespace

DType NoiseModel::table_type() const {
  const auto declared = precision_.points.find(kRopeTable);
  if (declared != precision_.points.end()) return declared->second;
  return precision_.accumulate == DType::kF64 ? DType::kF64 : DType::kF32;
}

at::Tensor NoiseModel::at(RoundingPoint point, const at::Tensor& x) const {
  const auto declared = precision_.points.find(point);
  return declared == precision_.points.end() ? zeros_like_result(x) : rounding_variance(declared->second, x);
}

at::Tensor NoiseModel::at_last(RoundingPoint point, const at::Tensor& x) const {
  const auto declared = precision_.points.find(point);
  const bool is_final_rounding = declared != precision_.points.end() && stored_ == declared->second;
  return is_final_rounding ? zeros_like_result(x) : at(point, x);
}

Noise no_noise(const at::Tensor& value) { return {zeros_like_result(value), zeros_like_result(value)}; }

at::Tensor rounding_of(const at::Tensor& result, double unit) {
  return result.to(at::kDouble).square() * (kOneRounding * unit * unit);
}

at::Tensor dot_variance(const at::Tensor& result, const at::Tensor& squares, const at::Tensor& length, double unit) {
  const at::Tensor partial_sums = length * (result.square() / 3.0 + squares / 6.0);
  return (partial_sums + squares) * (kSumRounding * unit * unit);
}

Noise cut_off_noise(const at::Tensor& result, const at::Tensor& squares, const at::Tensor& length, double unit) {
  constexpr double kOfEach = 0.043;
  constexpr double kOfAll = 0.034;
  const at::Tensor n2 = length.square() * (unit * unit);
  return {n2 * (kOfEach * kOfEach) * (result.square() / 3.0 + squares / 6.0), n2 * (kOfAll * kOfAll) * result.square()};
}

Noise addition_noise(const at::Tensor& sum, const NoiseModel& model) {
  return {rounding_of(sum, model.unit()), zeros_like_result(sum)};
}

// y = w (x r) with r = 1/sqrt(mean x^2 + eps), one r for the row. Shared: half the relative error of the mean (a sum of
// positive terms, the rounding of its largest square, the division by n and the addition of eps), and the inverse
// square root's own. Independent: the two products. Beside a massive channel the other squares are no larger than a few
// spacings of the sum. They are then not rounded at random: summed one after the other, most are lost the same way, and
// the error is a share of what they add up to.
Noise rms_norm_noise(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& y, const NormRule& rule,
                     const NoiseModel& model) {
  const double u = model.unit();
  const at::Tensor n = at::scalar_tensor(static_cast<double>(x.size(-1)), of_type(at::kDouble));
  const at::Tensor squares = x.square();
  const at::Tensor sum = squares.sum(-1, /*keepdim=*/true);
  const at::Tensor half_spacing = sum * u;
  const at::Tensor lost = at::minimum(squares, half_spacing).masked_fill(squares.ge(half_spacing * 4.0), 0.0);
  const at::Tensor lost_share = lost.sum(-1, true) / sum.masked_fill(sum.eq(0.0), 1.0);
  const at::Tensor mean = positive_sum(n, u) + 3 * kSumRounding * u * u + lost_share.square() / 3.0;
  const at::Tensor inverse_root = mean * (rule.power * rule.power) + kTwoUlps * u * u;
  const at::Tensor inverse_rms = at::rsqrt(sum / n + rule.eps);
  const at::Tensor declared = model.at(kRmsNormNormalized, x * inverse_rms) * weight.square();
  at::Tensor shared = y.square() * inverse_root;
  if (rule.subtract_mean) {  // an error of the mean moves every x of the row alike
    const at::Tensor mean_variance = dot_variance(x.sum(-1, true), sum, n, u) / n.square();
    shared = shared + weight.square() * inverse_rms.square() * mean_variance;
  }
  return {2.0 * rounding_of(y, u) + declared, shared};
}

namespace {

// The angle is a product of the position with a power that fp32 holds to about one u, so it is off by 1.5 u |angle|.
// ggml (ggml_rope_cache_init() in ggml/src/ggml-cpu/ops.cpp) comes to pair i by i products with the same rounded ratio:
// i times its error, and i roundings more. The first angle of a head is the position itself, exact. [B, T, d]
at::Tensor angle_errors(const at::Tensor& angles, const NoiseModel& model) {
  constexpr double kAngleError = 1.5;  // in u |angle|
  const double unit = std::min(model.unit(), unit_roundoff(DType::kF32));
  const at::Tensor pair = at::arange(angles.size(-1) / 2, of_type(at::kDouble)).repeat({2});
  const at::Tensor units = at::sqrt(kAngleError * kAngleError + kOneRounding * (pair.square() + pair));
  return angles.abs() * units.masked_fill(pair.eq(0.0), 0.0) * unit;
}

// Declared: half a spacing to either side. Not declared: a library's cosine, a whole one.
double table_factor(const NoiseModel& model) { return model.declares(kRopeTable) ? 1.0 : 4.0; }

}  // namespace

// y = x cos + rotate_half(x) sin. Independent: the table to one unit in the last place (or rounded to rope.table's
// type), the two products (or rope.products), their sum. Shared over heads: the angle's error, and
// dy/d(angle) = rotate_half(x) cos - x sin.
Noise rope_noise(const at::Tensor& x, const at::Tensor& angles, const at::Tensor& y, const NoiseModel& model) {
  const std::int64_t half = x.size(-1) / 2;
  const at::Tensor partner = at::cat({-x.narrow(-1, half, half), x.narrow(-1, 0, half)}, -1);
  const at::Tensor cosine = at::cos(angles).unsqueeze(2), sine = at::sin(angles).unsqueeze(2);
  const at::Tensor table = (rounding_variance(model.table_type(), cosine) * x.square() +
                            rounding_variance(model.table_type(), sine) * partner.square()) *
                           table_factor(model);
  const at::Tensor first = x * cosine, second = partner * sine;
  const at::Tensor products = model.declares(kRopeProducts)
                                  ? model.at(kRopeProducts, first) + model.at(kRopeProducts, second)
                                  : rounding_of(first, model.unit()) + rounding_of(second, model.unit());
  const at::Tensor slope = partner * cosine - x * sine;
  const at::Tensor error2 = angle_errors(angles, model).unsqueeze(2).square();
  // Where the slope is small the curvature counts: d2y = -y, and a Gaussian's E e^4 = 3 (E e^2)^2.
  const at::Tensor shared = error2 * slope.square() + error2.square() * y.square() * 0.75;
  return {table + products + rounding_of(y, model.unit()), shared};
}

// The same by differences, for which element meets which is not known here: no product is larger than the pair is long.
Noise rope_noise(const std::function<at::Tensor(const at::Tensor&)>& turned, const at::Tensor& angles,
                 const at::Tensor& y, const NoiseModel& model) {
  constexpr double kTurn = 1e-4;  // small beside a radian, large beside the rounding of float64
  const at::Tensor slope = (turned(angles + kTurn) - turned(angles - kTurn)) / (2.0 * kTurn);
  // What no angle moves, a bias behind the rotation, is the mean over a full turn. The sum with it may be far smaller
  // than what was rounded before.
  at::Tensor fixed = y / 4.0;
  for (int quarter = 1; quarter < 4; ++quarter) fixed = fixed + turned(angles + quarter * std::numbers::pi / 2.0) / 4.0;
  const at::Tensor length = at::sqrt((y - fixed).square() + slope.square());
  const at::Tensor table =
      rounding_variance(model.table_type(), at::ones_like(length)) * length.square() * table_factor(model);
  const at::Tensor products =
      model.declares(kRopeProducts) ? model.at(kRopeProducts, length) * 2.0 : rounding_of(length, model.unit()) * 2.0;
  const at::Tensor errors = angle_errors(angles, model);
  const at::Tensor above = turned(angles + errors), below = turned(angles - errors);
  const at::Tensor shared = ((above - below) / 2.0).square() + ((above + below) / 2.0 - y).square() * 3.0;
  return {table + products + rounding_of(y, model.unit()), shared};
}

// y = g s(g) up with s(g) = 1/(1 + exp(-g)): the exponential to two units, of which a share exp(-g)/(1 + exp(-g)) <= 1
// reaches s, then a sum, a quotient and two products. Where exp(-g) overflows, s is 0 instead of what is left of it.
Noise silu_times_noise(const at::Tensor& gate, const at::Tensor& up, const at::Tensor& y, const NoiseModel& model) {
  const double u = model.unit();
  const at::Tensor share = at::sigmoid(-gate);
  const at::Tensor relative = share.square() * (kTwoUlps * u * u) + 4 * kOneRounding * u * u;
  const int largest = model.max_exponent();
  const at::Tensor overflows = gate.lt(-largest * std::log(2.0));
  const at::Tensor lost = (gate * up * std::ldexp(1.0, -largest)).masked_fill(overflows.logical_not(), 0.0).square();
  return {y.square() * relative + lost + model.at(kMlpSilu, at::silu(gate)) * up.square(), zeros_like_result(y)};
}

// ---- Attention ----------------------------------------------------------------------------------------------------

namespace {

at::Tensor seen(const at::Tensor& x, const at::Tensor& visible) { return x.masked_fill(visible.logical_not(), 0.0); }

at::Tensor slots_visible(const AttentionValues& a) { return a.visible.sum(-1, /*keepdim=*/true).to(at::kDouble); }

// Of s = scale q.k: the dot product and its declared roundings, then the product with the scale.
at::Tensor score_variance(const AttentionValues& a, const NoiseModel& model) {
  if (!a.query.defined()) return at::zeros({}, of_type(at::kDouble));
  const double u = model.attention_unit();
  const double scale2 = a.scale * a.scale;
  const at::Tensor s = seen(a.scores, a.visible);
  const at::Tensor squared_keys = a.keys.square().transpose(2, 3);
  const at::Tensor squares = at::matmul(a.query.square(), squared_keys) * scale2;
  const at::Tensor length = at::scalar_tensor(static_cast<double>(a.query.size(-1)), of_type(at::kDouble));
  at::Tensor variance = dot_variance(s, squares, length, u) + rounding_of(s, model.unit());
  if (model.matrix_units()) variance = variance + cut_off_noise(s, squares, length, u).independent;
  if (model.declares(kAttentionQuery)) {
    variance = variance + at::matmul(model.at(kAttentionQuery, a.query), squared_keys) * scale2;
  }
  if (model.declares(kAttentionScores) && a.scale != 0.0) {
    variance = variance + model.at(kAttentionScores, s / a.scale) * scale2;
  }
  return seen(variance, a.visible);
}

// Mean square of e^r - 1 for an error r ~ N(0, variance) of the exponent: the variance itself while that is small.
// Scores of hundreds in 16 bits are off by whole units.
at::Tensor of_exponential(const at::Tensor& variance) {
  constexpr double kMost = 40.0;  // far beyond what a weight between 0 and 1 can show
  const at::Tensor v = variance.clamp_max(kMost);
  return at::expm1(2.0 * v) - 2.0 * at::expm1(0.5 * v);
}

// Relative variance of exp(s - max): the score's, the subtraction's u |s - max|, and the exponential to two units.
at::Tensor weight_variance(const AttentionValues& a, const NoiseModel& model) {
  const double u = model.unit();
  // A recorded score may be -inf where it should not be: its weight is 0, and so is that of any far below the maximum.
  const at::Tensor below_maximum = seen(a.scores - at::amax(a.scores, -1, true), a.visible).clamp_min(-1e4);
  at::Tensor variance = score_variance(a, model) + rounding_of(below_maximum, u) * 3.0 + kTwoUlps * u * u;
  if (a.query.defined()) variance = variance + model.at(kAttentionScaledScores, seen(a.scores, a.visible));
  return of_exponential(variance);
}

// The softmax sum's relative error, one for a query row and head, and the division by it.
// A running sum in a narrow type is rounded after every slot. Two engines whose weights differ by their own rounding
// store the same there but now and then, and are then a spacing apart: room for one such step, uniform.
at::Tensor softmax_sum_variance(const AttentionValues& a, const NoiseModel& model) {
  const at::Tensor slots = slots_visible(a);
  const at::Tensor variance = positive_sum(slots, model.unit()) + kOneRounding * model.unit() * model.unit();
  if (!a.sum_type) return variance;
  const double spacing = 2.0 * unit_roundoff(*a.sum_type);
  return variance + spacing * spacing / 12.0;
}

// The scale is one rounded constant: it moves every score by the same factor.
double scale_variance(const NoiseModel& model) { return kOneRounding * model.unit() * model.unit(); }

}  // namespace

Noise scores_noise(const AttentionValues& a, const NoiseModel& model) {
  const at::Tensor s = seen(a.scores, a.visible);
  return {score_variance(a, model) + seen(model.at_last(kAttentionScaledScores, s), a.visible),
          s.square() * scale_variance(model)};
}

// p = w / sum w, so dp_j = p_j (r_j - sum_i p_i r_i) for relative errors r of the weights, to first order. The sum is
// common to the row; one weight that outgrows the others moves it alone.
Noise probs_noise(const AttentionValues& a, const NoiseModel& model) {
  const at::Tensor r2 = weight_variance(a, model);
  const at::Tensor p2 = a.probs.square();
  const at::Tensor row = (p2 * r2).sum(-1, /*keepdim=*/true);
  const at::Tensor own = (r2 * (1.0 - 2.0 * a.probs)).clamp_min(0.0);
  const at::Tensor relative = (r2 * (1.0 - 2.0 * a.probs) + row).clamp_min(0.0);
  const at::Tensor independent = (p2 * at::minimum(own, relative)).clamp_max(1.0);
  at::Tensor shared = softmax_sum_variance(a, model) + (relative - own).clamp_min(0.0);
  if (a.query.defined()) {
    const at::Tensor s = seen(a.scores, a.visible);
    shared = shared + (s - (a.probs * s).sum(-1, true)).square() * scale_variance(model);
  }
  return {independent + rounding_of(a.probs, model.unit()) + model.at_last(kAttentionProbs, a.probs),
          (p2 * shared).clamp_max(1.0)};
}

// o = sum_j p_j v_j. Errors of the weights arrive as do = sum_j p_j r_j (v_j - o), to first order: what all weights
// have in common cancels in the softmax. Then the sum's own rounding, that of P where it is declared, and 1/sum.
Noise attention_output_noise(const AttentionValues& a, const NoiseModel& model) {
  const at::Tensor& o = a.output;
  const at::Tensor v2 = a.values.square();
  const at::Tensor squares = at::matmul(a.probs.square(), v2);
  const at::Tensor slots = slots_visible(a);
  at::Tensor independent = dot_variance(o, squares, slots, model.attention_unit()) + rounding_of(o, model.unit());
  if (model.matrix_units()) {
    independent = independent + cut_off_noise(o, squares, slots, model.attention_unit()).independent;
  }
  if (model.declares(kAttentionProbs)) {
    // Recorded probs that the declared type holds already are rounded no more.
    at::Tensor rounding = model.at(kAttentionProbs, a.probs);
    if (!a.scores.defined()) {
      rounding = rounding.masked_fill(model.holds(kAttentionProbs, a.probs), 0.0);
    }
    independent = independent + at::matmul(rounding, v2);
  }
  if (!a.scores.defined()) return {independent, zeros_like_result(o)};

  // p_j^2 r_j^2; no weight moves by more than 1.
  const at::Tensor weights = (a.probs.square() * weight_variance(a, model)).clamp_max(1.0);
  const at::Tensor spread =
      at::matmul(weights, v2) - 2.0 * o * at::matmul(weights, a.values) + o.square() * weights.sum(-1, true);
  at::Tensor shared = o.square() * softmax_sum_variance(a, model) + spread.clamp_min(0.0);
  if (a.query.defined()) {
    const at::Tensor weighted = a.probs * seen(a.scores, a.visible);
    const at::Tensor slope = at::matmul(weighted, a.values) - o * weighted.sum(-1, true);
    shared = shared + slope.square() * scale_variance(model);
  }
  return {independent, shared};
}

}  // namespace qdiff::reference
