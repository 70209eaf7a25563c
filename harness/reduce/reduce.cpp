#include "harness/reduce/reduce.h"

#include <algorithm>
#include <bit>
#include <set>
#include <tuple>
#include <utility>

namespace qdiff::reduce {
namespace {

// All that the judge sees, as a key.
using Key = std::vector<std::int64_t>;

Key key_of(const Inputs& inputs) {
  Key key(inputs.layers.begin(), inputs.layers.end());
  const auto add = [&key](const auto& numbers) {
    key.push_back(-1);
    key.insert(key.end(), numbers.begin(), numbers.end());
  };
  add(inputs.rows);
  add(inputs.slots);
  for (const Step& step : inputs.steps) {
    key.push_back(-2);
    key.push_back(static_cast<std::int64_t>(step.phase));
    for (const auto& row : step.positions) add(row);
  }
  key.push_back(inputs.capacity);
  return key;
}

class Reduction {
 public:
  Reduction(const Inputs& whole, const findings::Finding& first, const Judge& judge, const Settings& settings)
      : judge_(judge), settings_(settings), failure_(failure_of(first)), reduced_{.inputs = whole, .finding = first} {
    tried_.insert(key_of(whole));
  }

  Reduced run() {
    if (!settings_.of_trace) try_small_parts();
    try_where_it_was_found();
    for (bool smaller = true; smaller && !reduced_.out_of_tries;) {
      const std::size_t before = tried_.size();
      const Key smallest = key_of(reduced_.inputs);
      reduce_layers();
      reduce_rows();
      settings_.of_trace ? reduce_end() : reduce_sequence();
      smaller = key_of(reduced_.inputs) != smallest && tried_.size() > before;
    }
    return std::move(reduced_);
  }

 private:
  // Whether the inputs fail in the same way; they are then the smallest so far.
  bool accept(const std::optional<Inputs>& inputs) {
    if (!inputs || reduced_.out_of_tries || !tried_.insert(key_of(*inputs)).second) return false;
    if (reduced_.tries == settings_.most_tries) {
      reduced_.out_of_tries = true;
      return false;
    }
    if (settings_.progress) settings_.progress({reduced_.inputs, in_vain_, tries_left()});
    ++reduced_.tries;
    ++in_vain_;
    const std::optional<findings::Finding> finding = judge_(*inputs);
    if (!finding || !shows(*finding, failure_)) return false;
    in_vain_ = 0;
    reduced_.inputs = *inputs;
    reduced_.finding = *finding;
    return true;
  }

  // As long as nothing is left out: what is left of the small parts, or of one round.
  int tries_left() const {
    const Inputs& inputs = reduced_.inputs;
    constexpr std::size_t kPositionsAndCapacity = 4;
    std::size_t round = questions_in_vain(inputs.layers.size()) + questions_in_vain(inputs.rows.size());
    if (settings_.of_trace) {
      round += static_cast<std::size_t>(std::bit_width(inputs.slots.size()));
    } else {
      round += questions_in_vain(inputs.steps.size()) + questions_in_vain(inputs.slots.size()) + inputs.steps.size() -
               1 + kPositionsAndCapacity;
    }
    const int left = small_parts_left_ > 0 ? small_parts_left_ : static_cast<int>(round) - in_vain_;
    return std::clamp(left, 1, std::max(1, settings_.most_tries - reduced_.tries));
  }

  // Of `count` things, keeps as few as it can: `keep(inputs, kept)` takes the others away.
  template <typename Keep>
  void shrink(std::size_t count, const Keep& keep) {
    const Inputs before = reduced_.inputs;
    minimize(count, [&](const Indices& kept) { return accept(keep(before, kept)); });
  }

  // The finding itself says where to look: in its layer, or there and in the one before, or there and in another that
  // shows the same, or in the last.
  std::vector<Indices> likely_layers() const {
    const findings::Finding& found = reduced_.finding;
    const std::size_t last = reduced_.inputs.layers.size() - 1;
    const std::size_t at = found.tensor.layer == kNoLayer ? last : static_cast<std::size_t>(found.tensor.layer);
    std::vector<Indices> guesses = {{at}};
    if (at > 0) guesses.push_back({at - 1, at});
    const std::vector<int>& same = found.explanation.layers;
    if (same.size() > 1) {
      // Not a neighbour: the first and the last layer of a model are often unlike those between.
      const auto other = static_cast<std::size_t>(same[same.size() / 2]);
      if (at != other) guesses.push_back({std::min(at, other), std::max(at, other)});
    }
    // The last one wrote last what layers share, and a trace keeps what it was.
    if (settings_.of_trace && at + 1 < last) guesses.push_back({at, last});
    return guesses;
  }

