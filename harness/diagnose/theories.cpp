#include "harness/diagnose/theories.h"

#include <algorithm>
#include <set>

#include "harness/explain/explain.h"

namespace qdiff::diagnose {
namespace {

bool same_operations(const RowJudgement& a, const RowJudgement& b) {
  return std::equal(a.span.begin(), a.span.end(), b.span.begin(), b.span.end(),
                    [](const TensorKey& x, const TensorKey& y) { return x.id == y.id; });
}

// An engine has the same mistake in most of its layers, and to ask all mechanisms costs seconds where a model is large.
constexpr int kMostUnsolved = 2;

// Caches that were not recorded before reach back through the steps: of those the rows have different spans.
bool moves_data(const RowJudgement& row) { return only_moves(row.key.id.op); }

explain::Instance instance_of(const RowJudgement& row) {
  return {.key = row.key,
          .span = row.span,
          .actual = row.actual(),
          .recorded = row.subject->inputs,
          .steps = &row.subject->input->steps,
          .capacity = row.subject->input->capacity,
          .unwritten = row.subject->unwritten,
          .wrong = row.wrong()};
}

}  // namespace

Theories explain_unnamed(Oracle& oracle, const std::vector<RowJudgement>& rows,
                         const std::vector<std::vector<Fit>>& fits, const Precision& precision,
                         std::map<Op, int>& unsolved) {
  Theories theories(rows.size());
  std::set<Op> unnamed;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (rows[i].explainable() && fits[i].empty()) unnamed.insert(rows[i].key.id.op);
  }
  for (Op op : unnamed) {
    if (unsolved[op] >= kMostUnsolved) continue;
    const RowJudgement* first = nullptr;
    bool usual = true;
    std::vector<explain::Instance> instances;
    for (const RowJudgement& row : rows) {
      const bool judged = row.judgement.outcome == compare::Outcome::kMatch || row.explainable();
      if (row.key.id.op != op || !judged) continue;
      if (first == nullptr) first = &row;
      // A row of logits that stands for all of them is no tensor of the table's shape.
      const Step& step = row.step();
      const Shape shape = output_shape(op, oracle.config(), step.batch(), step.num_tokens(), step.valid_length());
      usual &= !row.is_long() && row.actual().shape == shape && (moves_data(row) || same_operations(*first, row));
      instances.push_back(instance_of(row));
    }
    if (!usual) continue;
    explain::Scene scene(oracle, precision, std::move(instances));
    auto theory = explain::explain(scene);
    if (!theory) {
      ++unsolved[op];
      continue;
    }
    const auto shared = std::make_shared<const explain::Theory>(std::move(*theory));
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (rows[i].key.id.op == op && rows[i].explainable() && fits[i].empty()) theories[i] = shared;
    }
  }
  return theories;
}

}  // namespace qdiff::diagnose
