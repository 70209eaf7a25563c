// How many tensors a run wanted of the reference, where it keeps them.
#pragma once

#include <cstdint>

namespace qdiff::findings {

struct ReferenceValues {
  std::int64_t computed = 0;
  std::int64_t from_cache = 0;
  bool operator==(const ReferenceValues&) const = default;
};

}  // namespace qdiff::findings
