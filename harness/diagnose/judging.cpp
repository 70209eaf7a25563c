#include "harness/diagnose/judging.h"

#include <malloc.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <set>
#include <string_view>
#include <thread>
#include <utility>

#include "harness/compare/layout.h"
#include "harness/diagnose/attribution.h"
#include "harness/diagnose/row_oracle.h"
#include "harness/diagnose/span_evidence.h"
#include "harness/diagnose/theories.h"
#include "harness/diagnose/variants.h"

namespace qdiff::diagnose {
namespace {

using compare::Outcome;

struct Walk {
  const std::vector<Subject>& subjects;
  Oracle& oracle;
  const Precision& precision;
  const Extent& extent;
  const JudgingOptions& options;
  RowOracle rows{oracle, precision};
  Judged result = {};
  std::set<std::pair<const Subject*, TensorKey>> right = {};  // judged so far
  Known known = {};
  Solved solved = {};
};

// Asks of tensors in the place of a row's own whether they would be wrong. Variants that do nothing here give the same
// tensor, which is judged once: it is known by a hash of its bytes.
class Probe {
 public:
  Probe(const RowJudgement& row, const Expectation& expected, const RowOracle& rows)
      : row_(row), expected_(expected), rows_(rows) {}

  bool would_show(const Supposition& planting) {
    const Tensor planted = rows_.emulate(row_, planting);
    const std::span<const std::byte> bytes = planted.bytes();
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    const auto [known, is_new] = shows_.try_emplace(std::hash<std::string_view>{}(text));
    if (is_new) {
      known->second = rows_.judge_against(row_, planted.view(), expected_).outcome == Outcome::kDiverged;
    }
    return known->second;
  }
  const RowJudgement& row() const { return row_; }

