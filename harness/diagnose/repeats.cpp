#include "harness/diagnose/repeats.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "harness/compare/pairwise.h"
#include "harness/contract/error.h"
#include "harness/diagnose/row_oracle.h"
#include "harness/diagnose/thresholds.h"
#include "harness/diagnose/trace_run.h"

namespace qdiff::diagnose {
namespace {

// One recording of the tensor in question, recomputed from what that recording holds.
struct OneRun {
  const trace::Trace* trace = nullptr;
  Subject subject = {};
  compare::Judgement judgement = {};

  bool right() const { return judgement.outcome == compare::Outcome::kMatch; }
  bool wrong() const { return judgement.outcome == compare::Outcome::kDiverged; }
};

bool same_bits(double a, double b) { return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b); }

// The elements of `values` that are not `other`'s.
std::vector<std::size_t> differing(const std::vector<double>& values, const std::vector<double>& other) {
  std::vector<std::size_t> places;
  for (std::size_t i = 0; i < std::min(values.size(), other.size()); ++i) {
    if (!same_bits(values[i], other[i])) places.push_back(i);
  }
  return places;
}

template <typename Holds>
bool mostly(const std::vector<std::size_t>& places, Holds holds) {
  const auto held = static_cast<double>(std::ranges::count_if(places, holds));
  return std::ssize(places) >= kEnoughUnwritten && held >= kLeastShareOfStale * static_cast<double>(places.size());
}

// What memory held before, where the elements at `places` are that: the same place of the tensor of an earlier step or
// of another layer, zeros or NaN. Empty where they are none of it.
std::string stale_source(const trace::Trace& trace, const TensorKey& key, const std::vector<double>& values,
                         const std::vector<std::size_t>& places) {
  if (mostly(places, [&](std::size_t i) { return std::isnan(values[i]); })) return "NaN, as memory that nobody wrote";
  if (mostly(places, [&](std::size_t i) { return values[i] == 0.0; })) return "zeros, as memory that nobody wrote";
  for (const TensorKey& other : trace.keys()) {
    if (other.id.op != key.id.op || other.step > key.step || other == key) continue;
    const std::vector<double> held = to_doubles(trace.get(other));
    const auto is_held = [&](std::size_t i) { return i < held.size() && same_bits(values[i], held[i]); };
    if (mostly(places, is_held))
      return "what " + tensor_name(other.id) + " of step " + std::to_string(other.step) + " held there";
  }
  return "";
}

Expectation as_expected(const TensorView& view) {
  Expectation expected;
  expected.shape = view.shape;
  expected.value = to_doubles(view);
  expected.sigma_independent.assign(expected.value.size(), 0.0F);
  expected.sigma_shared = expected.sigma_independent;
  return expected;
}

// Whether replay reaches the tensor in this recording; then it is judged.
bool judge(OneRun& recorded, const TensorKey& key, Oracle& oracle, const Precision& precision) {
  const trace::Trace& trace = *recorded.trace;
  RowJudgement row{&recorded.subject, key, compare::replay_span(key, trace, oracle.config()), {}, {}, {}};
  const std::vector<Step>& steps = recorded.subject.input->steps;
  if (is_far(row.span) || compare::what_is_unusable(row.span, trace, steps, oracle.config())) return false;
  recorded.judgement = RowOracle(oracle, precision).judge(row, {});
  return recorded.right() || recorded.wrong();
}

std::string counted_in(std::int64_t unequal, std::size_t recordings) {
  return std::to_string(recordings) + " recordings of this input differ in " + std::to_string(unequal) +
         (unequal == 1 ? " tensor" : " tensors");
}

// "recordings 2 and 3"
std::string names_of(const std::vector<std::size_t>& recordings) {
  std::string text = recordings.size() == 1 ? "recording " : "recordings ";
  for (std::size_t i = 0; i < recordings.size(); ++i) {
    text += (i == 0 ? "" : i + 1 == recordings.size() ? " and " : ", ") + std::to_string(recordings[i] + 1);
  }
  return text;
}

}  // namespace

