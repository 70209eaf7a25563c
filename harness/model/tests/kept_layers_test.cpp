#include "harness/model/kept_layers.h"

#include <string>

#include "cmake/catch2.h"
#include "harness/formats/tests/temporary_directory.h"
#include "harness/model/model.h"

using namespace qdiff;
using namespace qdiff::model;
using qdiff::testing::input_error_of;

TEST_CASE("kept layers have the weights that they had in the whole model, and all else stays") {
  const std::shared_ptr<const WeightSource> whole = open_model("synthetic:toy-d32,profile=qwen");
  const auto kept = keep_layers(whole, {1, 3});
  CHECK(kept->config().num_layers == 2);
  CHECK(kept->config().hidden == whole->config().hidden);
  CHECK(kept->description() == whole->description() + ", layers 1, 3 alone");
  const auto same = [&](const std::string& name, const std::string& of_whole) {
    const Tensor a = kept->read_all(name), b = whole->read_all(of_whole);
    return a.shape() == b.shape() && std::equal(a.bytes().begin(), a.bytes().end(), b.bytes().begin());
  };
  CHECK(same("model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight"));
  CHECK(same("model.layers.1.mlp.down_proj.weight", "model.layers.3.mlp.down_proj.weight"));
  CHECK_FALSE(same("model.layers.1.mlp.down_proj.weight", "model.layers.1.mlp.down_proj.weight"));
  CHECK(same("model.embed_tokens.weight", "model.embed_tokens.weight"));
  CHECK(same("model.norm.weight", "model.norm.weight"));
  // Of a kept model, layers can be left out again.
  const auto last = keep_layers(keep_layers(whole, {1, 3}), {1});
  CHECK(last->read_all("model.layers.0.input_layernorm.weight").view().bytes() > 0);
  CHECK(last->config().num_layers == 1);
}

TEST_CASE("a layer that the model lacks is refused") {
  const std::shared_ptr<const WeightSource> whole = open_model("synthetic:toy-d128");
  CHECK_THAT(input_error_of([&] {
               keep_layers(whole, {0, 2});
             }),
             ContainsSubstring("there is no layer 2; the model's layers are 0 to 1"));
}
