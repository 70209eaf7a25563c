// The oracle as the judge uses it: rows from recorded inputs, spans, caches, padding, and queries that make no sense.
#include "cmake/catch2.h"
#include "reference/reference.h"
#include "reference/tests/model_in_memory.h"

namespace qdiff::reference {
namespace {

// Every tensor of every step by the oracle, one row after the other, as gold recorded in fp64.
Recording walk_by_rows(Oracle& oracle, const std::vector<Step>& steps, const Variant* variant = nullptr) {
  Recording recording;
  const Precision precision = float64_everywhere();
  for (const Step& step : steps) {
    for (const TensorId& id : all_tensors(oracle.config(), true)) {
      const std::vector<TensorKey> operations = {{step.index, id}};
      const Expectation e = oracle.evaluate({.operations = operations,
                                             .recorded = recording,
                                             .steps = steps,
                                             .precision = precision,
                                             .stored = DType::kF64,
                                             .variant = variant});
      recording.put({step.index, id}, Tensor::rounded(DType::kF64, e.shape, e.value));
    }
  }
  return recording;
}

std::vector<double> values(const Recording& recording, int step, TensorId id) {
  return to_doubles(recording.get({step, id}));
}

// Token t of row b in a [B, T, n] tensor.
std::vector<double> token_row(const std::vector<double>& tensor, std::int64_t tokens, std::int64_t b, std::int64_t t) {
  const std::int64_t rows = static_cast<std::int64_t>(tensor.size());
  const std::int64_t width = rows / tokens;
  const auto first = tensor.begin() + (b * tokens + t) * width;
  return {first, first + width};
}

TEST_CASE("a prefill in chunks equals the whole prefill", "[oracle]") {
  const ModelInMemory model(small_config(), DType::kF32, 1);
  const auto oracle = make_oracle(model, {.num_threads = 1});
  const auto whole_steps = random_steps(model.config(), {9}, {0, 0}, 7);
  const auto chunk_steps = random_steps(model.config(), {4, 3, 1, 1}, {0, 0}, 7);
  const Recording whole = walk_by_rows(*oracle, whole_steps);
  const Recording chunks = walk_by_rows(*oracle, chunk_steps);
  for (const TensorId& id : all_tensors(model.config(), false)) {
    const std::vector<double> expected = values(whole, 0, id);
    for (const Step& step : chunk_steps) {
      const std::vector<double> actual = values(chunks, step.index, id);
      for (std::int64_t b = 0; b < 2; ++b) {
        for (std::int64_t t = 0; t < step.num_tokens(); ++t) {
          const auto part = token_row(actual, 2 * step.num_tokens(), 0, b * step.num_tokens() + t);
          const auto full = token_row(expected, 2 * 9, 0, b * 9 + step.past_length + t);
          INFO(tensor_name(id) << " step " << step.index << " row " << b << " token " << t);
          CHECK(relative_difference(part, full) <= 1e-12);
        }
      }
    }
  }
}

TEST_CASE("without biases a projection is its product, and bugs of biases change nothing", "[oracle]") {
  ModelConfig config = small_config();
  config.architecture = Architecture::kLlama;
  config.qkv_bias = false;
  const ModelInMemory model(config, DType::kF32, 11);
  const auto oracle = make_oracle(model, {.num_threads = 1});
  const auto steps = random_steps(config, {4, 1}, {0, 0}, 12);
  const Recording right = walk_by_rows(*oracle, steps);
  const TensorId product{Op::kKProjMatmul, 1}, projection{Op::kKProj, 1};
  CHECK(values(right, 1, projection) == values(right, 1, product));

  // From the product it only moves; from what stands before that, it has the product's rounding.
  const Precision precision = plain_precision(DType::kBF16);
  const auto expect = [&](const std::vector<TensorKey>& operations) {
    return oracle->evaluate(
        {.operations = operations, .recorded = right, .steps = steps, .precision = precision, .stored = DType::kBF16});
  };
  CHECK(expect({{0, projection}}).exact);
  const Expectation fused = expect({{0, product}, {0, projection}}), alone = expect({{0, product}});
  CHECK_FALSE(fused.exact);
  CHECK(fused.sigma_independent == alone.sigma_independent);
  CHECK(fused.sigma_shared == alone.sigma_shared);

  int bugs_of_biases = 0;
  for (const VariantFacts& facts : oracle->catalogue()) {
    if (hypothesis_of(facts.id) != "H06") continue;
    ++bugs_of_biases;
    CHECK_THAT(facts.shows_when, ContainsSubstring("does not have"));
    const Variant variant{facts.id, {}};
    const Recording wrong = walk_by_rows(*oracle, steps, &variant);
    INFO(name(facts.id));
    CHECK(values(wrong, 1, {Op::kLmHead}) == values(right, 1, {Op::kLmHead}));
  }
  CHECK(bugs_of_biases == 14);
}

TEST_CASE("a left-padded row equals the row without its padding", "[oracle]") {
  const ModelInMemory model(small_config(), DType::kF32, 2);
  const auto oracle = make_oracle(model, {.num_threads = 1});
  const auto padded = random_steps(model.config(), {6, 1}, {2, 0}, 3);
  auto alone = padded;
  for (Step& step : alone) {
    step.tokens = {step.tokens[0]};
    step.left_padding = {0};
    if (step.index == 0) {
      step.tokens[0].erase(step.tokens[0].begin(), step.tokens[0].begin() + 2);
    } else {
      step.past_length = 4;
    }
    set_default_positions(step);
  }
  const Recording with = walk_by_rows(*oracle, padded);
  const Recording without = walk_by_rows(*oracle, alone);
  for (const TensorId& id : all_tensors(model.config(), false)) {
    for (std::int64_t t = 2; t < 6; ++t) {
      INFO(tensor_name(id) << " token " << t);
      CHECK(relative_difference(token_row(values(with, 0, id), 12, 0, t),
                                token_row(values(without, 0, id), 4, 0, t - 2)) <= 1e-12);
    }
    CHECK(relative_difference(token_row(values(with, 1, id), 2, 0, 0), values(without, 1, id)) <= 1e-12);
    for (double value : values(with, 0, id)) CHECK_FALSE(std::isnan(value));
  }
}

TEST_CASE("a span over missing tensors gives the same gold as its rows one by one", "[oracle]") {
  const ModelInMemory model(small_config(), DType::kF32, 3);
  const auto oracle = make_oracle(model, {.num_threads = 1});
  const auto steps = random_steps(model.config(), {5, 2}, {1, 0}, 4);
  const Recording rows = walk_by_rows(*oracle, steps);

  auto check = [&](const std::vector<TensorKey>& operations) {
    Recording recorded;
    for (const auto& [key, tensor] : rows.all()) {
      if (std::find(operations.begin(), operations.end(), key) == operations.end()) recorded.put(key, tensor);
    }
    const Expectation e = oracle->evaluate({.operations = operations,
                                            .recorded = recorded,
                                            .steps = steps,
                                            .precision = float64_everywhere(),
                                            .stored = DType::kF64});
    INFO(tensor_name(operations.back().id));
    const TensorView expected = rows.get(operations.back());
    CHECK(e.shape == expected.shape);
    CHECK(relative_difference(e.value, to_doubles(expected)) <= 1e-12);
    CHECK(e.sigma_independent.size() == e.value.size());
    CHECK(e.sigma_shared.size() == e.value.size());
    return e;
  };
  const TensorId k_cache{Op::kKCache, 1}, v_cache{Op::kVCache, 1};
  CHECK_FALSE(check({{1, {Op::kQProjMatmul, 1}}, {1, {Op::kQProj, 1}}}).exact);
  check({{1, {Op::kScores, 1}}, {1, {Op::kProbs, 1}}, {1, {Op::kAttnOutput, 1}}});
  check({{1, {Op::kProbs, 1}}, {1, {Op::kAttnOutput, 1}}});
  check({{0, k_cache},
         {0, v_cache},
         {1, k_cache},
         {1, v_cache},
         {1, {Op::kScores, 1}},
         {1, {Op::kProbs, 1}},
         {1, {Op::kAttnOutput, 1}}});
  CHECK(check({{0, k_cache}, {1, k_cache}}).exact);
  std::vector<TensorKey> layer;
  for (int step : {0, 1}) {
    for (const TensorId& id : all_tensors(model.config(), true)) {
      const bool wanted = id.layer == 1 && (step == 1 || id.op == Op::kKProjMatmul || id.op == Op::kKProj ||
                                            id.op == Op::kKRope || id.op == Op::kKCache);
      if (wanted) layer.push_back({step, id});
    }
  }
  check(layer);
}

TEST_CASE("queries of one projection asked together are answered as they are one by one", "[oracle]") {
  const ModelInMemory model(small_config(), DType::kBF16, 1);
  const auto oracle = make_oracle(model, {.num_threads = 1});
  const auto steps = random_steps(model.config(), {4, 3, 1}, {0, 2}, 7);
  const Recording recording = walk_by_rows(*oracle, steps);
  const Precision precision = plain_precision(DType::kBF16);
  for (const TensorId& id : {TensorId{Op::kQProjMatmul, 0}, TensorId{Op::kOProj, 0}, TensorId{Op::kDownProj, 1},
                             TensorId{Op::kLmHead}, TensorId{Op::kResidMid, 0}}) {
    std::vector<std::vector<TensorKey>> operations;
    for (const Step& step : steps) operations.push_back({{step.index, id}});
    std::vector<Query> queries;
    for (const std::vector<TensorKey>& operation : operations) {
      queries.push_back({.operations = operation,
                         .recorded = recording,
                         .steps = steps,
                         .precision = precision,
                         .stored = DType::kBF16});
    }
    const std::vector<Expectation> together = oracle->evaluate_all(queries);
    REQUIRE(together.size() == queries.size());
    for (std::size_t i = 0; i < queries.size(); ++i) {
      INFO(tensor_name(id) << " step " << i);
      const Expectation alone = oracle->evaluate(queries[i]);
      CHECK(together[i].shape == alone.shape);
      CHECK(relative_difference(together[i].value, alone.value) <= 1e-12);
      const auto widened = [](const std::vector<float>& x) { return std::vector<double>(x.begin(), x.end()); };
      CHECK(relative_difference(widened(together[i].sigma_independent), widened(alone.sigma_independent)) <= 1e-5);
      CHECK(together[i].sigma_shared == alone.sigma_shared);
      CHECK(together[i].exact == alone.exact);
    }
  }
  CHECK(oracle->evaluate_all({}).empty());
}

TEST_CASE("pads may hold anything", "[oracle]") {
  const ModelInMemory model(small_config(), DType::kF32, 6);
  const auto oracle = make_oracle(model, {.num_threads = 1});
  const auto steps = random_steps(model.config(), {5, 1}, {2, 0}, 3);
  const Recording clean = walk_by_rows(*oracle, steps);
  const Precision precision = plain_precision(DType::kBF16);
  const std::vector<std::vector<TensorKey>> queries = {
      {{0, {Op::kQProjMatmul, 1}}, {0, {Op::kQProj, 1}}},
      {{0, {Op::kScores, 1}}, {0, {Op::kProbs, 1}}, {0, {Op::kAttnOutput, 1}}},
      {{1, {Op::kScores, 1}}, {1, {Op::kProbs, 1}}, {1, {Op::kAttnOutput, 1}}},
      {{0, {Op::kProbs, 1}}},
      {{0, {Op::kGateProj, 1}}, {0, {Op::kUpProj, 1}}, {0, {Op::kAct, 1}}},
  };
  for (double poison : {std::nan(""), HUGE_VAL, 1e38}) {
    Recording poisoned;
    for (const auto& [key, tensor] : clean.all()) {
      Tensor copy = tensor;
      const Step& step = steps[static_cast<std::size_t>(key.step)];
      const bool cache = key.id.op == Op::kKCache || key.id.op == Op::kVCache;
      const bool by_head = key.id.op == Op::kScores || key.id.op == Op::kProbs;
      for (std::int64_t i = 0; i < copy.size(); ++i) {
        const Shape& shape = copy.shape();
        const std::int64_t per_row = copy.size() / shape[0];
        const std::int64_t b = i / per_row;
        const std::int64_t within = by_head ? i % (shape[2] * shape[3]) / shape[3] : i % per_row / (per_row / shape[1]);
        if (cache ? within < step.left_padding[static_cast<std::size_t>(b)] : step.is_pad(b, within)) {
          copy.set(i, poison);
        }
      }
      poisoned.put(key, copy);
    }
    // Pads behind a finite score are summed, but with a weight of 0.
    const Variant finite{FaultId::kFiniteFp16, std::nullopt};
    std::vector<std::pair<const Variant*, std::vector<TensorKey>>> asked;
    for (const auto& operations : queries) {
      asked.emplace_back(nullptr, operations);
      if (operations.front().id.op == Op::kScores) asked.emplace_back(&finite, operations);
    }
    for (const auto& [variant, operations] : asked) {
      const auto evaluate = [&](const Recording& recorded) {
        return oracle->evaluate({.operations = operations,
                                 .recorded = recorded,
                                 .steps = steps,
                                 .precision = precision,
                                 .stored = DType::kBF16,
                                 .variant = variant});
      };
      const Expectation expected = evaluate(clean), actual = evaluate(poisoned);
      const TensorKey& target = operations.back();
      const Step& step = steps[static_cast<std::size_t>(target.step)];
      INFO(tensor_name(target.id) << " step " << target.step << " poison " << poison);
      std::size_t compared = 0;
      for (std::size_t i = 0; i < expected.value.size(); ++i) {
        const auto index = static_cast<std::int64_t>(i);
        const auto per_row = static_cast<std::int64_t>(expected.value.size()) / 2;
        const bool by_head = target.id.op == Op::kProbs;
        const std::int64_t token = by_head ? index % (step.num_tokens() * step.valid_length()) / step.valid_length()
                                           : index % per_row / (per_row / step.num_tokens());
        if (step.is_pad(index / per_row, token)) continue;
        ++compared;
        REQUIRE(actual.value[i] == expected.value[i]);
        REQUIRE(actual.sigma_independent[i] == expected.sigma_independent[i]);
        REQUIRE(actual.sigma_shared[i] == expected.sigma_shared[i]);
      }
      CHECK(compared > 0);
    }
  }
}

TEST_CASE("a vocabulary too large for one block, whole and for the last row alone", "[oracle]") {
  ModelConfig config = small_config();
  config.vocab = 50000;  // 4.8 million weights
  const ModelInMemory model(config, DType::kBF16, 7);
  const auto oracle = make_oracle(model, {.num_threads = 1});
  const auto steps = random_steps(config, {2}, {0}, 3);
  std::vector<double> x(2 * 96);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = random_normal(1, i);
  Recording recorded;
  recorded.put({0, {Op::kNorm}}, Tensor::rounded(DType::kF64, {1, 2, 96}, x));
  const std::vector<TensorKey> operations = {{0, {Op::kLmHead}}};
  const Precision precision = plain_precision(DType::kBF16);
  auto evaluate = [&] {
    return oracle->evaluate({.operations = operations,
                             .recorded = recorded,
                             .steps = steps,
                             .precision = precision,
                             .stored = DType::kBF16});
  };
  const Expectation whole = evaluate();
  REQUIRE(whole.shape == Shape{1, 2, 50000});
  const std::vector<double> w = to_doubles(model.read_all("lm_head.weight").view());
  for (std::size_t token : {0U, 1U}) {
    for (std::size_t v : {0U, 1U, 43689U, 43690U, 43691U, 49999U}) {  // 43690 rows fill the first block
      double sum = 0.0, squares = 0.0;
      for (std::size_t i = 0; i < 96; ++i) {
        const double product = x[token * 96 + i] * w[v * 96 + i];
        sum += product;
        squares += product * product;
      }
      const std::size_t at = token * 50000 + v;
      CHECK(std::fabs(whole.value[at] - sum) <= 1e-13);
      const double mean_square = sum * sum / 3 + squares / 6;
      const double cut_off = 0.043 * 96;  // 16 bits may be multiplied in matrix units
      const double sigma = std::sqrt(0.19 * (96 * mean_square + squares) + cut_off * cut_off * mean_square) * 0x1p-24;
      CHECK(std::fabs(whole.sigma_independent[at] - sigma) <= 1e-5 * sigma);
      const double shared = 0.034 * 96 * std::fabs(sum) * 0x1p-24;
      CHECK(std::fabs(whole.sigma_shared[at] - shared) <= 1e-5 * shared);
    }
  }
  recorded.put({0, {Op::kLmHead}}, Tensor(DType::kBF16, {1, 1, 50000}));
  const Expectation last = evaluate();
  REQUIRE(last.shape == Shape{1, 1, 50000});
  CHECK(relative_difference(last.value, {whole.value.begin() + 50000, whole.value.end()}) <= 1e-14);
}

TEST_CASE("weights are rounded once to the declared type", "[oracle]") {
  const ModelInMemory model(small_config(), DType::kF32, 8);
  const auto oracle = make_oracle(model, {.num_threads = 1});
  const auto steps = random_steps(model.config(), {1}, {0}, 3);
  Recording recorded;
  std::vector<double> x(96, 0.0);
  x[5] = 1.0;  // reads column 5 of the weight
  recorded.put({0, {Op::kPostAttentionLayernorm, 0}}, Tensor::rounded(DType::kF64, {1, 1, 96}, x));
  const std::vector<TensorKey> operations = {{0, {Op::kUpProj, 0}}};
  const Tensor weight = model.read_all("model.layers.0.mlp.up_proj.weight");
  for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32, DType::kF64}) {
    const Precision precision = {
        .weights = dtype, .activations = DType::kF64, .accumulate = DType::kF64, .points = {}, .taken_as = {}};
    const Expectation e = oracle->evaluate({.operations = operations,
                                            .recorded = recorded,
                                            .steps = steps,
                                            .precision = precision,
                                            .stored = DType::kF64});
    for (std::int64_t o = 0; o < 160; ++o) {
      REQUIRE(e.value[static_cast<std::size_t>(o)] == round_to(dtype, weight.at(o * 96 + 5)));
    }
  }
}

