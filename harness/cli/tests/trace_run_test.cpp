// Traces judged whole: recorded by an engine, thinned out, read back, and held against the reference.
#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <string>

#include "cmake/catch2.h"
#include "harness/cli/tests/trace_sample.h"
#include "harness/formats/mistake_text.h"

namespace qdiff {
namespace {

using compare::Verdict;
using findings::Finding;
using findings::FindingKind;
using findings::HypothesisVerdict;
using findings::RunResult;

std::string first_words(const RunResult& result) {
  if (result.first_divergence() == nullptr) return result.reason;
  const Finding& first = *result.first_divergence();
  return tensor_name(first.tensor) + " step " + std::to_string(first.step) + ": " + first.judgement.reason + "; " +
         std::string(first.explanation.variant ? name(*first.explanation.variant) : "unexplained") + "; " +
         first.explanation.pattern;
}

void check_match(const TraceSetting& setting) {
  const RunResult result = judge_trace_of(setting);
  INFO(first_words(result));
  CHECK(result.verdict == Verdict::kMatch);
  CHECK(result.findings.empty());
  CHECK(result.coverage.not_compared.empty());
  CHECK(result.coverage.tensors_compared > 0);
  CHECK(result.notes.empty());
}

TEST_CASE("clean traces match, whatever is missing from them", "[trace]") {
  for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    for (const Keep& keep : {Keep(everything), Keep(required_tensors), Keep(layer_outputs), Keep(logits_alone)}) {
      INFO(name(dtype) << (keep({Op::kScores, 0})   ? ", full"
                           : keep({Op::kQRope, 0})  ? ", without optional tensors"
                           : keep({Op::kOutput, 0}) ? ", layer outputs"
                                                    : ", logits"));
      check_match({.dtype = dtype, .keep = keep, .options = {.probing = false}});
    }
  }
}

TEST_CASE("a clean trace of the reference, ragged and in chunks, matches and refutes what it could show", "[trace]") {
  const RunResult result = judge_trace_of({.reference_engine = true});
  INFO(first_words(result));
  CHECK(result.verdict == Verdict::kMatch);
  CHECK(result.coverage.tensors_missing.empty());
  for (const char* id : {"H01", "H02", "H03", "H05", "H06", "H08", "H10"}) {
    INFO(id);
    const auto found = std::find_if(result.hypotheses.begin(), result.hypotheses.end(),
                                    [&](const auto& hypothesis) { return hypothesis.id == id; });
    CHECK(found->verdict == HypothesisVerdict::kRefuted);
  }
}

TEST_CASE("logits of the last row alone are judged like those of all rows", "[trace]") {
  check_match({.last_row_of_logits = true, .options = {.probing = false}});
  check_match({.keep = logits_alone, .last_row_of_logits = true, .options = {.probing = false}});
}

TEST_CASE("tensors of one kind alone, whatever their shape, are judged by whole passes", "[trace]") {
  for (Op op : {Op::kQRope, Op::kKCache, Op::kVCache, Op::kScores, Op::kProbs, Op::kAttnOutput}) {
    INFO(row(op).name);
    const Keep of_last_layer = [op](const TensorId& id) { return id.op == op && id.layer == 2; };
    check_match({.reference_engine = true, .keep = of_last_layer, .options = {.probing = false}});
  }
}

constexpr std::uint64_t kHonestSeeds = 2;  // 40 for the figures in harness/diagnose/thresholds.h

struct Planted {
  FaultId id;
  const char* tensor;  // first wrong
};

TEST_CASE("a bug is found at its tensor and named, with and without optional tensors", "[trace]") {
  for (const Keep& keep : {Keep(everything), Keep(required_tensors)}) {
    for (const Planted& planted : {Planted{FaultId::kTheta, "model.layers.1.self_attn.q_rope"},
                                   Planted{FaultId::kModulo, "model.layers.1.self_attn.attn_output"},
                                   Planted{FaultId::kMissingK, "model.layers.1.self_attn.k_proj"},
                                   Planted{FaultId::kNoWeight, "model.layers.1.input_layernorm"},
                                   Planted{FaultId::kNoMask, "model.layers.1.self_attn.attn_output"}}) {
      INFO(name(planted.id));
      const RunResult result =
          judge_trace_of({.inject = Fault{planted.id, {}, 1}, .keep = keep, .options = {.probing = false}});
      INFO(first_words(result));
      REQUIRE(result.verdict == Verdict::kDiverged);
      const Finding& first = *result.first_divergence();
      CHECK(tensor_name(first.tensor) == planted.tensor);
      CHECK(first.explanation.variant == planted.id);
      CHECK(first.mode == "trace");
      CHECK(first.case_id == "trace");
      CHECK(first.command == "qdiff diagnose --model M --trace trace --layers 1 --steps " + std::to_string(first.step));
    }
  }
}

// An engine that gets its positions wrong writes the wrong ones into its manifest as well.
TEST_CASE("positions of a manifest do not excuse an engine, unless the caller chose them", "[trace]") {
  for (const auto& [id, shift] : {std::pair{FaultId::kDecodePosZero, std::optional<std::int64_t>()},
                                  std::pair{FaultId::kDecodePosPlusOne, std::optional<std::int64_t>(1)}}) {
    INFO(name(id));
    const auto claim = [shift = shift](std::vector<Step>& steps) {
      for (Step& step : steps) {
        if (step.phase != Phase::kDecode) continue;
        for (auto& row : step.positions) row[0] = shift ? row[0] + *shift : 0;
      }
    };
    TraceSetting setting{
        .inject = Fault{id, {}, {}}, .claim = claim, .positions_requested = false, .options = {.probing = false}};
    const RunResult wrong = judge_trace_of(setting);
    INFO(first_words(wrong));
    REQUIRE(wrong.verdict == Verdict::kDiverged);
    CHECK(wrong.first_divergence()->explanation.variant == id);
    CHECK(wrong.notes.size() == 1);

    setting.positions_requested = true;
    const RunResult right = judge_trace_of(setting);
    INFO(first_words(right));
    CHECK(right.verdict == Verdict::kMatch);
    REQUIRE(right.conditions.size() == 1);
    CHECK_THAT(right.conditions[0], ContainsSubstring("requests"));
  }
}

TEST_CASE("a prompt that starts at another position than 0 is judged as it was asked for", "[trace]") {
  cases::Case far = small_case();
  const std::vector<Step> usual = cases::make_steps(far, model::open_model(far.model)->config());
  for (std::size_t s = 0; s < usual.size(); ++s) {
    far.steps[s].positions = usual[s].positions;
    for (auto& row : far.steps[s].positions) {
      for (std::int64_t& position : row) position += 40;
    }
  }
  const RunResult result = judge_trace_of({.test_case = far, .options = {.probing = false}});
  INFO(first_words(result));
  CHECK(result.verdict == Verdict::kMatch);
  REQUIRE(result.conditions.size() == 1);
  CHECK_THAT(result.conditions[0], ContainsSubstring("all 40 above"));
}

// Whatever is listed beside it, 1e-12 in rows of tiny norm among them.
TEST_CASE("an engine without epsilon is named with the value 0", "[trace]") {
  cases::Case tiny_rows = small_case("synthetic:toy-d64,profile=qwen");
  tiny_rows.special_tokens = cases::SpecialTokens{.every = 3, .last_ids = 16};
  for (DType dtype : {DType::kBF16, DType::kF32}) {
    INFO(name(dtype));
    const RunResult result = judge_trace_of({.test_case = tiny_rows,
                                             .dtype = dtype,
                                             .inject = Fault{FaultId::kEps, 0.0, {}},
                                             .options = {.probing = false}});
    INFO(first_words(result));
    REQUIRE(result.verdict == Verdict::kDiverged);
    const Finding& first = *result.first_divergence();
    CHECK(tensor_name(first.tensor) == "model.layers.0.input_layernorm");
    CHECK(first.explanation.variant == FaultId::kEps);
    CHECK(first.explanation.value == 0.0);
    CHECK(first.explanation.expected_value == 1e-6);
  }
}

// A layer with large k biases is deaf to some bugs: what they change there stays within what rounding may do to it.
TEST_CASE("from layer outputs alone a bug is found in its layer in nine of ten runs, its hypothesis in all",
          "[trace]") {
  int runs = 0, right = 0;
  for (DType dtype : {DType::kBF16, DType::kF32}) {
    for (FaultId id : {FaultId::kTheta, FaultId::kMissingK, FaultId::kMissingV, FaultId::kModulo, FaultId::kNoMask,
                       FaultId::kOneAhead}) {
      for (std::optional<int> layer : {std::optional<int>(), std::optional<int>(1)}) {
        INFO(name(id) << " in " << name(dtype) << (layer ? ", layer 1" : ", every layer"));
        const RunResult result = judge_trace_of(
            {.dtype = dtype, .inject = Fault{id, {}, layer}, .keep = layer_outputs, .options = {.probing = false}});
        INFO(first_words(result));
        REQUIRE(result.verdict == Verdict::kDiverged);
        const Finding& first = *result.first_divergence();
        const bool layer_found = first.tensor == TensorId{Op::kOutput, layer.value_or(0)};
        ++runs;
        right += layer_found && first.explanation.hypothesis == hypothesis_of(id) ? 1 : 0;
        CHECK(first.explanation.hypothesis == hypothesis_of(id));
      }
    }
  }
  CHECK(10 * right >= 9 * runs);
}

// Of no known bug, and nothing to solve for: the usual points of each mechanism are planted inside the span.
TEST_CASE("from layer outputs alone a mistake that is no known bug is named with its place and phase", "[trace]") {
  struct Case {
    DType dtype;
    const char* mistake;
  };
  for (const auto& [dtype, text] :
       {Case{DType::kBF16, "sum:resid_mid=2;mlp.down_proj=1@output"},
        Case{DType::kF32, "norm.blocks:blocks=2@post_attention_layernorm;phase=decode"},
        Case{DType::kBF16, "heads.read:head of self_attn.v_cache=4 4 4 3 3 3 2 2 2 1 1 1 0 0 0@self_attn.attn_output"},
        // In 16 bits one late slot outweighs the rest here, and no mask at all computes the same.
        Case{DType::kF32, "visible:visible=exactly what it should hide (the mask is inverted)@self_attn.scores"},
        Case{DType::kBF16, "gate.function:function=ReLU@mlp.act"},
        Case{DType::kF16, "rotation.position:position=its position + 1@self_attn.k_rope"},
        Case{DType::kBF16, "product.rows:rows=columns 0..439 hold columns 0..439 of mlp.up_proj@mlp.gate_proj"}}) {
    INFO(text);
    const Mistake planted = formats::parse_mistake(text);
    const RunResult result = judge_trace_of({.dtype = dtype,
                                             .reference_engine = true,
                                             .mistakes = {planted},
                                             .keep = layer_outputs,
                                             .options = {.probing = false}});
    INFO(first_words(result));
    REQUIRE(result.verdict == Verdict::kDiverged);
    const findings::Explanation& explanation = result.first_divergence()->explanation;
    CHECK(explanation.mechanism == facts(planted.kind).name);
    CHECK(explanation.verdict == HypothesisVerdict::kConfirmed);
    CHECK(explanation.mistakes == std::vector{planted});
  }
}

TEST_CASE("logits of honest engines lie within what rounding explains, with room", "[trace]") {
  for (const char* model : {"synthetic:toy-15x5,profile=qwen", "synthetic:toy-d64", "synthetic:toy-14x2"}) {
    for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
      for (std::uint64_t seed = 1; seed <= kHonestSeeds; ++seed) {
        INFO(model << ' ' << name(dtype) << " seed " << seed);
        const RunResult result = judge_trace_of({.test_case = small_case(model, seed),
                                                 .dtype = dtype,
                                                 .keep = logits_alone,
                                                 .options = {.probing = false}});
        CHECK(result.verdict == Verdict::kMatch);
        REQUIRE(result.ranking.has_value());
        CHECK(result.ranking->right.times_rounding < 0.6 * result.ranking->explained_up_to);
      }
    }
  }
}

