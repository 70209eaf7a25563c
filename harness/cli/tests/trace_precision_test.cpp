// Honest engines of unusual precision: undeclared they are findings of kind precision, each with the entry that would
// declare it; declared they are a match. And bugs whose number, or the cache they need, nobody stated.
#include <map>
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

std::string all_words(const RunResult& result) {
  std::string words;
  for (const Finding& finding : result.findings) {
    const findings::Explanation& explanation = finding.explanation;
    words += "\n" + tensor_name(finding.tensor) + " step " + std::to_string(finding.step);
    words += finding.kind == FindingKind::kPrecision ? " (precision): " : ": ";
    words += explanation.variant ? std::string(name(*explanation.variant)) : explanation.mechanism.value_or("-");
    words += ", " + explanation.sentence + ", " + finding.judgement.reason;
  }
  return words;
}

// `rounds` has roundings beside the plain ones; they are proposed as `points`, and then the trace matches. Where nobody
// declared them, the known bug that such a rounding would be speaks for one hypothesis at most.
void check_honest(const std::string& model, const Precision& rounds, const std::map<std::string, std::string>& points,
                  const Keep& keep, const std::string& spoken_for = "H07") {
  INFO(model);
  TraceSetting setting{.test_case = small_case(model),
                       .dtype = rounds.activations,
                       .reference_engine = true,
                       .rounds = rounds,
                       .declared = plain_precision(rounds.activations),
                       .keep = keep,
                       .options = {.infer_points = true, .probing = false}};
  const RunResult undeclared = judge_trace_of(setting);
  INFO(all_words(undeclared));
  CHECK(undeclared.verdict == Verdict::kDiverged);
  CHECK_FALSE(undeclared.findings.empty());
  for (const Finding& finding : undeclared.findings) CHECK(finding.kind == FindingKind::kPrecision);
  REQUIRE(undeclared.inferred_points.has_value());
  CHECK(*undeclared.inferred_points == points);
  for (const findings::HypothesisResult& hypothesis : undeclared.hypotheses) {
    INFO(hypothesis.id);
    CHECK((hypothesis.verdict != HypothesisVerdict::kConfirmed || hypothesis.id == spoken_for));
  }

  setting.declared = rounds;
  const RunResult declared = judge_trace_of(setting);
  INFO(all_words(declared));
  CHECK(declared.verdict == Verdict::kMatch);
  if (rounds.cache_scales.empty()) return;
  setting.declared->cache_scales.clear();
  const RunResult without_scales = judge_trace_of(setting);
  INFO(all_words(without_scales));
  CHECK(without_scales.verdict == Verdict::kMatch);
}

TEST_CASE("a cache in int8 with its scales is a rounding, proposed and declared", "[precision]") {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    INFO(name(dtype));
    Precision rounds = plain_precision(dtype);
    rounds.cache = QuantizedCache::kInt8;
    check_honest("synthetic:toy-15x5,profile=qwen", rounds, {{"kv_cache", "int8"}}, everything);
    // A prefill that attends to its own keys and values before they are stored.
    rounds.points[RoundingPoint::kKvCachePrefill] = dtype;
    check_honest("synthetic:toy-14x2,profile=qwen", rounds,
                 {{"kv_cache", "int8"}, {"kv_cache.prefill", std::string(name(dtype))}}, everything);
    if (dtype != DType::kF32) continue;
    check_honest("synthetic:toy-14x2", rounds, {{"kv_cache", "int8"}, {"kv_cache.prefill", "float32"}}, layer_outputs);
  }
}

// One scale for keys and one for values in each layer, or for each head.
CacheScales scales_of(const ModelConfig& config, bool of_heads) {
  CacheScales scales;
  double scale = 0.0137;
  for (int layer = 0; layer < config.num_layers; ++layer) {
    for (const Op op : {Op::kKCache, Op::kVCache}) {
      std::vector<double>& of_cache = scales[{op, layer}];
      for (std::int64_t k = 0; k < (of_heads ? config.num_kv_heads : 1); ++k) {
        of_cache.push_back(scale);
        scale *= 1.31;
      }
    }
  }
  return scales;
}

TEST_CASE("a cache in float8 is a rounding, proposed and declared, with or without scales", "[precision]") {
  const std::string model = "synthetic:toy-15x5,profile=qwen";
  const ModelConfig config = model::open_model(model)->config();
  for (const QuantizedCache cache : {QuantizedCache::kE4M3, QuantizedCache::kE5M2}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      INFO(name(cache) << " " << name(dtype));
      Precision rounds = plain_precision(dtype);
      rounds.cache = cache;
      const std::map<std::string, std::string> points = {{"kv_cache", std::string(name(cache))}};
      check_honest(model, rounds, points, everything);
      for (const bool of_heads : {false, true}) {
        rounds.cache_scales[cache] = scales_of(config, of_heads);
        check_honest(model, rounds, points, everything);
      }
    }
  }
  Precision rounds = plain_precision(DType::kF32);
  rounds.cache = QuantizedCache::kE4M3;
  check_honest("synthetic:toy-14x2", rounds, {{"kv_cache", "float8_e4m3fn"}}, layer_outputs);
}

