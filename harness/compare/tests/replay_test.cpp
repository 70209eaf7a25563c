#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "cmake/catch2.h"
#include "harness/compare/decode.h"
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
        Span{{kQProjMatmul, kKProjMatmul}, false}, Span{{kInputLayernorm, kQProjMatmul}, false},
        Span{{kOutput, kInputLayernorm}, false}, Span{{kInputLayernorm, kQProjMatmul, kQProj}, false},
        Span{{kQProj, kQRope}, false}, Span{{kEmbedTokens, kInputLayernorm}, true},
        Span{{kEmbedTokens, kResidMid}, true}, Span{{kEmbedTokens, kInputLayernorm, kQProjMatmul}, false},
        Span{{kScores, kProbs, kAttnOutput}, true}, Span{{kKCache, kVCache, kScores, kProbs, kAttnOutput}, true},
        Span{{kProbs, kAttnOutput, kOProj}, false}, Span{{kKCache, kKCache}, true}, Span{{kKRope, kKCache}, false},
        Span{{kOProj, kResidMid}, false}}) {
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

TEST_CASE("NaN is seen wherever in a wide row it stands", "[replay]") {
  Run run = recorded_run();
  run.config.intermediate = 1300;
  const TensorKey input = key(0, "model.layers.0.mlp.act");
  const auto span = replay_span(key(0, "model.layers.0.mlp.down_proj"), run.store, run.config);
  for (const std::int64_t column : {0, 511, 512, 1023, 1024, 1299}) {
    for (const std::int64_t at : {std::int64_t{0}, std::int64_t{7}}) {  // the first row, and the last
      run.store.at(input) = Tensor(DType::kF32, {2, 4, 1300});
      CHECK_FALSE(what_is_unusable(span, run.store, run.steps, run.config));
      run.store.at(input).set(at * 1300 + column, std::nan(""));
      INFO("row " << at << ", column " << column);
      CHECK(what_is_unusable(span, run.store, run.steps, run.config));
    }
  }
  // Behind a pad the row after it is another one.
  run.store.at(input) = Tensor(DType::kF32, {2, 4, 1300});
  run.store.at(input).set(6 * 1300 - 1, std::nan(""));
  CHECK_FALSE(what_is_unusable(span, run.store, run.steps, run.config));
  run.store.at(input).set(6 * 1300, std::nan(""));
  CHECK(what_is_unusable(span, run.store, run.steps, run.config));
}

TEST_CASE("recorded inputs are those that the operations read and do not compute", "[replay]") {
  Run run = recorded_run();
  const auto names = [&](int step, const std::string& target) {
    const auto inputs = recorded_inputs(replay_span(key(step, target), run.store, run.config), run.store, run.config);
    return names_of({inputs.begin(), inputs.end()});
  };
  CHECK(names(0, "model.layers.0.resid_mid") == Names{"0 model.embed_tokens", "0 model.layers.0.self_attn.o_proj"});
  CHECK(names(1, "model.layers.1.resid_mid") == Names{"1 model.layers.0.output", "1 model.layers.1.self_attn.o_proj"});
  CHECK(names(1, "model.layers.0.self_attn.k_cache") ==
        Names{"0 model.layers.0.self_attn.k_rope", "1 model.layers.0.self_attn.k_rope"});
  CHECK(names(0, "model.embed_tokens").empty());
  CHECK(names(2, "model.norm") == Names{"2 model.layers.1.output"});
}

TEST_CASE("what an operation of the list computes is no recorded input of the others", "[replay]") {
  Run run = recorded_run();
  const std::string prefix = "model.layers.0.self_attn.";
  const std::vector<TensorKey> operations = {key(0, prefix + "q_proj.matmul"), key(0, prefix + "q_proj"),
                                             key(0, prefix + "q_rope")};
  const auto inputs = recorded_inputs(operations, run.store, run.config);
  CHECK(names_of({inputs.begin(), inputs.end()}) == Names{"0 model.layers.0.input_layernorm"});
  CHECK(tensor_name(span_start(operations, run.store, run.config)) == "model.layers.0.input_layernorm");
}

TEST_CASE("stored elements are read as they are, from any place in a file", "[decode]") {
  for (const DType dtype : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16}) {
    std::vector<double> values;
    for (int i = 0; i < 40; ++i)
      values.push_back((i % 2 == 0 ? 1.0 : -1.0) * (1.0 + i / 64.0) * std::ldexp(1.0, i % 9 - 4));
    values[7] = -HUGE_VAL;
    const Tensor tensor = Tensor::rounded(dtype, {40}, values);
    // A mapped file need not be aligned.
    std::vector<std::byte> bytes(40 * size_of(dtype) + 1);
    TensorView view = tensor.view();
    std::memcpy(bytes.data() + 1, view.data, 40 * size_of(dtype));
    view.data = bytes.data() + 1;
    for (const std::size_t first : {std::size_t{0}, std::size_t{5}, std::size_t{39}}) {
      std::vector<double> read(std::min<std::size_t>(17, 40 - first) + 1, 99.0);
      load_elements(view, first, {read.data(), read.size() - 1});
      for (std::size_t i = 0; i + 1 < read.size(); ++i) CHECK(read[i] == round_to(dtype, values[first + i]));
      CHECK(read.back() == 99.0);
    }
  }
}

}  // namespace
}  // namespace qdiff::compare