// A mistake in few of the logits of a step, made in what an honest engine recorded.
struct FewWrong {
  const char* what;
  int step;
  std::function<void(Tensor&, std::int64_t vocab)> spoil;
};

void scale_rows(Tensor& logits, std::int64_t first_element, double factor) {
  for (std::int64_t i = first_element; i < logits.size(); ++i) logits.set(i, logits.at(i) * factor);
}

std::int64_t largest_of_last_row(const Tensor& logits, std::int64_t vocab) {
  std::int64_t largest = logits.size() - vocab;
  for (std::int64_t i = largest; i < logits.size(); ++i) largest = logits.at(i) > logits.at(largest) ? i : largest;
  return largest;
}

void spoil_step(trace::Recording& recording, const FewWrong& wrong) {
  const TensorKey key{wrong.step, {Op::kLmHead}};
  Tensor logits = Tensor::copy_of(recording.get(key));
  wrong.spoil(logits, logits.shape().back());
  replace(recording, key, std::move(logits));
}

TEST_CASE("from logits alone one wrong logit, one row or one step is found, and no bug is named for it", "[trace]") {
  const std::vector<FewWrong> kWrong = {
      {"the smallest logit becomes the largest", 1,
       [](Tensor& logits, std::int64_t vocab) {
         const std::int64_t largest = largest_of_last_row(logits, vocab);
         logits.set(largest > logits.size() - 2 ? largest - 1 : largest + 1, logits.at(largest) + 3.0);
       }},
      {"the largest logit is negated", 2,
       [](Tensor& logits, std::int64_t vocab) {
         const std::int64_t largest = largest_of_last_row(logits, vocab);
         logits.set(largest, -logits.at(largest));
       }},
      {"the last row of a prefill is a tenth too large", 1,
       [](Tensor& logits, std::int64_t vocab) { scale_rows(logits, logits.size() - vocab, 1.1); }},
      {"a decode step is a twentieth too large", 3, [](Tensor& logits, std::int64_t) { scale_rows(logits, 0, 1.05); }},
  };
  for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    for (const char* model : {"synthetic:toy-15x5,profile=qwen", "synthetic:toy-d64"}) {
      if (dtype != DType::kBF16 && std::string(model) == "synthetic:toy-d64") continue;
      for (const FewWrong& wrong : kWrong) {
        INFO(wrong.what << ", " << model << " in " << name(dtype));
        const RunResult result = judge_trace_of({.test_case = small_case(model),
                                                 .dtype = dtype,
                                                 .keep = logits_alone,
                                                 .rewrite = [&](trace::Recording& all) { spoil_step(all, wrong); },
                                                 .options = {.probing = false}});
        INFO(first_words(result));
        REQUIRE(result.verdict == Verdict::kDiverged);
        REQUIRE(result.findings.size() == 1);
        CHECK(result.findings[0].step == wrong.step);
        CHECK(result.findings[0].tensor == TensorId{Op::kLmHead});
        CHECK_FALSE(result.findings[0].explanation.variant.has_value());
      }
    }
  }
}