void check_repeats(const trace::Trace& trace, const std::vector<const trace::Trace*>& repeats) {
  const std::vector<Step>& steps = trace.manifest().steps;
  for (std::size_t r = 0; r < repeats.size(); ++r) {
    const std::vector<Step>& other = repeats[r]->manifest().steps;
    const auto same = [](const Step& a, const Step& b) {
      return a.tokens == b.tokens && a.past_length == b.past_length && a.left_padding == b.left_padding &&
             a.positions == b.positions;
    };
    const auto [at, end] = std::ranges::mismatch(steps, other, same);
    if (at == steps.end() && end == other.end()) continue;
    throw InputError("recording " + std::to_string(r + 2) + " is not of the same input: step " +
                     std::to_string(at - steps.begin()) +
                     " is missing or has other tokens, padding or positions; give recordings of one input");
  }
}

Repeated compare_repeats(const trace::Trace& trace, const std::vector<const trace::Trace*>& repeats,
                         const Subject& subject, Oracle& oracle, const Precision& precision,
                         const ProgressReport& progress) {
  Repeated result;
  const std::vector<TensorKey> keys = trace.keys();
  std::optional<TensorKey> first;
  double share = 0.0;
  for (std::size_t k = 0; k < keys.size(); ++k) {
    const TensorKey& key = keys[k];
    if (progress) progress("recordings side by side", static_cast<std::int64_t>(k), std::ssize(keys));
    for (const trace::Trace* other : repeats) {
      if (!other->has(key)) continue;
      const Step& step = subject.step(key.step);
      const auto difference =
          compare::difference_of(key, other->get(key), step, trace.get(key), step, /*within=*/std::nullopt);
      other->forget();
      if (difference.outcome == compare::PairOutcome::kEqual || difference.outcome == compare::PairOutcome::kNothing) {
        continue;
      }
      result.unequal.insert(key);
      if (!first) first = key;
      if (first != key || difference.elements_compared == 0) continue;
      share = std::max(
          share, 1.0 - static_cast<double>(difference.bits_equal) / static_cast<double>(difference.elements_compared));
    }
    trace.forget();
  }
  const std::size_t recordings = repeats.size() + 1;
  if (!first) {
    result.condition = std::to_string(recordings) + " recordings of this input hold the same bits";
    return result;
  }

  std::vector<OneRun> recorded = {{&trace, subject}};
  for (const trace::Trace* other : repeats) {
    if (!other->has(*first)) continue;
    recorded.push_back({other, subject});
    recorded.back().subject.candidate = recorded.back().subject.inputs = other;
  }
  const std::string where = counted_in(std::ssize(result.unequal), recordings) + ", first in " +
                            tensor_name(first->id) + " of step " + std::to_string(first->step) + " (" +
                            std::to_string(static_cast<int>(std::ceil(100.0 * share))) + " % of its elements)";
  bool reached = true;
  std::vector<std::size_t> right, wrong;
  for (std::size_t r = 0; r < recorded.size(); ++r) {
    reached = judge(recorded[r], *first, oracle, precision) && reached;
    (recorded[r].right() ? right : wrong).push_back(r);
  }
  const auto forget_all = [&] {
    for (const OneRun& r : recorded) r.trace->forget();
  };
  if (!reached) {
    result.condition = where + "; what would tell rounding from a race was not recorded before it";
  } else if (wrong.empty()) {
    result.condition = where + ", each right to within rounding: sums are added in another order each time (atomics)";
  } else {
    const OneRun& blamed = recorded[wrong.front()];
    const OneRun& other = right.empty() ? recorded[wrong.front() == 0 ? 1 : 0] : recorded[right.front()];
    const TensorView actual = blamed.trace->get(*first), held_against = other.trace->get(*first);
    const std::vector<double> values = to_doubles(actual), expected = to_doubles(held_against);
    const std::string stale = stale_source(*blamed.trace, *first, values, differing(values, expected));
    const std::string cause =
        stale.empty() ? "a race: " + names_of(wrong) +
                            (right.empty() ? " are all wrong, each in its own way" : " read or wrote too early")
                      : "a stale buffer: " + names_of(wrong) + (wrong.size() == 1 ? " holds " : " hold ") + stale;
    result.condition = where + ": " + cause;
    result.wrong = WrongTensor{.subject = &subject,
                               .key = *first,
                               .span = compare::replay_span(*first, *blamed.trace, oracle.config()),
                               .span_start = {},
                               .judgement = blamed.judgement,
                               .pattern = pattern::find_pattern(first->id.op, actual, as_expected(held_against),
                                                                subject.step(first->step), oracle.config()),
                               .seen_by = SeenBy::kOtherRun,
                               .holds = "not equal from run to run, " + cause};
    result.wrong->span_start = result.wrong->span.front().id;
  }
  forget_all();
  return result;
}

}  // namespace qdiff::diagnose
