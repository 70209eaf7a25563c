// A trace that does not fit the model is refused before anything of it is judged.
#include "harness/diagnose/trace_checks.h"

#include <functional>

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
  CHECK_THROWS_WITH(check(toy), ContainsSubstring("/manifest.json: ") && ContainsSubstring("12"));
}

TEST_CASE("a tensor of another shape than the steps give it is an error", "[trace_checks]") {
  ToyTrace toy(ToyEngine{kF32});
  replace(toy.tensors, key_of(Op::kAct), Tensor(DType::kF32, {1, 6, 23}));
  CHECK_THROWS_WITH(check(toy), ContainsSubstring("mlp.act"));
}

bool follows(ToyTrace& toy, const ToyWeights& weights = ToyWeights{}) {
  const auto trace = toy.write();
  return embedding_follows_from_table(*trace, weights);
}

// Records something else in the place of both steps' embeddings: of step, row and column.
void embed(ToyTrace& toy, const std::function<double(int, std::int64_t, std::int64_t)>& value) {
  for (int step : {0, 1}) {
    Tensor recorded = Tensor::copy_of(toy.tensors.get({step, {Op::kEmbedTokens}}));
    const std::int64_t hidden = toy_config().hidden;
    for (std::int64_t i = 0; i < recorded.size(); ++i) recorded.set(i, value(step, i / hidden, i % hidden));
    replace(toy.tensors, {step, {Op::kEmbedTokens}}, std::move(recorded));
  }
}

TEST_CASE("an embedding of other weights follows from no row of the table", "[trace_checks]") {
  ToyTrace toy(ToyEngine{kF32});
  CHECK(follows(toy));
  CHECK_FALSE(follows(toy, ToyWeights(0.125)));
  // Without embeddings nothing can be said.
  toy.keep({Op::kOutput});
  CHECK(follows(toy, ToyWeights(0.125)));
}

TEST_CASE("an embedding follows from the table by one row, a multiple or the transpose", "[trace_checks]") {
  ToyTrace toy(ToyEngine{kF32});
  const std::int64_t hidden = toy_config().hidden, vocab = toy_config().vocab;
  const std::vector<double> table = to_doubles(ToyWeights{}.read_all("model.embed_tokens.weight").view());
  const auto at = [&](std::int64_t element) { return table[static_cast<std::size_t>(element)]; };
  const auto token = [&](int step, std::int64_t row) {
    return static_cast<std::int64_t>(
        toy.input.steps[static_cast<std::size_t>(step)].tokens[0][static_cast<std::size_t>(row)]);
  };
  REQUIRE(token(0, 0) != 11);
  embed(toy,
        [&](int step, std::int64_t row, std::int64_t c) { return step == 0 && row == 0 ? at(11 * hidden + c) : 0.5; });
  CHECK(follows(toy));
  CHECK_FALSE(follows(toy, ToyWeights(0.125)));
  embed(toy, [&](int step, std::int64_t row, std::int64_t c) { return 4.5 * at(token(step, row) * hidden + c); });
  CHECK(follows(toy));
  embed(toy, [&](int step, std::int64_t row, std::int64_t c) { return at(c * vocab + token(step, row)); });
  CHECK(follows(toy));
  embed(toy, [&](int step, std::int64_t row, std::int64_t c) {
    return at(token(step, row) * hidden + c) + 0.25 * static_cast<double>(c);
  });
  CHECK_FALSE(follows(toy));
}

}  // namespace
}  // namespace qdiff::diagnose