TEST_CASE("from logits alone a logit is found that is off by ten deviations of what rounding does", "[trace]") {
  for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    INFO(name(dtype));
    TraceSetting setting{.dtype = dtype, .keep = logits_alone, .options = {.probing = false}};
    const RunResult honest = judge_trace_of(setting);
    REQUIRE(honest.verdict == Verdict::kMatch);
    const double rounding = honest.ranking->rounding;  // of the last step, relative
    setting.rewrite = [rounding](trace::Recording& recording) {
      spoil_step(recording, {"", 3, [rounding](Tensor& logits, std::int64_t vocab) {
                               double square = 0.0;
                               for (std::int64_t i = 0; i < vocab; ++i) square += logits.at(i) * logits.at(i);
                               const double deviation = rounding * std::sqrt(square / static_cast<double>(vocab));
                               logits.set(vocab / 2, logits.at(vocab / 2) + 10.0 * deviation);
                             }});
    };
    const RunResult result = judge_trace_of(setting);
    INFO(first_words(result));
    REQUIRE(result.verdict == Verdict::kDiverged);
    CHECK(result.first_divergence()->judgement.decisive_statistic == "free_run_element");
    CHECK(result.first_divergence()->judgement.worst_index.front() == 0);
  }
}

TEST_CASE("from logits alone a gross bug leads the ranking", "[trace]") {
  int first = 0;
  const FaultId kBugs[] = {FaultId::kTheta,   FaultId::kMissingV,   FaultId::kModulo,   FaultId::kNoMask,
                           FaultId::kNoScale, FaultId::kNoRope,     FaultId::kNoWeight, FaultId::kStrict,
                           FaultId::kNoSilu,  FaultId::kPackedOrder};
  for (FaultId id : kBugs) {
    INFO(name(id));
    const RunResult result = judge_trace_of(
        {.inject = Fault{id, {}, {}}, .reference_engine = true, .keep = logits_alone, .options = {.probing = false}});
    CHECK(result.verdict == Verdict::kDiverged);
    REQUIRE(result.ranking.has_value());
    REQUIRE_FALSE(result.ranking->nearest.empty());
    CHECK_FALSE(result.ranking->right.reproduces);
    first += result.ranking->nearest.front().variant == id ? 1 : 0;
    CHECK_FALSE(result.ranking->record_next.empty());
  }
  CHECK(first >= 9);
}

