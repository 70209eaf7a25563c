#include "harness/diagnose/misrecorded.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <tuple>

#include "harness/compare/layout.h"
#include "harness/contract/number_text.h"
#include "harness/contract/overlay.h"
#include "harness/contract/wording.h"
#include "harness/diagnose/elements_used.h"
#include "harness/diagnose/row_oracle.h"
#include "harness/diagnose/thresholds.h"

namespace qdiff::diagnose {
namespace {

using compare::Outcome;
using Keys = std::set<TensorKey>;

bool equal_where_it_counts(const TensorView& a, const TensorView& b, const compare::Layout& layout) {
  for (std::int64_t r = 0; r < layout.num_rows(); ++r) {
    if (!layout.counts(r)) continue;
    for (std::int64_t i = r * layout.num_columns(); i < (r + 1) * layout.num_columns(); ++i) {
      const auto element = static_cast<std::size_t>(i);
      if (load_element(a.data, a.dtype, element) != load_element(b.data, b.dtype, element)) return false;
    }
  }
  return true;
}

std::string relative_name(const TensorKey& key, const TensorKey& beside) {
  std::string text(row(key.id.op).name);
  if (key.id.layer != kNoLayer) {
    text += key.id.layer == beside.id.layer ? " of the same layer" : " of layer " + std::to_string(key.id.layer);
  }
  return key.step == beside.step ? text : text + " of step " + std::to_string(key.step);
}

class Inquiry {
 public:
  Inquiry(const Subject& subject, const Judged& judged, Oracle& oracle, const Precision& precision,
          const std::function<void()>& done_with_views)
      : subject_(subject), rows_(oracle, precision), config_(oracle.config()), done_with_views_(done_with_views) {
    for (const findings::JudgedTensor& tensor : judged.tensors) {
      outcome_[{tensor.step, tensor.id}] = tensor.judgement.outcome;
    }
    for (const WrongTensor& tensor : judged.wrong) {
      const bool in_shape = tensor.judgement.decisive_statistic != "shape";
      if (in_shape && arithmetic_of(tensor.key.id.op) != Arithmetic::kAppend) suspects_.insert(tensor.key);
    }
    if (suspects_.empty()) return;
    for (const auto& [key, outcome] : outcome_) {
      const std::vector<TensorKey> span = compare::replay_span(key, *subject.inputs, config_);
      for (const TensorKey& input : compare::recorded_inputs(span, *subject.inputs, config_)) {
        direct_readers_[input].push_back(key);
      }
    }
  }

  // Upstream first: what is behind a tensor is judged with what is already known to be misrecorded left out.
  std::vector<Misrecorded> find() {
    for (const TensorKey& key : suspects_) {
      if (found_.contains(key)) continue;
      if (!is_recorders({key})) {
        // Several stages of one buffer: what reads the tensor was copied too late as well.
        Keys together = suspect_readers(key);
        together.insert(key);
        if (together.size() > 1) is_recorders(together);
        if (!found_.contains(key) && !used_as_recorded_.contains(key)) look_at_elements(key);
      }
      done_with_views_();
    }
    add_undecided();
    std::vector<Misrecorded> result;
    for (const TensorKey& key : found_) {
      const std::string elsewhere = where_it_stands(key);
      const std::string how =
          elsewhere.empty() ? wrong_elements(key) : "recorded too late or from the wrong buffer: it holds " + elsewhere;
      result.push_back({key, how + ", and what was computed from it follows from the right value"});
      done_with_views_();
    }
    return result;
  }

 private:
  Keys with_found(const Keys& keys) const {
    Keys all = found_;
    all.insert(keys.begin(), keys.end());
    return all;
  }

  // In some steps the error of a tensor may be too small to show in what was computed from it. A recorder that gets the
  // tensor wrong in others does so there.
  void add_undecided() {
    Keys undecided;
    for (const TensorKey& key : suspects_) {
      const bool in_others = std::ranges::any_of(found_, [&](const TensorKey& found) { return found.id == key.id; });
      if (in_others && !used_as_recorded_.contains(key)) undecided.insert(key);
    }
    found_.merge(undecided);
  }

  // The judged tensors in whose spans one of `keys` is, where they and those found so far are left out.
  Keys readers_of(const Keys& keys) const {
    const Keys left_out = with_found(keys);
    Keys readers, seen = keys;
    std::vector<TensorKey> to_visit(keys.begin(), keys.end());
    while (!to_visit.empty()) {
      const auto direct = direct_readers_.find(to_visit.back());
      to_visit.pop_back();
      if (direct == direct_readers_.end()) continue;
      for (const TensorKey& reader : direct->second) {
        if (!left_out.contains(reader)) {
          readers.insert(reader);
        } else if (seen.insert(reader).second) {
          to_visit.push_back(reader);
        }
      }
    }
    return readers;
  }

  Keys suspect_readers(const TensorKey& key) const {
    Keys readers = readers_of({key});
    std::erase_if(readers, [this](const TensorKey& reader) { return !suspects_.contains(reader); });
    return readers;
  }

  // A tensor recomputed with some of the recorded ones left out.
  struct Recomputed {
    Without store;
    Subject subject;
    RowJudgement row;

