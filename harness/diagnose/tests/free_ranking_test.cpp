// Tensors that replay does not reach, held against whole forward passes, each with one bug planted.
#include <cmath>
#include <limits>

#include "cmake/catch2.h"
#include "harness/contract/error.h"
#include "harness/diagnose/far/ranking.h"
#include "harness/diagnose/tests/toy_rows.h"

namespace qdiff::diagnose {
namespace {

const TensorKey kLogits{0, {Op::kLmHead}};

// A trace of some tensors of one engine, and what the passes of another say of it.
struct Ranking {
  ToySubject subject;
  Judged judged;
  std::optional<findings::FreeRanking> ranking;

  explicit Ranking(ToyEngine engine, std::set<TensorKey> targets = {kLogits}, const CaseInput& input = toy_case({6}))
      : subject(engine, input), targets_(std::move(targets)) {}

  Ranking& rank(
      bool probing = true, const std::vector<VariantFacts>& catalogue = toy_catalogue(),
      const ReferenceMaker& make_reference = [](const Precision& precision) {
        return std::make_unique<ToyEngine>(precision);
      }) {
    judged.compared.resize(1);
    const ProgressReport progress = [this](const std::string& what, std::int64_t done, std::int64_t total) {
      CHECK(done < total);
      heard.insert(what);
    };
    const ModelConfig config = toy_config();
    ranking = rank_free_runs({.trace = subject.tensors,
                              .subject = subject.subject,
                              .targets = targets_,
                              .precision = kF32,
                              .config = config,
                              .catalogue = catalogue,
                              .make_reference = make_reference,
                              .progress = progress,
                              .probing = probing},
                             judged);
    return *this;
  }
  std::set<std::string> heard;

