// Where the operations round: nowhere (gold), or exactly where an engine declares that it does (emulated).
//
// The third behaviour, rounding at random for the ensembles, lives outside the operations (ensemble.h): noise of the
// expected size is added to what they return.
#pragma once

#include <optional>

#include "reference/cache_codes.h"

namespace qdiff::reference {

class Rounding {
 public:
  // Computes in fp64 and rounds nothing but what is stored().
  static Rounding gold(const Precision& precision) { return {precision, false}; }
  // Computes in fp32 (fp64 where `accumulate` is) and rounds at every declared point.
  static Rounding emulated(const Precision& precision, bool divides_last = false) {
    return {precision, true, divides_last};
  }

  at::ScalarType compute() const {
    return emulated_ && precision_.accumulate != DType::kF64 ? at::kFloat : at::kDouble;
  }

  bool emulates() const { return emulated_; }
  // The type in which an emulation rounds there; empty where it does not.
  std::optional<DType> emulated_at(RoundingPoint point) const {
    const auto declared = precision_.points.find(point);
    return emulated_ && declared != precision_.points.end() ? std::optional(declared->second) : std::nullopt;
  }
  bool divides_last() const { return divides_last_; }  // Query::divides_last

  at::Tensor at(RoundingPoint point, const at::Tensor& x) const {
    const auto declared = precision_.points.find(point);
    if (declared == precision_.points.end()) return x;
    if (emulated_) return round_to(declared->second, x);
    return with_overflow(declared->second,
                         x);  // gold expects the rounding; what overflows there is infinite all the same
  }

  // Keys or values, [..., K, d], as this cache stores them. Gold rounds them too: storing is data movement, and what a
  // later step reads is what was stored.
  at::Tensor stored(const TensorId& cache, const at::Tensor& x) const {
    if (precision_.cache != QuantizedCache::kNone) return cache_codes(precision_, cache, x).value();
    const auto declared = precision_.points.find(RoundingPoint::kKvCache);
    return declared == precision_.points.end() ? x : round_to(declared->second, x);
  }

  // The result of a sum: matters where sums are kept in a 16-bit type, narrower than the emulation computes in.
  at::Tensor accumulated(const at::Tensor& x) const { return emulated_ ? round_to(precision_.accumulate, x) : x; }

  // A row's output as the operations after it take it. A row that an engine need not materialise is not rounded beyond
  // its points.
  at::Tensor taken(Op op, const at::Tensor& x) const {
    if (!emulated_) return x;
    const auto declared = precision_.taken_as.find(op);
    if (declared != precision_.taken_as.end()) return round_to(declared->second, x);
    return row(op).optional ? x : round_to(precision_.activations, x);
  }

 private:
  Rounding(const Precision& precision, bool emulated, bool divides_last = false)
      : precision_(precision), emulated_(emulated), divides_last_(divides_last) {}

  Precision precision_;
  bool emulated_;
  bool divides_last_;
};

}  // namespace qdiff::reference