TEST_CASE("a wrong float8 cache is found, declared or not", "[precision]") {
  const std::string model = "synthetic:toy-15x5,profile=qwen";
  Precision rounds = plain_precision(DType::kBF16);
  rounds.cache = QuantizedCache::kE4M3;
  rounds.cache_scales[rounds.cache] = scales_of(model::open_model(model)->config(), false);
  const double of_keys = 0.0137;
  Precision without_scales = rounds;
  without_scales.cache_scales.clear();
  for (const std::string& wrong :
       {"factor:factor=" + std::to_string(of_keys) + "@self_attn.k_cache;layers=0",  // the scale is applied twice
        std::string("factor:factor=1.31@self_attn.k_cache;layers=0;heads=2")}) {     // head 2 takes another scale
    for (const Precision& declared : {rounds, without_scales, plain_precision(DType::kBF16)}) {
      INFO(wrong << " " << declared_points(declared).size() << " " << declared.cache_scales.size());
      const RunResult result = judge_trace_of({.test_case = small_case(model),
                                               .reference_engine = true,
                                               .rounds = rounds,
                                               .mistakes = {formats::parse_mistake(wrong)},
                                               .declared = declared,
                                               .keep = everything,
                                               .options = {.probing = false}});
      INFO(all_words(result));
      REQUIRE(result.verdict == Verdict::kDiverged);
      const Finding* first = result.first_divergence();
      CHECK(tensor_name(first->tensor) == "model.layers.0.self_attn.k_cache");
      CHECK(first->kind == FindingKind::kLogic);
    }
  }
}

TEST_CASE("sums of parts that meet in 16 bits are a rounding, proposed and declared", "[precision]") {
  Precision rounds = plain_precision(DType::kF32);
  rounds.points[RoundingPoint::kMatmulPartials] = DType::kBF16;
  check_honest("synthetic:toy-14x2,profile=qwen", rounds, {{"matmul.partials", "bfloat16"}}, everything);
}

TEST_CASE("attention that sums in 16 bits rounds its scores as well, and that is one rounding", "[precision]") {
  Precision rounds = plain_precision(DType::kF32);
  rounds.points[RoundingPoint::kAttentionAccumulate] = DType::kBF16;
  check_honest("synthetic:toy-14x2,profile=qwen", rounds, {{"attention.accumulate", "bfloat16"}}, everything, "H02");
}

TEST_CASE("a cache of more slots than the steps fill is supposed where none is stated, and said", "[precision]") {
  constexpr std::int64_t kSlots = 24, kFilled = 15;
  struct Expected {
    const char* id;
    std::string slots;
  };
  for (const Expected& expected : {Expected{"H08.write_plus_one", "more than " + std::to_string(kFilled)},
                                   Expected{"H08.length_counts_current", "more than " + std::to_string(kFilled)},
                                   Expected{"H01.head_stride_is_tokens", std::to_string(kSlots)}}) {
    INFO(expected.id);
    TraceSetting setting{.inject = Fault{*parse_fault_id(expected.id), {}, 1},
                         .reference_engine = true,  // what nobody wrote is 0, and not NaN, in which nothing is judged
                         .options = {.probing = false}};
    setting.test_case.capacity = kSlots;
    const RunResult result = judge_trace_of(setting);
    INFO(all_words(result));
    REQUIRE(result.verdict == Verdict::kDiverged);
    for (const Finding& finding : result.findings) {
      INFO(tensor_name(finding.tensor) << " step " << finding.step);
      REQUIRE(finding.explanation.variant);
      CHECK(name(*finding.explanation.variant) == expected.id);
    }
    CHECK_THAT(result.first_divergence()->explanation.sentence,
               ContainsSubstring("where each row of the cache has " + expected.slots + " slots"));
  }
}

TEST_CASE("a tile, a window or a shift that nobody listed is found", "[precision]") {
  for (const Fault& fault : {Fault{FaultId::kTileMax, 5, {}}, Fault{FaultId::kWindow, 10, {}},
                             Fault{FaultId::kTailZero, 11, {}}, Fault{FaultId::kLda, 3, {}}}) {
    INFO(to_string(fault));
    const RunResult result =
        judge_trace_of({.inject = fault, .reference_engine = true, .keep = everything, .options = {.probing = false}});
    INFO(all_words(result));
    REQUIRE(result.verdict == Verdict::kDiverged);
    const findings::Explanation& explanation = result.first_divergence()->explanation;
    CHECK(explanation.verdict == HypothesisVerdict::kConfirmed);
    if (explanation.mechanism == "visible") {  // recorded scores say themselves which slots are seen
      CHECK_THAT(explanation.sentence, ContainsSubstring("last " + std::to_string(static_cast<int>(*fault.value))));
      continue;
    }
    CHECK(explanation.variant == fault.id);
    REQUIRE(explanation.value);
    CHECK(*explanation.value == *fault.value);
  }
}

}  // namespace
}  // namespace qdiff