 private:
  const RowJudgement& row_;
  const Expectation& expected_;
  const RowOracle& rows_;
  std::map<std::size_t, bool> shows_;
};

// Whether planting the variant in the reference, on the inputs of this row, would show.
void probe_variant(Probe& probe, const VariantFacts& facts, Detectability& detectability) {
  try {
    for (const Variant& variant : doses(facts)) {
      const Supposition planting = facts.declares ? Supposition{nullptr, {*facts.declares}} : Supposition{&variant};
      const bool shows = probe.would_show(planting);
      detectability.tried.insert(facts.id);
      if (!shows) continue;
      detectability.cases_that_show[facts.id].insert(probe.row().subject->input->id);
      return;
    }
  } catch (const NotEvaluable& missing) {
    detectability.not_evaluable[facts.id] = missing.what();
  }
}

// The first and the last judged layer stand for all: they differ most (large k biases, residual of no history).
bool is_probed(const Walk& walk, int layer) {
  const std::set<int>& layers = walk.extent.layers;
  return walk.options.probing && (layer == kNoLayer || layer == *layers.begin() || layer == *layers.rbegin());
}

// Whether the steps before and behind this one are of its phase.
bool is_within_phase(const std::vector<Step>& steps, int step) {
  const auto at = static_cast<std::size_t>(step);
  const auto is_like = [&](std::size_t other) { return steps[other].phase == steps[at].phase; };
  return at > 0 && is_like(at - 1) && at + 1 < steps.size() && is_like(at + 1);
}

// Would these inputs show each variant of this row? Asked once for each case until one row does. A case answers for
// its own hypothesis, an end-to-end case for all; what no case has shown yet is asked of every case.
void probe_catalogue(Walk& walk, const RowJudgement& row, const Expectation& expected) {
  Detectability& detectability = walk.result.detectability;
  Probe probe(row, expected, walk.rows);
  const bool within_phase = is_within_phase(row.subject->input->steps, row.key.step);
  for (const VariantFacts& facts : walk.oracle.catalogue()) {
    if (!facts.probed || !concerns(facts, row.span)) continue;
    const std::set<std::string>& shown = detectability.cases_that_show[facts.id];
    const auto& subject_of_case = row.subject->input->hypothesis;
    const bool own = !subject_of_case || *subject_of_case == hypothesis_of(facts.id);
    if (shown.contains(row.subject->input->id) || (!own && !shown.empty())) continue;
    // Logits are by far the largest tensor: the first and the last step of a phase stand for those between.
    if (within_phase && row.key.id.op == Op::kLmHead && detectability.tried.contains(facts.id)) continue;
    probe_variant(probe, facts, detectability);
  }
}

// The recorded tensors of one row, those first that cannot be judged.
std::vector<RowJudgement> recorded_rows(Walk& walk, const TensorId& id) {
  const ModelConfig& config = walk.oracle.config();
  std::vector<RowJudgement> rows;
  bool missing = false;
  for (const Subject& subject : walk.subjects) {
    for (int step : subject.steps) {
      const TensorKey key{step, id};
      if (!subject.candidate->has(key)) {
        missing = true;
        continue;
      }
      RowJudgement row{&subject, key, compare::replay_span(key, *subject.inputs, config), {}, {}, {}};
      if (const auto unusable = compare::what_is_unusable(row.span, *subject.inputs, subject.input->steps, config)) {
        row.judgement.reason = unusable->why;
        row.unusable = unusable->input;
      }
      rows.push_back(std::move(row));
    }
  }
  if (missing) walk.result.missing.push_back(id);
  std::stable_partition(rows.begin(), rows.end(), [](const RowJudgement& row) { return row.unusable.has_value(); });
  return rows;
}

void judge_row(const Walk& walk, RowJudgement& row, const Expectation& expected) {
  const ModelConfig& config = walk.oracle.config();
  const TensorView actual = row.actual();
  row.judgement = walk.rows.judge_against(row, actual, expected);
  if (!row.wrong()) return;
  row.pattern = pattern::find_pattern(row.key.id.op, actual, expected, row.step(), config);
  if (!compare::shape_fits(row.key.id.op, actual.shape, row.step(), config)) return;
  row.profile = compare::error_profile({row.key.id.op, actual, expected, row.step(), walk.precision, config, row.span});
}

// The judge is at work on some tensors while the oracle evaluates the next. Rows and walk stand still until it has
// done.
class JudgesAtWork {
 public:
  void begin(const Walk& walk, RowJudgement& row, std::shared_ptr<const Expectation> expected) {
    wait_for_all_but(std::max(1U, std::thread::hardware_concurrency()) - 1);
    at_work_.push_back(std::async(std::launch::async,
                                  [&walk, &row, expected = std::move(expected)] { judge_row(walk, row, *expected); }));
  }
  void wait() { wait_for_all_but(0); }

