// The counting: what a trial is scored as, and what becomes of many.
#include "harness/selftest/scoring.h"

#include <cmath>

#include "cmake/catch2.h"

namespace qdiff::selftest {
namespace {

using compare::Verdict;

const TensorKey kMoved = {1, {Op::kScores, 2}};

// H02.scale=1.1@2, found where it is and named.
Trial found_trial() {
  Trial trial;
  trial.planted_in = "cpu";
  trial.fault = {FaultId::kScale, 1.1, 2};
  trial.ops = {Op::kScores, Op::kProbs, Op::kAttnOutput};
  trial.right_value = 1.0;
  trial.cases = {"H02-softmax"};
  trial.shift = {100.0, kMoved};
  trial.conclusion.verdict = Verdict::kDiverged;
  findings::Finding finding;
  finding.case_id = "H02-softmax";
  finding.step = kMoved.step;
  finding.tensor = kMoved.id;
  finding.explanation.hypothesis = "H02";
  finding.explanation.variant = FaultId::kScale;
  finding.explanation.value = 1.101;
  trial.conclusion.first = finding;
  return trial;
}

Trial outsider_trial() {
  Trial trial = found_trial();
  trial.fault = {FaultId::kNoSilu, std::nullopt, 2};
  trial.conclusion.first->explanation = {};
  return trial;
}

findings::Finding& finding_of(Trial& trial) { return *trial.conclusion.first; }

TEST_CASE("a fault that is found where it is, and named, misses nothing", "[selftest][scoring]") {
  const Trial trial = found_trial();
  CHECK(trial.detectable());
  CHECK(is_detected(trial));
  CHECK(is_located(trial));
  CHECK(is_named(trial));
  CHECK(has_right_hypothesis(trial));
  CHECK(is_among_first_three(trial));
  CHECK(has_right_value(trial));
  CHECK(reason_of_miss(trial).empty());
}

TEST_CASE("the exact tensor is one that the fault changes, in its layer, and not after the first moved one",
          "[selftest][scoring]") {
  Trial trial = found_trial();
  finding_of(trial).tensor = {Op::kAttnOutput, 2};  // the scores before it were moved
  CHECK_FALSE(is_located(trial));
  CHECK(reason_of_miss(trial).find("attn_output of step 1 instead of") != std::string::npos);
  trial.shift.first = TensorKey{1, {Op::kAttnOutput, 2}};  // now it is the first
  CHECK(is_located(trial));
  finding_of(trial).tensor = {Op::kScores, 2};  // found where it moves less
  CHECK(is_located(trial));
  finding_of(trial).step = 0;
  CHECK(is_located(trial));
  finding_of(trial).tensor = {Op::kQRope, 2};
  CHECK_FALSE(is_located(trial));
  finding_of(trial).tensor = {Op::kScores, 1};
  CHECK_FALSE(is_located(trial));
  finding_of(trial).tensor = {Op::kScores, 2};
  finding_of(trial).step = 2;
  CHECK_FALSE(is_located(trial));
}

TEST_CASE("what is not found is neither located nor named", "[selftest][scoring]") {
  for (Verdict verdict : {Verdict::kMatch, Verdict::kInconclusive}) {
    Trial trial = found_trial();
    trial.conclusion.verdict = verdict;
    CHECK_FALSE(is_detected(trial));
    CHECK_FALSE(is_located(trial));
    CHECK_FALSE(is_named(trial));
    CHECK_FALSE(has_right_hypothesis(trial));
    CHECK_FALSE(is_among_first_three(trial));
    CHECK(reason_of_miss(trial).find("not found") == 0);
  }
  Trial outsider = outsider_trial();
  outsider.conclusion.verdict = Verdict::kMatch;
  CHECK_FALSE(is_abstained(outsider));
}

TEST_CASE("the first three are the variant named and two alternatives", "[selftest][scoring]") {
  Trial trial = found_trial();
  findings::Explanation& explanation = finding_of(trial).explanation;
  explanation.variant = FaultId::kNoMask;
  explanation.hypothesis = "H10";
  explanation.alternatives = {FaultId::kModulo, FaultId::kScale, FaultId::kPosMajor};
  CHECK_FALSE(is_named(trial));
  CHECK_FALSE(has_right_hypothesis(trial));
  CHECK(is_among_first_three(trial));
  explanation.alternatives = {FaultId::kModulo, FaultId::kPosMajor, FaultId::kScale};
  CHECK_FALSE(is_among_first_three(trial));
  trial.note = "the two are one";
  CHECK(reason_of_miss(trial) == "named H10.none=1.1 or H05.modulo or H01.pos_major or H02.scale; the two are one");
}

TEST_CASE("a tie is named, and its value is none", "[selftest][scoring]") {
  Trial trial = found_trial();
  findings::Explanation& explanation = finding_of(trial).explanation;
  explanation.variant = FaultId::kPosMajor;
  explanation.hypothesis = "H01";
  explanation.alternatives = {FaultId::kScale};
  CHECK_FALSE(is_named(trial));
  trial.tied = true;
  CHECK(is_named(trial));
  CHECK(has_right_hypothesis(trial));
  CHECK(reason_of_miss(trial).empty());
  CHECK(score({trial}).named.hits == 1);
  CHECK(score({trial}).value_right.of == 0);
  trial.conclusion.verdict = Verdict::kMatch;
  CHECK_FALSE(is_named(trial));
}

TEST_CASE("a value is right within two per cent of the dose", "[selftest][scoring]") {
  Trial trial = found_trial();
  for (const auto& [value, right] : {std::pair{1.102, true}, {1.098, true}, {1.103, false}, {1.0, false}}) {
    INFO(value);
    finding_of(trial).explanation.value = value;
    CHECK(has_right_value(trial) == right);
  }
  finding_of(trial).explanation.value = std::nan("");
  CHECK_FALSE(has_right_value(trial));
  finding_of(trial).explanation.value.reset();
  CHECK_FALSE(has_right_value(trial));
}

TEST_CASE("an outsider is left without a name, or has its own", "[selftest][scoring]") {
  Trial trial = outsider_trial();
  findings::Explanation& explanation = finding_of(trial).explanation;
  CHECK(is_abstained(trial));
  explanation.variant = FaultId::kNoSilu;
  CHECK(is_abstained(trial));
  CHECK(reason_of_miss(trial).empty());
  explanation.variant = FaultId::kGateUpSwapped;
  CHECK_FALSE(is_abstained(trial));
  explanation.variant.reset();
  explanation.hypothesis = "H07";  // a pattern is a name too
  CHECK_FALSE(is_abstained(trial));
  CHECK_FALSE(reason_of_miss(trial).empty());
}

TEST_CASE("only the detectable counts, and outsiders apart", "[selftest][scoring]") {
  Trial hidden = found_trial();
  hidden.shift = {7.9, std::nullopt};
  hidden.conclusion = {};
  Trial missed = found_trial();
  missed.conclusion = {};
  Trial misnamed = found_trial();
  finding_of(misnamed).explanation.variant = FaultId::kNoScale;
  const std::vector<Trial> trials = {found_trial(), hidden, missed, misnamed, outsider_trial()};
  const Score total = score(trials);
  CHECK(total.planted == 5);
  CHECK(total.detected.hits == 3);
  CHECK(total.detected.of == 4);
  CHECK(total.located.hits == 3);
  CHECK(total.located.of == 4);
  CHECK(total.named.hits == 1);
  CHECK(total.named.of == 3);
  CHECK(total.hypothesis_named.hits == 2);
  CHECK(total.among_first_three.hits == 1);
  CHECK(total.value_right.hits == 1);
  CHECK(total.value_right.of == 1);
  CHECK(total.abstained.hits == 1);
  CHECK(total.abstained.of == 1);
}

TEST_CASE("the confusion matrix has each detectable trial once", "[selftest][scoring]") {
  Trial missed = found_trial();
  missed.conclusion = {};
  Trial unexplained = found_trial();
  finding_of(unexplained).explanation = {};
  Trial as_outsider = found_trial();
  finding_of(as_outsider).explanation.hypothesis.reset();
  finding_of(as_outsider).explanation.variant = FaultId::kNoSilu;
  Trial hidden = found_trial();
  hidden.shift.first.reset();
  const Confusion matrix = confusion({found_trial(), missed, unexplained, as_outsider, hidden, outsider_trial()});
  CHECK(matrix[1][1] == 1);
  CHECK(matrix[1][kNumSubjects - 1] == 1);
  CHECK(matrix[1][kNumSubjects] == 1);
  CHECK(matrix[1][kNumSubjects + 1] == 1);
  CHECK(matrix[kNumSubjects - 1][kNumSubjects] == 1);
  std::int64_t all = 0;
  for (const auto& row : matrix) {
    for (std::int64_t count : row) all += count;
  }
  CHECK(all == 5);
}

TEST_CASE("the bound of a false alarm rate", "[selftest][scoring]") {
  CHECK(upper_bound(0, 0) == 1.0);
  CHECK(upper_bound(0, 2) == 1.0);
  CHECK(upper_bound(0, 1000) == Approx(0.003));
  // Wilson's one-sided 95 % limit for 1 of 1000: (p + z2/2n + z sqrt(p(1-p)/n + z2/4n2)) / (1 + z2/n).
  CHECK(upper_bound(1, 1000) == Approx(0.004470).epsilon(1e-3));
  CHECK(upper_bound(1, 1000) > upper_bound(0, 1000));
  CHECK(upper_bound(1000, 1000) <= 1.0 + 1e-12);
}

TEST_CASE("a goal of which nothing was counted is not met", "[selftest][scoring]") {
  CHECK_FALSE(Goal{"", 0.98, {}, false}.met());
  CHECK(Goal{"", 0.98, {98, 100}, false}.met());
  CHECK_FALSE(Goal{"", 0.98, {97, 100}, false}.met());
  CHECK(Goal{"", 1.0, {100, 100}, true}.met());
  CHECK_FALSE(Goal{"", 1.0, {99999, 100000}, true}.met());
  CHECK_FALSE(false_alarm_goal({}).met());
  CHECK(false_alarm_goal({{"twins", DType::kF32, 10, 100, {}}}).met());
  CHECK_FALSE(false_alarm_goal({{"twins", DType::kF32, 10, 100, {}}, {"twins", DType::kBF16, 10, 9, {"here"}}}).met());
  for (const Goal& goal : goals_of("cpu: ", Score{})) CHECK_FALSE(goal.met());
}

TEST_CASE("a fault is written as a command line takes it", "[selftest][scoring]") {
  CHECK(to_string(Fault{FaultId::kTheta, 10000.0, 1}) == "H03.theta=10000@1");
  CHECK(to_string(Fault{FaultId::kModulo, {}, {}}) == "H05.modulo");
}

}  // namespace
}  // namespace qdiff::selftest
