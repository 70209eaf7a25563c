// What a fit on a span of several operations is worth. Its expected rounding is measured on an ensemble and its inner
// tensors are not seen, so that a free parameter may imitate a bug that the catalogue lacks: queries and keys
// normalised before the rotation look like a scale of the scores.
//
// - A bug that nothing explains at an operation inside the span, in another layer or step, is likely inside it as well.
//   Where that operation was seen alone, a fit is none unless it fits a single operation somewhere; where it was part
//   of a span too, a fit with a searched value is none. What is left is in doubt.
// - A value that was searched for on such spans alone is in doubt. One that fits a single operation elsewhere is not.
// - Where nothing is left but NaN, it says that one arose somewhere in the span, not how: a softmax that overflows
//   leaves what a cache leaves of which most was never written. A fit that reproduces no number, and no single
//   operation without one, is in doubt.
//
// What is in doubt is consistent, never confirmed.
#pragma once

#include <vector>

#include "harness/diagnose/subject.h"

namespace qdiff::diagnose {

inline constexpr const char* kSearchedOverSpan =
    "the value was searched for over a span of several operations, where another bug may look like it";

inline constexpr const char* kNoNumberInSpan =
    "all that it reproduces is NaN behind a span of several operations, any of which may have made it";

// Drops fits of `wrong`, and marks others with their doubt, by these rules.
void weigh_span_evidence(std::vector<WrongTensor>& wrong);

}  // namespace qdiff::diagnose
