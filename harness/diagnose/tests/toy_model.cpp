#include "harness/diagnose/tests/toy_model.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "harness/contract/error.h"

namespace qdiff::diagnose {
namespace {

using Values = std::vector<double>;

constexpr double kRightScale = 0.3;

// A rotation turns over with the least rounding of its table or its products, so that one of two undeclared roundings
// brings the reference no nearer to an engine that makes both. It does so by little: whole passes stay steady.
constexpr double kSteepness = 4096.0;
constexpr double kTurn = 1.0 / 1024.0;

// What a row is told; a bug changes one of these.
struct Told {
  double epsilon = toy_config().rms_norm_eps;
  double scale = kRightScale;
  bool drops_residual = false;
  bool sums_in_bf16 = false;
  bool last_slot_unwritten = false;
  bool takes_sigmoid = false;
  bool zeroes_act = false;
  bool moves_gate_in_decode = false;
};

Told told_by(FaultId id, std::optional<double> value) {
  const VariantFacts& facts = *find_variant(toy_catalogue(), id);
  const double parameter = value.value_or(facts.values.empty() ? 0.0 : facts.values.front());
  Told told;
  if (id == FaultId::kEps) told.epsilon = parameter;
  if (id == FaultId::kScale) told.scale = parameter;
  told.drops_residual = id == FaultId::kResidualLost;
  told.sums_in_bf16 = id == FaultId::kAccBf16;
  told.last_slot_unwritten = id == FaultId::kWriteMinusOne;
  told.takes_sigmoid = id == FaultId::kNoSilu;
  told.zeroes_act = id == FaultId::kNoHeadStride;
  told.moves_gate_in_decode = id == FaultId::kDecodePosPlusOne;
  return told;
}

double embedding(std::int64_t token, std::int64_t column) {
  return std::sin(1.0 + static_cast<double>(token * toy_config().hidden + column));
}

// The points at which a row rounds. Sums of attention in 16 bits round the probabilities too, as attention.probs does.
std::vector<RoundingPoint> points_of(Op op) {
  std::vector<RoundingPoint> points(row(op).points.begin(), row(op).points.end());
  if (op == Op::kProbs) points.push_back(RoundingPoint::kAttentionAccumulate);
  return points;
}

bool is_norm(Op op) { return arithmetic_of(op) == Arithmetic::kNorm; }
bool is_product(Op op) { return arithmetic_of(op) == Arithmetic::kProduct; }

// How a row rounds on its way: at the declared points where `precision` is given, nowhere else.
struct Rounding {
  const Precision* precision;
  bool divides_last = false;
  double at(RoundingPoint point, double x) const {
    if (precision == nullptr) return x;
    const auto found = precision->points.find(point);
    return found == precision->points.end() ? x : round_to(found->second, x);
  }
  // An input of a product. Blocks of 256 do not fit rows of this model.
  double quantized(double x) const {
    if (precision == nullptr || precision->quantized == QuantizedInputs::kNone) return x;
    if (precision->quantized == QuantizedInputs::kQ8_K) throw InputError("rows are no whole blocks of 256");
    const double steps = precision->quantized == QuantizedInputs::kQ8_0 ? 32.0 : 24.0;
    return std::nearbyint(x * steps) / steps;
  }
};

// A sum of three elements of each input, by weights that depend on the row.
double blend(Op op, const std::vector<Values>& inputs, std::size_t i, const Rounding& rounding) {
  double sum = 0.0;
  for (std::size_t j = 0; j < inputs.size(); ++j) {
    for (std::size_t k = 0; k < 3; ++k) {
      const double x = inputs[j][(5 * i + 7 * k + j) % inputs[j].size()];
      sum += std::cos(static_cast<double>(static_cast<std::size_t>(op) + 2 * j + k)) *
             (is_product(op) ? rounding.quantized(x) : x);
    }
  }
  return sum;
}

// `inputs` by the row's inputs; of a step before the first, empty.
Values value_of(const TensorId& id, const Step& step, const Told& told, const Rounding& rounding,
                const std::vector<Values>& inputs) {
  const ModelConfig config = toy_config();
  const Shape shape = output_shape(id.op, config, step.batch(), step.num_tokens(), step.valid_length());
  Values values(static_cast<std::size_t>(num_elements(shape)));
  const auto width = static_cast<std::size_t>(shape.back());
  if (id.op == Op::kKCache || id.op == Op::kVCache) {
    values = inputs[0];
    for (double x : inputs[1]) values.push_back(rounding.at(RoundingPoint::kKvCache, x));
    return values;
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    double& value = values[i];
    if (id.op == Op::kEmbedTokens) {
      const std::size_t token = i / width, num_tokens = step.tokens[0].size();
      value = embedding(step.tokens[token / num_tokens][token % num_tokens], static_cast<std::int64_t>(i % width));
    } else if (is_norm(id.op)) {
      double squares = 0.0;
      for (std::size_t c = i / width * width; c < (i / width + 1) * width; ++c) squares += inputs[0][c] * inputs[0][c];
      const double rms = std::sqrt(squares / static_cast<double>(width) + told.epsilon);
      value = rounding.at(RoundingPoint::kRmsNormNormalized, inputs[0][i] / rms) *
              (1.0 + 0.5 * std::cos(static_cast<double>(i % width)));
    } else if (id.op == Op::kScores) {
      const double score = rounding.at(RoundingPoint::kAttentionScores, blend(id.op, inputs, i, rounding));
      value = rounding.at(RoundingPoint::kAttentionScaledScores, told.scale * score);
    } else if (id.op == Op::kProbs) {
      const double divisor = rounding.divides_last ? 3.0 : 1.0;
      const double prob =
          rounding.at(RoundingPoint::kAttentionProbs, divisor * blend(id.op, inputs, i, rounding)) / divisor;
      value = rounding.at(RoundingPoint::kAttentionAccumulate, prob);
    } else if (id.op == Op::kAttnOutput) {
      value = rounding.at(RoundingPoint::kAttentionAccumulate, blend(id.op, inputs, i, rounding));
    } else if (id.op == Op::kQRope || id.op == Op::kKRope) {
      const double table = rounding.at(RoundingPoint::kRopeTable, std::cos(static_cast<double>(i)));
      const double product = rounding.at(RoundingPoint::kRopeProducts, std::cos(inputs[0][i]));
      value = blend(id.op, inputs, i, rounding) + kTurn * std::sin(kSteepness * (table + product));
    } else if (id.op == Op::kAct) {
      const double gate = inputs[0][i] + (told.moves_gate_in_decode && step.phase == Phase::kDecode ? 1.0 : 0.0);
      const double sigmoid = 1.0 / (1.0 + std::exp(-gate));
      const double activated = told.takes_sigmoid ? sigmoid : gate * sigmoid;
      value = told.zeroes_act ? 0.0 : rounding.at(RoundingPoint::kMlpSilu, activated) * inputs[1][i];
    } else if (id.op == Op::kResidMid || id.op == Op::kOutput) {
      value = (told.drops_residual ? 0.0 : inputs[0][i]) + inputs[1][i];
    } else {
      value = blend(id.op, inputs, i, rounding);
      const bool coarse = told.sums_in_bf16 && id.op == Op::kDownProj && rounding.precision != nullptr;
      if (coarse) value = round_to(DType::kBF16, value);
    }
  }
  return values;
}

double largest(const Values& values) {
  double result = 0.0;
  for (double x : values) result = std::max(result, std::fabs(x));
  return result;
}

Told told_by(const Variant* variant) { return variant == nullptr ? Told{} : told_by(variant->id, variant->value); }

// The values of the last operation of a query. With `rounding`, tensors of the table inside the span are stored as the
// engine stores them.
Values follow(const Query& query, const Rounding& rounding) {
  std::map<TensorKey, Values> known;
  const Told told = told_by(query.variant);
  const ModelConfig config = toy_config();
  if (query.variant != nullptr && find_variant(toy_catalogue(), query.variant->id)->declares) {
    throw std::logic_error("a rounding is evaluated by declaring it, not as a variant");
  }
  for (const TensorKey& key : query.operations) {
    if (query.variant != nullptr && query.variant->id == FaultId::kNoHeadStride) {
      const TensorKey needed{key.step, {Op::kQRope, key.id.layer}};
      if (!query.recorded.has(needed)) throw NotEvaluable(tensor_name(needed.id));
    }
    std::vector<Values> inputs;
    for (const Input& input : row(key.id.op).inputs) {
      const int step = input.from == From::kPreviousStep ? key.step - 1 : key.step;
      const TensorKey from{step, resolve(input, key.id, config)};
      if (step < 0) {
        inputs.emplace_back();
      } else if (const auto found = known.find(from); found != known.end()) {
        inputs.push_back(found->second);
      } else {
        inputs.push_back(to_doubles(query.recorded.get(from)));
      }
    }
    Values values = value_of(key.id, query.steps[static_cast<std::size_t>(key.step)], told, rounding, inputs);
    const bool last = key == query.operations.back();
    if (rounding.precision != nullptr) {
      for (double& x : values) x = round_to(last ? query.stored : query.precision.activations, x);
    }
    known[key] = std::move(values);
  }
  return known.at(query.operations.back());
}

}  // namespace

ModelConfig toy_config() {
  ModelConfig config;
  config.hidden = 16;
  config.num_layers = 3;  // more than replay spans
  config.num_q_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 4;
  config.intermediate = 24;
  config.vocab = 12;
  config.rms_norm_eps = 0.25;
  config.rope_theta = 1e4;
  config.max_position_embeddings = 64;
  config.dtype = DType::kF32;
  return config;
}

const std::vector<VariantFacts>& toy_catalogue() {
  static const std::vector<VariantFacts> catalogue = [] {
    std::vector<VariantFacts> all = {
        {FaultId::kNoHeadStride, "", "", {Op::kAct}, ""},
        {FaultId::kScale, "", "", {Op::kScores}, "scores that are not 0", {1.0, 0.25}},
        {kScoresBf16, "", "", {Op::kScores}, ""},
        {FaultId::kDecodePosPlusOne, "", "", {Op::kAct}, "decode"},
        {FaultId::kResidualLost, "", "", {Op::kResidMid, Op::kOutput}, "a residual stream that is not 0"},
        {FaultId::kAccBf16, "", "", {Op::kDownProj}, ""},
        {FaultId::kWriteMinusOne, "", "", {Op::kKCache}, ""},
        {FaultId::kEps,
         "",
         "",
         {Op::kInputLayernorm, Op::kPostAttentionLayernorm, Op::kNorm},
         "small inputs",
         {1e-6, 2.0}},
        {FaultId::kNoSilu, "", "", {Op::kAct}, ""},
    };
    all[1].right_value = kRightScale;
    all[2].declares = DeclarablePoint{RoundingPoint::kAttentionScores, DType::kBF16};
    all[5].only_rounds = true;
    all[5].reach = Reach::kEach;
    all[7].right_value = toy_config().rms_norm_eps;
    all[7].reach = Reach::kEach;
    return all;
  }();
  return catalogue;
}

std::vector<VariantFacts> toy_catalogue_of(const std::vector<FaultId>& ids) {
  std::vector<VariantFacts> chosen;
  for (const VariantFacts& facts : toy_catalogue()) {
    if (std::find(ids.begin(), ids.end(), facts.id) != ids.end()) chosen.push_back(facts);
  }
  return chosen;
}

CaseInput toy_case(const std::vector<std::int64_t>& num_tokens, const std::string& id) {
  CaseInput input;
  input.id = id;
  input.title = "closed formulas";
  input.argument = "cases/" + id + ".json";
  std::int64_t past = 0;
  for (std::int64_t count : num_tokens) {
    Step step;
    step.index = static_cast<int>(input.steps.size());
    step.phase = step.index > 0 && count == 1 ? Phase::kDecode : Phase::kPrefill;
    step.past_length = past;
    step.left_padding = {0};
    step.tokens.resize(1);
    for (std::int64_t t = 0; t < count; ++t) {
      step.tokens[0].push_back(static_cast<std::int32_t>((7 * (past + t) + 3) % toy_config().vocab));
    }
    set_default_positions(step);
    past += count;
    input.steps.push_back(std::move(step));
  }
  input.capacity = past + 2;
  return input;
}

// An operation by itself rounds in its sums and at the declared points of its row. Of a longer span the deviation is
// measured, as the error that one engine which stores every tensor makes there.
Expectation ToyOracle::evaluate(const Query& query) {
  ++asked[query.variant == nullptr ? std::nullopt : std::optional(query.variant->id)];
  const TensorKey& target = query.operations.back();
  const Step& step = query.steps[static_cast<std::size_t>(target.step)];
  Expectation expected;
  expected.shape = output_shape(target.id.op, config_, step.batch(), step.num_tokens(), step.valid_length());
  const bool moves = only_moves(target.id.op);
  const Precision cache_alone = [&] {
    Precision precision = gold_precision(query.precision.weights);
    if (query.precision.points.contains(RoundingPoint::kKvCache)) {
      precision.points[RoundingPoint::kKvCache] = query.precision.at(RoundingPoint::kKvCache);
    }
    return precision;
  }();
  expected.value = follow(query, {moves ? &cache_alone : nullptr});
  expected.exact = moves && query.operations.size() == 1;
  if (query.variant != nullptr && query.variant->id == FaultId::kWriteMinusOne && target.id.op == Op::kKCache) {
    expected.unknown.assign(expected.value.size(), 0);
    for (std::size_t i = expected.value.size() - static_cast<std::size_t>(config_.kv_width());
         i < expected.value.size(); ++i) {
      expected.value[i] = 0.0;
      expected.unknown[i] = 1;
    }
  }
  if (!query.with_noise) return expected;
  expected.sigma_shared.assign(expected.value.size(), 0.0F);
  const double sums = 4.0 * unit_roundoff(query.precision.accumulate) * largest(expected.value);
  double further = 0.0;
  if (query.operations.size() > 1) {
    const Values stored = follow(query, {&query.precision});
    for (std::size_t i = 0; i < stored.size(); ++i) further += std::pow(stored[i] - expected.value[i], 2);
    further = std::sqrt(further / static_cast<double>(stored.size()));
  }
  if (is_product(target.id.op) && query.precision.quantized != QuantizedInputs::kNone) further += 0.05;
  const bool coarse =
      query.variant != nullptr && query.variant->id == FaultId::kAccBf16 && target.id.op == Op::kDownProj;
  if (coarse) further += 2.0 * unit_roundoff(DType::kBF16) * largest(expected.value);
  for (double value : expected.value) {
    double variance = sums * sums + further * further;
    for (RoundingPoint point : points_of(target.id.op)) {
      if (!query.precision.points.contains(point)) continue;
      if (point == RoundingPoint::kRopeTable || point == RoundingPoint::kRopeProducts) variance += 0.5 * kTurn * kTurn;
      variance += std::pow(unit_roundoff(query.precision.at(point)) * value, 2) / 3.0;
    }
    expected.sigma_independent.push_back(expected.exact ? 0.0F : static_cast<float>(std::sqrt(variance)));
  }
  return expected;
}

std::vector<double> ToyOracle::emulate(const Query& query) {
  ++asked[query.variant == nullptr ? std::nullopt : std::optional(query.variant->id)];
  return follow(query, {&query.precision, query.divides_last});
}

// ---- The engine ----

class ToySession final : public Session {
 public:
  ToySession(const ToyEngine& engine, const SessionOptions& options)
      : engine_(engine), fault_(engine.fault_), unwritten_(engine.poison_value(options.poison)) {}

