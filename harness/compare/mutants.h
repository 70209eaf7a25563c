// Wrong judges, planted on purpose. The judge's tests are worth what they catch: tests/mutant_test.cpp builds the judge
// once with QDIFF_JUDGE_MUTANTS, switches each of these on and demands that at least one assertion which the real judge
// passes fails. In every other build the switch is a constant and the code is the real judge's alone.
#pragma once

#include <cstdint>

namespace qdiff::compare {

enum class Mutant : std::uint8_t {
  kNone,
  kNanPassesBounds,       // `ratio > limit` instead of `!(ratio <= limit)`
  kStrictBounds,          // `<` for `<=`
  kBoundDoubled,          //
  kNanValuesIgnored,      // NaN in the candidate passed over
  kInfinitySignIgnored,   // +inf where -inf belongs
  kFiniteForInfinity,     // a finite value accepted where gold is infinite
  kTailSkipped,           // the columns after the last whole tile never looked at
  kLastRowSkipped,        //
  kSidesSwapped,          // gold taken for the candidate and the candidate for gold
  kPadsCompared,          // pad rows looked at
  kShapeIgnored,          //
  kAllZeroAccepted,       //
  kGoldNotRounded,        // exact rows compared with gold before its rounding
  kNoSubnormalFloor,      // spacing taken as relative everywhere
  kSharedSigmaForgotten,  //
  kCastForgotten,         // no allowance for the final rounding
  kAnyStandInAccepted,    // a masked score may be any finite number
  kZeroSigmaPasses,       // 0/0 and x/0 taken as no excess
  kFirstRowOfLmHead,      // logits of the last row held against gold's first
  kSlicesForgotten,       // only the tensor as a whole
  kBiasForgotten,         //
  kSlopeForgotten,        //
  kUnjudgedIsMatch,       // nothing compared counts as a match
};
inline constexpr int kNumMutants = 24;

#ifdef QDIFF_JUDGE_MUTANTS
inline Mutant active_mutant = Mutant::kNone;
inline bool mutated(Mutant mutant) { return active_mutant == mutant; }
#else
constexpr bool mutated(Mutant) { return false; }
#endif

}  // namespace qdiff::compare
