#include "harness/pattern/words.h"

#include <algorithm>
#include <set>
#include <utility>

#include "harness/contract/wording.h"

namespace qdiff::pattern {
namespace {

using Indices = std::vector<std::int64_t>;

constexpr std::size_t kMostRunsInWords = 6;

// "3", "1", "4", "2..9": runs of three or more are joined.
std::vector<std::string> runs_of(const Indices& indices) {
  std::vector<std::string> runs;
  for (std::size_t i = 0; i < indices.size();) {
    std::size_t last = i;
    while (last + 1 < indices.size() && indices[last + 1] == indices[last] + 1) ++last;
    if (last >= i + 2) {
      runs.push_back(std::to_string(indices[i]) + ".." + std::to_string(indices[last]));
    } else {
      for (std::size_t k = i; k <= last; ++k) runs.push_back(std::to_string(indices[k]));
    }
    i = last + 1;
  }
  return runs;
}

// The widest tile that a tail of columns begins with, the usual tiles of GEMMs; 0: none.
std::int64_t tile_at(std::int64_t column) {
  for (const std::int64_t tile : {128, 64, 32, 16}) {
    if (column % tile == 0) return tile;
  }
  return 0;
}

// What holds of the indices that were compared: all of them, those that are wrong, those that are not.
struct Found {
  Indices present, wrong, right;
  bool is_run(const Indices& indices) const {
    return !indices.empty() && indices.back() - indices.front() + 1 == static_cast<std::int64_t>(indices.size());
  }
  bool at_end() const { return wrong.back() == present.back(); }
  bool at_start() const { return wrong.front() == present.front(); }
};

std::string describe_dimensions(const Found& found, std::int64_t size) {
  const auto all_in = [&](auto predicate) {
    return 2 * static_cast<std::int64_t>(found.wrong.size()) == size && std::ranges::all_of(found.wrong, predicate);
  };
  if (all_in([&](std::int64_t i) { return i >= size / 2; })) return "the second half of each head";
  if (all_in([&](std::int64_t i) { return i < size / 2; })) return "the first half of each head";
  if (all_in([](std::int64_t i) { return i % 2 == 0; })) return "even dimensions";
  if (all_in([](std::int64_t i) { return i % 2 == 1; })) return "odd dimensions";
  if (found.right.size() <= 4 && found.wrong.size() > found.right.size()) {
    return (found.right.size() == 1 ? "dimension " : "dimensions ") + listed(runs_of(found.right), "and") + " exact";
  }
  return "";
}

std::string describe_columns(const Found& found, std::int64_t size) {
  const std::int64_t first = found.wrong.front();
  const std::int64_t tail = size - first;
  // A few columns of a wrong tail may be right by chance.
  const bool is_tail = static_cast<double>(found.wrong.size()) >= kMost * static_cast<double>(tail);
  if (first == 0 || !is_tail || found.wrong.size() < 2) return "";
  const std::int64_t tile = tile_at(first);
  if (tile > tail) {
    return "columns from " + std::to_string(first) + ", the last partial tile of " + std::to_string(tile);
  }
  const std::string from = "columns from " + std::to_string(first) + " of " + std::to_string(size);
  return tile > 0 ? from + " (a multiple of " + std::to_string(tile) + ')' : from;
}

// Rows, slots and heads: first, last, all but one, from N on.
std::string describe_order(const Found& found, const std::string& one, std::int64_t size) {
  const bool batch = one == "batch row";
  const bool head = one == "head";
  if (found.right.size() == 1 && !batch) {
    if (!head && found.right.front() == found.present.front()) return "every " + one + " but the first";
    if (!head && found.right.front() == found.present.back()) return "every " + one + " but the last";
    return "every " + one + " but " + std::to_string(found.right.front());
  }
  if (head) return "";
  if (found.wrong.size() == 1 && !batch) {
    if (found.at_end()) return "the last " + one;
    if (found.at_start()) return "the first " + one;
    return "";
  }
  if (found.wrong.size() < 3 || !found.is_run(found.wrong)) return "";
  if (found.at_end()) return one + "s from " + std::to_string(found.wrong.front()) + " of " + std::to_string(size);
  if (found.at_start() && found.is_run(found.present)) {
    return one + "s before " + std::to_string(found.wrong.back() + 1) + " of " + std::to_string(size);
  }
  return "";
}

// "column 3 of every 7", "columns 8..15 of every 16": what a lane of a loop, or a part of each tile, leaves behind.
// A few that are wrong may be right by chance.
std::string describe_period(const Found& found, const std::string& one) {
  constexpr std::int64_t kFewestTimes = 4;
  const std::int64_t size = found.present.back() + 1;
  for (std::int64_t period = 2; period * kFewestTimes <= size; ++period) {
    std::set<std::int64_t> places;
    for (const std::int64_t i : found.wrong) places.insert(i % period);
    const bool is_run = *places.rbegin() - *places.begin() + 1 == static_cast<std::int64_t>(places.size());
    if (!is_run || static_cast<std::int64_t>(places.size()) == period) continue;
    const auto there =
        std::ranges::count_if(found.present, [&](std::int64_t i) { return places.contains(i % period); });
    if (static_cast<double>(found.wrong.size()) < kMost * static_cast<double>(there)) continue;
    const Indices run(places.begin(), places.end());
    return one + (run.size() == 1 ? " " : "s ") + listed(runs_of(run), "and") + " of every " + std::to_string(period);
  }
  return "";
}

}  // namespace

Pattern::AxisFacts Axis::facts() const {
  Pattern::AxisFacts found{one, {}, static_cast<std::int64_t>(wrong.size()), true};
  for (std::size_t i = 0; i < wrong.size(); ++i) {
    if (wrong[i] > 0 && wrong.size() > 1) found.wrong.push_back(static_cast<std::int64_t>(i));
    if (compared[i] > 0 && wrong[i] == 0) found.all = false;
  }
  return found;
}

std::string Axis::describe() const {
  const auto size = static_cast<std::int64_t>(wrong.size());
  Found found;
  for (std::int64_t i = 0; i < size; ++i) {
    const auto at = static_cast<std::size_t>(i);
    if (compared[at] == 0) continue;
    found.present.push_back(i);
    (wrong[at] > 0 ? found.wrong : found.right).push_back(i);
  }
  if (found.present.size() <= 1 || found.wrong.empty()) return "";
  if (found.right.empty()) return "every " + one;
  // Up to three indices are told by their numbers.
  if (found.present.size() > 3) {
    const std::string words = one == "dimension" ? describe_dimensions(found, size)
                              : one == "column"  ? describe_columns(found, size)
                                                 : describe_order(found, one, size);
    if (!words.empty()) return words;
  }
  const std::vector<std::string> runs = runs_of(found.wrong);
  if (runs.size() > kMostRunsInWords) {
    if (static_cast<double>(found.wrong.size()) >= kMost * static_cast<double>(found.present.size())) {
      return "nearly every " + one;
    }
    const std::string period = describe_period(found, one);
    if (!period.empty()) return period;
    return std::to_string(found.wrong.size()) + " of " + std::to_string(size) + ' ' + one + 's';
  }
  return one + (found.wrong.size() == 1 ? " " : "s ") + listed(runs, "and") + " of " + std::to_string(size);
}

std::vector<Axis> axes_of(const Values& values) {
  const compare::Layout& layout = values.layout();
  const bool scores = layout.is_scores();
  const std::int64_t d = layout.head_columns();
  const std::int64_t columns = d > 0 ? d : values.num_columns();
  Axis head("head", std::max<std::int64_t>(1, layout.num_heads()));
  Axis batch("batch row", layout.batch());
  Axis position(values.is_cache() ? "slot" : "token row", layout.num_positions());
  Axis last(scores ? "key slot" : (d > 0 ? "dimension" : "column"), columns);
  for (std::int64_t row = 0; row < values.num_rows(); ++row) {
    for (std::int64_t c = 0; c < values.num_columns(); ++c) {
      const Mark mark = values.mark(row, c);
      if (mark == Mark::kNotCompared) continue;
      const std::int64_t wrong = mark == Mark::kWrong ? 1 : 0;
      const auto count = [wrong](Axis& axis, std::int64_t index) {
        ++axis.compared[static_cast<std::size_t>(index)];
        axis.wrong[static_cast<std::size_t>(index)] += wrong;
      };
      count(head, values.head_of(row, c));
      count(batch, layout.batch_of(row));
      count(position, layout.position_of(row));
      count(last, d > 0 ? c % d : c);
    }
  }
  std::vector<Axis> axes;
  if (layout.num_heads() > 0) axes.push_back(std::move(head));
  axes.push_back(std::move(batch));
  axes.push_back(std::move(position));
  axes.push_back(std::move(last));
  return axes;
}

}  // namespace qdiff::pattern
