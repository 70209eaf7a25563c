// Traces of right engines whose recorder copied a tensor too late or from the wrong buffer; and of engines that really
// overwrite one.
#include <iostream>
#include <set>

#include "cmake/catch2.h"
#include "harness/cli/tests/planted_engine.h"

namespace qdiff {
namespace {

using compare::Verdict;
using findings::Finding;
using findings::FindingKind;
using findings::RunResult;

const char* const kSquare = "synthetic:toy-14x2";  // H·d is D there

// Records at `to` what stands at `from`, which may not be recorded.
void copy(trace::Recording& recording, const TensorKey& from, const TensorKey& to) {
  if (!recording.has(from) || !recording.has(to)) return;
  const Tensor right = Tensor::copy_of(recording.get(from));
  const Shape shape = recording.get(to).shape;
  replace(recording, to, Tensor::rounded(right.dtype(), shape, to_doubles(right.view())));
}

// Calls `at(step, layer)` for each.
template <typename At>
void everywhere(const trace::Recording& recording, const At& at) {
  for (const TensorKey& key : recording.keys()) {
    if (key.id.op == Op::kInputLayernorm) at(key.step, key.id.layer);
  }
}

struct RecordingMistake {
  const char* what;
  std::set<Op> ops;  // whose tensors are wrong
  const char* holds;
  std::function<void(trace::Recording&)> make;
  std::function<bool(const TensorKey&)> spares = [](const TensorKey&) { return false; };
};

std::vector<RecordingMistake> recording_mistakes() {
  const auto rotated = [](std::vector<Op> queries, std::vector<Op> keys) {
    return [queries, keys](trace::Recording& recording) {
      everywhere(recording, [&](int step, int layer) {
        for (Op op : queries) copy(recording, {step, {Op::kQRope, layer}}, {step, {op, layer}});
        for (Op op : keys) copy(recording, {step, {Op::kKRope, layer}}, {step, {op, layer}});
      });
    };
  };
  return {
      {"q and k are rotated in place",
       {Op::kQProj, Op::kKProj},
       "self_attn.q_rope of the same layer to the bit",
       rotated({Op::kQProj}, {Op::kKProj})},
      {"q and k have one buffer for all of their stages",
       {Op::kQProjMatmul, Op::kKProjMatmul, Op::kQProj, Op::kKProj},
       "to the bit",
       rotated({Op::kQProjMatmul, Op::kQProj}, {Op::kKProjMatmul, Op::kKProj})},
      {"q is rotated in place and its rotation is not recorded",
       {Op::kQProj},
       "what right code makes of it, self_attn.q_rope of the same layer",
       [](trace::Recording& recording) {
         everywhere(recording, [&](int step, int layer) {
           copy(recording, {step, {Op::kQRope, layer}}, {step, {Op::kQProj, layer}});
           recording.erase({step, {Op::kQRope, layer}});
           recording.erase({step, {Op::kQProjMatmul, layer}});
         });
       }},
      {"all norms of a step have one buffer",
       {Op::kInputLayernorm, Op::kPostAttentionLayernorm},
       "model.norm to the bit",
       [](trace::Recording& recording) {
         everywhere(recording, [&](int step, int layer) {
           copy(recording, {step, {Op::kNorm, kNoLayer}}, {step, {Op::kInputLayernorm, layer}});
           copy(recording, {step, {Op::kNorm, kNoLayer}}, {step, {Op::kPostAttentionLayernorm, layer}});
         });
       }},
      {"layers write into two buffers in turn",
       {Op::kOutput},
       "output of layer 2 to the bit",
       [](trace::Recording& recording) {
         everywhere(recording, [&](int step, int layer) {
           if (layer == 0) copy(recording, {step, {Op::kOutput, 2}}, {step, {Op::kOutput, 0}});
         });
       },
       [](const TensorKey& key) { return key.id.layer != 0; }},
      {"the residual stream is one buffer",
       {Op::kEmbedTokens, Op::kResidMid, Op::kOutput},
       "output of layer 2 to the bit",
       [](trace::Recording& recording) {
         everywhere(recording, [&](int step, int layer) {
           const TensorKey last{step, {Op::kOutput, 2}};
           copy(recording, last, {step, {Op::kEmbedTokens, kNoLayer}});
           copy(recording, last, {step, {Op::kResidMid, layer}});
           copy(recording, last, {step, {Op::kOutput, layer}});
         });
       },
       [](const TensorKey& key) {
         return key.id == TensorId{Op::kOutput, 2};
       }},
      {"the projection is written over its input",
       {Op::kAttnOutput},
       "self_attn.o_proj of the same layer to the bit",
       [](trace::Recording& recording) {
         everywhere(recording, [&](int step, int layer) {
           copy(recording, {step, {Op::kOProj, layer}}, {step, {Op::kAttnOutput, layer}});
         });
       }},
  };
}

TEST_CASE("a right engine is not blamed for what its recorder copied too late or from another buffer", "[recorder]") {
  DType dtype = DType::kF32;  // the types take turns
  for (const RecordingMistake& mistake : recording_mistakes()) {
    dtype = dtype == DType::kF32 ? DType::kBF16 : DType::kF32;
    INFO(mistake.what << " in " << name(dtype));
    std::set<TensorKey> wrong;
    const RunResult result = judge_trace_of({.test_case = small_case(kSquare),
                                             .dtype = dtype,
                                             .keep = everything,
                                             .rewrite =
                                                 [&](trace::Recording& recording) {
                                                   mistake.make(recording);
                                                   for (const TensorKey& key : recording.keys()) {
                                                     const bool of = mistake.ops.contains(key.id.op);
                                                     if (of && !mistake.spares(key)) wrong.insert(key);
                                                   }
                                                 },
                                             .options = {.probing = false}});
    INFO(result.reason);
    CHECK(result.verdict == Verdict::kInconclusive);
    CHECK(result.first_divergence() == nullptr);
    REQUIRE_FALSE(result.findings.empty());
    for (const Finding& finding : result.findings) {
      INFO(tensor_name(finding.tensor) << " step " << finding.step << ": " << finding.judgement.reason);
      CHECK(finding.kind == FindingKind::kRecording);
      CHECK(wrong.erase({finding.step, finding.tensor}) == 1);
      CHECK_FALSE(finding.explanation.hypothesis.has_value());
    }
    INFO((wrong.empty() ? "" : tensor_name(wrong.begin()->id) + " step " + std::to_string(wrong.begin()->step)));
    CHECK(wrong.empty());
    CHECK_THAT(result.findings.front().explanation.sentence, ContainsSubstring(mistake.holds));
    CHECK_THAT(result.reason, ContainsSubstring("recorded too late or from the wrong buffer"));
  }
}

// Layer 0's output holds another layer's, or one element of it is no number.
TEST_CASE("of layer outputs alone the recorder's are told where they lead far enough", "[recorder]") {
  const TensorKey spoiled{0, {Op::kOutput, 0}};
  const std::map<const char*, std::function<void(trace::Recording&)>> mistakes_made = {
      {"another layer's",
       [&](trace::Recording& recording) {
         copy(recording, {0, {Op::kOutput, 2}}, spoiled);
       }},
      {"a NaN", [&](trace::Recording& recording) {
         Tensor tensor = Tensor::copy_of(recording.get(spoiled));
         tensor.set(4, std::nan(""));
         replace(recording, spoiled, std::move(tensor));
       }}};
  for (const char* model : {kSquare, "synthetic:toy-15x5,profile=qwen"}) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const auto& [what, make] : mistakes_made) {
        INFO(model << " in " << name(dtype) << ", " << what);
        const RunResult result = judge_trace_of({.test_case = small_case(model),
                                                 .dtype = dtype,
                                                 .keep = layer_outputs,
                                                 .rewrite = make,
                                                 .options = {.probing = false}});
        INFO(result.reason);
        CHECK(result.verdict == Verdict::kInconclusive);
        REQUIRE(result.findings.size() == 1);
        CHECK(result.findings.front().kind == FindingKind::kRecording);
        CHECK(result.findings.front().tensor == spoiled.id);
      }
    }
  }
}