  TensorView run_embedding(const Step& step, TensorSink* sink) override {
    return run_rows(Scope::kBeforeLayers, kNoLayer, step, nullptr, sink);
  }
  TensorView run_layer(int layer, const Step& step, const TensorView& input, TensorSink* sink) override {
    return run_rows(Scope::kLayer, layer, step, &input, sink);
  }
  TensorView run_head(const Step& step, const TensorView& input, TensorSink* sink) override {
    return run_rows(Scope::kAfterLayers, kNoLayer, step, &input, sink);
  }
  TensorView run_step(const Step& step, TensorSink* sink) override {
    Tensor residual = Tensor::copy_of(run_embedding(step, sink));
    for (int layer = 0; layer < toy_config().num_layers; ++layer) {
      residual = Tensor::copy_of(run_layer(layer, step, residual.view(), sink));
    }
    return run_head(step, residual.view(), sink);
  }

 private:
  TensorView run_rows(Scope scope, int layer, const Step& step, const TensorView* input, TensorSink* sink) {
    const ModelConfig config = toy_config();
    const bool here = fault_ && (!fault_->layer || *fault_->layer == layer);
    const Told told = here ? told_by(fault_->id, fault_->value) : Told{};
    const Tensor* last = nullptr;
    for (const OperationRow& operation : kOperationTable) {
      if (operation.scope != scope) continue;
      const TensorId id{operation.op, layer};
      std::vector<Values> inputs;
      for (const Input& from : operation.inputs) {
        if (from.from == From::kResidual) {
          inputs.push_back(to_doubles(*input));
          continue;
        }
        const TensorKey key{from.from == From::kPreviousStep ? step.index - 1 : step.index, resolve(from, id, config)};
        inputs.push_back(key.step < 0 ? Values{} : to_doubles(tensors_.at(key).view()));
      }
      const Shape shape = output_shape(id.op, config, step.batch(), step.num_tokens(), step.valid_length());
      Tensor& tensor = tensors_[{step.index, id}];
      tensor =
          Tensor::rounded(engine_.really_.activations, shape, value_of(id, step, told, {&engine_.really_}, inputs));
      if (told.last_slot_unwritten && id.op == Op::kKCache) {
        for (std::int64_t i = tensor.size() - config.kv_width(); i < tensor.size(); ++i) tensor.set(i, unwritten_);
      }
      if (engine_.change) engine_.change(step.index, id, tensor);
      if (engine_.reads_unwritten && id.op == Op::kLmHead) tensor.set(0, unwritten_);
      if (sink != nullptr && engine_.hands_out(id)) sink->take(id, tensor.view());
      last = &tensor;
    }
    if (engine_.overwrites_down_proj && scope == Scope::kLayer)
      tensors_[{step.index, {Op::kDownProj, layer}}].set(0, 7);
    return last->view();
  }

