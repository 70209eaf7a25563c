// The walk over recordings: what it compares, what it finds wrong, what it cannot compare, and what it would have seen.
#include "harness/diagnose/judging.h"

#include <cmath>
#include <limits>

#include "cmake/catch2.h"
#include "harness/contract/tests/table_counts.h"
#include "harness/diagnose/tests/toy_rows.h"

namespace qdiff::diagnose {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
const Extent kAll{{0, 1, 2}, true};

Judged judge(ToyOracle& oracle, const std::vector<Subject>& subjects, const Extent& extent = kAll,
             const JudgingOptions& options = {}) {
  return judge_subjects(subjects, oracle, kF32, extent, options);
}

std::vector<TensorKey> keys_of(const std::vector<WrongTensor>& wrong) {
  std::vector<TensorKey> keys;
  for (const WrongTensor& tensor : wrong) keys.push_back(tensor.key);
  return keys;
}

TEST_CASE("an honest recording is right, and every tensor of it was compared", "[judging]") {
  ToyOracle oracle;
  ToyEngine engine(kF32);
  const ToySubject subject(engine);
  const Judged judged = judge(oracle, {subject.subject});
  CHECK(judged.wrong.empty());
  CHECK(judged.missing.empty());
  CHECK(judged.not_compared.empty());
  CHECK(judged.compared == std::vector<std::int64_t>{static_cast<std::int64_t>(subject.tensors.size())});
  REQUIRE(judged.closest.has_value());
  CHECK(judged.closest->case_id == "toy");
  CHECK(judged.closest->ratio > 0.0);
  CHECK(judged.closest->ratio <= 1.0);
}

TEST_CASE("a wrong row is found where it is, with its span, its pattern and what explains it", "[judging]") {
  ToyOracle oracle;
  ToyEngine engine = toy_engine({FaultId::kNoSilu, {}, 1});
  const ToySubject subject(engine);
  const std::vector<Subject> subjects = {subject.subject};
  const Judged judged = judge(oracle, subjects);
  REQUIRE(keys_of(judged.wrong) == std::vector<TensorKey>{key_of(Op::kAct, 1, 0), key_of(Op::kAct, 1, 1)});
  const WrongTensor& first = judged.wrong[0];
  CHECK(first.subject == &subjects[0]);
  CHECK(first.span == std::vector<TensorKey>{key_of(Op::kAct, 1)});
  CHECK(first.span_start == TensorId{Op::kUpProj, 1});
  CHECK(first.judgement.outcome == compare::Outcome::kDiverged);
  CHECK_FALSE(first.pattern.text.empty());
  CHECK(first.fits == std::vector<Fit>{{Variant{FaultId::kNoSilu, {}}, {}}});
  CHECK(first.seen_by == SeenBy::kReplay);
  CHECK(judged.compared == std::vector<std::int64_t>{static_cast<std::int64_t>(subject.tensors.size())});
}

TEST_CASE("rows that were not handed out are missing, and the rows after them span them", "[judging]") {
  ToyOracle oracle;
  ToyEngine engine = toy_engine({FaultId::kNoSilu, {}, 1});
  ToySubject subject(engine);
  const std::vector<Op> dropped = rows_from(Op::kAct, Op::kOutput);
  subject.drop(dropped);
  std::vector<TensorId> missing;
  for (int layer : {0, 1}) {
    for (Op op : dropped) missing.push_back({op, layer});
  }
  std::vector<TensorKey> span;
  for (Op op : dropped) span.push_back(key_of(op, 1));
  span.push_back(key_of(Op::kOutput, 1));
  const Judged judged = judge(oracle, {subject.subject}, {{0, 1}, true});
  CHECK(judged.missing == missing);
  REQUIRE(judged.wrong.size() == 2);
  CHECK(judged.wrong[0].key == key_of(Op::kOutput, 1));
  CHECK(judged.wrong[0].span == span);
  CHECK(judged.wrong[0].fits == std::vector<Fit>{{Variant{FaultId::kNoSilu, {}}, {}}});
}

TEST_CASE("layers and steps that are not asked for are not judged", "[judging]") {
  ToyOracle oracle;
  ToyEngine engine = toy_engine({FaultId::kNoSilu});
  ToySubject subject(engine);
  subject.subject.steps = {1};
  const Judged judged = judge(oracle, {subject.subject}, {{1}, false});
  CHECK(keys_of(judged.wrong) == std::vector<TensorKey>{key_of(Op::kAct, 1, 1)});
  CHECK(judged.compared == std::vector{kRowsOfALayer});
  const Judged with_ends = judge(oracle, {subject.subject}, {{1}, true});
  CHECK(with_ends.compared == std::vector<std::int64_t>{kNumOps});
}

TEST_CASE("behind NaN nothing is compared, and it is said whether right code computes it too", "[judging]") {
  ToyOracle oracle;
  ToyEngine engine(kF32);
  engine.change = [](int, const TensorId& id, Tensor& tensor) {
    if (id == TensorId{Op::kUpProj, 0}) tensor.set(0, kNaN);
  };
  const ToySubject subject(engine, toy_case({4}));
  const Judged judged = judge(oracle, {subject.subject}, {{0}, false});
  CHECK(keys_of(judged.wrong) == std::vector<TensorKey>{key_of(Op::kUpProj)});
  REQUIRE_FALSE(judged.not_compared.empty());
  CHECK(judged.not_compared[0].tensor == "model.layers.0.mlp.act");
  CHECK(judged.not_compared[0].reason ==
        "its recorded input model.layers.0.mlp.up_proj holds NaN; the cause is upstream");

  // An infinite embedding makes right code's norm NaN as well.
  ToyEngine infinite(kF32);
  infinite.change = [](int, const TensorId& id, Tensor& tensor) {
    if (id.op == Op::kEmbedTokens) tensor.set(0, std::numeric_limits<double>::infinity());
  };
  const ToySubject other(infinite, toy_case({4}));
  const Judged shared = judge(oracle, {other.subject}, {{0}, false});
  REQUIRE_FALSE(shared.not_compared.empty());
  CHECK(shared.not_compared[0].tensor == "model.layers.0.self_attn.q_proj.matmul");
  CHECK(shared.not_compared[0].reason ==
        "its recorded input model.layers.0.input_layernorm holds NaN, and so does right code: a weight that is not "
        "finite, or an infinity in its inputs");
}

TEST_CASE("a tensor of a wrong shape is wrong, and what reads it is not compared", "[judging]") {
  ToyOracle oracle;
  ToyEngine engine(kF32);
  ToySubject subject(engine, toy_case({4}));
  replace(subject.tensors, key_of(Op::kAct), Tensor(DType::kF32, {1, 4, 23}));
  const Judged judged = judge(oracle, {subject.subject});
  REQUIRE(keys_of(judged.wrong) == std::vector<TensorKey>{key_of(Op::kAct)});
  CHECK(judged.wrong[0].judgement.decisive_statistic == "shape");
  REQUIRE(judged.not_compared.size() == 1);
  CHECK(judged.not_compared[0].tensor == "model.layers.0.mlp.down_proj");
  CHECK_THAT(judged.not_compared[0].reason, ContainsSubstring("[1, 4, 23]"));
}

// The judge looks at several tensors at a time; what it finds is the same as of each by itself.
TEST_CASE("subjects that are judged together are found as each alone", "[judging]") {
  ToyOracle oracle;
  ToyEngine honest(kF32), wrong = toy_engine({FaultId::kNoSilu, {}, 0}), scaled = toy_engine({FaultId::kScale, 1.0, 1});
  const ToySubject a(honest, toy_case({9, 1, 1}, "a")), b(wrong, toy_case({5, 5}, "b")),
      c(scaled, toy_case({3, 1}, "c"));
  const std::vector<Subject> all = {a.subject, b.subject, c.subject};
  const Judged together = judge(oracle, all);
  std::size_t found = 0;
  for (std::size_t s = 0; s < all.size(); ++s) {
    const Judged alone = judge(oracle, {all[s]});
    CHECK(together.compared[s] == alone.compared[0]);
    for (const WrongTensor& tensor : alone.wrong) {
      const auto same = std::find_if(together.wrong.begin(), together.wrong.end(), [&](const WrongTensor& other) {
        return other.subject == &all[s] && other.key == tensor.key;
      });
      REQUIRE(same != together.wrong.end());
      CHECK(same->judgement.reason == tensor.judgement.reason);
      CHECK(same->pattern.text == tensor.pattern.text);
      ++found;
    }
  }
  CHECK(found == together.wrong.size());
  CHECK(found == 4);
}

TEST_CASE("a bug explains a layer where it fits every recording that would show it", "[judging]") {
  ToyOracle oracle;
  ToyEngine wrong = toy_engine({FaultId::kNoSilu, {}, 0}), honest(kF32);
  const ToySubject a(wrong, toy_case({5}, "a")), b(wrong, toy_case({4}, "b")), c(honest, toy_case({3}, "c"));
  for (const WrongTensor& tensor : judge(oracle, {a.subject, b.subject}).wrong) {
    CHECK(tensor.fits == std::vector<Fit>{{Variant{FaultId::kNoSilu, {}}, {}}});
  }
  const Judged contradicted = judge(oracle, {a.subject, b.subject, c.subject});
  REQUIRE(contradicted.wrong.size() == 2);
  for (const WrongTensor& tensor : contradicted.wrong) CHECK(tensor.fits.empty());
}

TEST_CASE("each variant is asked whether these inputs would show it", "[judging]") {
  ToyOracle oracle;
  ToyEngine engine(kF32);
  ToySubject subject(engine);
  subject.drop({Op::kQRope});
  const Detectability seen = judge(oracle, {subject.subject}).detectability;
  for (FaultId shown : {FaultId::kScale, kScoresBf16, FaultId::kResidualLost, FaultId::kEps, FaultId::kNoSilu}) {
    INFO(name(shown));
    CHECK(seen.cases_that_show.at(shown) == std::set<std::string>{"toy"});
  }
  CHECK(seen.cases_that_show.at(FaultId::kNoHeadStride).empty());
  CHECK_FALSE(seen.tried.contains(FaultId::kNoHeadStride));
  CHECK_THAT(seen.not_evaluable.at(FaultId::kNoHeadStride), ContainsSubstring("self_attn.q_rope"));
}

TEST_CASE("a variant that these inputs do not show is tried and not shown", "[judging]") {
  std::vector<VariantFacts> catalogue = toy_catalogue_of({FaultId::kScale, FaultId::kNoSilu});
  catalogue[0].values = {*catalogue[0].right_value};  // planted, it changes nothing
  catalogue[1].probed = false;
  ToyOracle oracle(catalogue);
  ToyEngine engine(kF32);
  const ToySubject subject(engine);
  const Detectability seen = judge(oracle, {subject.subject}).detectability;
  CHECK(seen.tried == std::set<FaultId>{FaultId::kScale});
  CHECK(seen.cases_that_show.at(FaultId::kScale).empty());
}

TEST_CASE("a case answers for its own hypothesis, and for others where no case has yet", "[judging]") {
  ToyOracle oracle(toy_catalogue_of({FaultId::kScale, FaultId::kResidualLost, FaultId::kNoSilu}));
  ToyEngine engine(kF32);
  CaseInput first = toy_case({4}, "first"), second = toy_case({4}, "second"), third = toy_case({4}, "third");
  first.hypothesis = "H02";
  second.hypothesis = "H04";
  const ToySubject a(engine, first), b(engine, second), c(engine, third);
  const auto shown = judge(oracle, {a.subject, b.subject, c.subject}).detectability.cases_that_show;
  CHECK(shown.at(FaultId::kScale) == std::set<std::string>{"first", "third"});
  CHECK(shown.at(FaultId::kResidualLost) == std::set<std::string>{"first", "second", "third"});
  CHECK(shown.at(FaultId::kNoSilu) == std::set<std::string>{"first", "third"});
}

TEST_CASE("the first and the last judged layer stand for all where variants are asked", "[judging]") {
  std::vector<VariantFacts> catalogue = toy_catalogue_of({FaultId::kScale});
  catalogue[0].values = {*catalogue[0].right_value};  // it never shows, so it is asked wherever it may be
  ToyOracle oracle(catalogue);
  ToyEngine engine(kF32);
  const ToySubject subject(engine);
  judge(oracle, {subject.subject});
  CHECK(oracle.asked.at(FaultId::kScale) == 2 * 2);  // two layers of three, two steps
  oracle.asked.clear();
  judge(oracle, {subject.subject}, {{1}, false});
  CHECK(oracle.asked.at(FaultId::kScale) == 2);
}

TEST_CASE("a bug of decode is asked for in decode where logits alone would show it", "[judging]") {
  ToyOracle oracle(toy_catalogue_of({FaultId::kDecodePosPlusOne}));
  ToyEngine engine(kF32);
  ToySubject subject(engine, toy_case({6, 1, 1, 1}));
  for (const TensorKey& key : subject.tensors.keys()) {
    const bool before_the_bug = key.id.layer < 2 || key.id.op == Op::kResidMid;
    if (key.id.op == Op::kNorm || (key.id.layer != kNoLayer && !before_the_bug)) subject.tensors.erase(key);
  }
  const Extent last{{2}, true};
  CHECK(judge(oracle, {subject.subject}, last).detectability.cases_that_show.at(FaultId::kDecodePosPlusOne) ==
        std::set<std::string>{"toy"});
  subject.subject.steps = {0};
  CHECK(judge(oracle, {subject.subject}, last).detectability.cases_that_show.at(FaultId::kDecodePosPlusOne).empty());
  subject.subject.steps = {0, 1, 2, 3};
  // What is asked in vain is not asked in a step between the first and the last of a phase.
  std::vector<VariantFacts> right = toy_catalogue_of({FaultId::kEps});
  right[0].ops = {Op::kNorm};
  right[0].values = {0.25};
  ToyOracle in_vain(right);
  judge(in_vain, {subject.subject}, last);
  CHECK(in_vain.asked.at(FaultId::kEps) == 3);
}

TEST_CASE("a value that only long spans speak for is in doubt", "[judging]") {
  ToyOracle oracle;
  ToyEngine engine = toy_engine({FaultId::kScale, 0.07, 0});
  ToySubject subject(engine);
  subject.drop({Op::kScores, Op::kProbs, Op::kAttnOutput});
  const Judged judged = judge(oracle, {subject.subject}, {{0}, false});
  REQUIRE(keys_of(judged.wrong) == std::vector<TensorKey>{key_of(Op::kOProj, 0, 0), key_of(Op::kOProj, 0, 1)});
  REQUIRE(judged.wrong[0].fits == std::vector<Fit>{{Variant{FaultId::kScale, 0.07}, {}}});
  CHECK(judged.wrong[0].fits[0].fitted);
  CHECK_FALSE(judged.wrong[0].fits[0].doubt.empty());
}

TEST_CASE("without probing no variant is tried", "[judging]") {
  ToyOracle oracle;
  ToyEngine engine(kF32);
  const ToySubject subject(engine);
  const Judged judged = judge(oracle, {subject.subject}, kAll, {.probing = false, .progress = {}, .after_part = {}});
  CHECK(judged.detectability.tried.empty());
  CHECK(judged.detectability.cases_that_show.empty());
  CHECK(oracle.asked.size() == 1);
}

TEST_CASE("the walk reports its layers, and when it is done with a part", "[judging]") {
  ToyOracle oracle;
  ToyEngine engine(kF32);
  const ToySubject subject(engine);
  std::vector<std::string> heard;
  int parts = 0;
  const auto progress = [&](const std::string& what, std::int64_t done, std::int64_t total) {
    heard.push_back(what + ' ' + std::to_string(done) + '/' + std::to_string(total));
  };
  judge(oracle, {subject.subject}, kAll, {.probing = false, .progress = progress, .after_part = [&] { ++parts; }});
  CHECK(heard == std::vector<std::string>{"judging layers 0/3", "judging layers 1/3", "judging layers 2/3",
                                          "judging the head 3/3"});
  CHECK(parts == 5);  // embedding, three layers, head
}

}  // namespace
}  // namespace qdiff::diagnose
