// The mistakes that are tried in a span of many operations: each can be planted there, and none is tried twice.
#include "harness/diagnose/span_mistakes.h"

#include <algorithm>
#include <set>

#include "cmake/catch2.h"
#include "harness/contract/tests/small_model.h"
#include "harness/formats/mistake_text.h"

namespace qdiff::diagnose {
namespace {

// All operations of layer 1, as where layer outputs alone were recorded.
std::vector<TensorKey> layer_span(const ModelConfig& config) {
  std::vector<TensorKey> span;
  for (const TensorId& id : all_tensors(config, true)) {
    if (id.layer == 1) span.push_back({0, id});
  }
  return span;
}

std::set<MistakeKind> kinds_of(const std::vector<Mistakes>& listed) {
  std::set<MistakeKind> kinds;
  for (const Mistakes& mistakes : listed) kinds.insert(mistakes.front().kind);
  return kinds;
}

TEST_CASE("each mistake of a span is one that an engine can be told to make there, once", "[span_mistakes]") {
  for (const auto& config : {testing::small_config(6, 2, 16, 64, 96), testing::small_config(4, 4, 32, 128, 128),
                             testing::small_config(14, 2, 64, 896, 512)}) {
    const std::vector<TensorKey> span = layer_span(config);
    const std::vector<Mistakes> listed = span_mistakes(span, config);
    CHECK(std::ranges::is_sorted(listed, {}, [](const Mistakes& mistakes) { return mistakes.size() > 1; }));
    std::set<std::string> seen;
    for (const Mistakes& mistakes : listed) {
      REQUIRE_FALSE(mistakes.empty());
      std::string text;
      for (const Mistake& mistake : mistakes) {
        INFO(to_string(mistake));
        CHECK(has_mechanism(mistake.op, mistake.kind));
        CHECK(std::ranges::any_of(span, [&](const TensorKey& key) { return key.id.op == mistake.op; }));
        CHECK(mistake.scope == MistakeScope{});
        CHECK_NOTHROW(formats::parse_mistake(to_string(mistake)));
        text += to_string(mistake) + '\n';
      }
      INFO(text);
      CHECK(seen.insert(text).second);
    }
    CHECK(kinds_of(listed).size() >= 15);
  }
}

TEST_CASE("a model without biases has no mistake of one, nor a span without heads one of heads", "[span_mistakes]") {
  ModelConfig config = testing::small_config(6, 2, 16, 64, 96);
  const auto biases = [&] { return kinds_of(span_mistakes(layer_span(config), config)).contains(MistakeKind::kBias); };
  CHECK(biases());
  config.qkv_bias = false;
  CHECK_FALSE(biases());
  const std::vector<TensorKey> mlp = {{0, {Op::kGateProj, 1}}, {0, {Op::kUpProj, 1}}, {0, {Op::kAct, 1}}};
  const std::set<MistakeKind> kinds = kinds_of(span_mistakes(mlp, config));
  CHECK(kinds.contains(MistakeKind::kGateFunction));
  CHECK_FALSE(kinds.contains(MistakeKind::kHeadsRead));
  CHECK_FALSE(kinds.contains(MistakeKind::kVisible));
}

TEST_CASE("a mistake in a span is said in one line, with its phase", "[span_mistakes]") {
  const Mistakes one = {{MistakeKind::kBias, {{"coefficient", 2.0}}, Op::kKProj}};
  CHECK(sentence_of(one) == "self_attn.k_proj: the bias so many times, or that of another projection (coefficient: 2)");
  const Mistakes decode = in_phase(one, Phase::kDecode);
  CHECK(decode.front().scope.phase == Phase::kDecode);
  CHECK(sentence_of(decode) == sentence_of(one) + ", in decode alone");
}

}  // namespace
}  // namespace qdiff::diagnose