// The weighted sum has a row of d elements that a probability of a masked slot would have moved.
TEST_CASE("one probability that the mask forbids is the recorder's where the output is without it", "[recorder]") {
  cases::Case wide = small_case("synthetic:toy-d64");
  wide.capacity = 64;
  wide.steps = {{.phase = Phase::kPrefill, .num_tokens = 40, .tokens = {}, .positions = {}},
                {.phase = Phase::kDecode, .num_tokens = 1, .tokens = {}, .positions = {}}};
  const TensorKey spoiled{0, {Op::kProbs, 1}};
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    INFO(name(dtype));
    const RunResult result = judge_trace_of({.test_case = wide,
                                             .dtype = dtype,
                                             .reference_engine = true,
                                             .keep = everything,
                                             .rewrite =
                                                 [&](trace::Recording& recording) {
                                                   Tensor probs = Tensor::copy_of(recording.get(spoiled));
                                                   const std::int64_t token = 12, slot = 30;
                                                   probs.set(token * 40 + slot, 0.01);  // of the first head
                                                   replace(recording, spoiled, std::move(probs));
                                                 },
                                             .options = {.probing = false}});
    INFO(result.reason);
    CHECK(result.verdict == Verdict::kInconclusive);
    REQUIRE(result.findings.size() == 1);
    CHECK(result.findings.front().kind == FindingKind::kRecording);
    CHECK(result.findings.front().tensor == spoiled.id);
    CHECK_THAT(result.findings.front().explanation.sentence, ContainsSubstring("at [0, 0, 12, 30] it holds 0.0"));
  }
}

