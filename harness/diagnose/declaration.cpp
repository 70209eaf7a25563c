#include "harness/diagnose/declaration.h"

#include <algorithm>
#include <functional>
#include <optional>

#include "harness/compare/judge.h"
#include "harness/diagnose/row_oracle.h"
#include "harness/diagnose/thresholds.h"

namespace qdiff::diagnose {
namespace {

using compare::Outcome;

// One entry of `compute`, and the declaration without it.
struct Entry {
  std::string text;
  std::function<void(Precision&)> leave_out;
  std::function<bool(const RowJudgement&)> concerns;
  bool everywhere = false;  // it rounds in operations of every kind
};

bool holds(const RowJudgement& row, const std::function<bool(Op)>& wanted) {
  return std::ranges::any_of(row.span, [&](const TensorKey& key) { return wanted(key.id.op); });
}

bool rounds_at(Op op, RoundingPoint point) {
  const auto& points = row(op).points;
  // Probabilities that were handed out as softmax gave them may be rounded on their way into P·V.
  return std::ranges::find(points, point) != points.end() ||
         (point == RoundingPoint::kAttentionProbs && op == Op::kAttnOutput);
}

std::vector<Entry> entries_of(const Precision& declared) {
  std::vector<Entry> entries;
  for (const auto& [point, dtype] : declared.points) {
    entries.push_back(
        {std::string(name(point)) + ": " + std::string(name(dtype)),
         [point = point](Precision& precision) { precision.points.erase(point); },
         [point = point](const RowJudgement& row) { return holds(row, [&](Op op) { return rounds_at(op, point); }); }});
  }
  for (const auto& [op, dtype] : declared.taken_as) {
    entries.push_back({std::string(row(op).name) + ": " + std::string(name(dtype)),
                       [op = op](Precision& precision) { precision.taken_as.erase(op); },
                       [op = op](const RowJudgement& judged) {
                         return holds(judged, [&](Op reader) {
                           const auto& inputs = row(reader).inputs;
                           return std::ranges::any_of(inputs, [&](const Input& input) { return input.op == op; });
                         });
                       }});
  }
  if (declared.quantized != QuantizedInputs::kNone) {
    entries.push_back({std::string(kQuantizedInputsPoint) + ": " + std::string(name(declared.quantized)),
                       [](Precision& precision) { precision.quantized = QuantizedInputs::kNone; },
                       [](const RowJudgement& row) {
                         return holds(row, [](Op op) { return arithmetic_of(op) == Arithmetic::kProduct; });
                       }});
  }
  if (declared.cache != QuantizedCache::kNone) {
    entries.push_back({std::string(name(RoundingPoint::kKvCache)) + ": " + std::string(name(declared.cache)),
                       [](Precision& precision) { precision.cache = QuantizedCache::kNone; },
                       [](const RowJudgement& row) {
                         return holds(row, [](Op op) { return arithmetic_of(op) == Arithmetic::kAppend; });
                       }});
  }
  if (size_of(declared.accumulate) < size_of(DType::kF32)) {
    entries.push_back({"accumulate: " + std::string(name(declared.accumulate)),
                       [](Precision& precision) { precision.accumulate = DType::kF32; },
                       [](const RowJudgement& row) { return !only_moves(row.key.id.op); }, true});
  }
  return entries;
}

class Tightening {
 public:
  Tightening(const Subject& subject, const Judged& judged, Oracle& oracle) : oracle_(oracle) {
    std::set<int> layers;
    for (const findings::JudgedTensor& tensor : judged.tensors) {
      if (tensor.id.layer != kNoLayer) layers.insert(tensor.id.layer);
    }
    for (const findings::JudgedTensor& tensor : judged.tensors) {
      const bool wrong = tensor.judgement.outcome == Outcome::kDiverged;
      const bool stands_for_others =
          tensor.id.layer == kNoLayer || tensor.id.layer == *layers.begin() || tensor.id.layer == *layers.rbegin();
      const bool explainable = wrong && tensor.judgement.decisive_statistic != "shape";
      if (!(explainable || (tensor.judgement.outcome == Outcome::kMatch && stands_for_others))) continue;
      const TensorKey key{tensor.step, tensor.id};
      RowJudgement row{&subject, key, compare::replay_span(key, *subject.inputs, oracle.config()), {}, {}, {}};
      if (row.is_long()) continue;  // what its ensemble shows is wider than most roundings
      row.judgement = tensor.judgement;
      rows_.push_back(std::move(row));
    }
  }

