// Queries made of others.
#pragma once

#include "harness/contract/oracle.h"

namespace qdiff {

// The same question of other recorded tensors. It refers to what `query` does, and to `recorded`.
inline Query of_recorded(const Query& query, const TensorStore& recorded) {
  return {.operations = query.operations,
          .recorded = recorded,
          .steps = query.steps,
          .precision = query.precision,
          .stored = query.stored,
          .variant = query.variant,
          .capacity = query.capacity,
          .unwritten = query.unwritten,
          .with_noise = query.with_noise,
          .divides_last = query.divides_last,
          .beside = query.beside,
          .mistakes = query.mistakes};
}

}  // namespace qdiff
