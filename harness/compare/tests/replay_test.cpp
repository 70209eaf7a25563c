#include <map>
#include <set>

#include "cmake/catch2.h"
#include "harness/compare/judge.h"
#include "harness/compare/tests/sample.h"
#include "harness/contract/tests/table_counts.h"

namespace qdiff::compare {
namespace {

class MapStore : public TensorStore {
 public:
  bool has(const TensorKey& key) const override { return tensors_.contains(key); }
  TensorView get(const TensorKey& key) const override { return tensors_.at(key).view(); }
  Tensor& at(const TensorKey& key) { return tensors_[key]; }
  void drop(const TensorKey& key) { tensors_.erase(key); }

 private:
  std::map<TensorKey, Tensor> tensors_;
};

struct Run {
  ModelConfig config = sample_config();
  std::vector<Step> steps;
  MapStore store;
};

// Three steps (a prefill of 4 tokens, one of 2, a decode step), each recording `names` or, if empty, everything that
// is not optional.
Run recorded_run(const std::vector<std::string>& names = {}) {
  Run run;
  std::int64_t past = 0;
  for (const std::int64_t tokens : {4, 2, 1}) {
    Step step;
    step.index = static_cast<int>(run.steps.size());
    step.past_length = past;
    step.left_padding = {0, 2};
    step.tokens.assign(2, std::vector<std::int32_t>(static_cast<std::size_t>(tokens), 1));
    set_default_positions(step);
    past += tokens;
    std::vector<TensorId> ids = all_tensors(run.config, false);
    if (!names.empty()) {
      ids.clear();
      for (const std::string& name : names) ids.push_back(parse_tensor_name(name).value());
    }
    for (const TensorId& id : ids) {
      const Shape shape = output_shape(id.op, run.config, 2, tokens, past);
      run.store.at({step.index, id}) = Tensor(DType::kF32, shape);
    }
    run.steps.push_back(step);
  }
  return run;
}

TensorKey key(int step, const std::string& name) { return {step, parse_tensor_name(name).value()}; }

std::vector<std::string> names_of(const std::vector<TensorKey>& keys) {
  std::vector<std::string> names;
  for (const TensorKey& k : keys) names.push_back(std::to_string(k.step) + ' ' + tensor_name(k.id));
  return names;
}

using Names = std::vector<std::string>;

TEST_CASE("a row whose inputs are all recorded is its own span", "[replay]") {
  Run run = recorded_run();
  const TensorKey target = key(0, "model.layers.1.self_attn.q_rope");
  const auto span = replay_span(target, run.store, run.config);
  CHECK(names_of(span) == Names{"0 model.layers.1.self_attn.q_rope"});
  CHECK(tensor_name(span_start(span, run.store, run.config)) == "model.layers.1.self_attn.q_proj");
}

TEST_CASE("a GEMM that keeps its bias inside makes a span of two rows", "[replay]") {
  Run run = recorded_run();
  const auto span = replay_span(key(1, "model.layers.0.self_attn.k_proj"), run.store, run.config);
  CHECK(names_of(span) == Names{"1 model.layers.0.self_attn.k_proj.matmul", "1 model.layers.0.self_attn.k_proj"});
  CHECK(tensor_name(span_start(span, run.store, run.config)) == "model.layers.0.input_layernorm");
}

TEST_CASE("one step of rounding after data that only moves is a usual fusion, two steps are a long span", "[replay]") {
  struct Span {
    std::vector<Op> ops;
    bool usual;
  };
  using enum Op;
  for (const Span& span :
       {Span{{kQRope}, true}, Span{{kQProjMatmul, kQProj}, true}, Span{{kKProjMatmul, kKProj}, true},
        Span{{kVProjMatmul, kVProj}, true}, Span{{kQProjMatmul, kKProj}, false},
        Span{{kInputLayernorm, kQProjMatmul}, false}, Span{{kOutput, kInputLayernorm}, false},
        Span{{kInputLayernorm, kQProjMatmul, kQProj}, false}, Span{{kQProj, kQRope}, false},
        Span{{kEmbedTokens, kInputLayernorm}, true}, Span{{kEmbedTokens, kResidMid}, true},
        Span{{kEmbedTokens, kInputLayernorm, kQProjMatmul}, false}, Span{{kScores, kProbs, kAttnOutput}, true},
        Span{{kKCache, kVCache, kScores, kProbs, kAttnOutput}, true}, Span{{kProbs, kAttnOutput, kOProj}, false},
        Span{{kKCache, kKCache}, true}, Span{{kKRope, kKCache}, false}, Span{{kOProj, kResidMid}, false}}) {
    std::vector<TensorKey> keys;
    std::string names;
    for (Op op : span.ops) {
      keys.push_back({0, {op, row(op).scope == Scope::kLayer ? 0 : kNoLayer}});
      names += std::string(row(op).name) + ' ';
    }
    INFO(names);
    CHECK(is_usual_fusion(keys) == span.usual);
  }
}

TEST_CASE("without recorded caches attention reaches back to the first step", "[replay]") {
  Run run = recorded_run();
  const auto span = replay_span(key(2, "model.layers.0.self_attn.attn_output"), run.store, run.config);
  const std::string prefix = " model.layers.0.self_attn.";
  CHECK(names_of(span) == Names{"0" + prefix + "k_cache", "0" + prefix + "v_cache", "1" + prefix + "k_cache",
                                "1" + prefix + "v_cache", "2" + prefix + "k_cache", "2" + prefix + "v_cache",
                                "2" + prefix + "scores", "2" + prefix + "probs", "2" + prefix + "attn_output"});
  CHECK(tensor_name(span_start(span, run.store, run.config)) == "model.layers.0.self_attn.k_rope");
}

TEST_CASE("a recorded cache ends the walk through earlier steps", "[replay]") {
  Run run = recorded_run();
  const TensorKey cache = key(1, "model.layers.0.self_attn.k_cache");
  run.store.at(cache) = Tensor(DType::kF32, {2, 6, 2, 32});
  const auto span = replay_span(key(2, "model.layers.0.self_attn.k_cache"), run.store, run.config);
  CHECK(names_of(span) == Names{"2 model.layers.0.self_attn.k_cache"});
}

TEST_CASE("logits alone span the whole model and start at the embedding", "[replay]") {
  Run run = recorded_run({"lm_head"});
  const auto span = replay_span(key(0, "lm_head"), run.store, run.config);
  CHECK(span.size() == all_tensors(run.config, true).size());
  CHECK(span.front() == key(0, "model.embed_tokens"));
  CHECK(span.back() == key(0, "lm_head"));
  CHECK(span_start(span, run.store, run.config) == TensorId{Op::kEmbedTokens, kNoLayer});
  // Later steps need the cache of every step before, and of those nothing after the last layer's cache.
  const auto decode = replay_span(key(2, "lm_head"), run.store, run.config);
  const std::set<TensorKey> all(decode.begin(), decode.end());
  CHECK(all.contains(key(0, "model.layers.1.self_attn.k_rope")));
  CHECK_FALSE(all.contains(key(0, "model.layers.1.self_attn.scores")));
  CHECK_FALSE(all.contains(key(0, "model.norm")));
}

TEST_CASE("layer outputs alone give spans of one layer, each row after the rows it reads", "[replay]") {
  Run run = recorded_run({"model.embed_tokens", "model.layers.0.output", "model.layers.1.output", "lm_head"});
  const auto span = replay_span(key(0, "model.layers.1.output"), run.store, run.config);
  CHECK(tensor_name(span_start(span, run.store, run.config)) == "model.layers.0.output");
  CHECK(std::is_sorted(span.begin(), span.end()));
  for (const TensorKey& k : span) CHECK(k.id.layer == 1);
  CHECK(std::ssize(span) == kRowsOfALayer);
}

TEST_CASE("the embedding has no inputs", "[replay]") {
  Run run = recorded_run();
  const auto span = replay_span(key(0, "model.embed_tokens"), run.store, run.config);
  CHECK(names_of(span) == Names{"0 model.embed_tokens"});
  CHECK(span_start(span, run.store, run.config) == TensorId{Op::kEmbedTokens, kNoLayer});
}

TEST_CASE("NaN in a recorded input leaves the row unjudged, NaN in a pad does not", "[replay]") {
  Run run = recorded_run();
  const TensorKey input = key(0, "model.layers.0.self_attn.q_proj");
  const auto span = replay_span(key(0, "model.layers.0.self_attn.q_rope"), run.store, run.config);
  CHECK_FALSE(what_is_unusable(span, run.store, run.steps, run.config));
  const std::int64_t width = run.config.q_width();
  run.store.at(input).set(4 * width, std::nan(""));  // batch row 1, token 0: a pad
  run.store.at(input).set(0, HUGE_VAL);              // an infinity is a value
  CHECK_FALSE(what_is_unusable(span, run.store, run.steps, run.config));
  run.store.at(input).set(8 * width - 1, std::nan(""));  // the last real element
  const auto unusable = what_is_unusable(span, run.store, run.steps, run.config);
  REQUIRE(unusable);
  CHECK(unusable->why == "its recorded input model.layers.0.self_attn.q_proj holds NaN");
  CHECK(unusable->input == input);
}

TEST_CASE("NaN in an earlier step's recorded input is found", "[replay]") {
  Run run = recorded_run();
  const auto span = replay_span(key(2, "model.layers.0.self_attn.attn_output"), run.store, run.config);
  const TensorKey earlier = key(1, "model.layers.0.self_attn.k_rope");
  run.store.at(earlier).set(5, std::nan(""));
  const auto unusable = what_is_unusable(span, run.store, run.steps, run.config);
  REQUIRE(unusable);
  CHECK(unusable->why == "its recorded input model.layers.0.self_attn.k_rope holds NaN");
  CHECK(unusable->input == earlier);
}

TEST_CASE("a recorded input of the wrong shape leaves the row unjudged", "[replay]") {
  Run run = recorded_run();
  run.store.at(key(0, "model.layers.0.self_attn.q_proj")) = Tensor(DType::kF32, {3, 5});
  const auto span = replay_span(key(0, "model.layers.0.self_attn.q_rope"), run.store, run.config);
  const auto unusable = what_is_unusable(span, run.store, run.steps, run.config);
  REQUIRE(unusable);
  CHECK(unusable->why == "its recorded input model.layers.0.self_attn.q_proj has the wrong shape [3, 5]");
}

}  // namespace
}  // namespace qdiff::compare