  // The row of the finding's worst element, or all of them.
  std::vector<Indices> likely_rows() const {
    const std::vector<std::int64_t>& worst = reduced_.finding.judgement.worst_index;
    const std::size_t rows = reduced_.inputs.rows.size();
    std::vector<Indices> guesses = {all_indices(rows)};
    const std::size_t row = worst.empty() ? 0 : static_cast<std::size_t>(worst.front());
    if (rows > 1 && row < rows) guesses.insert(guesses.begin(), Indices{row});
    return guesses;
  }

  // The first tokens of a row, alone or with one of `later` slots behind them.
  static std::vector<Indices> likely_slots(const Inputs& inputs, std::size_t count,
                                           const std::set<std::size_t>& later) {
    const Indices first = all_indices(std::min(count, inputs.slots.size()));
    std::vector<Indices> guesses = {first};
    for (const std::size_t slot : later) {
      const auto at = static_cast<std::size_t>(std::ranges::find(inputs.slots, slot) - inputs.slots.begin());
      if (at < first.size() || at == inputs.slots.size()) continue;
      guesses.push_back(first);
      guesses.back().back() = at;
    }
    return guesses;
  }

  // Most failures need few tokens of one row, and to judge so few costs next to nothing beside the whole: of what is
  // likely to hold, the smallest is tried first. A token of the step in which it was found may have to be there, and
  // one of the last step to tell it from a bug of the prompt alone.
  void try_small_parts() {
    constexpr std::size_t kFirst = 2, kTimes = 4;
    const Inputs before = reduced_.inputs;
    const std::vector<Indices> layers = likely_layers(), rows = likely_rows();
    const Step& found_in = before.steps[static_cast<std::size_t>(reduced_.finding.step)];
    const std::set<std::size_t> later = {before.slots[static_cast<std::size_t>(found_in.valid_length()) - 1],
                                         before.slots.back()};
    std::vector<std::optional<Inputs>> parts;
    for (std::size_t count = kFirst; count <= before.slots.size() / 2; count *= kTimes) {
      for (const Indices& some_layers : layers) {
        for (const Indices& some_rows : rows) {
          const std::optional<Inputs> part = keep_rows(keep_layers(before, some_layers), some_rows);
          if (!part) continue;
          for (const Indices& slots : likely_slots(*part, count, later)) parts.push_back(keep_slots(*part, slots));
        }
      }
    }
    small_parts_left_ = static_cast<int>(parts.size());
    for (const std::optional<Inputs>& part : parts) {
      if (accept(part)) break;
      --small_parts_left_;
    }
    small_parts_left_ = 0;
    in_vain_ = 0;
  }

  // And in no step behind its own.
  void try_where_it_was_found() {
    const Inputs before = reduced_.inputs;
    const auto step = static_cast<std::size_t>(reduced_.finding.step);
    std::ignore =
        std::ranges::any_of(likely_layers(), [&](const Indices& guess) { return accept(keep_layers(before, guess)); });
    accept(keep_steps(reduced_.inputs, all_indices(step + 1)));
  }

  void reduce_layers() { shrink(reduced_.inputs.layers.size(), keep_layers); }
  void reduce_rows() { shrink(reduced_.inputs.rows.size(), keep_rows); }

  void reduce_sequence() {
    shrink(reduced_.inputs.steps.size(), keep_steps);
    shrink(reduced_.inputs.slots.size(), keep_slots);
    for (std::size_t first = reduced_.inputs.steps.size() - 1; first-- > 0;) {
      accept(join_steps(reduced_.inputs, first));
    }
    accept(with_usual_positions(reduced_.inputs));
    reduce_capacity();
  }

  // A free slot or two are often all that a bug of the cache's memory needs.
  void reduce_capacity() {
    for (const std::int64_t free : {0, 1, 2}) {
      Inputs inputs = reduced_.inputs;
      inputs.capacity = inputs.length() + free;
      if (inputs.capacity >= reduced_.inputs.capacity || accept(inputs)) return;
    }
    for (bool smaller = true; smaller;) {
      Inputs inputs = reduced_.inputs;
      inputs.capacity = inputs.length() + (inputs.capacity - inputs.length()) / 2;
      smaller = accept(inputs);
    }
  }

  // The shortest beginning of the sequence, halves of what may be left out first.
  void reduce_end() {
    const Inputs before = reduced_.inputs;
    std::size_t holds = before.slots.size(), fails = 0;
    while (holds - fails > 1) {
      const std::size_t middle = fails + (holds - fails) / 2;
      (accept(keep_slots(before, all_indices(middle))) ? holds : fails) = middle;
    }
  }

  const Judge& judge_;
  const Settings& settings_;
  Failure failure_;
  Reduced reduced_;
  std::set<Key> tried_;
  int in_vain_ = 0;           // tries since the smallest was found
  int small_parts_left_ = 0;  // of those that are tried first
};

}  // namespace

Reduced reduce(const Inputs& whole, const findings::Finding& first, const Judge& judge, const Settings& settings) {
  return Reduction(whole, first, judge, settings).run();
}

}  // namespace qdiff::reduce