TEST_CASE("what cannot be evaluated is refused by name", "[oracle]") {
  const ModelInMemory model(small_config(), DType::kF32, 5);
  const auto oracle = make_oracle(model, {.num_threads = 1});
  const auto steps = random_steps(model.config(), {3}, {0}, 4);
  const Precision precision = plain_precision(DType::kF32);
  Recording recorded;
  const std::vector<TensorKey> norm = {{0, {Op::kInputLayernorm, 0}}};
  auto evaluate = [&](const std::vector<TensorKey>& operations, const Variant* variant) {
    return oracle->evaluate({.operations = operations,
                             .recorded = recorded,
                             .steps = steps,
                             .precision = precision,
                             .stored = DType::kF32,
                             .variant = variant});
  };
  CHECK_THROWS_AS(evaluate(norm, nullptr), InputError);
  CHECK_THROWS_WITH(evaluate(norm, nullptr), ContainsSubstring("model.embed_tokens of step 0"));
  recorded.put({0, {Op::kEmbedTokens}}, Tensor(DType::kF32, {1, 3, 95}));
  CHECK_THROWS_WITH(evaluate(norm, nullptr), ContainsSubstring("[1, 3, 95]"));
  recorded.put({0, {Op::kEmbedTokens}}, Tensor(DType::kF32, {1, 3, 96}));
  CHECK_NOTHROW(evaluate(norm, nullptr));
  const Variant valued{FaultId::kModulo, 3.0};
  CHECK_THROWS_AS(evaluate(norm, &valued), std::invalid_argument);
  CHECK_THROWS_AS(evaluate({{1, {Op::kInputLayernorm, 0}}}, nullptr), std::invalid_argument);
}

}  // namespace
}  // namespace qdiff::reference