TEST_CASE("tensors that a recorder rounded are the recorder's", "[recorder]") {
  const auto narrow = [](const TensorId&, Tensor& tensor) {
    tensor = Tensor::rounded(DType::kBF16, tensor.shape(), to_doubles(tensor.view()));
  };
  const RunResult result = judge_trace_of(
      {.test_case = small_case(kSquare), .dtype = DType::kF32, .change = narrow, .options = {.probing = false}});
  INFO(result.reason);
  CHECK(result.verdict == Verdict::kInconclusive);
  REQUIRE_FALSE(result.findings.empty());
  for (const Finding& finding : result.findings) {
    INFO(tensor_name(finding.tensor) << ": " << finding.judgement.reason);
    CHECK(finding.kind == FindingKind::kRecording);
    CHECK_THAT(finding.explanation.sentence, ContainsSubstring("recorded in bfloat16"));
  }
}

// NumPy has no bfloat16: who records with it stores float32. What was computed from a value is not what was stored
// wider.
TEST_CASE("tensors that a recorder stored in float32 are those of the engine", "[recorder]") {
  const auto widen = [](const TensorId&, Tensor& tensor) {
    tensor = Tensor::rounded(DType::kF32, tensor.shape(), to_doubles(tensor.view()));
  };
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    INFO(name(dtype));
    const RunResult right = judge_trace_of(
        {.test_case = small_case(kSquare), .dtype = dtype, .change = widen, .options = {.probing = false}});
    INFO(right.reason);
    CHECK(right.verdict == Verdict::kMatch);
    REQUIRE_FALSE(right.notes.empty());
    CHECK_THAT(right.notes.back(), ContainsSubstring("every value is one of " + std::string(name(dtype))) &&
                                       ContainsSubstring("self_attn.q_proj"));
    const RunResult wrong = judge_trace_of({.test_case = small_case(kSquare),
                                            .dtype = dtype,
                                            .inject = Fault{FaultId::kNoSilu, {}, 1},
                                            .change = widen,
                                            .options = {.probing = false}});
    REQUIRE(wrong.verdict == Verdict::kDiverged);
    CHECK(wrong.first_divergence()->tensor == TensorId{Op::kAct, 1});
    CHECK(wrong.first_divergence()->explanation.variant == FaultId::kNoSilu);
  }
}

