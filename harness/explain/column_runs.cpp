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

bool stands_in_its_place(const Run& run) { return run.origin.source == 0 && run.origin.column == run.first; }

std::string source_words(const Run& run, const std::vector<std::string>& sources) {
  return run.origin.source == 0 ? "" : " of " + sources[run.origin.source];
}

std::string run_words(const Run& run, const std::vector<std::string>& sources, std::int64_t head_dim) {
  return columns_words(run.first, run.last, head_dim) +
         (run.first == run.last || is_one_head(run, head_dim) ? " holds " : " hold ") +
         columns_words(run.origin.column, run.origin.column + run.last - run.first, head_dim) +
         source_words(run, sources);
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
    if (stands_in_its_place(run)) continue;
    words += (words.empty() ? "" : ", ") + run_words(run, sources, head_dim);
  }
  return words;
}

std::string summarise_runs(const std::vector<Run>& runs, const std::vector<std::string>& sources,
                           std::int64_t head_dim) {
  constexpr std::size_t kMostPieces = 6;
  std::vector<std::string> pieces;
  for (std::size_t i = 0; i < runs.size();) {
    const Run& run = runs[i];
    std::size_t end = i + 1;  // runs of one column from columns at one distance
    const auto distance = [&](std::size_t k) { return runs[k].origin.column - runs[k - 1].origin.column; };
    while (end < runs.size() && runs[end].first == runs[end].last && runs[end - 1].first == runs[end - 1].last &&
           runs[end].origin.source == run.origin.source && distance(end) == distance(i + 1)) {
      ++end;
    }
    constexpr std::size_t kEnough = 4;
    if (end - i >= kEnough && distance(i + 1) > 1) {
      const std::string step = std::to_string(distance(i + 1));
      pieces.push_back(columns_words(run.first, runs[end - 1].last, 0) + " hold every " + step +
                       (distance(i + 1) == 2   ? "nd"
                        : distance(i + 1) == 3 ? "rd"
                                               : "th") +
                       " column from " + std::to_string(run.origin.column) + " on" + source_words(run, sources));
    } else {
      end = i + 1;
      if (!stands_in_its_place(run)) pieces.push_back(run_words(run, sources, head_dim));
    }
    i = end;
  }
  std::string words;
  for (std::size_t i = 0; i < std::min(kMostPieces, pieces.size()); ++i) words += (i == 0 ? "" : ", ") + pieces[i];
  if (pieces.size() > kMostPieces) words += ", and " + std::to_string(pieces.size() - kMostPieces) + " runs more";
  return words;
}

}  // namespace qdiff::explain
