// Random numbers as the drawing of cases and mistakes takes them.
#pragma once

#include <cstdint>

#include "harness/contract/splitmix64.h"

namespace qdiff::selftest {

class Draws : public SplitMix64 {
 public:
  using SplitMix64::SplitMix64;
  bool one_in(std::int64_t n) { return between(1, n) == 1; }
  template <typename Items>
  const auto& one_of(const Items& items) {
    return items[static_cast<std::size_t>(below(static_cast<std::int64_t>(items.size())))];
  }
};

}  // namespace qdiff::selftest
