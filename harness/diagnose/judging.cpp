#include "harness/diagnose/judging.h"

#include <algorithm>
#include <deque>
#include <future>
#include <memory>
#include <set>
#include <thread>
#include <utility>

#include "harness/compare/layout.h"
#include "harness/diagnose/span_evidence.h"
#include "harness/pattern/pattern.h"

namespace qdiff::diagnose {
namespace {

using compare::Outcome;

// What planting a variant would show, asked of the reference alone.
class Probe {
 public:
  Probe(Oracle& oracle, const Precision& precision, const Extent& extent, Detectability& detectability)
      : oracle_(oracle), precision_(precision), extent_(extent), detectability_(detectability) {}

  // Would these inputs show each variant of this row? Asked once for each case until one row does. A case answers for
  // its own hypothesis, an end-to-end case for all; what no case has shown yet is asked of every case.
  void ask(const RowJudgement& row, const Expectation& expected) {
    if (!represents_all(row.key.id)) return;
    for (const VariantFacts& facts : oracle_.catalogue()) {
      if (!facts.probed || !concerns(facts, row.span)) continue;
      std::set<std::string>& shown = detectability_.cases_that_show[facts.id];
      const auto& subject_of_case = row.subject->input->hypothesis;
      const bool own = !subject_of_case || *subject_of_case == hypothesis_of(facts.id);
      if (shown.contains(row.subject->input->id) || (!own && !shown.empty())) continue;
      // Logits are by far the largest tensor; what one step of them does not show, the next will not.
      if (row.key.id.op == Op::kLmHead && detectability_.tried.contains(facts.id)) continue;
      ask(row, expected, facts, shown);
    }
  }

 private:
  // The first and the last judged layer stand for all: they differ most (large k biases, residual of no history).
  bool represents_all(const TensorId& id) const {
    if (id.layer == kNoLayer) return true;
    return id.layer == *extent_.layers.begin() || id.layer == *extent_.layers.rbegin();
  }

  void ask(const RowJudgement& row, const Expectation& expected, const VariantFacts& facts,
           std::set<std::string>& shown) {
    try {
      for (const Variant& variant : doses(facts)) {
        const Supposition planting = facts.declares ? Supposition{nullptr, {*facts.declares}} : Supposition{&variant};
        const Tensor planted = emulated(oracle_, row, precision_, planting);
        detectability_.tried.insert(facts.id);
        const compare::Judgement judgement = judge_against(row, planted.view(), expected, precision_, oracle_.config());
        if (judgement.outcome != Outcome::kDiverged) continue;
        shown.insert(row.subject->input->id);
        return;
      }
    } catch (const NotEvaluable& missing) {
      detectability_.not_evaluable[facts.id] = missing.what();
    }
  }

  Oracle& oracle_;
  const Precision& precision_;
  const Extent& extent_;
  Detectability& detectability_;
};

class Judging {
 public:
  Judging(const std::vector<Subject>& subjects, Oracle& oracle, const Precision& precision, const Extent& extent,
          const JudgingOptions& options)
      : subjects_(subjects),
        oracle_(oracle),
        precision_(precision),
        extent_(extent),
        options_(options),
        probe_(oracle, precision, extent, result_.detectability) {
    result_.compared.resize(subjects.size());
  }

  Judged operator()() {
    if (extent_.outside_layers) judge_scope(Scope::kBeforeLayers, kNoLayer);
    std::int64_t done = 0;
    const auto total = static_cast<std::int64_t>(extent_.layers.size());
    for (int layer : extent_.layers) {
      progress("judging layers", done, total);
      judge_scope(Scope::kLayer, layer);
      ++done;
    }
    progress("judging the head", done, total);
    if (extent_.outside_layers) judge_scope(Scope::kAfterLayers, kNoLayer);
    weigh_span_evidence(result_.wrong);
    return std::move(result_);
  }

 private:
  // All rows of a layer are judged before any is explained: a bug may change several of them.
  void judge_scope(Scope scope, int layer) {
    std::vector<RowJudgement> rows;
    for (const OperationRow& operation : kOperationTable) {
      if (operation.scope == scope) judge_row({operation.op, layer}, rows);
    }
    const std::vector<std::vector<Fit>> fits = explain_layer(oracle_, rows, precision_, known_);
    for (std::size_t i = 0; i < rows.size(); ++i) tally(rows[i], fits[i]);
    if (options_.after_part) options_.after_part();
  }

  void progress(const std::string& what, std::int64_t done, std::int64_t total) const {
    if (options_.progress) options_.progress(what, done, total);
  }

