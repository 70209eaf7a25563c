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

bool exercises(const HypothesisResult& hypothesis, const std::string& variant) {
  const auto& exercised = hypothesis.exercised_variants;
  return std::find(exercised.begin(), exercised.end(), variant) != exercised.end();
}

std::string why_blind(const HypothesisResult& hypothesis, const std::string& variant) {
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
  std::vector<std::string> blind;  // variants that the case shows and its mutation does not
  std::vector<std::string> kept;   // variants that both show; none: nothing of the hypothesis is left to show
};

const std::vector<Mutation>& mutations() {
  static const std::vector<Mutation> kMutations = {
      {"H01-kv-cache",
       "one row",
       one_row,
       {"H01.no_batch_stride", "H01.batch_stride_of_one_token", "H01.pad_slot"},
       {"H01.no_head_stride", "H01.no_layer_stride", "H01.head_stride_is_tokens"}},
      {"H01-kv-cache", "no padding", no_padding, {"H01.pad_slot"}, {"H01.no_batch_stride"}},
      {"H01-kv-cache",
       "one step that fills the cache",
       one_step_in_a_full_cache,
       {"H01.head_stride_is_tokens", "H01.no_layer_stride"},
       {"H01.no_head_stride", "H01.pos_major", "H01.v_into_k"}},
      {"H02-softmax",
       "one token",
       one_token,
       {"H02.scale", "H02.no_scale", "H02.scale_hidden", "H02.scale_twice", "H02.sum_fp16", "H02.tile_max"},
       {"H02.scale_after", "H02.tail_zero"}},
      {"H02-softmax",
       "fewer slots than a tile",
       [](Case& c) { one_step_of(c, 12); },
       {"H02.tile_max"},
       {"H02.scale", "H02.tail_zero"}},
      {"H02-loud-scores",
       "ordinary scores",
       on_model("synthetic:toy-15x5,profile=plain"),
       {"H02.no_max"},
       {"H02.no_scale"}},
      {"H03-rope",
       "one step",
       one_step,
       {"H03.decode_pos_zero", "H03.decode_pos_plus_one", "H03.chunk_local_pos"},
       {"H03.theta", "H03.none", "H03.batch_pos"}},
      {"H03-rope", "no padding", no_padding, {"H03.batch_pos"}, {"H03.chunk_local_pos"}},
      {"H03-rope",
       "one token, at position 0",
       one_token,
       {"H03.theta", "H03.interleaved", "H03.half_slice", "H03.q_only", "H03.k_only", "H03.none", "H03.reverse"},
       {}},
      {"H04-in-place",
       "outputs as wide as inputs",
       on_model("synthetic:toy-d32,layers=2"),
       {"H04.wo_rows"},
       {"H04.wo_cols", "H04.down_in_act", "H04.residual_lost"}},
      {"H04-in-place", "one row of one token", one_row_of_one_token, {"H04.wo_rows"}, {"H04.wo_cols"}},
      {"H05-gqa",
       "a key/value head for each query head",
       on_model("synthetic:toy-mha"),
       {"H05.modulo", "H05.prefill_only", "H05.decode_only"},
       {"H05.head_zero"}},
      {"H05-gqa", "no decode", no_decode, {"H05.decode_only"}, {"H05.modulo", "H05.prefill_only"}},
      {"H06-qkv-bias", "no decode", no_decode, {"H06.decode_missing"}, {"H06.prefill_missing", "H06.missing_k"}},
      {"H06-bias-bits",
       "biases of 16 bits",
       on_model("synthetic:toy-d32,profile=qwen,layers=2"),
       {"H06.bf16", "H06.fp16"},
       {"H06.int8"}},
      {"H07-gemm", "one row of one token", one_row_of_one_token, {"H07.column_major_out"}, {"H07.lda"}},
      {"H08-cache-length",
       "no decode",
       no_decode,
       {"H08.write_plus_one", "H08.write_minus_one", "H08.read_minus_one", "H08.read_minus_first", "H08.read_plus_one",
        "H08.first_token", "H08.length_counts_current"},
       {}},
      {"H08-cache-length",
       "a full cache",
       one_decode_step_in_a_full_cache,
       {"H08.read_plus_one"},
       {"H08.read_minus_one", "H08.write_minus_one"}},
      {"H08-cache-length", "padding in every row", every_row_padded, {"H08.read_minus_first"}, {"H08.read_minus_one"}},
      {"H09-quiet-residual",
       "a residual of ordinary size",
       on_model("synthetic:toy-d64,profile=plain"),
       {"H09.final_norm_eps"},
       {"H09.no_weight"}},
      {"H09-quiet-residual",
       "one layer",
       on_model("synthetic:toy-d64,profile=quiet,layers=1"),
       {"H09.weight_from_other_layer"},
       {"H09.eps", "H09.final_norm_eps"}},
      {"H10-masking", "no padding", no_padding, {"H10.pad_visible", "H10.pad_query_axis"}, {"H10.none"}},
      {"H10-masking", "one step", one_step, {"H10.top_left", "H10.chunk_only"}, {"H10.none", "H10.one_ahead"}},
      {"H10-masking", "token by token", token_by_token, {"H10.none", "H10.one_ahead"}, {"H10.chunk_only"}},
      {"H10-masking", "fewer slots than a window", [](Case& c) { one_step_of(c, 8); }, {"H10.window"}, {"H10.strict"}},
      {"H10-long",
       "ordinary scores",
       on_model("synthetic:toy-15x5,profile=plain"),
       {"H10.finite_fp16"},
       {"H10.window"}},
      {"H10-masking",
       "one row of one token",
       one_row_of_one_token,
       {"H10.none", "H10.one_ahead", "H10.top_left", "H10.chunk_only", "H10.pad_visible", "H10.window"},
       {"H10.strict"}},
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
    for (const std::string& variant : mutation.blind) {
      INFO(variant);
      CHECK(exercises(shows, variant));
      CHECK(shows.shown_by.at(variant).contains(test_case.id));
      CHECK(why_blind(shows, variant).empty());
      CHECK_FALSE(exercises(showed, variant));
      CHECK_FALSE(showed.shown_by.contains(variant));
      CHECK_THAT(why_blind(showed, variant), ContainsSubstring("it shows with: "));
    }
    for (const std::string& variant : mutation.kept) {
      INFO(variant);
      CHECK(exercises(shows, variant));
      CHECK(exercises(showed, variant));
    }
    const bool counted_blind =
        std::find(after.coverage.blind.begin(), after.coverage.blind.end(), showed.id) != after.coverage.blind.end();
    CHECK(counted_blind == mutation.kept.empty());
    CHECK(showed.verdict == (mutation.kept.empty() ? HypothesisVerdict::kUndetectable : HypothesisVerdict::kRefuted));
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
