// The law by which vectors of a tensor stand where others should: vector (b, p, h) = source (b + batch_shift, p +
// shift, heads[h]).
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <vector>

#include "harness/contract/operation_table.h"

namespace qdiff::explain {

struct Law {
  TensorId source;
  std::int64_t shift = 0;
  std::vector<std::int64_t> heads = {};  // by head of the wrong tensor
  std::int64_t batch_shift = 0;
  auto operator<=>(const Law&) const = default;
};

// "mlp.act of 1 before of batch row b + 1, heads 0..1 from 1, 0", as an injected mistake is given (docs/mechanisms.md).
// `whole_rows`: a vector is a row, not a head of one.
std::string describe(const Law& law, int layer, bool whole_rows);

// Bits of saying it, without its heads.
double bits_of(const Law& law);

}  // namespace qdiff::explain