// transformers masks with the smallest number of the type; llama.cpp with -inf.
// Each of them alone comes no nearer than ten times what rounding does.
TEST_CASE("from layer outputs and from logits alone two bugs of one engine are both named", "[trace]") {
  std::vector<Mistake> without_biases;
  for (Op op : {Op::kQProj, Op::kKProj, Op::kVProj}) {
    without_biases.push_back({MistakeKind::kBias, {{"coefficient", 0.0}}, op});
  }
  for (const Keep& keep : {Keep(layer_outputs), Keep(logits_alone)}) {
    INFO((keep({Op::kOutput, 0}) ? "layer outputs" : "logits"));
    const RunResult result = judge_trace_of({.test_case = small_case("synthetic:toy-14x2"),
                                             .inject = Fault{FaultId::kInterleaved, {}, {}},
                                             .reference_engine = true,
                                             .mistakes = without_biases,
                                             .keep = keep,
                                             .options = {.probing = false}});
    INFO(first_words(result));
    REQUIRE(result.verdict == Verdict::kDiverged);
    std::set<FaultId> named;
    for (const Finding& finding : result.findings) {
      if (finding.explanation.variant) named.insert(*finding.explanation.variant);
    }
    CHECK(named == std::set{FaultId::kMissingAll, FaultId::kInterleaved});
  }
}

