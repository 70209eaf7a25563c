// What a case stresses is what it shows: with the stress taken away, the variants that lived on it are blind, with a
// reason, and never counted as refuted.
#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "cmake/catch2.h"
#include "harness/cases/case.h"
#include "harness/contract/hypothesis.h"
#include "harness/diagnose/run.h"
#include "harness/findings/blindness.h"
#include "harness/model/model.h"
#include "optimized/cpu/engine.h"
#include "reference/reference.h"

namespace qdiff {
namespace {

using cases::Case;
using findings::HypothesisResult;
using findings::HypothesisVerdict;
using findings::RunResult;

RunResult run(const Case& test_case) {
  const auto weights = model::open_model(test_case.model);
  const DType dtype = weights->config().dtype;
  const auto candidate = optimized::cpu::make_engine(*weights, {.dtype = dtype, .num_threads = 2});
  const auto reference = reference::make_engine(*weights, gold_precision(dtype), {});
  const auto oracle = reference::make_oracle(*weights, {});
  const CaseInput input = cases::input_of(test_case, weights->config());
  // What the inputs can show is asked of the reference: one mode is enough.
  diagnose::RunOptions options;
  options.mode = diagnose::Mode::kLockstep;
  return diagnose::run_cases(std::span(&input, 1), {*candidate, *reference, *oracle, *weights}, options);
}

const HypothesisResult& own_hypothesis(const RunResult& result, const Case& test_case) {
  const auto found = std::find_if(result.hypotheses.begin(), result.hypotheses.end(),
                                  [&](const HypothesisResult& h) { return h.id == test_case.hypothesis; });
  REQUIRE(found != result.hypotheses.end());
  return *found;
}

bool exercises(const HypothesisResult& hypothesis, FaultId variant) {
  const auto& exercised = hypothesis.exercised_variants;
  return std::find(exercised.begin(), exercised.end(), variant) != exercised.end();
}

std::string why_blind(const HypothesisResult& hypothesis, FaultId variant) {
  for (const findings::BlindVariant& blind : hypothesis.blind_variants) {
    if (blind.variant == variant) return blind.why;
  }
  return "";
}

// ---- Ways to take a stress away ----

void one_row(Case& c) {
  c.batch = 1;
  c.left_padding.resize(1);
}
void no_padding(Case& c) { std::fill(c.left_padding.begin(), c.left_padding.end(), 0); }
void every_row_padded(Case& c) { std::fill(c.left_padding.begin(), c.left_padding.end(), 2); }
// Leaves one step, with as many tokens as the first had, and with more where the longest padding would leave no real
// one.
void one_step(Case& c) {
  const std::int64_t longest = *std::max_element(c.left_padding.begin(), c.left_padding.end());
  c.steps = {{Phase::kPrefill, std::max(c.steps[0].num_tokens, longest + 1), {}, {}}};
}
void one_step_of(Case& c, std::int64_t tokens) {
  no_padding(c);
  c.steps = {{Phase::kPrefill, tokens, {}, {}}};
}
void one_token(Case& c) { one_step_of(c, 1); }
void one_row_of_one_token(Case& c) {
  one_row(c);
  one_token(c);
}
void no_decode(Case& c) {
  std::erase_if(c.steps, [](const cases::CaseStep& step) { return step.phase == Phase::kDecode; });
}
void one_step_in_a_full_cache(Case& c) {
  one_step(c);
  c.capacity = c.length();
}
void one_decode_step_in_a_full_cache(Case& c) {
  no_decode(c);
  c.steps.push_back({Phase::kDecode, 1, {}, {}});
  c.capacity = c.length();
}
void token_by_token(Case& c) { c.steps.assign(static_cast<std::size_t>(c.length()), {Phase::kPrefill, 1, {}, {}}); }
auto on_model(const std::string& model) {
  return [model](Case& c) { c.model = model; };
}

struct Mutation {
  std::string case_id;
  std::string what;
  std::function<void(Case&)> mutate;
  std::vector<FaultId> blind;  // variants that the case shows and its mutation does not
  std::vector<FaultId> kept;   // variants that both show; none: nothing of the hypothesis is left to show
};

const std::vector<Mutation>& mutations() {
  static const std::vector<Mutation> kMutations = {
      {"H01-kv-cache",
       "one row",
       one_row,
       {FaultId::kNoBatchStride, FaultId::kBatchStrideOfOneToken, FaultId::kPadSlot},
       {FaultId::kNoHeadStride, FaultId::kNoLayerStride, FaultId::kHeadStrideIsTokens}},
      {"H01-kv-cache", "no padding", no_padding, {FaultId::kPadSlot}, {FaultId::kNoBatchStride}},
      {"H01-kv-cache",
       "one step that fills the cache",
       one_step_in_a_full_cache,
       {FaultId::kHeadStrideIsTokens, FaultId::kNoLayerStride},
       {FaultId::kNoHeadStride, FaultId::kPosMajor, FaultId::kVIntoK}},
      {"H02-softmax",
       "one token",
       one_token,
       {FaultId::kScale, FaultId::kNoScale, FaultId::kScaleHidden, FaultId::kScaleTwice, FaultId::kSumFp16,
        FaultId::kTileMax},
       {FaultId::kScaleAfter, FaultId::kTailZero}},
      {"H02-softmax",
       "fewer slots than a tile",
       [](Case& c) { one_step_of(c, 12); },
       {FaultId::kTileMax},
       {FaultId::kScale, FaultId::kTailZero}},
      {"H02-loud-scores",
       "ordinary scores",
       on_model("synthetic:toy-15x5,profile=plain"),
       {FaultId::kNoMax},
       {FaultId::kNoScale}},
      {"H03-rope",
       "one step",
       one_step,
       {FaultId::kDecodePosZero, FaultId::kDecodePosPlusOne, FaultId::kChunkLocalPos},
       {FaultId::kTheta, FaultId::kNoRope, FaultId::kBatchPos}},
      {"H03-rope", "no padding", no_padding, {FaultId::kBatchPos}, {FaultId::kChunkLocalPos}},
      {"H03-rope",
       "one token, at position 0",
       one_token,
       {FaultId::kTheta, FaultId::kInterleaved, FaultId::kHalfSlice, FaultId::kQOnly, FaultId::kKOnly, FaultId::kNoRope,
        FaultId::kReverse},
       {}},
      {"H04-in-place",
       "outputs as wide as inputs",
       on_model("synthetic:toy-d32,layers=2"),
       {FaultId::kWoRows},
       {FaultId::kWoCols, FaultId::kDownInAct, FaultId::kResidualLost}},
      {"H04-in-place", "one row of one token", one_row_of_one_token, {FaultId::kWoRows}, {FaultId::kWoCols}},
      {"H05-gqa",
       "a key/value head for each query head",
       on_model("synthetic:toy-mha"),
       {FaultId::kModulo, FaultId::kPrefillOnly, FaultId::kDecodeOnly},
       {FaultId::kHeadZero}},
      {"H05-gqa", "no decode", no_decode, {FaultId::kDecodeOnly}, {FaultId::kModulo, FaultId::kPrefillOnly}},
      {"H06-qkv-bias",
       "no decode",
       no_decode,
       {FaultId::kDecodeMissing},
       {FaultId::kPrefillMissing, FaultId::kMissingK}},
      {"H06-bias-bits",
       "biases of 16 bits",
       on_model("synthetic:toy-d32,profile=qwen,layers=2"),
       {FaultId::kBiasBf16, FaultId::kBiasFp16},
       {FaultId::kBiasInt8}},
      {"H07-gemm", "one row of one token", one_row_of_one_token, {FaultId::kColumnMajorOut}, {FaultId::kLda}},
      {"H08-cache-length",
       "no decode",
       no_decode,
       {FaultId::kWritePlusOne, FaultId::kWriteMinusOne, FaultId::kReadMinusOne, FaultId::kReadMinusFirst,
        FaultId::kReadPlusOne, FaultId::kFirstToken, FaultId::kLengthCountsCurrent},
       {}},
      {"H08-cache-length",
       "a full cache",
       one_decode_step_in_a_full_cache,
       {FaultId::kReadPlusOne},
       {FaultId::kReadMinusOne, FaultId::kWriteMinusOne}},
      {"H08-cache-length",
       "padding in every row",
       every_row_padded,
       {FaultId::kReadMinusFirst},
       {FaultId::kReadMinusOne}},
      {"H09-quiet-residual",
       "a residual of ordinary size",
       on_model("synthetic:toy-d64,profile=plain"),
       {FaultId::kFinalNormEps},
       {FaultId::kNoWeight}},
      {"H09-quiet-residual",
       "one layer",
       on_model("synthetic:toy-d64,profile=quiet,layers=1"),
       {FaultId::kWeightFromOtherLayer},
       {FaultId::kEps, FaultId::kFinalNormEps}},
      {"H10-masking", "no padding", no_padding, {FaultId::kPadVisible, FaultId::kPadQueryAxis}, {FaultId::kNoMask}},
      {"H10-masking",
       "one step",
       one_step,
       {FaultId::kTopLeft, FaultId::kChunkOnly},
       {FaultId::kNoMask, FaultId::kOneAhead}},
      {"H10-masking", "token by token", token_by_token, {FaultId::kNoMask, FaultId::kOneAhead}, {FaultId::kChunkOnly}},
      {"H10-masking",
       "fewer slots than a window",
       [](Case& c) { one_step_of(c, 8); },
       {FaultId::kWindow},
       {FaultId::kStrict}},
      {"H10-long",
       "ordinary scores",
       on_model("synthetic:toy-15x5,profile=plain"),
       {FaultId::kFiniteFp16},
       {FaultId::kWindow}},
      {"H10-masking",
       "one row of one token",
       one_row_of_one_token,
       {FaultId::kNoMask, FaultId::kOneAhead, FaultId::kTopLeft, FaultId::kChunkOnly, FaultId::kPadVisible,
        FaultId::kWindow},
       {FaultId::kStrict}},
  };
  return kMutations;
}

TEST_CASE("with its stress taken away, a case is blind to what lived on it", "[stress]") {
  std::map<std::string, RunResult> unchanged;
  for (const Mutation& mutation : mutations()) {
    INFO(mutation.case_id << " with " << mutation.what);
    Case test_case = cases::load_case(mutation.case_id);
    if (!unchanged.contains(mutation.case_id)) unchanged.emplace(mutation.case_id, run(test_case));
    const RunResult& before = unchanged.at(mutation.case_id);
    mutation.mutate(test_case);
    const RunResult after = run(test_case);
    CHECK(before.verdict == compare::Verdict::kMatch);
    CHECK(after.verdict == compare::Verdict::kMatch);

    const HypothesisResult& shows = own_hypothesis(before, test_case);
    const HypothesisResult& showed = own_hypothesis(after, test_case);
    for (FaultId variant : mutation.blind) {
      INFO(name(variant));
      CHECK(exercises(shows, variant));
      CHECK(shows.shown_by.at(variant).contains(test_case.id));
      CHECK(why_blind(shows, variant).empty());
      CHECK_FALSE(exercises(showed, variant));
      CHECK_FALSE(showed.shown_by.contains(variant));
      CHECK_THAT(why_blind(showed, variant), ContainsSubstring("it shows with: "));
    }
    for (FaultId variant : mutation.kept) {
      INFO(name(variant));
      CHECK(exercises(shows, variant));
      CHECK(exercises(showed, variant));
    }
    const bool counted_blind =
        std::find(after.coverage.blind.begin(), after.coverage.blind.end(), showed.id) != after.coverage.blind.end();
    CHECK(counted_blind == mutation.kept.empty());
    const HypothesisVerdict of_the_rest =
        findings::is_mostly_blind(showed) ? HypothesisVerdict::kOpen : HypothesisVerdict::kRefuted;
    CHECK(showed.verdict == (mutation.kept.empty() ? HypothesisVerdict::kUndetectable : of_the_rest));
  }
}

TEST_CASE("every hypothesis has a mutation of one of its cases", "[stress]") {
  for (const Hypothesis& hypothesis : kHypotheses) {
    INFO(hypothesis.id);
    CHECK(std::any_of(mutations().begin(), mutations().end(),
                      [&](const Mutation& mutation) { return mutation.case_id.starts_with(hypothesis.id); }));
  }
}

}  // namespace
}  // namespace qdiff
