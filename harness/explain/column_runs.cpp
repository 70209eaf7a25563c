#include "harness/explain/column_runs.h"

#include <algorithm>

namespace qdiff::explain {
namespace {

std::string columns_words(std::int64_t first, std::int64_t last, std::int64_t head_dim) {
  const bool whole_heads = head_dim > 0 && first % head_dim == 0 && (last + 1) % head_dim == 0;
  const std::int64_t unit = whole_heads ? head_dim : 1;
  const std::int64_t from = first / unit, to = last / unit;
  const std::string word = whole_heads ? "head" : "column";
  if (from == to) return word + " " + std::to_string(from);
  return word + "s " + std::to_string(from) + ".." + std::to_string(to);
}

bool is_one_head(const Run& run, std::int64_t head_dim) {
  return head_dim > 0 && run.first % head_dim == 0 && run.last - run.first + 1 == head_dim;
}

}  // namespace

std::vector<Run> runs_of(const std::vector<std::vector<Origin>>& possible) {
  const auto width = static_cast<std::int64_t>(possible.size());
  const auto may_hold = [&](std::int64_t c, Origin origin) {
    const auto& at = possible[static_cast<std::size_t>(c)];
    return std::find(at.begin(), at.end(), origin) != at.end();
  };
  std::vector<Run> runs;
  for (std::int64_t c = 0; c < width;) {
    Run longest{c, c - 1, {0, c}};
    for (const Origin& origin : possible[static_cast<std::size_t>(c)]) {
      std::int64_t last = c;
      while (last + 1 < width && may_hold(last + 1, {origin.source, origin.column + last + 1 - c})) ++last;
      if (last > longest.last) longest = {c, last, origin};
    }
    if (longest.last < c) return {};
    runs.push_back(longest);
    c = longest.last + 1;
  }
  return runs;
}

std::int64_t permuted_block(const std::vector<Run>& runs, std::int64_t width) {
  std::vector<std::int64_t> from(static_cast<std::size_t>(width));
  for (const Run& run : runs) {
    if (run.origin.source != 0) return 0;
    for (std::int64_t c = run.first; c <= run.last; ++c) {
      from[static_cast<std::size_t>(c)] = run.origin.column + c - run.first;
    }
  }
  for (std::int64_t block = 2; block <= width; ++block) {
    if (width % block != 0) continue;
    bool same = true;
    for (std::int64_t c = 0; c < width && same; ++c) {
      const std::int64_t inside = from[static_cast<std::size_t>(c)] - c / block * block;
      same = inside >= 0 && inside < block && inside == from[static_cast<std::size_t>(c % block)];
    }
    if (same) return block;
  }
  return 0;
}

std::string describe_runs(const std::vector<Run>& runs, const std::vector<std::string>& sources,
                          std::int64_t head_dim) {
  std::string words;
  for (const Run& run : runs) {
    if (run.origin.source == 0 && run.origin.column == run.first) continue;
    const std::int64_t last = run.origin.column + run.last - run.first;
    words += (words.empty() ? "" : ", ") + columns_words(run.first, run.last, head_dim) +
             (run.first == run.last || is_one_head(run, head_dim) ? " holds " : " hold ") +
             columns_words(run.origin.column, last, head_dim);
    if (run.origin.source != 0) words += " of " + sources[run.origin.source];
  }
  return words;
}

}  // namespace qdiff::explain
