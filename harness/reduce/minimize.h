// The smallest part of a list that still does what the whole does, by delta debugging (Zeller and Hildebrandt, IEEE
// Transactions on Software Engineering 28, 2002): halves are left out first, then quarters, at last single items.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

namespace qdiff::reduce {

using Indices = std::vector<std::size_t>;

// 0 .. count-1
Indices all_indices(std::size_t count);

// Of the list 0 .. count-1, which is known to hold, a part that holds and of which no single item can be left out.
// Runs of items are left out from the end of the list on, for what comes later seldom matters to what comes before.
// `holds` is asked for parts in ascending order and never for an empty one.
Indices minimize(std::size_t count, const std::function<bool(const Indices&)>& holds);

// How often `holds` is asked where nothing can be left out.
std::size_t questions_in_vain(std::size_t count);

}  // namespace qdiff::reduce
