#include "harness/reduce/minimize.h"

#include <algorithm>
#include <iterator>
#include <numeric>

namespace qdiff::reduce {
namespace {

using Holds = std::function<bool(const Indices&)>;

// Leaves out runs of `length` items, the last first, as long as the rest holds. Returns whether any was left out.
bool leave_out_runs(std::size_t length, const Holds& holds, Indices& kept) {
  bool any = false;
  for (std::size_t end = kept.size(); end > 0;) {
    const std::size_t begin = end > length ? end - length : 0;
    Indices rest(kept.begin(), kept.begin() + static_cast<std::ptrdiff_t>(begin));
    std::copy(kept.begin() + static_cast<std::ptrdiff_t>(end), kept.end(), std::back_inserter(rest));
    if (!rest.empty() && holds(rest)) {
      kept = std::move(rest);
      any = true;
    }
    end = begin;
  }
  return any;
}

}  // namespace

Indices all_indices(std::size_t count) {
  Indices indices(count);
  std::iota(indices.begin(), indices.end(), std::size_t{0});
  return indices;
}

Indices minimize(std::size_t count, const Holds& holds) {
  Indices kept = all_indices(count);
  for (std::size_t length = (count + 1) / 2; length > 1; length = (std::min(length, kept.size()) + 1) / 2) {
    leave_out_runs(length, holds, kept);
  }
  // An item that was needed may be needed no more once another is gone.
  while (kept.size() > 1 && leave_out_runs(1, holds, kept)) {
  }
  return kept;
}

std::size_t questions_in_vain(std::size_t count) {
  std::size_t questions = 0;
  minimize(count, [&questions](const Indices&) {
    ++questions;
    return false;
  });
  return questions;
}

}  // namespace qdiff::reduce