TEST_CASE("masked scores recorded alone may hold what an engine masks with", "[trace]") {
  const auto stand_in = [](const TensorId& id, Tensor& tensor) {
    for (std::int64_t i = 0; id.op == Op::kScores && i < tensor.size(); ++i) {
      if (std::isinf(tensor.at(i))) tensor.set(i, -3.3e38);
    }
  };
  const Keep last_scores = [](const TensorId& id) { return id.op == Op::kScores && id.layer == 2; };
  check_match({.reference_engine = true, .keep = last_scores, .change = stand_in, .options = {.probing = false}});
}

TEST_CASE("logits before which right code overflows as declared say nothing", "[trace]") {
  cases::Case loud = cases::load_case("H02-loud-scores");
  loud.model = "synthetic:toy-d64,profile=qwen";
  Precision narrow = plain_precision(DType::kF16);
  narrow.points[RoundingPoint::kAttentionScores] = DType::kF16;
  narrow.points[RoundingPoint::kAttentionQuery] = DType::kF16;
  const RunResult result = judge_trace_of({.test_case = loud,
                                           .reference_engine = true,
                                           .rounds = plain_precision(DType::kF32),
                                           .declared = narrow,
                                           .keep = logits_alone});
  INFO(first_words(result));
  CHECK(result.verdict == Verdict::kInconclusive);
  CHECK(result.findings.empty());
  CHECK_THAT(result.reason, ContainsSubstring("overflows"));
  for (const auto& hypothesis : result.hypotheses) CHECK(hypothesis.verdict != HypothesisVerdict::kRefuted);
}

TEST_CASE("logits of a wrong engine refute no bug that one row cannot show", "[trace]") {
  cases::Case one_row = small_case();
  one_row.batch = 1;
  one_row.left_padding = {0};
  for (const std::optional<Fault>& inject : {std::optional<Fault>(), std::optional(Fault{FaultId::kTheta, {}, {}})}) {
    const RunResult result =
        judge_trace_of({.test_case = one_row, .inject = inject, .reference_engine = true, .keep = logits_alone});
    CHECK(result.verdict == (inject ? Verdict::kDiverged : Verdict::kMatch));
    bool of_other_tokens = false;
    for (const auto& hypothesis : result.hypotheses) {
      CHECK_FALSE(hypothesis.shown_by.contains(FaultId::kNoBatchStride));
      of_other_tokens |= hypothesis.shown_by.contains(FaultId::kNoMask);
    }
    CHECK(of_other_tokens);
  }
}

TEST_CASE("a value that was searched for on logits alone is not confirmed", "[trace]") {
  const RunResult result = judge_trace_of({.test_case = small_case("synthetic:toy-d64"),
                                           .inject = Fault{FaultId::kTheta, 37000.0, {}},
                                           .reference_engine = true,
                                           .keep = logits_alone,
                                           .options = {.probing = false}});
  INFO(first_words(result));
  REQUIRE(result.verdict == Verdict::kDiverged);
  const findings::Explanation& explanation = result.first_divergence()->explanation;
  CHECK(explanation.variant == FaultId::kTheta);
  CHECK(explanation.verdict == HypothesisVerdict::kConsistent);
  CHECK_FALSE(explanation.evidence.empty());
}

