// A trace that does not fit the model is refused before anything of it is judged.
#include "harness/diagnose/trace_checks.h"

#include "cmake/catch2.h"
#include "harness/contract/error.h"
#include "harness/diagnose/tests/toy_trace.h"

namespace qdiff::diagnose {
namespace {

std::vector<std::string> check(ToyTrace& toy, const ToyWeights& weights = ToyWeights{}) {
  const auto trace = toy.write();
  return check_trace(*trace, weights);
}

TEST_CASE("a trace of the model's own fits without a word", "[trace_checks]") {
  ToyTrace toy(ToyEngine{kF32});
  CHECK(check(toy).empty());
  // In the element type of the tensors, whatever that of the weights is.
  ToyTrace narrow(ToyEngine{plain_precision(DType::kBF16)});
  CHECK(check(narrow).empty());
}

TEST_CASE("another shape of the model is an error, another constant a note", "[trace_checks]") {
  ToyTrace wider(ToyEngine{kF32});
  wider.about.config.intermediate = 25;
  CHECK_THROWS_WITH(check(wider), ContainsSubstring("another model") && ContainsSubstring("--model"));
  ToyTrace other(ToyEngine{kF32});
  other.about.config.rms_norm_eps = 1e-6;
  const std::vector<std::string> notes = check(other);
  REQUIRE(notes.size() == 1);
  CHECK_THAT(notes[0], ContainsSubstring("rms_norm_eps"));
}

TEST_CASE("steps that are none of this vocabulary are an error", "[trace_checks]") {
  ToyTrace toy(ToyEngine{kF32});
  toy.input.steps[1].tokens[0][0] = 12;
  toy.about.config.vocab.reset();  // else reading the manifest finds it
  CHECK_THROWS_WITH(check(toy), StartsWith("manifest.json: ") && ContainsSubstring("12"));
}

TEST_CASE("a tensor of another shape than the steps give it is an error", "[trace_checks]") {
  ToyTrace toy(ToyEngine{kF32});
  replace(toy.tensors, key_of(Op::kAct), Tensor(DType::kF32, {1, 6, 23}));
  CHECK_THROWS_WITH(check(toy), ContainsSubstring("mlp.act"));
}

TEST_CASE("embeddings that occur nowhere in the model's table are of other weights", "[trace_checks]") {
  ToyTrace toy(ToyEngine{kF32});
  CHECK_THROWS_WITH(check(toy, ToyWeights(0.125)), ContainsSubstring("other weights"));

  // One row of the table, though of another token, says that the weights are the model's: the look-up is wrong.
  for (int step : {0, 1}) {
    Tensor recorded = Tensor::copy_of(toy.tensors.get({step, {Op::kEmbedTokens}}));
    for (std::int64_t i = 0; i < recorded.size(); ++i) recorded.set(i, 0.5);
    if (step == 0) {
      const Tensor table = ToyWeights{}.read_all("model.embed_tokens.weight");
      for (std::int64_t i = 0; i < toy_config().hidden; ++i) recorded.set(i, table.at(11 * toy_config().hidden + i));
    }
    replace(toy.tensors, {step, {Op::kEmbedTokens}}, std::move(recorded));
  }
  REQUIRE(toy.input.steps[0].tokens[0][0] != 11);
  CHECK(check(toy).empty());
  CHECK_THROWS_AS(check(toy, ToyWeights(0.125)), InputError);

  // Without embeddings nothing can be said.
  toy.keep({Op::kOutput});
  CHECK(check(toy, ToyWeights(0.125)).empty());
}

}  // namespace
}  // namespace qdiff::diagnose