  // The operations of which something is right under `wider` and not under `tighter`, of the rows that the entry
  // concerns; the first alone where one is enough. Nothing where it concerns no row, or none that is right without it:
  // whether a wrong row needs the entry cannot be told.
  std::optional<std::set<Op>> needed_by(const Entry& entry, const Precision& wider, const Precision& tighter) {
    const RowOracle before(oracle_, wider), after(oracle_, tighter);
    std::set<Op> ops;
    bool some_need_it_not = false;
    for (const RowJudgement& row : rows_) {
      const Op op = row.key.id.op;
      if (!entry.concerns(row) || ops.contains(op)) continue;
      const bool right_without = after.judge(row, {}).outcome == Outcome::kMatch;
      some_need_it_not |= right_without;
      if (right_without || before.judge(row, {}).outcome != Outcome::kMatch) continue;
      ops.insert(op);
      if (!entry.everywhere) break;
    }
    return some_need_it_not || !ops.empty() ? std::optional(ops) : std::nullopt;
  }

 private:
  Oracle& oracle_;
  std::vector<RowJudgement> rows_;
};

// Sums that are coarse somewhere and not in the products, of which a model has most, widen what is expected of all. A
// mistake of that size is then taken for rounding.
std::string condition_of(const Entry& entry, const std::set<Op>& needed_by) {
  if (std::ranges::any_of(needed_by, [](Op op) { return arithmetic_of(op) == Arithmetic::kProduct; })) return "";
  std::string names;
  for (Op op : needed_by) names += (names.empty() ? "" : ", ") + std::string(row(op).name);
  return "judged with the declared " + entry.text + ", which no product needs and " + names +
         " cannot be told from: a mistake of that size there would not be seen";
}

}  // namespace

Declaration tightest_declaration(const Subject& subject, const Judged& judged, Oracle& oracle,
                                 const Precision& declared) {
  Declaration result{declared, {}};
  const std::vector<Entry> entries = entries_of(declared);
  if (entries.empty()) return result;
  Tightening tightening(subject, judged, oracle);
  for (const Entry& entry : entries) {
    Precision tighter = result.precision;
    entry.leave_out(tighter);
    const std::optional<std::set<Op>> needed_by = tightening.needed_by(entry, result.precision, tighter);
    if (!needed_by) continue;
    if (!needed_by->empty()) {
      if (entry.everywhere) result.condition = condition_of(entry, *needed_by);
      continue;
    }
    result.precision = std::move(tighter);
    result.unused.push_back(entry.text);
  }
  return result;
}

std::set<Op> stored_narrower(const Judged& judged, const TensorStore& recorded, const Precision& declared) {
  std::set<Op> ops;
  for (const findings::JudgedTensor& tensor : judged.tensors) {
    const DType stored = recorded.get({tensor.step, tensor.id}).dtype;
    const bool narrower = facts(stored).significant_bits < facts(declared.activations).significant_bits;
    if (narrower && !declared.taken_as.contains(tensor.id.op)) ops.insert(tensor.id.op);
  }
  return ops;
}

bool misfits_readers(const Subject& subject, const Judged& judged, const std::set<Op>& ops, const ModelConfig& config) {
  std::int64_t wrong = 0, readers = 0;
  for (const findings::JudgedTensor& tensor : judged.tensors) {
    const std::vector<TensorKey> span = compare::replay_span({tensor.step, tensor.id}, *subject.inputs, config);
    const std::set<TensorKey> inputs = compare::recorded_inputs(span, *subject.inputs, config);
    if (std::ranges::none_of(inputs, [&](const TensorKey& input) { return ops.contains(input.id.op); })) continue;
    if (only_moves(tensor.id.op)) continue;  // a rounded value moves as it is
    ++readers;
    wrong += tensor.judgement.outcome == Outcome::kDiverged ? 1 : 0;
  }
  return static_cast<double>(wrong) >= kLeastShareOfMisfits * static_cast<double>(readers) && wrong > 0;
}

}  // namespace qdiff::diagnose
