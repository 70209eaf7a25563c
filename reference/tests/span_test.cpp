// Expected rounding where tensors are missing between: ensembles against engines that round as declared.
#include <algorithm>
#include <set>
#include <sstream>

#include "cmake/catch2.h"
#include "reference/reference.h"
#include "reference/tests/model_in_memory.h"

namespace qdiff::reference {
namespace {

ModelConfig span_config() {
  ModelConfig config = small_config();
  config.hidden = 224;
  config.num_q_heads = 8;
  config.num_kv_heads = 2;
  config.intermediate = 320;
  config.rope_theta = 1e6;
  return config;
}

Precision eager(DType dtype) {
  Precision precision = plain_precision(dtype);
  for (RoundingPoint point :
       {RoundingPoint::kRmsNormNormalized, RoundingPoint::kRopeTable, RoundingPoint::kRopeProducts,
        RoundingPoint::kAttentionScores, RoundingPoint::kAttentionScaledScores, RoundingPoint::kAttentionProbs,
        RoundingPoint::kMlpSilu}) {
    precision.points[point] = dtype;
  }
  return precision;
}

struct Recorder : TensorSink {
  Recording& recording;
  int step = 0;
  explicit Recorder(Recording& r) : recording(r) {}
  void take(const TensorId& id, const TensorView& view) override { recording.put({step, id}, Tensor::copy_of(view)); }
};

struct SpanBench {
  ModelInMemory model;
  Precision precision;
  std::unique_ptr<Oracle> oracle;
  std::vector<Step> steps;
  Recording whole;

  SpanBench(const Precision& p, const std::optional<Fault>& fault, bool one_token = false,
            const std::vector<Mistake>& mistakes = {})
      : model(span_config(), p.weights, 21),
        precision(p),
        oracle(make_oracle(model, {.num_threads = 1})),
        steps(random_steps(model.config(), {20, 1}, {0, 3}, 22)) {
    for (Step& step : steps) {
      for (auto& row : step.tokens) {
        if (one_token) std::fill(row.begin(), row.end(), 5);
      }
    }
    const auto engine = make_engine(model, precision, {.num_threads = 1}, mistakes);
    if (fault) engine->plant(*fault);
    const auto session = engine->open({.batch = 2, .capacity = 21, .left_padding = {0, 3}});
    Recorder recorder(whole);
    for (const Step& step : steps) {
      recorder.step = step.index;
      session->run_step(step, &recorder);
    }
  }

  // The missing rows in execution order; the last of them is the target.
  std::vector<TensorKey> span(int step, const std::set<TensorId>& missing) const {
    std::vector<TensorKey> operations;
    for (const TensorId& id : all_tensors(model.config(), true)) {
      if (missing.contains(id)) operations.push_back({step, id});
    }
    return operations;
  }