    Recomputed(const Subject& of, const TensorKey& key, const Keys& left_out, const ModelConfig& config)
        : store(*of.inputs, left_out), subject(of), row{&subject, key, {}, {}, {}, {}} {
      subject.inputs = &store;
      row.span = compare::replay_span(key, store, config);
    }
    Recomputed(const Recomputed&) = delete;
    Recomputed& operator=(const Recomputed&) = delete;
    bool usable(const ModelConfig& config) const {
      return !compare::what_is_unusable(row.span, store, subject.input->steps, config);
    }
  };

  // Of a tensor in the place of the row's own: root mean square over the elements that count and of which the tensor's
  // are finite; an infinity where a value that was computed is not.
  double error_of(const RowJudgement& row, const TensorView& actual) const {
    const std::vector<double> value = rows_.evaluate(row, {}, /*with_noise=*/false).value;
    const compare::Layout layout(row.key.id.op, actual.shape, row.step(), config_);
    double sum = 0.0;
    for (std::int64_t r = 0; r < layout.num_rows(); ++r) {
      if (!layout.counts(r)) continue;
      for (std::int64_t i = r * layout.num_columns(); i < (r + 1) * layout.num_columns(); ++i) {
        const double candidate = load_element(actual.data, actual.dtype, static_cast<std::size_t>(i));
        if (!std::isfinite(candidate)) continue;
        const double error = candidate - value[static_cast<std::size_t>(i)];
        if (!std::isfinite(error)) return HUGE_VAL;
        sum += error * error;
      }
    }
    return std::sqrt(sum);
  }

  struct Testimony {
    bool right_value = false;     // it was computed with the right value, and with no other
    bool recorded_value = false;  // it was computed with what is recorded
    // It is wrong with either, and its span is wide: it has a mistake of its own, behind which nobody sees what it
    // read.
    bool neither = false;
  };

  // Spans with a softmax inside: what rounding may do to them is as wide as many a bug.
  static bool is_wide(const RowJudgement& row) {
    return row.is_long() && std::ranges::any_of(row.span, [](const TensorKey& key) { return key.id.op == Op::kProbs; });
  }

  Testimony hear(const TensorKey& reader, const Keys& keys) {
    const Keys without = with_found(keys);
    const Recomputed recorded(subject_, reader, found_, config_), repaired(subject_, reader, without, config_);
    if (!recorded.usable(config_) || !repaired.usable(config_)) return {};
    // lm_head may hold its last row alone; evaluations are of all rows.
    if (num_elements(recorded.row.actual().shape) !=
        num_elements(output_shape(reader.id.op, config_, recorded.row.step().batch(), recorded.row.step().num_tokens(),
                                  recorded.row.step().valid_length()))) {
      return {};
    }
    const bool as_judged = std::ranges::none_of(
        recorded.row.span, [&](const TensorKey& in) { return in != reader && found_.contains(in); });
    const Outcome with = as_judged ? outcome_.at(reader) : rows_.judge(recorded.row, {}).outcome;
    if (with == Outcome::kDiverged) return hear_of_wrong(recorded.row, repaired.row);
    if (with != Outcome::kMatch) return {};
    return {.recorded_value = rows_.judge(repaired.row, {}).outcome == Outcome::kDiverged};
  }

  // A reader that is wrong as the trace stands, and repaired by what is left out.
  Testimony hear_of_wrong(const RowJudgement& recorded, const RowJudgement& repaired) const {
    const Testimony none{.neither = is_wide(repaired)};
    const double error = error_of(repaired, repaired.actual());
    const bool is_mended = error <= kLargestShareLeft * error_of(recorded, recorded.actual());
    if (!is_mended && !is_wide(repaired)) return {};
    const Expectation expected = rows_.evaluate(repaired, {});
    if (rows_.judge_against(repaired, repaired.actual(), expected).outcome != Outcome::kMatch) return none;
    if (!is_mended) return {};
    // One engine's rounding does far less than what is expected of any, and a bug of the reader's own more.
    if (is_wide(repaired)) {
      const Tensor as_right = rows_.emulate(repaired, {});
      if (!(error <= kLargestErrorOfRepaired * error_of(repaired, as_right.view()))) return none;
    }
    const Tensor as_recorded = rows_.emulate(recorded, {});
    return {.right_value = rows_.judge_against(repaired, as_recorded.view(), expected).outcome == Outcome::kDiverged};
  }

  // Whether all of these are the recorder's; then they are left out from here on.
  bool is_recorders(const Keys& keys) {
    const Keys readers = readers_of(keys), left_out = with_found(keys);
    const Without store(*subject_.inputs, left_out);
    Keys used_right;
    // Those first of which most are refuted.
    for (const bool diverged : {true, false}) {
      for (const TensorKey& reader : readers) {
        if ((outcome_.at(reader) == Outcome::kDiverged) != diverged) continue;
        const Testimony testimony = hear(reader, keys);
        if (testimony.recorded_value) {
          if (keys.size() == 1) used_as_recorded_.insert(*keys.begin());
          return false;
        }
        if (testimony.neither) return false;
        if (!testimony.right_value) continue;
        for (const TensorKey& key : compare::replay_span(reader, store, config_)) {
          if (keys.contains(key)) used_right.insert(key);
        }
      }
      if (used_right.size() != keys.size()) return false;
    }
    found_.insert(keys.begin(), keys.end());
    return true;
  }

