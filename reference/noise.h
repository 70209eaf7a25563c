// The rounding error that a correct engine of a declared precision is expected to make in one operation, element by
// element, before the result is rounded to the type in which it is stored: what several arithmetics have in common.
// noise.cpp derives each formula, and those of one arithmetic stand beside its value (arithmetic/).
//
// All variances are fp64 tensors of the operation's output shape (or broadcast to it).
#pragma once

#include <optional>

#include "harness/contract/precision.h"
#include "reference/parameters.h"
#include "reference/torch.h"

namespace qdiff::reference {

struct Noise {
  at::Tensor independent;  // variance of the part that differs from element to element
  at::Tensor shared;       // variance of the part that moves a row, a head or the tensor together
};

// What the declaration means for one operation.
class NoiseModel {
 public:
  // `stored` is the type in which the operation's result is kept, where it is: a rounding point that is the
  // operation's last act and has this very type is then the final rounding, which is not this model's to add.
  NoiseModel(const Precision& precision, std::optional<DType> stored) : precision_(precision), stored_(stored) {}

  double unit() const { return unit_roundoff(precision_.accumulate); }
  // Whether the sums may be a matrix unit's, which multiplies what 16 bits hold and keeps float32.
  bool matrix_units() const {
    return size_of(precision_.activations) == 2 && size_of(precision_.weights) == 2 &&
           precision_.accumulate == DType::kF32;
  }
  double attention_unit() const { return unit_roundoff(precision_.at(RoundingPoint::kAttentionAccumulate)); }
  bool declares(RoundingPoint point) const { return precision_.points.contains(point); }
  // Variance of a declared rounding of x at `point`; 0 where it is not declared.
  at::Tensor at(RoundingPoint point, const at::Tensor& x) const;
  // The same for a point after which nothing follows in its operation.
  at::Tensor at_last(RoundingPoint point, const at::Tensor& x) const;
  // Which elements the declared type of `point` holds exactly.
  at::Tensor holds(RoundingPoint point, const at::Tensor& x) const { return x.eq(round_to(precision_.at(point), x)); }
  // Which elements lie beyond its largest number.
  at::Tensor overflows(RoundingPoint point, const at::Tensor& x) const {
    return round_to(precision_.at(point), x).isinf();
  }

 private:
  const Precision& precision_;
  std::optional<DType> stored_;
};

inline constexpr double kSumRounding = 0.19;     // variance / (u x)^2 of a rounding among many
inline constexpr double kOneRounding = 1.0 / 3;  // of one that stands alone
// Library functions are allowed two units in the last place (CUDA C++ Programming Guide, appendix on mathematical
// functions: expf 2, rsqrtf 2, sinf and cosf 2 at most). A unit is up to 2u|x|; uniform over two of them on both sides
// gives (4u)^2 / 3 at most, and 0.541 of that over a binade.
inline constexpr double kTwoUlps = 16.0 / 3 * 0.541;
// An exponential to base two of x log2(e): the constant, the product with it and the reduced exponent are each rounded
// once, which its value takes for relative errors of u |x|.
inline constexpr double kExponentRoundings = 3.0;

at::Tensor zeros_like_result(const at::Tensor& x);  // of a variance
// Relative variance of a sum of n positive terms: s_k = (k/n) s, so sum_k s_k^2 = n s^2 / 3.
at::Tensor positive_sum(const at::Tensor& length, double unit);

Noise no_noise(const at::Tensor& value);
// What one addition or product with this result rounds.
at::Tensor rounding_of(const at::Tensor& result, double unit);
// The variance of a sum of `length` products a_k b_k with this result, ||a o b||^2 = `squares`; `length` broadcasts.
at::Tensor dot_variance(const at::Tensor& result, const at::Tensor& squares, const at::Tensor& length, double unit);

// What a matrix unit adds to both parts of a sum's noise by cutting off instead of rounding.
Noise cut_off_noise(const at::Tensor& result, const at::Tensor& squares, const at::Tensor& length, double unit);

Noise addition_noise(const at::Tensor& sum, const NoiseModel& model);

}  // namespace qdiff::reference
