// Columns that come from other columns: covered by runs of neighbours.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace qdiff::explain {

// A column of one of several sources; source 0 is the tensor's own.
struct Origin {
  std::size_t source;
  std::int64_t column;
  bool operator==(const Origin&) const = default;
};

// Columns [first, last] hold those from `origin` on.
struct Run {
  std::int64_t first, last;
  Origin origin;
};

// From each column on the longest run that the possible origins allow; empty where a column has none.
std::vector<Run> runs_of(const std::vector<std::vector<Origin>>& possible);

// The smallest block within which all columns come from the same places, each block from itself; 0: none.
std::int64_t permuted_block(const std::vector<Run>& runs, std::int64_t width);

// "heads 9..12 hold heads 0..3 of self_attn.k_proj, columns 7..9 hold columns 1..3"; what stands in its place is left
// out.
std::string describe_runs(const std::vector<Run>& runs, const std::vector<std::string>& sources, std::int64_t head_dim);
// The same for a person, who reads no hundreds of runs: columns at one distance are said together, "columns 0..303 hold
// every 2nd column from 0 on", and of what is left the first.
std::string summarise_runs(const std::vector<Run>& runs, const std::vector<std::string>& sources,
                           std::int64_t head_dim);

}  // namespace qdiff::explain