  // Where a tensor that is left out says nothing: the elements of its readers tell which value they were computed from.
  void look_at_elements(const TensorKey& key) {
    const Recomputed row(subject_, key, found_, config_);
    const std::optional<PutRight> right = put_right(rows_, row.row);
    if (!right) return;
    bool used_right = false;
    for (const TensorKey& reader : readers_of({key})) {
      const Recomputed recorded(subject_, reader, found_, config_);
      const ValueUsed used = value_used(under_both(rows_, recorded.row, key, right->tensor));
      if (used == ValueUsed::kRecorded) used_as_recorded_.insert(key);
      if (used == ValueUsed::kRecorded || (used == ValueUsed::kNeither && is_wide(recorded.row))) return;
      used_right |= used == ValueUsed::kRight;
    }
    if (used_right) found_.insert(key);
  }

  // "recorded wrongly in 1 element of 4352: at [0, 3, 5] it holds nan where right code has 0.828125"
  std::string wrong_elements(const TensorKey& key) const {
    const Recomputed row(subject_, key, found_, config_);
    const std::optional<PutRight> right = put_right(rows_, row.row);
    if (!right) return "recorded wrongly: it holds another value than the engine computed with";
    const TensorView view = row.row.actual();
    const double held = load_element(view.data, view.dtype, static_cast<std::size_t>(right->first));
    return "recorded wrongly in " + counted(right->elements, "element") + " of " +
           std::to_string(right->tensor.size()) + ": at [" + joined(compare::unravel(right->first, view.shape), ", ") +
           "] it holds " + digits(held, 9) + " where right code has " + digits(right->expected, 9);
  }

  // Another tensor that it is to the bit, or what right code makes of it, in words; empty: none.
  std::string where_it_stands(const TensorKey& key) {
    const TensorView view = subject_.inputs->get(key);
    const compare::Layout layout(key.id.op, view.shape, subject_.step(key.step), config_);
    std::vector<TensorKey> others;
    for (const auto& [other, outcome] : outcome_) {
      if (other != key && num_elements(subject_.inputs->get(other).shape) == num_elements(view.shape)) {
        others.push_back(other);
      }
    }
    // What stands where it should first; then the same step, near layers, and what came later, with which a buffer is
    // written again.
    std::ranges::stable_sort(others, {}, [&](const TensorKey& other) {
      return std::tuple(found_.contains(other), other.step != key.step, std::abs(other.id.layer - key.id.layer),
                        other < key);
    });
    for (const TensorKey& other : others) {
      if (!equal_where_it_counts(view, subject_.inputs->get(other), layout)) continue;
      return relative_name(other, key) + " to the bit";
    }
    for (const OperationRow& operation : kOperationTable) {
      const TensorKey other{key.step, {operation.op, key.id.layer}};
      const bool reads = std::ranges::any_of(
          operation.inputs, [&](const Input& input) { return input.from == From::kHere && input.op == key.id.op; });
      if (!reads || operation.scope != row(key.id.op).scope) continue;
      if (holds_what_follows(key, view, other)) return "what right code makes of it, " + relative_name(other, key);
    }
    return "";
  }

  // Whether the tensor's elements are those of another operation's right result.
  bool holds_what_follows(const TensorKey& key, const TensorView& view, const TensorKey& other) {
    const Step& step = subject_.step(key.step);
    TensorView as_other = view;
    as_other.shape = output_shape(other.id.op, config_, step.batch(), step.num_tokens(), step.valid_length());
    if (num_elements(as_other.shape) != num_elements(view.shape)) return false;
    const Keys left_out = with_found({});
    const Without store(*subject_.inputs, left_out);
    Overlay renamed(store);
    renamed.replace(other, Tensor::copy_of(as_other));
    Subject subject = subject_;
    subject.candidate = &renamed;
    subject.inputs = &store;
    const RowJudgement row{&subject, other, compare::replay_span(other, store, config_), {}, {}, {}};
    if (compare::what_is_unusable(row.span, store, subject.input->steps, config_)) return false;
    return rows_.judge(row, {}).outcome == Outcome::kMatch;
  }

  const Subject& subject_;
  RowOracle rows_;
  const ModelConfig& config_;
  const std::function<void()>& done_with_views_;
  std::map<TensorKey, Outcome> outcome_;                        // of all judged tensors
  std::map<TensorKey, std::vector<TensorKey>> direct_readers_;  // judged ones, by recorded tensor
  Keys suspects_;
  Keys found_;
  Keys used_as_recorded_;  // what the engine went on with
};

}  // namespace

std::vector<Misrecorded> find_misrecorded(const Subject& subject, const Judged& judged, Oracle& oracle,
                                          const Precision& precision, const std::function<void()>& done_with_views) {
  return Inquiry(subject, judged, oracle, precision, done_with_views).find();
}

}  // namespace qdiff::diagnose