  Query query(const std::vector<TensorKey>& operations) const {
    return {.operations = operations,
            .recorded = whole,
            .steps = steps,
            .precision = precision,
            .stored = whole.get(operations.back()).dtype};
  }
};

struct RowRatios {
  double whole = 0.0, worst_row = 0.0;
};

RowRatios measure(const SpanBench& bench, const TensorKey& target, const Expectation& e) {
  const TensorView view = bench.whole.get(target);
  const std::vector<double> actual = to_doubles(view);
  const Step& step = bench.steps[static_cast<std::size_t>(target.step)];
  const auto width = actual.size() / static_cast<std::size_t>(step.batch() * step.num_tokens());
  RowRatios ratios;
  double sum = 0.0;
  std::size_t rows = 0;
  for (std::size_t r = 0; r < actual.size() / width; ++r) {
    const auto b = static_cast<std::int64_t>(r) / step.num_tokens(),
               t = static_cast<std::int64_t>(r) % step.num_tokens();
    if (step.is_pad(b, t)) continue;
    double row_sum = 0.0;
    for (std::size_t i = r * width; i < (r + 1) * width; ++i) {
      const double cast = view.dtype == DType::kF32 ? 0.0 : spacing(view.dtype, e.value[i]);
      const double variance = static_cast<double>(e.sigma_independent[i]) * e.sigma_independent[i] +
                              static_cast<double>(e.sigma_shared[i]) * e.sigma_shared[i] + cast * cast / 12.0;
      row_sum += (actual[i] - e.value[i]) * (actual[i] - e.value[i]) / variance;
    }
    sum += row_sum;
    ++rows;
    ratios.worst_row = std::max(ratios.worst_row, std::sqrt(row_sum / static_cast<double>(width)));
  }
  ratios.whole = std::sqrt(sum / static_cast<double>(rows * width));
  return ratios;
}

// Rows of layer 1 that a span leaves unrecorded, its target last.
std::set<TensorId> layer_rows(std::initializer_list<Op> ops) {
  std::set<TensorId> ids;
  for (Op op : ops) ids.insert({op, 1});
  return ids;
}

std::vector<std::set<TensorId>> spans() {
  std::set<TensorId> layer, head = {{Op::kNorm}, {Op::kLmHead}};
  for (const OperationRow& r : kOperationTable) {
    if (r.scope == Scope::kLayer) layer.insert({r.op, 1});
  }
  layer.erase({Op::kVCache, 1});
  layer.erase({Op::kVProj, 1});
  layer.erase({Op::kVProjMatmul, 1});
  return {layer_rows({Op::kInputLayernorm, Op::kQProjMatmul, Op::kQProj}),
          layer_rows({Op::kQProjMatmul, Op::kQProj, Op::kQRope}),
          layer_rows({Op::kQRope, Op::kScores, Op::kProbs, Op::kAttnOutput}),
          layer_rows({Op::kVProjMatmul, Op::kVProj, Op::kVCache, Op::kAttnOutput}),
          layer_rows({Op::kQProjMatmul, Op::kQProj, Op::kQRope, Op::kScores, Op::kProbs, Op::kAttnOutput, Op::kOProj}),
          layer_rows({Op::kPostAttentionLayernorm, Op::kGateProj, Op::kUpProj, Op::kAct, Op::kDownProj}),
          layer_rows({Op::kGateProj, Op::kUpProj, Op::kAct, Op::kDownProj, Op::kOutput}),
          layer,
          head};
}

// A cache of a narrower type than k and v.
Precision narrow_cache() {
  Precision precision = plain_precision(DType::kF16);
  precision.points[RoundingPoint::kKvCache] = DType::kBF16;
  return precision;
}

TEST_CASE("ensembles expect what engines of the declared precision do", "[span]") {
  struct Kind {
    Precision precision;
    double low;
  };
  // LibTorch's float32 sums are blocked, shorter than the chains that the model expects.
  for (const Kind& kind :
       {Kind{plain_precision(DType::kBF16), 0.5}, Kind{plain_precision(DType::kF16), 0.5},
        Kind{eager(DType::kBF16), 0.5}, Kind{narrow_cache(), 0.5}, Kind{plain_precision(DType::kF32), 0.05}}) {
    const SpanBench bench(kind.precision, std::nullopt);
    for (const std::set<TensorId>& missing : spans()) {
      for (int step : {0, 1}) {
        const std::vector<TensorKey> operations = bench.span(step, missing);
        const Expectation e = bench.oracle->evaluate(bench.query(operations));
        const RowRatios ratios = measure(bench, operations.back(), e);
        std::ostringstream text;
        text << name(kind.precision.activations) << (kind.precision.points.empty() ? "" : " eager") << " step " << step
             << ' ' << operations.size() << " rows to " << tensor_name(operations.back().id) << ": " << ratios.whole
             << ", worst row " << ratios.worst_row;
        INFO(text.str());
        if (std::getenv("QDIFF_SHOW_RATIOS") != nullptr) WARN(text.str());
        CHECK(ratios.whole >= kind.low);
        CHECK(ratios.whole <= 1.3);
        CHECK(ratios.worst_row <= 2.0);
        CHECK_FALSE(e.exact);
      }
    }
  }
}

// Equal rows make equal errors, which attention's mean over them keeps.
TEST_CASE("ensembles expect no averaging over the rows of one repeated token", "[span]") {
  Precision precision = plain_precision(DType::kF16);
  precision.points = {{RoundingPoint::kMatmulBeforeBias, DType::kF16}, {RoundingPoint::kAttentionQuery, DType::kF16}};
  const SpanBench bench(precision, std::nullopt, /*one_token=*/true);
  const std::vector<TensorKey> operations =
      bench.span(0, layer_rows({Op::kVProjMatmul, Op::kVProj, Op::kVCache, Op::kAttnOutput}));
  const RowRatios ratios = measure(bench, operations.back(), bench.oracle->evaluate(bench.query(operations)));
  INFO(ratios.whole << ", worst row " << ratios.worst_row);
  CHECK(ratios.whole >= 0.5);
  CHECK(ratios.worst_row <= 1.0);  // 1.33 where each row draws for itself
}

TEST_CASE("logits alone, from tokens through two layers and two steps", "[span]") {
  const SpanBench bench(plain_precision(DType::kBF16), std::nullopt);
  std::vector<TensorKey> operations;
  for (const Step& step : bench.steps) {
    for (const TensorId& id : all_tensors(bench.model.config(), true)) operations.push_back({step.index, id});
  }
  const RowRatios ratios = measure(bench, operations.back(), bench.oracle->evaluate(bench.query(operations)));
  INFO(ratios.whole << ", worst row " << ratios.worst_row);
  CHECK(ratios.whole >= 0.5);
  CHECK(ratios.whole <= 1.5);
  CHECK(ratios.worst_row <= 2.0);
}

TEST_CASE("a fault inside a span stands out, and its variant explains it", "[span]") {
  const SpanBench bench(plain_precision(DType::kBF16), Fault{FaultId::kModulo, std::nullopt, std::nullopt});
  const Variant modulo{FaultId::kModulo, std::nullopt};
  for (const std::set<TensorId>& missing : spans()) {
    if (!missing.contains({Op::kAttnOutput, 1})) continue;
    const std::vector<TensorKey> operations = bench.span(0, missing);
    Query query = bench.query(operations);
    CHECK(measure(bench, operations.back(), bench.oracle->evaluate(query)).whole >= 5.0);
    query.variant = &modulo;
    CHECK(measure(bench, operations.back(), bench.oracle->evaluate(query)).whole <= 1.3);
  }
}

TEST_CASE("a mistake inside a span is computed as the engine that makes it does", "[span]") {
  const Precision precision = float64_everywhere();
  for (const Mistake& mistake :
       {Mistake{MistakeKind::kBias, {{"coefficient", 2.0}}, Op::kQProj},
        Mistake{MistakeKind::kHeadsRead, {{"head of self_attn.v_cache", std::string("h % 2")}}, Op::kAttnOutput},
        Mistake{MistakeKind::kRotationPosition, {{"position", std::string("position 0")}}, Op::kKRope},
        Mistake{MistakeKind::kNormBlocks, {{"blocks", 2.0}}, Op::kPostAttentionLayernorm}}) {
    INFO(to_string(mistake));
    const SpanBench bench(precision, std::nullopt, false, {mistake});
    for (const std::set<TensorId>& missing : spans()) {
      if (!missing.contains({mistake.op, 1})) continue;
      const std::vector<TensorKey> operations = bench.span(1, missing);
      Query query = bench.query(operations);
      query.mistakes = {&mistake, 1};
      const std::vector<double> actual = to_doubles(bench.whole.get(operations.back()));
      const Expectation expected = bench.oracle->evaluate(query);
      double largest = 0.0;
      for (std::size_t i = 0; i < actual.size(); ++i) {
        if (std::isfinite(actual[i])) largest = std::max(largest, std::fabs(actual[i] - expected.value[i]));
      }
      CHECK(largest <= 1e-9);
    }
  }
}

// What right code computes before a bug is kept from one question to the next; ensembles compute everything anew.
TEST_CASE("of a span with a bug what right code computes is kept, and the rest follows from it", "[span]") {
  const SpanBench bench(plain_precision(DType::kBF16), std::nullopt);
  for (const std::size_t span : {4, 7}) {
    const std::vector<TensorKey> operations = bench.span(1, spans()[span]);
    for (const VariantFacts& facts : bench.oracle->catalogue()) {
      if (facts.declares) continue;
      INFO(name(facts.id) << ", span " << span);
      const Variant variant{facts.id, std::nullopt};
      Query query = bench.query(operations);
      query.variant = &variant;
      try {
        const Expectation anew = bench.oracle->evaluate(query);
        query.with_noise = false;
        const std::vector<double> kept = bench.oracle->evaluate(query).value;
        std::size_t different = 0;
        for (std::size_t i = 0; i < kept.size(); ++i) {
          if (!anew.unknown.empty() && anew.unknown[i] != 0) continue;
          const bool both_nan = std::isnan(kept[i]) && std::isnan(anew.value[i]);
          different += kept[i] == anew.value[i] || both_nan ? 0 : 1;
        }
        CHECK(different == 0);
      } catch (const NotEvaluable&) {
      }
    }
  }
}

TEST_CASE("the same query gives the same bits", "[span]") {
  const SpanBench bench(plain_precision(DType::kBF16), std::nullopt);
  const std::vector<TensorKey> operations = bench.span(0, spans()[7]);
  const Expectation first = bench.oracle->evaluate(bench.query(operations));
  const auto other = make_oracle(bench.model, {.num_threads = 1});
  const Expectation second = other->evaluate(bench.query(operations));
  CHECK(first.value == second.value);
  CHECK(first.sigma_independent == second.sigma_independent);
  CHECK(first.sigma_shared == second.sigma_shared);
}

TEST_CASE("the emulated span has the bits of the engine that rounds so", "[span]") {
  const SpanBench bench(eager(DType::kBF16), std::nullopt);
  for (const std::set<TensorId>& missing : spans()) {
    const std::vector<TensorKey> operations = bench.span(0, missing);
    const std::vector<double> emulated = bench.oracle->emulate(bench.query(operations));
    const std::vector<double> actual = to_doubles(bench.whole.get(operations.back()));
    std::size_t same = 0;
    for (std::size_t i = 0; i < actual.size(); ++i) same += actual[i] == emulated[i];
    INFO(tensor_name(operations.back().id));
    CHECK(same == actual.size());
  }
}

TEST_CASE("a tensor used before it was rounded is declared, and then expected", "[span]") {
  // An engine that hands out rounded copies of gate and up, and goes on with the unrounded ones.
  const SpanBench bench(plain_precision(DType::kBF16), std::nullopt);
  const ModelConfig& config = bench.model.config();
  const auto count = static_cast<std::size_t>(2 * 20 * config.intermediate);
  std::vector<double> gate(count), up(count), act(count);
  for (std::size_t i = 0; i < count; ++i) {
    gate[i] = random_normal(31, i);
    up[i] = random_normal(32, i);
    act[i] = gate[i] / (1.0 + std::exp(-gate[i])) * up[i];
  }
  const Shape shape = {2, 20, config.intermediate};
  Recording recorded;
  recorded.put({0, {Op::kGateProj, 1}}, Tensor::rounded(DType::kBF16, shape, gate));
  recorded.put({0, {Op::kUpProj, 1}}, Tensor::rounded(DType::kBF16, shape, up));
  recorded.put({0, {Op::kAct, 1}}, Tensor::rounded(DType::kBF16, shape, act));
  // down_proj from the unrounded act.
  const Tensor weight = bench.model.read_all("model.layers.1.mlp.down_proj.weight");
  const std::vector<double> w = to_doubles(weight.view());
  std::vector<double> down;
  const auto width = static_cast<std::size_t>(config.intermediate);
  for (std::size_t r = 0; r < count / width; ++r) {
    for (std::size_t o = 0; o < static_cast<std::size_t>(config.hidden); ++o) {
      double sum = 0.0;
      for (std::size_t i = 0; i < width; ++i) sum += act[r * width + i] * w[o * width + i];
      down.push_back(sum);
    }
  }
  auto rms = [&](Op op, const std::vector<double>& actual, const Precision& precision) {
    const std::vector<TensorKey> operations = {{0, {op, 1}}};
    const Expectation e = bench.oracle->evaluate({.operations = operations,
                                                  .recorded = recorded,
                                                  .steps = bench.steps,
                                                  .precision = precision,
                                                  .stored = DType::kF32});
    double sum = 0.0;
    for (std::size_t i = 0; i < actual.size(); ++i) {
      const double variance = static_cast<double>(e.sigma_independent[i]) * e.sigma_independent[i] +
                              static_cast<double>(e.sigma_shared[i]) * e.sigma_shared[i];
      sum += (actual[i] - e.value[i]) * (actual[i] - e.value[i]) / variance;
    }
    return std::sqrt(sum / static_cast<double>(actual.size()));
  };
  Precision declared = bench.precision;
  for (Op op : {Op::kGateProj, Op::kUpProj, Op::kAct}) declared.taken_as[op] = DType::kF32;
  CHECK(rms(Op::kAct, act, bench.precision) > 20.0);
  CHECK(rms(Op::kAct, act, declared) > 0.7);
  CHECK(rms(Op::kAct, act, declared) < 1.3);
  CHECK(rms(Op::kDownProj, down, bench.precision) > 20.0);
  CHECK(rms(Op::kDownProj, down, declared) > 0.7);
  CHECK(rms(Op::kDownProj, down, declared) < 1.3);
}

}  // namespace
}  // namespace qdiff::reference