  const ToyEngine& engine_;
  std::optional<Fault> fault_;  // planted when the session was opened
  double unwritten_;
  std::map<TensorKey, Tensor> tensors_;
};

std::unique_ptr<Session> ToyEngine::open(const SessionOptions& options) {
  return std::make_unique<ToySession>(*this, options);
}

double ToyEngine::poison_value(Poison poison) const {
  return poison == Poison::kNaN ? std::numeric_limits<double>::quiet_NaN() : 1e4;
}

void ToyEngine::plant(const Fault& fault) {
  if (find_variant(toy_catalogue(), fault.id) == nullptr)
    throw InputError("the toy engine plants no " + to_string(fault));
  fault_ = fault;
}

void ToyWeights::read(const WeightInfo& info, std::int64_t first, std::int64_t count,
                      std::span<std::byte> destination) const {
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t element = first + i;
    const double value = offset_ + embedding(element / config_.hidden, element % config_.hidden);
    store_element(destination.data(), info.dtype, static_cast<std::size_t>(i), value);
  }
}

trace::Recording toy_recording(Engine& engine, const CaseInput& input) {
  trace::Recording recording;
  const auto session = engine.open({.batch = input.steps.front().batch(),
                                    .capacity = input.capacity,
                                    .left_padding = input.steps.front().left_padding});
  for (const Step& step : input.steps) {
    trace::RecordingSink sink(recording, step.index);
    session->run_step(step, &sink);
  }
  return recording;
}

}  // namespace qdiff::diagnose