TEST_CASE("logits with NaN at some tokens are ranked by the others, and with NaN alone not at all", "[trace]") {
  for (const bool all : {false, true}) {
    const auto nothing = [all](const TensorId&, Tensor& tensor) {
      const std::int64_t end = all ? tensor.size() : tensor.shape().back();
      for (std::int64_t i = 0; i < end; ++i) tensor.set(i, std::numeric_limits<double>::quiet_NaN());
    };
    for (std::optional<FaultId> bug : {std::optional(FaultId::kTheta), std::optional<FaultId>()}) {
      INFO((bug ? name(*bug) : "no bug") << (all ? ", all NaN" : ", one token NaN"));
      TraceSetting setting = {.test_case = small_case("synthetic:toy-d64"),
                              .keep = logits_alone,
                              .change = nothing,
                              .options = {.probing = false}};
      if (bug) setting.inject = Fault{*bug, {}, {}};
      const RunResult result = judge_trace_of(setting);
      INFO(first_words(result));
      REQUIRE(result.verdict == Verdict::kDiverged);
      const findings::Explanation& explanation = result.first_divergence()->explanation;
      if (all || !bug) {
        CHECK_FALSE(explanation.variant.has_value());
      } else {
        CHECK(explanation.variant == bug);
        CHECK(explanation.verdict == HypothesisVerdict::kConsistent);
      }
    }
  }
}

TEST_CASE("a value far from those that the catalogue lists is fitted", "[trace]") {
  for (const Fault& fault : {Fault{FaultId::kEps, 0.7, {}}, Fault{FaultId::kTheta, 3.0, {}}}) {
    for (DType dtype : {DType::kBF16, DType::kF32}) {
      INFO(to_string(fault) << " in " << name(dtype));
      const RunResult result = judge_trace_of({.dtype = dtype, .inject = fault, .options = {.probing = false}});
      INFO(first_words(result));
      REQUIRE(result.verdict == Verdict::kDiverged);
      const findings::Explanation& explanation = result.first_divergence()->explanation;
      CHECK(explanation.variant == fault.id);
      CHECK(explanation.verdict == HypothesisVerdict::kConfirmed);
      REQUIRE(explanation.value);
      CHECK(*explanation.value == Approx(*fault.value).epsilon(0.02));
    }
  }
}

TEST_CASE("where nothing could be compared the reason is that of the tensors", "[trace]") {
  const auto nothing = [](const TensorId&, Tensor& tensor) {
    for (std::int64_t i = 0; i < tensor.size(); ++i) tensor.set(i, std::numeric_limits<double>::quiet_NaN());
  };
  const Keep of_one_layer = [](const TensorId& id) { return id.layer == 1; };
  const RunResult result = judge_trace_of(
      {.reference_engine = true, .keep = of_one_layer, .change = nothing, .options = {.probing = false}});
  INFO(first_words(result));
  CHECK_THAT(result.reason, !ContainsSubstring("was recorded"));
}

// Sums in 16 bits err by far more than this, so that "within what they explain" says nothing.
TEST_CASE("an error smaller than a coarse bug's own rounding does not confirm that bug", "[trace]") {
  for (double factor : {1.00001, 1.001}) {
    for (Op op : {Op::kDownProj, Op::kAttnOutput}) {
      INFO(row(op).name << " times " << factor);
      const auto scaled = [&](const TensorId& id, Tensor& tensor) {
        if (id.op != op || id.layer != 1) return;
        for (std::int64_t i = 0; i < tensor.size(); ++i) tensor.set(i, tensor.at(i) * factor);
      };
      const RunResult result = judge_trace_of(
          {.dtype = DType::kF32, .reference_engine = true, .change = scaled, .options = {.probing = false}});
      INFO(first_words(result));
      // Where what was computed from the tensor follows from its right value, the finding is the recorder's.
      REQUIRE(result.verdict != Verdict::kMatch);
      REQUIRE_FALSE(result.findings.empty());
      const Finding& first = result.findings.front();
      CHECK(first.tensor.op == op);
      // What was done to the tensor may be solved for; no known bug is it.
      CHECK((!first.explanation.variant || first.explanation.verdict != HypothesisVerdict::kConfirmed));
      if (factor < 1.0001) CHECK_FALSE(first.explanation.variant.has_value());
    }
  }
}