 private:
  std::set<TensorKey> targets_;
};

TEST_CASE("right code explains an honest engine's logits, and every bug is farther", "[free_ranking]") {
  Ranking honest(ToyEngine{kF32});
  const findings::FreeRanking& ranking = *honest.rank().ranking;
  CHECK(honest.judged.wrong.empty());
  CHECK(honest.judged.compared == std::vector<std::int64_t>{1});
  CHECK(ranking.case_id == "toy");
  CHECK(ranking.tensors == std::vector<std::string>{"lm_head"});
  CHECK(ranking.tokens_compared == 6);
  CHECK(ranking.right.reproduces);
  CHECK(ranking.right.times_rounding <= ranking.explained_up_to);
  CHECK(ranking.right.same_top_token == 6);
  CHECK(ranking.rounding > 0.0);
  for (const findings::RankedVariant& bug : ranking.nearest) {
    INFO(name(*bug.variant));
    if (bug.variant == FaultId::kAccBf16 || bug.variant == FaultId::kWriteMinusOne) continue;
    if (bug.variant == FaultId::kDecodePosPlusOne) continue;  // a prefill alone does not show it
    CHECK_FALSE(bug.reproduces);
    CHECK(honest.judged.detectability.cases_that_show.at(*bug.variant) == std::set<std::string>{"toy"});
  }
  CHECK(honest.heard.contains("the reference in float64"));
  CHECK(honest.heard.contains("forward passes with each bug planted"));
}

TEST_CASE("the bug of which a whole pass computes the candidate's logits explains them", "[free_ranking]") {
  Ranking wrong(toy_engine({FaultId::kNoSilu}));
  const findings::FreeRanking& ranking = *wrong.rank().ranking;
  CHECK(ranking.nearest.at(0).variant == FaultId::kNoSilu);
  CHECK(ranking.nearest[0].reproduces);
  CHECK(ranking.nearest[0].same_top_token == 6);
  CHECK(ranking.nearest[0].kl_divergence < 1e-9);
  CHECK(ranking.nearest.at(1).times_rounding > ranking.nearest[0].times_rounding);
  CHECK_FALSE(ranking.right.reproduces);
  CHECK(ranking.right.kl_divergence > 1e-6);
  CHECK(wrong.judged.detectability.cases_that_show.contains(FaultId::kNoSilu));
  REQUIRE(wrong.judged.wrong.size() == 1);
  const WrongTensor& tensor = wrong.judged.wrong[0];
  CHECK(tensor.key == kLogits);
  CHECK(tensor.subject == &wrong.subject.subject);
  REQUIRE(tensor.fits.size() == 1);
  CHECK(tensor.fits[0].variant == Variant{FaultId::kNoSilu, {}});
  CHECK_FALSE(tensor.fits[0].fitted);
  CHECK(tensor.fits[0].doubt.empty());
  CHECK(tensor.judgement.decisive_statistic == "free_run_distance");
  CHECK(tensor.judgement.ratio_to_bound > 1.0);
  CHECK(tensor.judgement.statistics.elements_compared == 6 * toy_config().vocab);
  CHECK(tensor.judgement.actual != tensor.judgement.expected);
  // To be recorded next: what the leading bugs change, and what divides a layer into parts.
  const auto& next = ranking.record_next;
  for (const char* name : {"model.layers.*.mlp.act", "model.layers.*.output", "model.layers.*.self_attn.q_rope"}) {
    CHECK(std::find(next.begin(), next.end(), name) != next.end());
  }
}

TEST_CASE("a bug in one layer of the candidate alone is not that bug in every layer", "[free_ranking]") {
  Ranking wrong(toy_engine({FaultId::kNoSilu, {}, 1}));
  wrong.rank();
  REQUIRE(wrong.judged.wrong.size() == 1);
  CHECK(wrong.judged.wrong[0].fits.empty());
}

TEST_CASE("values of a continuous parameter are searched for near the leading one, and prove less", "[free_ranking]") {
  Ranking wrong(toy_engine({FaultId::kEps, 1.0, {}}));
  const findings::FreeRanking& ranking = *wrong.rank().ranking;
  CHECK(ranking.nearest.at(0).variant == FaultId::kEps);
  CHECK(ranking.nearest[0].value == 1.0);
  REQUIRE(wrong.judged.wrong.size() == 1);
  REQUIRE(wrong.judged.wrong[0].fits.size() == 1);
  const Fit& fit = wrong.judged.wrong[0].fits[0];
  CHECK(fit.variant == Variant{FaultId::kEps, 1.0});
  CHECK(fit.fitted);
  CHECK_FALSE(fit.doubt.empty());
  // A bug is listed once, with its nearest value.
  std::set<FaultId> listed;
  for (const findings::RankedVariant& bug : ranking.nearest) listed.insert(*bug.variant);
  CHECK(listed.size() == ranking.nearest.size());
  CHECK(ranking.variants_tried > static_cast<std::int64_t>(listed.size()));
}

TEST_CASE("without probing bugs are planted where right code explains nothing", "[free_ranking]") {
  Ranking honest(ToyEngine{kF32});
  CHECK(honest.rank(false).ranking->variants_tried == 0);
  CHECK(honest.judged.detectability.tried.empty());
  Ranking wrong(toy_engine({FaultId::kNoSilu}));
  CHECK(wrong.rank(false).ranking->nearest.at(0).variant == FaultId::kNoSilu);
}

TEST_CASE("NaN where right code has numbers is wrong, and the other tokens are compared", "[free_ranking]") {
  const auto with_nan = [](ToyEngine engine, std::int64_t rows) {
    engine.change = [rows](int, const TensorId& id, Tensor& tensor) {
      if (id.op != Op::kLmHead) return;
      for (std::int64_t r = 0; r < rows; ++r) tensor.set(r * toy_config().vocab + 2, std::nan(""));
    };
    return engine;
  };
  Ranking honest(with_nan(ToyEngine{kF32}, 2));
  honest.rank();
  REQUIRE(honest.judged.wrong.size() == 1);
  CHECK(honest.judged.wrong[0].fits.empty());  // the other tokens are right code's: they name nothing
  CHECK(honest.judged.wrong[0].judgement.decisive_statistic == "non_finite");
  CHECK(honest.judged.wrong[0].judgement.worst_index == std::vector<std::int64_t>{0, 0, 2});
  CHECK_THAT(honest.judged.wrong[0].judgement.reason, ContainsSubstring("2 rows"));
  CHECK(honest.ranking->tokens_compared == 4);
  CHECK_FALSE(honest.ranking->right.reproduces);

  Ranking wrong(with_nan(toy_engine({FaultId::kNoSilu}), 1));
  wrong.rank();
  REQUIRE(wrong.judged.wrong.size() == 1);
  REQUIRE(wrong.judged.wrong[0].fits.size() == 1);
  CHECK(wrong.judged.wrong[0].fits[0].variant->id == FaultId::kNoSilu);
  CHECK_FALSE(wrong.judged.wrong[0].fits[0].doubt.empty());

  Ranking nothing(with_nan(ToyEngine{kF32}, 6));
  CHECK(nothing.rank().ranking->variants_tried == 0);
  CHECK(nothing.judged.wrong.size() == 1);
}

TEST_CASE("the last rows of logits alone are held against the same rows of a pass", "[free_ranking]") {
  const CaseInput input = toy_case({6, 1});
  Ranking wrong(toy_engine({FaultId::kNoSilu}), {kLogits, {1, {Op::kLmHead}}}, input);
  const Tensor whole = Tensor::copy_of(wrong.subject.tensors.get(kLogits));
  Tensor last(DType::kF32, {1, 1, toy_config().vocab});
  for (std::int64_t v = 0; v < toy_config().vocab; ++v) last.set(v, whole.at(5 * toy_config().vocab + v));
  replace(wrong.subject.tensors, kLogits, std::move(last));
  const findings::FreeRanking& ranking = *wrong.rank().ranking;
  CHECK(ranking.tokens_compared == 2);
  CHECK(ranking.nearest.at(0).variant == FaultId::kNoSilu);
  CHECK(ranking.nearest[0].reproduces);
}

TEST_CASE("tensors inside the layers need no head, and masked scores any stand-in", "[free_ranking]") {
  const TensorKey scores = key_of(Op::kScores, 1);
  Ranking honest(ToyEngine{kF32}, {scores});
  int heads = 0;
  const auto masking = [&heads](const Precision& precision) {
    auto engine = std::make_unique<ToyEngine>(precision);
    engine->change = [&heads](int, const TensorId& id, Tensor& tensor) {
      if (id == TensorId{Op::kScores, 1}) tensor.set(1, -HUGE_VAL);
      heads += id.op == Op::kLmHead ? 1 : 0;
    };
    return engine;
  };
  Tensor recorded = Tensor::copy_of(honest.subject.tensors.get(scores));
  const double before = recorded.at(1);
  recorded.set(1, -3e38);
  replace(honest.subject.tensors, scores, recorded);
  honest.rank(false, toy_catalogue(), masking);
  CHECK(heads == 0);
  CHECK(honest.judged.wrong.empty());
  CHECK(honest.ranking->tokens_compared == 0);

  recorded.set(1, before);  // softmax would see it
  replace(honest.subject.tensors, scores, recorded);
  honest.rank(false, toy_catalogue(), masking);
  CHECK(honest.judged.wrong.size() == 1);
}

TEST_CASE("where right code overflows nothing is said of the candidate", "[free_ranking]") {
  Ranking honest(ToyEngine{kF32});
  honest.rank(true, toy_catalogue(), [](const Precision& precision) {
    auto engine = std::make_unique<ToyEngine>(precision);
    const bool rounds = precision.activations != DType::kF64;
    engine->change = [rounds](int, const TensorId& id, Tensor& tensor) {
      if (rounds && id.op == Op::kNorm) tensor.set(0, HUGE_VAL);
    };
    return engine;
  });
  CHECK_FALSE(honest.ranking.has_value());
  CHECK(honest.judged.wrong.empty());
  REQUIRE(honest.judged.not_compared.size() == 1);
  CHECK(honest.judged.not_compared[0].tensor == "lm_head");
  CHECK_THAT(honest.judged.not_compared[0].reason, ContainsSubstring("overflows"));
}

TEST_CASE("a bug that the reference cannot plant is left out", "[free_ranking]") {
  std::vector<VariantFacts> catalogue = toy_catalogue();
  catalogue.push_back({FaultId::kModulo, "", "", {Op::kAct}, ""});
  Ranking wrong(toy_engine({FaultId::kNoSilu}));
  const std::int64_t tried = Ranking(toy_engine({FaultId::kNoSilu})).rank().ranking->variants_tried;
  CHECK(wrong.rank(true, catalogue).ranking->variants_tried == tried);
  CHECK_FALSE(wrong.judged.detectability.tried.contains(FaultId::kModulo));
}

TEST_CASE("a hypothesis is told where its nearest bug stands in the ranking", "[free_ranking]") {
  findings::FreeRanking ranking;
  ranking.variants_tried = 9;
  ranking.right.times_rounding = 50.0;
  for (const auto& [variant, times] :
       std::map<FaultId, double>{{FaultId::kModulo, 1.0}, {FaultId::kTransposedQ, 2.0}, {FaultId::kAccBf16, 3.0}}) {
    findings::RankedVariant ranked;
    ranked.variant = variant;
    ranked.times_rounding = times;
    ranking.nearest.push_back(ranked);
  }
  std::vector<findings::HypothesisResult> hypotheses(3);
  hypotheses[0].id = "H05";
  hypotheses[1].id = "H07";
  hypotheses[2].id = "H10";
  add_evidence(ranking, hypotheses);
  REQUIRE(hypotheses[0].evidence.size() == 1);
  CHECK_THAT(hypotheses[0].evidence[0], ContainsSubstring("H05.modulo comes nearest: its error is 1 times"));
  REQUIRE(hypotheses[1].evidence.size() == 1);
  CHECK_THAT(hypotheses[1].evidence[0],
             ContainsSubstring("H07.transposed_q comes nearest but 1: its error is 2 times"));
  CHECK_THAT(hypotheses[1].evidence[0], ContainsSubstring("that of right code 50"));
  CHECK(hypotheses[2].evidence.empty());
}

}  // namespace
}  // namespace qdiff::diagnose