TEST_CASE("a recorder's mistake does not hide an engine's", "[recorder]") {
  const std::vector<RecordingMistake> all = recording_mistakes();
  for (const RecordingMistake& mistake : {all.front(), all.back()}) {
    INFO(mistake.what);
    const RunResult result = judge_trace_of({.test_case = small_case(kSquare),
                                             .inject = Fault{FaultId::kNoSilu, {}, 1},
                                             .keep = everything,
                                             .rewrite = mistake.make,
                                             .options = {.probing = false}});
    REQUIRE(result.verdict == Verdict::kDiverged);
    CHECK(result.first_divergence()->tensor == TensorId{Op::kAct, 1});
    CHECK(result.first_divergence()->explanation.variant == FaultId::kNoSilu);
    for (const Finding& finding : result.findings) {
      CHECK((finding.kind == FindingKind::kRecording) == (finding.tensor.op != Op::kAct));
    }
  }
}

TEST_CASE("an engine that overwrites what it still needs is not excused", "[recorder]") {
  for (const char* model : {kSquare, "synthetic:toy-15x5,profile=qwen"}) {
    for (FaultId id : {FaultId::kWoCols, FaultId::kNormIntoResidual, FaultId::kResidualLost, FaultId::kDownInAct}) {
      INFO(name(id) << " in " << model);
      const RunResult result = judge_trace_of({.test_case = small_case(model),
                                               .inject = Fault{id, {}, {}},
                                               .keep = everything,
                                               .options = {.probing = false}});
      CHECK(result.verdict == Verdict::kDiverged);
      for (const Finding& finding : result.findings) CHECK(finding.kind != FindingKind::kRecording);
    }
  }
}

// An engine's own fault is never the recorder's, however few tensors tell: of every fault, in all layers and in one.
// Counts how many were seen to be wrong.
int count_blamed_on_recorder(const std::string& model, DType dtype, const Keep& keep,
                             const std::vector<std::string>& beginnings, int& seen) {
  PlantedEngine planted(model, dtype, keep);
  int blamed = 0;
  for (FaultId id : planted.faults()) {
    const bool asked = beginnings.empty() || std::ranges::any_of(beginnings, [id](const std::string& beginning) {
                         return name(id).starts_with(beginning);
                       });
    if (!asked) continue;
    for (const std::optional<int> layer : {std::optional<int>(), std::optional(0), std::optional(1)}) {
      std::size_t wrong = 0;
      std::vector<diagnose::Misrecorded> found;
      try {
        found = planted.find_misrecorded({id, {}, layer}, wrong);
      } catch (const InputError&) {  // the engine cannot run with it
      }
      if (wrong > 0) ++seen;
      if (found.empty()) continue;
      ++blamed;
      std::cout << model << " in " << name(dtype) << ", " << name(id)
                << (layer ? " in layer " + std::to_string(*layer) : "") << ": " << found.size() << " of " << wrong
                << ", first " << tensor_name(found.front().key.id) << " of step " << found.front().key.step << ", "
                << found.front().holds << std::endl;
    }
  }
  return blamed;
}

TEST_CASE("an engine's own fault is not blamed on the recorder", "[recorder]") {
  int seen = 0;
  CHECK(count_blamed_on_recorder("synthetic:toy-15x5,profile=qwen", DType::kBF16, layer_outputs,
                                 {"H05.group_off_by_one", "H06.missing_v", "H04."}, seen) == 0);
  CHECK(seen >= 15);
}

// Of all faults in two models and two types.
void check_no_fault_is_blamed(const Keep& keep) {
  for (const char* model : {"synthetic:toy-15x5,profile=qwen", "synthetic:toy-d64"}) {
    for (const DType dtype : {DType::kBF16, DType::kF32}) {
      int seen = 0;
      const int blamed = count_blamed_on_recorder(model, dtype, keep, {}, seen);
      std::cout << model << " in " << name(dtype) << ": " << blamed << " of " << seen << " blamed on the recorder"
                << std::endl;
      CHECK(blamed == 0);
    }
  }
}

// `trace_run_tests "[.recorders]"`, some minutes.
TEST_CASE("from layer outputs alone no catalogued fault is blamed on the recorder", "[.][recorders]") {
  check_no_fault_is_blamed(layer_outputs);
}
TEST_CASE("from all tensors no catalogued fault is blamed on the recorder", "[.][recorders]") {
  check_no_fault_is_blamed(everything);
}

}  // namespace
}  // namespace qdiff