 private:
  void wait_for_all_but(std::size_t most) {
    for (; at_work_.size() > most; at_work_.pop_front()) at_work_.front().get();
  }
  std::deque<std::future<void>> at_work_;
};

// Some tensors of one operation at a time: one pass over a projection's weights serves them all, as many as fit the
// memory that a few vocabularies of logits take.
void judge_rows(Walk& walk, std::span<RowJudgement> rows, JudgesAtWork& judges) {
  while (!rows.empty()) {
    std::size_t together = 0;
    for (std::int64_t elements = 0; together < rows.size(); ++together) {
      elements += num_elements(rows[together].actual().shape);
      if (together > 0 && elements > kElementsAtOnce) break;
    }
    std::vector<Expectation> expectations = walk.rows.evaluate_all(rows.first(together));
    for (std::size_t i = 0; i < together; ++i) {
      RowJudgement& row = rows[i];
      const auto expected = std::make_shared<const Expectation>(std::move(expectations[i]));
      judges.begin(walk, row, expected);
      const bool has_shape = compare::shape_fits(row.key.id.op, row.actual().shape, row.step(), walk.oracle.config());
      if (is_probed(walk, row.key.id.layer) && has_shape) probe_catalogue(walk, row, *expected);
    }
    rows = rows.subspan(together);
  }
}

// Rows come in order: what made an input unusable has been judged, where it was recorded and asked for.
std::string reason_of(const RowJudgement& row, const Walk& walk) {
  if (!row.unusable) return row.judgement.reason;
  if (!walk.right.contains({row.subject, *row.unusable})) return row.judgement.reason + "; the cause is upstream";
  return row.judgement.reason + ", and so does right code: a weight that is not finite, or an infinity in its inputs";
}

void tally(Walk& walk, const RowJudgement& row) {
  const Subject& subject = *row.subject;
  const compare::Judgement& judgement = row.judgement;
  Judged& result = walk.result;
  result.tensors.push_back({subject.input->id, subject.mode, row.key.step, row.step().phase, row.key.id, judgement});
  if (judgement.outcome != Outcome::kUnjudged) {
    ++result.compared[static_cast<std::size_t>(&subject - walk.subjects.data())];
  }
  const std::string name = tensor_name(row.key.id);
  if (judgement.outcome == Outcome::kMatch) {
    walk.right.emplace(&subject, row.key);
    if (result.closest && !(judgement.ratio_to_bound > result.closest->ratio)) return;
    result.closest = {subject.input->id,       subject.mode, row.key.step, name, judgement.decisive_statistic,
                      judgement.ratio_to_bound};
  } else if (row.wrong()) {
    result.wrong.push_back({&subject,
                            row.key,
                            row.span,
                            compare::span_start(row.span, *subject.inputs, walk.oracle.config()),
                            judgement,
                            row.pattern,
                            {},
                            {},
                            row.profile});
  } else {
    result.not_compared.push_back({subject.input->id, subject.mode, row.key.step, name, reason_of(row, walk)});
  }
}

void end_part(const Walk& walk) {
  // The next part's tensors have other sizes than the holes that this one's leave. Small holes are kept: memory that is
  // asked for anew costs a page fault for each 4 KiB.
  constexpr std::size_t kMostInHoles = std::size_t{128} << 20;
  if (mallinfo2().fordblks > kMostInHoles) malloc_trim(0);
  if (walk.options.after_part) walk.options.after_part();
}

// The rows of a layer, or of what lies before or behind all layers; the wrong ones stand in the result from
// `first_wrong` on.
struct Part {
  std::vector<RowJudgement> rows;
  std::size_t first_wrong = 0;
};

// Calls judge() unless an earlier run has judged the same rows.
template <typename Judge>
void judge_once(Walk& walk, int layer, std::vector<RowJudgement>& rows, const Judge& judge) {
  std::vector<RowJudgement*> judgeable;
  std::vector<RowJudgement> asked;  // copies: queries are made of rows that stand together
  for (RowJudgement& row : rows) {
    if (row.unusable) continue;
    judgeable.push_back(&row);
    asked.push_back(row);
  }
  std::vector<TensorView> actual;
  std::vector<std::string> subjects;
  for (const RowJudgement& row : asked) {
    actual.push_back(row.actual());
    subjects.push_back(row.subject->input->id + '\n' + row.subject->input->hypothesis.value_or("") + '\n' +
                       row.subject->mode);
  }
  const Detectability before = walk.result.detectability;
  walk.rows.with_queries(asked, [&](std::span<const Query> queries) {
    const PartQuestion question{queries, actual, subjects, is_probed(walk, layer), before};
    if (auto kept = walk.options.kept->find(question)) {
      for (std::size_t i = 0; i < judgeable.size(); ++i) {
        PartAnswer::Row& row = kept->rows[i];
        judgeable[i]->judgement = std::move(row.judgement);
        judgeable[i]->pattern = std::move(row.pattern);
        judgeable[i]->profile = std::move(row.profile);
      }
      walk.result.detectability = std::move(kept->after);
      return;
    }
    judge();
    PartAnswer answer;
    for (const RowJudgement* row : judgeable) answer.rows.push_back({row->judgement, row->pattern, row->profile});
    answer.after = walk.result.detectability;
    walk.options.kept->keep(question, answer);
  });
}

Part judge_part(Walk& walk, Scope scope, int layer) {
  Part part{{}, walk.result.wrong.size()};
  std::vector<std::pair<std::size_t, std::size_t>> judgeable;  // of each operation, first and behind the last
  for (const OperationRow& operation : kOperationTable) {
    if (operation.scope != scope) continue;
    std::vector<RowJudgement> recorded = recorded_rows(walk, {operation.op, layer});
    const auto unusable = static_cast<std::size_t>(
        std::ranges::count_if(recorded, [](const RowJudgement& row) { return row.unusable.has_value(); }));
    judgeable.emplace_back(part.rows.size() + unusable, part.rows.size() + recorded.size());
    std::ranges::move(recorded, std::back_inserter(part.rows));
  }
  const auto judge = [&] {
    JudgesAtWork judges;
    for (const auto& [first, end] : judgeable) {
      judge_rows(walk, std::span(part.rows).subspan(first, end - first), judges);
    }
    judges.wait();
  };
  if (walk.options.kept != nullptr) {
    judge_once(walk, layer, part.rows, judge);
  } else {
    judge();
  }
  for (const RowJudgement& row : part.rows) tally(walk, row);
  end_part(walk);
  return part;
}

// A known bug that fits a span may look like what a mechanism did to an operation of it in another layer.
bool may_hide_a_mechanism(const Walk& walk, const RowJudgement& row) {
  return row.is_long() && std::ranges::any_of(row.span, [&](const TensorKey& key) {
           return walk.solved.by_mechanism.contains(key.id.op);
         });
}

// All rows of a layer are judged before any is explained: a bug may change several of them.
void explain_part(Walk& walk, const Part& part) {
  if (std::ranges::none_of(part.rows, &RowJudgement::wrong)) return;
  std::vector<std::vector<Fit>> fits = explain_layer(walk.oracle, part.rows, walk.precision, walk.known);
  const Theories theories = explain_unnamed(walk.oracle, part.rows, fits, walk.precision, walk.solved);
  std::set<Op> with_theory;
  for (std::size_t i = 0; i < part.rows.size(); ++i) {
    if (theories[i]) with_theory.insert(part.rows[i].key.id.op);
  }
  explain_what_is_left(walk.oracle, part.rows, walk.precision, walk.known, with_theory, fits);
  std::size_t wrong = part.first_wrong;
  for (std::size_t i = 0; i < part.rows.size(); ++i) {
    if (!part.rows[i].wrong()) continue;
    if (theories[i]) fits[i].clear();  // those in doubt
    if (may_hide_a_mechanism(walk, part.rows[i])) {
      std::erase_if(fits[i], [](const Fit& fit) { return fit.variant.has_value(); });
    }
    if (theories[i] && !theories[i]->points.empty()) fits[i].push_back({std::nullopt, theories[i]->points});
    walk.result.wrong[wrong].fits = fits[i];
    walk.result.wrong[wrong].theory = theories[i];
    ++wrong;
  }
  end_part(walk);
}

}  // namespace

Judged judge_subjects(const std::vector<Subject>& subjects, Oracle& oracle, const Precision& precision,
                      const Extent& extent, const JudgingOptions& options) {
  Walk walk{subjects, oracle, precision, extent, options};
  walk.result.compared.resize(subjects.size());
  const auto total = static_cast<std::int64_t>(extent.layers.size());
  const auto progress = [&](const std::string& what, std::int64_t done) {
    if (options.progress) options.progress(what, done, total);
  };
  std::vector<Part> unexplained;
  const auto take = [&](Scope scope, int layer) {
    Part part = judge_part(walk, scope, layer);
    // At once where nobody asks first, while the oracle has the layer's weights at hand.
    if (options.is_explained_otherwise) {
      unexplained.push_back(std::move(part));
    } else {
      explain_part(walk, part);
    }
  };
  if (extent.outside_layers) take(Scope::kBeforeLayers, kNoLayer);
  std::int64_t done = 0;
  for (int layer : extent.layers) {
    progress("judging layers", done++);
    take(Scope::kLayer, layer);
  }
  if (extent.outside_layers) {
    progress("judging the head", done);
    take(Scope::kAfterLayers, kNoLayer);
  }
  if (options.is_explained_otherwise && options.is_explained_otherwise(walk.result)) return std::move(walk.result);
  for (const Part& part : unexplained) explain_part(walk, part);
  weigh_span_evidence(walk.result.wrong);
  return std::move(walk.result);
}

}  // namespace qdiff::diagnose
