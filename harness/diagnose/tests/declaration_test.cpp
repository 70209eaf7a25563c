// What a trace declares of its rounding, held against what its tensors show.
#include "harness/diagnose/declaration.h"

#include "cmake/catch2.h"
#include "harness/diagnose/tests/toy_rows.h"

namespace qdiff::diagnose {
namespace {

using enum RoundingPoint;
constexpr DType kBF16 = DType::kBF16;
using Texts = std::vector<std::string>;

// A recording of an engine, judged under what it declares.
struct Declared {
  ToyOracle oracle;
  ToySubject subject;
  Precision declared;
  Judged judged;

  Declared(ToyEngine& engine, const CaseInput& input = toy_case()) : Declared(engine, {}, input) {}
  // Without these tensors.
  Declared(ToyEngine& engine, const std::vector<Op>& dropped, const CaseInput& input = toy_case())
      : subject(engine, input), declared(engine.precision()) {
    subject.drop(dropped);
    judge();
  }
  void judge() {
    const Extent everything{{0, 1, 2}, true};
    JudgingOptions options;
    options.probing = false;
    judged = judge_subjects({subject.subject}, oracle, declared, everything, options);
  }
  Declaration tightest() { return tightest_declaration(subject.subject, judged, oracle, declared); }
};

TEST_CASE("a declared rounding that the engine makes stays declared", "[declaration]") {
  const Precision rounds = rounding_at(kMlpSilu, kBF16, rounding_at(kRmsNormNormalized, DType::kF16));
  ToyEngine engine(rounds);
  const Declaration found = Declared(engine).tightest();
  CHECK(found.unused.empty());
  CHECK(found.condition.empty());
  CHECK(found.precision.points == rounds.points);
}

TEST_CASE("a declared rounding that no tensor needs is left out, by name", "[declaration]") {
  const Precision declared = rounding_at(kMlpSilu, kBF16, rounding_at(kRmsNormNormalized, DType::kF16));
  ToyEngine engine(declared, rounding_at(kMlpSilu, kBF16));
  const Declaration found = Declared(engine).tightest();
  CHECK(found.unused == Texts{"rms_norm.normalized: float16"});
  CHECK(found.precision.points == std::map<RoundingPoint, DType>{{kMlpSilu, kBF16}});

  ToyEngine rounds_nowhere(declared, kF32);
  const Declaration none = Declared(rounds_nowhere).tightest();
  CHECK(none.unused.size() == 2);
  CHECK(none.precision.points.empty());
}

TEST_CASE("nothing declared is nothing to leave out", "[declaration]") {
  ToyEngine engine(kF32);
  Declared plain(engine);
  const int before = plain.oracle.asked[std::nullopt];
  const Declaration found = plain.tightest();
  CHECK(found.unused.empty());
  CHECK(found.precision == kF32);
  CHECK(plain.oracle.asked[std::nullopt] == before);
}

TEST_CASE("inputs in blocks, caches of other types and tensors taken as others are entries as well", "[declaration]") {
  Precision declared = kF32;
  declared.quantized = QuantizedInputs::kQ8_0;
  ToyEngine quantizes(declared);
  CHECK(Declared(quantizes).tightest().unused.empty());

  declared.cache = QuantizedCache::kInt8;
  declared.taken_as[Op::kQProj] = DType::kF64;
  ToyEngine plain(declared, kF32);
  const Declaration found = Declared(plain).tightest();
  CHECK(found.unused == Texts{"self_attn.q_proj: float64", "activations.quantized: q8_0", "kv_cache: int8"});
  CHECK(found.precision == kF32);
}

TEST_CASE("whether an entry is needed cannot be told where no recorded tensor rounds there", "[declaration]") {
  ToyEngine engine(rounding_at(kMlpSilu, kBF16), kF32);
  std::vector<Op> dropped = rows_from(Op::kAct, Op::kOutput);
  dropped.push_back(Op::kOutput);
  Declared without(engine, dropped);
  const Declaration found = without.tightest();
  CHECK(found.unused.empty());
  CHECK(found.precision.points.contains(kMlpSilu));
}

TEST_CASE("the first and the last layer stand for the others, and what is wrong is asked as well", "[declaration]") {
  const auto rounds_in = [](int layer, double more) {
    ToyEngine engine(rounding_at(kMlpSilu, kBF16), kF32);
    engine.change = [layer, more](int, const TensorId& id, Tensor& tensor) {
      if (id != TensorId{Op::kAct, layer}) return;
      for (std::int64_t i = 0; i < tensor.size(); ++i) tensor.set(i, round_to(kBF16, tensor.at(i)) + more);
    };
    return engine;
  };
  ToyEngine middle = rounds_in(1, 0.0), last = rounds_in(2, 0.0);
  CHECK(Declared(middle).tightest().unused == Texts{"mlp.silu: bfloat16"});
  CHECK(Declared(last).tightest().unused.empty());

  // A tensor that is wrong with the entry and right without it does not keep it declared.
  ToyEngine wrong = rounds_in(1, 0.5);
  Declared judged(wrong);
  REQUIRE_FALSE(judged.judged.wrong.empty());
  CHECK(judged.tightest().unused == Texts{"mlp.silu: bfloat16"});
}

TEST_CASE("sums that are coarse in products stay so, and elsewhere alone they make a condition", "[declaration]") {
  Precision coarse = kF32;
  coarse.accumulate = kBF16;
  ToyEngine fine(coarse, kF32);
  const Declaration unused = Declared(fine).tightest();
  CHECK(unused.unused == Texts{"accumulate: bfloat16"});
  CHECK(unused.precision.accumulate == DType::kF32);

  const auto coarse_at = [&](Op op) {
    ToyEngine engine(coarse, kF32);
    engine.change = [op](int, const TensorId& id, Tensor& tensor) {
      if (id.op != op) return;
      for (std::int64_t i = 0; i < tensor.size(); ++i) tensor.set(i, round_to(kBF16, tensor.at(i)));
    };
    return engine;
  };
  ToyEngine in_products = coarse_at(Op::kDownProj);
  const Declaration needed = Declared(in_products).tightest();
  CHECK(needed.unused.empty());
  CHECK(needed.condition.empty());
  CHECK(needed.precision.accumulate == kBF16);

  ToyEngine in_attention = coarse_at(Op::kAttnOutput);
  const Declaration doubtful = Declared(in_attention).tightest();
  CHECK(doubtful.unused.empty());
  CHECK(doubtful.condition ==
        "judged with the declared accumulate: bfloat16, which no product needs and self_attn.attn_output cannot be "
        "told from: a mistake of that size there would not be seen");
}

TEST_CASE("tensors stored in a narrower type than the engine held them in are named", "[declaration]") {
  ToyEngine engine(kF32);
  Declared stored(engine);
  CHECK(stored_narrower(stored.judged, stored.subject.tensors, kF32).empty());
  for (Op op : {Op::kAct, Op::kQProj}) {
    const TensorKey key = key_of(op);
    const TensorView view = stored.subject.tensors.get(key);
    replace(stored.subject.tensors, key, Tensor::rounded(kBF16, view.shape, to_doubles(view)));
  }
  CHECK(stored_narrower(stored.judged, stored.subject.tensors, kF32) == std::set<Op>{Op::kQProj, Op::kAct});
  // Where it is declared that the engine went on with another, nothing is to be found out.
  Precision declared = kF32;
  declared.taken_as[Op::kAct] = DType::kF32;
  CHECK(stored_narrower(stored.judged, stored.subject.tensors, declared) == std::set<Op>{Op::kQProj});
}

TEST_CASE("what a recorder rounded misfits most of what was computed from it", "[declaration]") {
  ToyEngine engine(kF32);
  Declared recorded(engine);
  const auto misfits = [&](const std::set<Op>& ops) {
    return misfits_readers(recorded.subject.subject, recorded.judged, ops, toy_config());
  };
  CHECK_FALSE(misfits({Op::kAct}));  // nothing is wrong
  for (const TensorKey& key : recorded.subject.tensors.keys()) {
    if (key.id.op != Op::kAct) continue;
    const TensorView view = recorded.subject.tensors.get(key);
    replace(recorded.subject.tensors, key, Tensor::rounded(kBF16, view.shape, to_doubles(view)));
  }
  recorded.judge();
  CHECK(misfits({Op::kAct}));
  CHECK_FALSE(misfits({Op::kQProj}));
  // Beside three that are right, the reader that is wrong is no half.
  CHECK_FALSE(misfits({Op::kAct, Op::kInputLayernorm, Op::kPostAttentionLayernorm, Op::kAttnOutput}));
  // A cache moves what it is given, rounded or not, and so says nothing.
  CHECK_FALSE(misfits({Op::kVProj}));
}

}  // namespace
}  // namespace qdiff::diagnose
