#include "harness/report/comparison.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "harness/contract/number_text.h"
#include "harness/report/json.h"
#include "harness/report/sentences.h"
#include "harness/report/terminal_writer.h"
#include "harness/report/text.h"

namespace qdiff::report {

inline void add_members(Members& members, const TensorKey& key) {
  members("step", key.step);
  members("tensor", tensor_name(key.id));
}
QDIFF_REPORTED(compare::ErrorJump, from, to, from_error, to_error, ratio)
inline void add_members(Members& members, const compare::TensorDifference& value) {
  add_members(members, value.key);
  NLOHMANN_JSON_PASTE(QDIFF_REPORTED_MEMBER, outcome, actual_dtype, expected_dtype, actual_shape, expected_shape,
                      elements_compared, bits_equal, nan_mismatches, inf_mismatches, nan_on_both, max_abs_error,
                      relative_rms_error)
  members("index", value.worst_index);
  const bool has_worst = !value.worst_index.empty();
  members("actual", has_worst ? number(value.actual, kElementDigits) : Document(nullptr));
  members("expected", has_worst ? number(value.expected, kElementDigits) : Document(nullptr));
}

namespace {

using compare::PairOutcome;
using compare::PairwiseResult;
using compare::TensorDifference;
using compare::Verdict;

// ---- JSON ----------------------------------------------------------------------------------------------------------

Document comparison_document(const PairwiseResult& result, const ComparedNames& names) {
  const TensorDifference* first = result.first_difference();
  return {{"format", "qdiff-compare"},
          {"version", 1},
          {"verdict", compare::name(result.verdict)},
          {"actual", names.actual},
          {"expected", names.expected},
          {"within", result.within ? number(*result.within, kElementDigits) : Document(nullptr)},
          {"first_difference", first == nullptr ? Document(nullptr) : document_of(*first)},
          {"jump", document_of(result.jump)},
          {"coverage",
           {{"tensors_in_common", result.tensors.size()},
            {"equal", result.count(PairOutcome::kEqual)},
            {"within", result.count(PairOutcome::kWithin)},
            {"differing", result.count(PairOutcome::kDiffers)},
            {"pads_alone", result.count(PairOutcome::kNothing)},
            {"only_in_actual", document_of(result.only_actual)},
            {"only_in_expected", document_of(result.only_expected)}}},
          {"notes", result.notes},
          {"tensors", document_of(result.tensors)}};
}

// ---- Terminal ------------------------------------------------------------------------------------------------------

std::string verdict_of_pair(const PairwiseResult& result) {
  const auto common = static_cast<std::int64_t>(result.tensors.size());
  const std::int64_t differing = result.count(PairOutcome::kDiffers), within = result.count(PairOutcome::kWithin);
  if (common == 0) return "no tensor in common";
  const std::string all = counted(common, "tensor") + " in common, ";
  if (result.verdict == Verdict::kInconclusive) return all + "pads alone";
  const std::string limit = result.within ? digits(*result.within, 6) : "";
  if (differing > 0)
    return all + std::to_string(differing) + " differ" + (limit.empty() ? "" : " by more than " + limit);
  if (within > 0) return all + "none differs by more than " + limit + ", " + std::to_string(within) + " by some bits";
  return all + "all bits equal";
}

std::string place(const TensorKey& key) { return tensor_name(key.id) + ", step " + std::to_string(key.step); }

void write_first(const TensorDifference& first, Writer& out) {
  out.whole_field("first at", place(first.key), kBold);
  if (!first.same_shape()) {
    out.field("shape", to_string(first.actual_shape) + " against " + to_string(first.expected_shape));
    return;
  }
  if (!first.same_dtype()) {
    out.field("type", std::string(name(first.actual_dtype)) + " against " + std::string(name(first.expected_dtype)) +
                          ": values are compared, " + std::to_string(first.bits_equal) + " of " +
                          std::to_string(first.elements_compared) + " are equal");
  }
  if (first.worst_index.empty()) return;
  out.whole_field("element", to_string(first.worst_index) + "  " + digits(first.actual, 9) + " against " +
                                 digits(first.expected, 9));
}

void write_missing(const std::string& label, const std::vector<TensorKey>& keys, Writer& out) {
  if (keys.empty()) return;
  std::set<TensorId> ids;
  std::vector<std::string> names;
  for (const TensorKey& key : keys) {
    if (ids.insert(key.id).second) names.push_back(tensor_name(key.id));
  }
  out.field(label, counted(static_cast<std::int64_t>(keys.size()), "tensor") + ": " + joined(by_layer(names), 6));
}

double badness(const TensorDifference& tensor) {
  const bool comparable = tensor.same_shape() && tensor.nan_mismatches == 0 && tensor.inf_mismatches == 0;
  return comparable ? tensor.relative_rms_error : std::numeric_limits<double>::infinity();
}

// The first that differs, both ends of the jump, and then the worst, in execution order.
std::vector<const TensorDifference*> interesting(const PairwiseResult& result) {
  std::vector<const TensorDifference*> unequal;
  for (const TensorDifference& tensor : result.tensors) {
    const bool differs = tensor.outcome == PairOutcome::kDiffers || tensor.outcome == PairOutcome::kWithin;
    if (differs) unequal.push_back(&tensor);
  }
  const TensorDifference* first = result.first_difference();
  const auto wanted = [&](const TensorDifference* tensor) {
    return tensor == first || (result.jump && (tensor->key == result.jump->from || tensor->key == result.jump->to));
  };
  std::ranges::stable_sort(unequal, [&](const TensorDifference* a, const TensorDifference* b) {
    if (wanted(a) != wanted(b)) return wanted(a);
    return badness(a[0]) > badness(b[0]);
  });
  if (unequal.size() > kMostTableLines) unequal.resize(kMostTableLines);
  std::ranges::sort(unequal, [](const auto* a, const auto* b) { return a->key < b->key; });
  return unequal;
}

// Rounded down, so that one wrong element of a million is not shown as none.
std::string percent_equal(const TensorDifference& tensor) {
  if (tensor.elements_compared == 0) return "-";
  const double share = static_cast<double>(tensor.bits_equal) / static_cast<double>(tensor.elements_compared);
  return digits(std::floor(share * 1000.0) / 10.0, 4) + "%";
}

std::string remark(const TensorDifference& tensor) {
  std::vector<std::string> remarks;
  if (!tensor.same_shape()) remarks.push_back("other shape");
  if (!tensor.same_dtype()) {
    remarks.push_back(std::string(name(tensor.actual_dtype)) + "/" + std::string(name(tensor.expected_dtype)));
  }
  if (tensor.nan_mismatches > 0) remarks.push_back(std::to_string(tensor.nan_mismatches) + " NaN");
  if (tensor.inf_mismatches > 0) remarks.push_back(std::to_string(tensor.inf_mismatches) + " inf");
  if (tensor.outcome == PairOutcome::kWithin) remarks.push_back("within");
  return joined(remarks, remarks.size());
}

void write_table(const PairwiseResult& result, Writer& out) {
  const std::vector<const TensorDifference*> shown = interesting(result);
  if (shown.empty()) return;
  std::size_t name_width = 6;
  for (const TensorDifference* tensor : shown) name_width = std::max(name_width, tensor_name(tensor->key.id).size());
  constexpr std::size_t kStep = 6, kNumber = 11;
  out.blank();
  out.line(out.painted(kFaint, at_right("step", kStep) + "  " + padded_to("tensor", name_width) +
                                   at_right("equal", kNumber) + at_right("max error", kNumber) +
                                   at_right("rel. RMS", kNumber)));
  for (const TensorDifference* tensor : shown) {
    const bool numbers = tensor->same_shape();
    const std::string note = remark(*tensor);
    out.line(out.plain(at_right(std::to_string(tensor->key.step), kStep) + "  " +
                       padded_to(tensor_name(tensor->key.id), name_width) + at_right(percent_equal(*tensor), kNumber) +
                       at_right(numbers ? digits(tensor->max_abs_error, 3) : "-", kNumber) +
                       at_right(numbers ? digits(tensor->relative_rms_error, 3) : "-", kNumber) +
                       (note.empty() ? "" : "  " + note)));
  }
  const std::int64_t unequal = result.count(PairOutcome::kDiffers) + result.count(PairOutcome::kWithin);
  if (unequal > static_cast<std::int64_t>(shown.size())) {
    out.line(out.painted(kFaint, "  (" + std::to_string(shown.size()) + " of " + std::to_string(unequal) +
                                     " that differ: the first, and those that differ most)"));
  }
}

}  // namespace

std::string comparison_json(const PairwiseResult& result, const ComparedNames& names) {
  return to_text(comparison_document(result, names));
}

std::string format_comparison(const PairwiseResult& result, const ComparedNames& names,
                              const TerminalOptions& options) {
  Writer out(options);
  out.line(out.painted(color_of(result.verdict), headline_of(result.verdict)) + "  " +
           out.plain(names.actual + " against " + names.expected + ": " + verdict_of_pair(result)));
  if (const TensorDifference* first = result.first_difference()) write_first(*first, out);
  if (result.jump) {
    out.field("jump", "the relative error grows " + digits(result.jump->ratio, 3) + " times from " +
                          tensor_name(result.jump->from.id) + " (" + digits(result.jump->from_error, 3) + ") to " +
                          tensor_name(result.jump->to.id) + " (" + digits(result.jump->to_error, 3) + "), step " +
                          std::to_string(result.jump->to.step));
  }
  write_missing("only in A", result.only_actual, out);
  write_missing("only in B", result.only_expected, out);
  std::int64_t with_nan = 0;
  for (const TensorDifference& tensor : result.tensors) with_nan += tensor.nan_on_both > 0 ? 1 : 0;
  if (with_nan > 0) out.field("NaN", "on both sides, of equal bits, in " + counted(with_nan, "tensor"));
  constexpr std::size_t kMostNotes = 4;
  for (std::size_t i = 0; i < result.notes.size() && i < kMostNotes; ++i) out.field("note", result.notes[i]);
  if (result.notes.size() > kMostNotes) {
    out.field("note", "and " + std::to_string(result.notes.size() - kMostNotes) + " more of this kind");
  }
  write_table(result, out);
  out.whole_field("report", options.reports);
  return out.take();
}

}  // namespace qdiff::report