TEST_CASE("a coarse bug of which the engine sums in an order of its own is named none the less", "[trace]") {
  for (DType dtype : {DType::kBF16, DType::kF32}) {
    INFO(name(dtype));
    const RunResult result =
        judge_trace_of({.dtype = dtype, .inject = Fault{FaultId::kAccBf16, 16.0, 0}, .options = {.probing = false}});
    INFO(first_words(result));
    REQUIRE(result.verdict == Verdict::kDiverged);
    CHECK(result.first_divergence()->explanation.variant == FaultId::kAccBf16);
  }
}

Precision eager_rounding() {
  Precision precision = plain_precision(DType::kBF16);
  for (RoundingPoint point :
       {RoundingPoint::kRmsNormNormalized, RoundingPoint::kAttentionScores, RoundingPoint::kAttentionScaledScores,
        RoundingPoint::kAttentionProbs, RoundingPoint::kMlpSilu}) {
    precision.points[point] = DType::kBF16;
  }
  return precision;
}

// With large k biases each rounding of the scores turns the softmax over; without, each shows by itself.
TEST_CASE("roundings that nobody declared are findings of kind precision, and inferred", "[trace]") {
  const auto model = GENERATE(as<std::string>{}, "synthetic:toy-15x5,profile=qwen", "synthetic:toy-d64,profile=plain");
  INFO(model);
  TraceSetting setting{.test_case = small_case(model),
                       .reference_engine = true,
                       .rounds = eager_rounding(),
                       .declared = plain_precision(DType::kBF16),
                       .keep = required_tensors,
                       .options = {.infer_points = true, .probing = false}};
  const RunResult result = judge_trace_of(setting);
  INFO(first_words(result));
  CHECK(result.verdict == Verdict::kDiverged);
  for (const Finding& finding : result.findings) {
    INFO(tensor_name(finding.tensor) << finding.judgement.reason);
    CHECK(finding.kind == FindingKind::kPrecision);
  }
  REQUIRE(result.inferred_points.has_value());
  CHECK(result.inferred_points->at("rms_norm.normalized") == "bfloat16");
  CHECK(result.inferred_points->at("mlp.silu") == "bfloat16");
  if (model.ends_with("profile=plain")) CHECK(result.inferred_points->contains("attention.probs"));

  // Declared so, the trace has no finding of that kind any more.
  Precision inferred = plain_precision(DType::kBF16);
  for (const auto& [point, dtype] : *result.inferred_points) {
    inferred.points[*parse_rounding_point(point)] = *parse_dtype(dtype);
  }
  setting.declared = inferred;
  const RunResult again = judge_trace_of(setting);
  INFO(first_words(again));
  CHECK(again.verdict == Verdict::kMatch);
  // What the first declaration states beyond what the trace needs may be left out of the second.
  REQUIRE(again.inferred_points.has_value());
  CHECK(std::ranges::includes(*result.inferred_points, *again.inferred_points));

  setting.declared = plain_precision(DType::kBF16);
  setting.options = {.allow_precision = true, .probing = false};
  const RunResult allowed = judge_trace_of(setting);
  CHECK(allowed.verdict == Verdict::kMatch);
  CHECK(allowed.cases.at(0).verdict == Verdict::kMatch);
  CHECK(allowed.findings.size() == result.findings.size());
  CHECK_FALSE(allowed.inferred_points.has_value());
}

TEST_CASE("declared roundings are no findings where scores are huge", "[trace]") {
  const auto model = GENERATE(as<std::string>{}, "synthetic:toy-15x5,profile=qwen", "synthetic:toy-d32,profile=qwen",
                              "synthetic:toy-d64,profile=qwen", "synthetic:toy-14x2,profile=qwen");
  const auto seed = GENERATE(range<std::uint64_t>(100, 103));
  CAPTURE(model, seed);
  const RunResult result = judge_trace_of({.test_case = small_case(model, seed),
                                           .reference_engine = true,
                                           .rounds = eager_rounding(),
                                           .declared = eager_rounding(),
                                           .keep = required_tensors,
                                           .options = {.probing = false}});
  INFO(first_words(result));
  CHECK(result.verdict == Verdict::kMatch);
}

