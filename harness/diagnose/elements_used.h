// Which value of a recorded tensor the engine went on with, where single elements of it are wrong: told by the elements
// of a tensor computed from it at which the two values lead far apart.
//
// The wrong elements alone are put right, so that all others keep the engine's own roundings. Leaving the whole tensor
// out, as misrecorded.h does first, widens what rounding may do behind it by far more than one element does.
#pragma once

#include <cstdint>
#include <optional>

#include "harness/diagnose/row_oracle.h"

namespace qdiff::diagnose {

// A store in which one tensor is another.
class Replaced final : public TensorStore {
 public:
  Replaced(const TensorStore& store, const TensorKey& key, const TensorView& view)
      : store_(store), key_(key), view_(view) {}
  bool has(const TensorKey& key) const override { return key == key_ || store_.has(key); }
  TensorView get(const TensorKey& key) const override { return key == key_ ? view_ : store_.get(key); }

 private:
  const TensorStore& store_;
  TensorKey key_;
  TensorView view_;
};

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

// `reader` is computed from the tensor `key`, which holds `right` in the engine if only the recorder was wrong.
ValueUsed value_used(const RowOracle& rows, const RowJudgement& reader, const TensorKey& key, const TensorView& right);

}  // namespace qdiff::diagnose
