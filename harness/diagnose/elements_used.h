// Which value of a recorded tensor the engine went on with, where single elements of it are wrong: told by the elements
// of a tensor computed from it at which the two values lead far apart.
//
// The wrong elements alone are put right, so that all others keep the engine's own roundings. Leaving the whole tensor
// out, as misrecorded.h does first, widens what rounding may do behind it by far more than one element does.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "harness/diagnose/row_oracle.h"
#include "harness/diagnose/thresholds.h"

namespace qdiff::diagnose {

// A recorded tensor with its wrong elements put right.
struct PutRight {
  Tensor tensor;
  std::int64_t elements = 0;  // so many were wrong
  std::int64_t first = 0;     // of these
  double expected = 0.0;      // what right code holds there
};

// Nothing where no element that counts lies clearly beyond rounding, or where the tensor cannot be judged.
std::optional<PutRight> put_right(const RowOracle& rows, const RowJudgement& row);

enum class ValueUsed : std::uint8_t {
  kUnknown,   // the two values lead nowhere far apart
  kNeither,   // they do, and what was computed follows from none of the two
  kRight,     // the engine went on with the right value, and recorded another
  kRecorded,  // the engine went on with what it recorded
};

// An element of a tensor that is computed from another one.
struct UnderBoth {
  double held = 0.0;       // what the engine has there
  double right = 0.0;      // what follows from the right value; finite
  double recorded = 0.0;   // what follows from the recorded one
  double deviation = 0.0;  // of what follows from the right value
  double apart() const { return std::fabs(recorded - right); }
};

// All elements that count of `reader`, which is computed from the tensor `key`; that one holds `right` in the engine if
// only the recorder was wrong. None where the reader cannot be computed.
std::vector<UnderBoth> under_both(const RowOracle& rows, const RowJudgement& reader, const TensorKey& key,
                                  const Tensor& right);

// What decides; thresholds.h has the experiment.
struct Telling {
  double far_apart = kFarApart;
  double share_of_apart = kShareOfApart;
  double share_with_right = kShareWithRight;
  double share_with_recorded = kShareWithRecorded;
};
ValueUsed value_used(const std::vector<UnderBoth>& elements, const Telling& telling = {});

}  // namespace qdiff::diagnose