  // Some tensors at a time: one pass over a projection's weights serves them all, as many as fit the memory that a few
  // vocabularies of logits take.
  void judge_row(const TensorId& id, std::vector<RowJudgement>& rows) {
    constexpr std::int64_t kElementsAtOnce = std::int64_t{1} << 24;
    bool missing = false;
    std::vector<RowJudgement> together;
    std::int64_t elements = 0;
    for (const Subject& subject : subjects_) {
      for (int step : subject.steps) {
        const TensorKey key{step, id};
        if (!subject.candidate->has(key)) {
          missing = true;
          continue;
        }
        RowJudgement row{&subject, key, compare::replay_span(key, *subject.inputs, oracle_.config()), {}, {}, {}};
        if (const auto unusable =
                compare::what_is_unusable(row.span, *subject.inputs, subject.input->steps, oracle_.config())) {
          row.judgement.reason = unusable->why;
          row.unusable = unusable->input;
          rows.push_back(std::move(row));
          continue;
        }
        const std::int64_t size = num_elements(row.actual().shape);
        if (elements > 0 && elements + size > kElementsAtOnce) {
          judge_together(together, rows);
          together.clear();
          elements = 0;
        }
        together.push_back(std::move(row));
        elements += size;
      }
    }
    judge_together(together, rows);
    settle(rows, 0);
    if (missing) result_.missing.push_back(id);
  }

  // The judge is at work on some tensors while the oracle evaluates the next.
  void judge_together(const std::vector<RowJudgement>& together, std::vector<RowJudgement>& rows) {
    std::vector<Expectation> expectations = evaluate_all(oracle_, together, precision_);
    for (std::size_t i = 0; i < together.size(); ++i) {
      const RowJudgement& row = together[i];
      const auto expected = std::make_shared<const Expectation>(std::move(expectations[i]));
      settle(rows, std::max(1U, std::thread::hardware_concurrency()) - 1);
      rows.push_back(row);
      in_flight_.push_back({rows.size() - 1, std::async(std::launch::async,
                                                        [this, row, expected]() { return look_at(row, *expected); })});
      const bool has_shape = compare::shape_fits(row.key.id.op, row.actual().shape, row.step(), oracle_.config());
      if (options_.probing && has_shape) probe_.ask(row, *expected);
    }
  }

  struct Seen {
    compare::Judgement judgement;
    pattern::Pattern pattern;
  };

  Seen look_at(const RowJudgement& row, const Expectation& expected) const {
    const TensorView actual = row.actual();
    Seen seen;
    seen.judgement = judge_against(row, actual, expected, precision_, oracle_.config());
    if (seen.judgement.outcome == Outcome::kDiverged) {
      seen.pattern = pattern::find_pattern(row.key.id.op, actual, expected, row.step(), oracle_.config());
    }
    return seen;
  }

  // Waits until no more than `at_work` judgements are under way.
  void settle(std::vector<RowJudgement>& rows, std::size_t at_work) {
    while (in_flight_.size() > at_work) {
      Seen seen = in_flight_.front().seen.get();
      RowJudgement& row = rows[in_flight_.front().row];
      row.judgement = std::move(seen.judgement);
      row.pattern = std::move(seen.pattern);
      in_flight_.pop_front();
    }
  }

  void tally(const RowJudgement& row, const std::vector<Fit>& fits) {
    const Subject& subject = *row.subject;
    const compare::Judgement& judgement = row.judgement;
    if (judgement.outcome != Outcome::kUnjudged)
      ++result_.compared[static_cast<std::size_t>(&subject - subjects_.data())];
    switch (judgement.outcome) {
      case Outcome::kMatch:
        right_.emplace(&subject, row.key);
        if (!result_.closest || judgement.ratio_to_bound > result_.closest->ratio) {
          result_.closest = {subject.input->id,
                             subject.mode,
                             row.key.step,
                             tensor_name(row.key.id),
                             judgement.decisive_statistic,
                             judgement.ratio_to_bound};
        }
        break;
      case Outcome::kDiverged:
        result_.wrong.push_back({&subject, row.key, row.span,
                                 compare::span_start(row.span, *subject.inputs, oracle_.config()), judgement,
                                 row.pattern, fits, false});
        break;
      case Outcome::kInconclusive:
      case Outcome::kUnjudged:
        result_.not_compared.push_back(
            {subject.input->id, subject.mode, row.key.step, tensor_name(row.key.id), reason_of(row)});
        break;
    }
  }

  // Rows come in order: what made an input unusable has been judged, where it was recorded and asked for.
  std::string reason_of(const RowJudgement& row) const {
    if (!row.unusable) return row.judgement.reason;
    if (!right_.contains({row.subject, *row.unusable})) return row.judgement.reason + "; the cause is upstream";
    return row.judgement.reason + ", and so does right code: a weight that is not finite, or an infinity in its inputs";
  }

  const std::vector<Subject>& subjects_;
  Oracle& oracle_;
  const Precision& precision_;
  const Extent& extent_;
  const JudgingOptions& options_;
  Judged result_;
  std::set<std::pair<const Subject*, TensorKey>> right_;  // judged so far

  struct InFlight {
    std::size_t row;
    std::future<Seen> seen;
  };
  std::deque<InFlight> in_flight_;
  Probe probe_;
  Known known_;
};

}  // namespace

Judged judge_subjects(const std::vector<Subject>& subjects, Oracle& oracle, const Precision& precision,
                      const Extent& extent, const JudgingOptions& options) {
  return Judging(subjects, oracle, precision, extent, options)();
}

}  // namespace qdiff::diagnose