TEST_CASE("declared roundings that the engine does not make are named and no finding", "[trace]") {
  for (const char* what : {"points", "accumulate"}) {
    INFO(what);
    Precision declared = plain_precision(DType::kF32);
    if (std::string(what) == "points") {
      declared.points[RoundingPoint::kKvCache] = DType::kBF16;
      declared.points[RoundingPoint::kMlpSilu] = DType::kBF16;
      declared.taken_as[Op::kOProj] = DType::kBF16;
    } else {
      declared.accumulate = DType::kBF16;
    }
    const RunResult result =
        judge_trace_of({.dtype = DType::kF32, .declared = declared, .options = {.probing = false}});
    INFO(first_words(result));
    CHECK(result.verdict == Verdict::kMatch);
    CHECK(result.findings.empty());
    REQUIRE(result.notes.size() == 1);
    if (std::string(what) == "points") {
      for (const char* entry : {"kv_cache: bfloat16", "mlp.silu: bfloat16", "self_attn.o_proj: bfloat16"}) {
        CHECK_THAT(result.notes[0], ContainsSubstring(entry));
      }
    } else {
      CHECK_THAT(result.notes[0], ContainsSubstring("accumulate: bfloat16"));
    }
  }
}

TEST_CASE("a declared rounding that the engine makes is not called unneeded", "[trace]") {
  Precision rounds = plain_precision(DType::kF32);
  rounds.points[RoundingPoint::kMlpSilu] = DType::kBF16;
  rounds.points[RoundingPoint::kRopeTable] = DType::kBF16;
  const RunResult result = judge_trace_of({.reference_engine = true, .rounds = rounds, .options = {.probing = false}});
  INFO(first_words(result));
  CHECK(result.verdict == Verdict::kMatch);
  CHECK(result.notes.empty());
}

TEST_CASE("sums that are declared coarse and are not hide nothing, or the report says so", "[trace]") {
  Precision declared = plain_precision(DType::kF32);
  declared.accumulate = DType::kBF16;
  const RunResult result = judge_trace_of({.dtype = DType::kF32,
                                           .inject = Fault{FaultId::kScale, 1.01, {}},
                                           .declared = declared,
                                           .options = {.probing = false}});
  INFO(first_words(result));
  if (result.verdict == Verdict::kMatch) {
    REQUIRE(result.conditions.size() == 1);
    CHECK_THAT(result.conditions[0], ContainsSubstring("accumulate: bfloat16") && ContainsSubstring("attn_output"));
  } else {
    CHECK(result.first_divergence()->explanation.variant == FaultId::kScale);
  }
}

TEST_CASE("a few elements that moved are not taken for a bug whose rounding covers them", "[trace]") {
  for (DType dtype : {DType::kBF16, DType::kF32}) {
    INFO(name(dtype));
    const auto moved = [](const TensorId& id, Tensor& tensor) {
      if (id != TensorId{Op::kDownProj, 1}) return;
      const std::int64_t width = tensor.shape().back();
      for (std::int64_t i = 5; i < tensor.size(); i += 4 * width) tensor.set(i, 1.06 * tensor.at(i) + 0.01);
    };
    // Nothing is kept that was computed from it: that would say that the recorder moved them.
    const Keep until = [](const TensorId& id) {
      return id == TensorId{Op::kOutput, 0} || (id.layer == 1 && id.op != Op::kOutput);
    };
    const RunResult result =
        judge_trace_of({.dtype = dtype, .keep = until, .change = moved, .options = {.probing = false}});
    INFO(first_words(result));
    REQUIRE(result.verdict == Verdict::kDiverged);
    for (const Finding& finding : result.findings) CHECK_FALSE(finding.explanation.variant.has_value());
  }
}

TEST_CASE("allowed roundings do not cover a bug", "[trace]") {
  const RunResult result = judge_trace_of({.inject = Fault{FaultId::kModulo, {}, {}},
                                           .keep = required_tensors,
                                           .options = {.allow_precision = true, .probing = false}});
  CHECK(result.verdict == Verdict::kDiverged);
}

TEST_CASE("filters choose what is judged, and nothing left is no match", "[trace]") {
  TraceSetting setting{.inject = Fault{FaultId::kModulo, {}, 1}, .options = {.probing = false}};
  setting.options.layers = std::set<int>{0};
  CHECK(judge_trace_of(setting).verdict == Verdict::kMatch);
  setting.options.layers = std::set<int>{1};
  setting.options.steps = std::set<int>{2};
  const RunResult result = judge_trace_of(setting);
  CHECK(result.verdict == Verdict::kDiverged);
  for (const Finding& finding : result.findings) CHECK(finding.step == 2);
  setting.keep = logits_alone;
  const RunResult nothing = judge_trace_of(setting);
  CHECK(nothing.verdict == Verdict::kInconclusive);
  CHECK_FALSE(nothing.reason.empty());
  setting.options.layers = std::set<int>{7};
  CHECK_THROWS_AS(judge_trace_of(setting), InputError);
}

}  // namespace
}  // namespace qdiff
