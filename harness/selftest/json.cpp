// selftest.json, as harness/report/schema/selftest.schema.json describes it.
#include "harness/report/json.h"

#include "harness/selftest/selftest.h"

namespace qdiff::selftest {

QDIFF_REPORTED(Ratio, hits, of)
QDIFF_REPORTED(SpoiledScore, found, unexplained)

namespace {

using report::Document;
using report::document_of;
using report::list;
using report::number;
using report::or_null;

Document score_document(const Score& score) {
  return {{"planted", score.planted},
          {"found", document_of(score.detected)},
          {"exact_tensor", document_of(score.located)},
          {"top1_variant", document_of(score.named)},
          {"top1_hypothesis", document_of(score.hypothesis_named)},
          {"top3_variant", document_of(score.among_first_three)},
          {"value", document_of(score.value_right)},
          {"abstained", document_of(score.abstained)}};
}

Document place_document(const TensorKey& key) { return {{"tensor", tensor_name(key.id)}, {"step", key.step}}; }

Document finding_document(const findings::Finding& finding) {
  const findings::Explanation& explanation = finding.explanation;
  return {{"case", finding.case_id},
          {"tensor", tensor_name(finding.tensor)},
          {"step", finding.step},
          {"kind", findings::name(finding.kind)},
          {"hypothesis", document_of(explanation.hypothesis)},
          {"variant", document_of(explanation.variant)},
          {"value", document_of(explanation.value)},
          {"alternatives", document_of(explanation.alternatives)}};
}

Document trial_document(const Trial& trial) {
  const auto& first = trial.conclusion.first;
  return {{"planted_in", trial.planted_in},
          {"dtype", name(trial.dtype)},
          {"fault", to_string(trial.fault)},
          {"site", name(trial.site)},
          {"cases", trial.cases},
          {"detectable", trial.detectable()},
          {"deviations", number(trial.shift.deviations)},
          {"moves", trial.shift.first ? place_document(*trial.shift.first) : Document(nullptr)},
          {"verdict", trial.detectable() ? Document(compare::name(trial.conclusion.verdict)) : Document(nullptr)},
          {"first_finding", first ? finding_document(*first) : Document(nullptr)},
          {"tied", trial.tied},
          {"miss", or_null(reason_of_miss(trial))}};
}

Document novel_mistake_document(const NovelMistake& of) {
  return {{"inject", to_string(of.mistake)},
          {"moves", place_document(of.first)},
          {"deviations", number(of.deviations)},
          {"found", of.found},
          {"exact", of.exact},
          {"explained_as", or_null(of.said)},
          {"same_mechanism", of.same_mechanism},
          {"same_effect", of.same_effect},
          {"hypothesis_refuted", of.hypothesis_refuted}};
}

Document novel_document(const NovelTrial& trial) {
  return {{"seed", trial.seed},
          {"dtype", name(trial.dtype)},
          {"model", trial.model},
          {"verdict", compare::name(trial.verdict)},
          {"mistakes", list(trial.mistakes, novel_mistake_document)},
          {"miss", or_null(reason_of_miss(trial))}};
}

Document spoiled_document(const SpoiledTrial& trial) {
  return {{"seed", trial.seed},
          {"dtype", name(trial.dtype)},
          {"spoiled", trial.what},
          {"verdict", compare::name(trial.verdict)},
          {"explained_as", or_null(trial.explained_as)}};
}

Document novel_score_document(const NovelScore& score) {
  return {{"trials", score.trials},
          {"found", document_of(score.found)},
          {"exact_tensor", document_of(score.exact)},
          {"named", document_of(score.named)},
          {"same_mechanism", document_of(score.same_mechanism)},
          {"all_named", document_of(score.all_named)},
          {"not_falsely_explained", document_of(score.not_false)},
          {"hypothesis_not_refuted", document_of(score.not_refuted)}};
}

// What became of them together, and each.
template <typename Trials, typename ToDocument>
Document scored(const Document& score, const Trials& trials, const ToDocument& to_document) {
  return {{"score", score}, {"trials", list(trials, to_document)}};
}

Document confusion_document(const Confusion& matrix) {
  Document rows = Document::object();
  for (std::size_t row = 0; row < kNumSubjects; ++row) {
    Document columns = Document::object();
    for (std::size_t column = 0; column < matrix[row].size(); ++column) {
      if (matrix[row][column] == 0) continue;
      const std::string what = column + 1 < kNumSubjects    ? std::string(kHypotheses[column].id)
                               : column + 1 == kNumSubjects ? "X"
                               : column == kNumSubjects     ? "unexplained"
                                                            : "not_found";
      columns[what] = matrix[row][column];
    }
    rows[row + 1 < kNumSubjects ? std::string(kHypotheses[row].id) : "X"] = columns;
  }
  return rows;
}

Document engine_document(const Result& result, const std::string& engine) {
  const std::vector<Trial> trials = result.trials_in(engine);
  return {{"planted_in", engine},
          {"score", score_document(score(trials))},
          {"confusion", confusion_document(confusion(trials))}};
}

Document honest_document(const HonestRuns& honest) {
  return {{"what", honest.what},
          {"dtype", name(honest.dtype)},
          {"runs", honest.runs},
          {"tensors", honest.tensors},
          {"flagged", honest.alarms.size()},
          {"rate_below", number(upper_bound(static_cast<std::int64_t>(honest.alarms.size()), honest.runs))},
          {"alarms", honest.alarms}};
}

Document dose_document(const SmallestDose& dose) {
  Document rivals = Document::array();
  for (std::size_t r = 0; r < kNumRivals; ++r) {
    rivals.push_back({{"rule", name(static_cast<Rival>(r))},
                      {"found", document_of(dose.rivals[r].found)},
                      {"alarms_on_right_code", dose.rivals[r].alarms_on_right_code}});
  }
  return {{"parameter", dose.parameter},
          {"unit", dose.unit},
          {"tensor", dose.tensor},
          {"dtype", name(dose.dtype)},
          {"largest_tried", number(dose.largest_tried)},
          {"found", document_of(dose.found)},
          {"rivals", rivals}};
}

Document goal_document(const Goal& goal) {
  return {{"what", goal.what}, {"wanted", goal.wanted}, {"reached", document_of(goal.reached)}, {"met", goal.met()}};
}

}  // namespace

std::string to_json(const Result& result) {
  return report::to_text(
      {{"format", "qdiff-selftest"},
       {"version", 1},
       {"passed", result.passed()},
       {"quick", result.quick},
       {"detectable_beyond", kDetectable},
       {"goals", list(result.goals(), goal_document)},
       {"engines", list(result.engines, [&](const std::string& engine) { return engine_document(result, engine); })},
       {"honest", list(result.honest, honest_document)},
       {"smallest_doses", list(result.doses, dose_document)},
       {"trials", list(result.trials, trial_document)},
       {"novel", scored(novel_score_document(score(result.novel)), result.novel, novel_document)},
       {"pairs", scored(novel_score_document(score(result.pairs)), result.pairs, novel_document)},
       {"spoiled", scored(document_of(score(result.spoiled)), result.spoiled, spoiled_document)},
       {"command", result.command},
       {"seconds", number(result.seconds)}});
}

}  // namespace qdiff::selftest
