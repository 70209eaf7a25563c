// The reference as a candidate: the rows of the table one after the other, each through evaluate_row(), each rounded as
// declared and then handed out. It goes on with exactly the tensors that it hands out.
#include <algorithm>
#include <map>
#include <stdexcept>

#include "harness/contract/error.h"
#include "harness/contract/session_checks.h"
#include "reference/evaluation.h"
#include "reference/memory.h"
#include "reference/mistakes.h"
#include "reference/reference.h"
#include "reference/walk.h"

namespace qdiff::reference {
namespace {

using enum Op;

// Products of the present layer that right code computed, for the sessions that follow: where a bug does nothing they
// multiply the same once more. Sessions that walk side by side ask for a layer one after the other.
class SharedProducts {
 public:
  // `compute` where no session of this layer and step has had this input.
  template <typename Compute>
  at::Tensor of(Op op, const Setting& setting, const at::Tensor& input, Compute compute) {
    if (setting.layer != layer_) {
      products_.clear();
      elements_ = 0;
      layer_ = setting.layer;
    }
    std::vector<Product>& products = products_[{op, setting.step.index}];
    for (Product& product : products) {
      if (!has_bits_of(product.input, input)) continue;
      ++product.hits;
      return product.value;
    }
    const at::Tensor value = compute();
    const std::int64_t elements = input.numel() + value.numel();
    if (products.size() == kMostSharedOfStep) {
      const auto least = std::ranges::min_element(products, {}, &Product::hits);
      elements_ -= least->input.numel() + least->value.numel();
      products.erase(least);
    }
    if (elements_ + elements > kMostSharedProducts) return value;
    elements_ += elements;
    products.push_back({input, value});
    return value;
  }

 private:
  struct Product {
    at::Tensor input, value;
    int hits = 0;
  };
  int layer_ = kNoLayer;
  std::int64_t elements_ = 0;
  std::map<std::pair<Op, int>, std::vector<Product>> products_;  // by operation and step
};

struct PlantedVariant {
  std::optional<Variant> variant, beside;
  std::optional<Rounding> rounding;  // of a fault that is a rounding
  std::optional<int> layer;
};

// What a session shares with the engine that opened it.
struct Machine {
  WeightStore weights;
  Precision precision;
  Rounding rounding;
  PlantedVariant planted;
  std::vector<PlantedMistake> mistakes;
  std::int64_t planted_executions = 0;
  SharedProducts products;

  Machine(const WeightSource& source, const Precision& p)
      : weights(source), precision(p), rounding(Rounding::emulated(p)) {}
};

class TorchSession : public Session {
 public:
  TorchSession(Machine& machine, SessionOptions options)
      : machine_(machine),
        options_(std::move(options)),
        planted_(machine.planted),
        caches_(static_cast<std::size_t>(config().num_layers)),
        history_(options_.capacity) {
    for (const PlantedMistake& planted : machine_.mistakes) {
      history_.remembered.insert(planted.remembered().begin(), planted.remembered().end());
    }
  }

  TensorView run_embedding(const Step& step, TensorSink* sink) override {
    const WithoutAutograd without_autograd;
    check(step);
    remember(step);
    std::map<Op, at::Tensor> here;
    return run_rows(Scope::kBeforeLayers, kNoLayer, step, here, at::Tensor(), sink);
  }

  TensorView run_layer(int layer, const Step& step, const TensorView& input, TensorSink* sink) override {
    const WithoutAutograd without_autograd;
    check(step);
    if (layer < 0 || layer >= config().num_layers) {
      throw InputError("the reference has layers 0.." + std::to_string(config().num_layers - 1) + ", not " +
                       std::to_string(layer));
    }
    const at::Tensor residual = residual_stream(step, input);
    LayerCache& cache = caches_[static_cast<std::size_t>(layer)];
    const std::int64_t held = cache.keys.defined() ? cache.keys.size(1) : 0;
    if (held != step.past_length) {
      throw InputError("step " + std::to_string(step.index) + " follows " + std::to_string(step.past_length) +
                       " slots, but layer " + std::to_string(layer) + " holds " + std::to_string(held) +
                       "; run the steps of a layer in order");
    }
    std::map<Op, at::Tensor> here;
    remember(step);
    const TensorView output = run_rows(Scope::kLayer, layer, step, here, residual, sink);
    cache = {here.at(kKCache), here.at(kVCache)};
    return output;
  }

  TensorView run_head(const Step& step, const TensorView& input, TensorSink* sink) override {
    const WithoutAutograd without_autograd;
    check(step);
    std::map<Op, at::Tensor> here;
    const TensorView logits = run_rows(Scope::kAfterLayers, kNoLayer, step, here, residual_stream(step, input), sink);
    here.clear();
    // Logits are the largest tensor; another engine may want that room, and the next pass is held against them.
    release_unused_memory(num_elements(logits.shape) * static_cast<std::int64_t>(sizeof(double)));
    return logits;
  }

  TensorView run_step(const Step& step, TensorSink* sink) override {
    TensorView residual = run_embedding(step, sink);
    for (int layer = 0; layer < config().num_layers; ++layer) residual = run_layer(layer, step, residual, sink);
    return run_head(step, residual, sink);
  }

 private:
  struct LayerCache {
    at::Tensor keys, values;  // [B, S, K, d]
  };

  // What a planted fault may ask for, as the operations took it: the tensors of the present step and layer, and of all
  // others what was written to the cache and what `remembered` names.
  class History final : public Surroundings {
   public:
    explicit History(std::int64_t capacity) : capacity_(capacity) {}
    at::Tensor tensor(const TensorKey& key) const override {
      const auto found = tensors.find(key);
      if (found == tensors.end()) throw MissingTensor(key);
      return found->second;
    }
    const std::vector<Step>& steps() const override { return past_steps; }
    std::int64_t capacity() const override { return capacity_; }
    bool is_full(const Step& step) const override { return step.valid_length() == capacity_; }
    double unwritten() const override { return 0.0; }  // this engine starts from zeroed memory

    void begin_part() {
      std::erase_if(tensors, [this](const auto& entry) {
        const Op op = entry.first.id.op;
        return op != kKProj && op != kKRope && op != kVProj && !remembered.contains(op);
      });
    }

    Values tensors;
    std::vector<Step> past_steps;
    std::set<Op> remembered;

   private:
    std::int64_t capacity_;
  };

  // A bug, or keys and values that are taken before they are stored, may ask for any tensor of the session.
  bool remembers() const {
    return planted_.variant || !machine_.mistakes.empty() ||
           machine_.precision.points.contains(RoundingPoint::kKvCachePrefill);
  }

  void remember(const Step& step) {
    if (remembers() && static_cast<std::size_t>(step.index) >= history_.past_steps.size()) {
      history_.past_steps.push_back(step);
    }
  }

  const ModelConfig& config() const { return machine_.weights.config(); }

  void check(const Step& step) const { check_step(step, options_, config(), "the reference"); }

  at::Tensor residual_stream(const Step& step, const TensorView& input) const {
    const Shape wanted = {step.batch(), step.num_tokens(), config().hidden};
    if (input.shape != wanted) {
      throw InputError("step " + std::to_string(step.index) + ": the residual stream has shape " +
                       to_string(input.shape) + " instead of " + to_string(wanted));
    }
    return widen(input, machine_.rounding.compute());
  }

  std::vector<at::Tensor> inputs_of(Op op, int layer, const std::map<Op, at::Tensor>& here,
                                    const at::Tensor& residual) const {
    std::vector<at::Tensor> inputs;
    for (const Input& input : row(op).inputs) {
      if (input.from == From::kResidual) {
        inputs.push_back(residual);
      } else if (input.from == From::kPreviousStep) {
        const LayerCache& cache = caches_[static_cast<std::size_t>(layer)];
        inputs.push_back(op == kKCache ? cache.keys : cache.values);
      } else {
        inputs.push_back(here.at(input.op));
      }
    }
    return inputs;
  }

  // `here` receives what later rows take; the view is of the last row's tensor.
  TensorView run_rows(Scope scope, int layer, const Step& step, std::map<Op, at::Tensor>& here,
                      const at::Tensor& residual, TensorSink* sink) {
    const bool planted = planted_.variant && (!planted_.layer || *planted_.layer == layer);
    const Variant* variant = planted ? &*planted_.variant : nullptr;
    const Rounding& rounding = planted && planted_.rounding ? *planted_.rounding : machine_.rounding;
    Setting setting = {machine_.weights, machine_.precision, rounding, step, layer, 1, variant, &history_};
    if (planted && planted_.beside) setting.beside = &*planted_.beside;
    TensorView view;
    history_.begin_part();
    handed_out_.clear();
    for (const OperationRow& operation : kOperationTable) {
      if (operation.scope != scope) continue;
      const Op op = operation.op;
      const std::vector<at::Tensor> inputs = inputs_of(op, layer, here, residual);
      at::Tensor value = evaluate(op, inputs, setting);
      if (planted) count_if_different(op, inputs, setting, value);
      for (const PlantedMistake& mistake : machine_.mistakes) {
        if (mistake.acts_on(op, setting)) value = evaluate_mistaken(mistake, {op, inputs, setting, value});
      }
      const DType kept = kept_as(op, machine_.precision);
      const at::Tensor rounded = round_to(kept, value);
      here[op] = machine_.precision.taken_as.contains(op) ? machine_.rounding.taken(op, value) : rounded;
      if (remembers()) history_.tensors[{step.index, {op, layer}}] = here[op];
      handed_out_.push_back(rounded.to(scalar_type(kept)).contiguous().cpu());
      view = {handed_out_.back().const_data_ptr(), kept, handed_out_.back().sizes().vec(), {}, nullptr};
      if (sink != nullptr) sink->take({op, layer}, view);
    }
    return view;
  }

  // A fault that attends to other slots than the cache's has no scores and probabilities of their usual shape to go on
  // with: its attention is one piece.
  at::Tensor evaluate(Op op, std::span<const at::Tensor> inputs, const Setting& setting) const {
    try {
      if ((op == kProbs || op == kAttnOutput) && setting.parameters(kScores).attention.slots) {
        const std::vector<at::Tensor> from = {setting.tensor(kQRope), setting.tensor(kKCache), setting.tensor(kVCache)};
        const std::size_t count = op == kProbs ? 2 : 3;
        return evaluate_unit({kScores, op}, std::span(from).first(count), setting);
      }
      return is_right(op) ? evaluate_right(op, inputs, setting) : evaluate_row(op, inputs, setting);
    } catch (const MissingTensor& missing) {
      throw InputError("fault " + std::string(name(planted_.variant->id)) + " needs " + missing.what() +
                       ", which this session has not run");
    }
  }

  // Whether no bug is planted in the operation.
  bool is_right(Op op) const {
    const auto acts = [op](const std::optional<Variant>& variant) {
      return variant && std::ranges::find(fault_facts(variant->id).ops, op) != fault_facts(variant->id).ops.end();
    };
    return !acts(planted_.variant) && !acts(planted_.beside) && !planted_.rounding;
  }

  at::Tensor evaluate_right(Op op, std::span<const at::Tensor> inputs, const Setting& setting) const {
    const auto compute = [&] { return evaluate_row(op, inputs, setting); };
    if (!planted_.variant || arithmetic_of(op) != Arithmetic::kProduct) return compute();
    return machine_.products.of(op, setting, inputs[0], compute);
  }

  void count_if_different(Op op, std::span<const at::Tensor> inputs, const Setting& setting, const at::Tensor& value) {
    const auto& ops = fault_facts(planted_.variant->id).ops;
    if (std::ranges::find(ops, op) == ops.end()) return;
    const Setting right_setting = {
        machine_.weights, machine_.precision, machine_.rounding, setting.step, setting.layer, 1, nullptr, nullptr};
    const at::Tensor right =
        planted_.rounding ? evaluate_row(op, inputs, right_setting) : evaluate_right(op, inputs, right_setting);
    if (!same(right, value)) ++machine_.planted_executions;
  }

  static bool same(const at::Tensor& a, const at::Tensor& b) {
    return a.equal(b) || a.eq(b).logical_or(at::isnan(a).logical_and(at::isnan(b))).all().item<bool>();
  }

  at::Tensor evaluate_mistaken(const PlantedMistake& mistake, const Operation& operation) {
    try {
      const at::Tensor value = mistake(operation);
      if (!same(operation.right, value)) ++machine_.planted_executions;
      return value;
    } catch (const MissingTensor& missing) {
      throw InputError("'" + to_string(mistake.mistake()) + "' needs " + missing.what() +
                       ", which this session has not run by then");
    }
  }

  Machine& machine_;
  SessionOptions options_;
  PlantedVariant planted_;              // when the session was opened
  std::vector<LayerCache> caches_;      // by layer; grown by each step, so that no slot is ever unwritten
  History history_;                     // empty where nothing is planted
  std::vector<at::Tensor> handed_out_;  // by the present part; whoever took one may look at it until the part is over
};

class TorchEngine : public Engine {
 public:
  TorchEngine(const WeightSource& weights, const Precision& precision, const std::vector<Mistake>& mistakes)
      : machine_(weights, precision) {
    for (const Mistake& mistake : mistakes) machine_.mistakes.emplace_back(mistake, weights.config());
  }
  ~TorchEngine() override { release_unused_memory(); }

  std::string name() const override { return "reference"; }
  Device device() const override { return {}; }
  const Precision& precision() const override { return machine_.precision; }
  double poison_value(Poison) const override { return 0.0; }  // memory that a fault reads unwritten is zeroed

  std::unique_ptr<Session> open(const SessionOptions& options) override {
    return std::make_unique<TorchSession>(machine_, checked_session(options, "the reference"));
  }

  std::vector<FaultId> plantable_faults() const override {
    std::vector<FaultId> ids;
    for (const VariantFacts& facts : fault_table()) ids.push_back(facts.id);
    return ids;
  }

  void plant(const Fault& fault) override {
    const Variant variant = {fault.id, fault.value};
    const VariantFacts& facts = fault_facts(fault.id);
    check_fault_layer(fault, machine_.weights.config().num_layers);
    check_plantable(variant);
    machine_.planted = {variant, {}, {}, fault.layer};
    if (facts.declares) {
      Precision rounds = machine_.precision;
      facts.declares->declare(rounds);
      machine_.planted.rounding = Rounding::emulated(rounds);
    }
  }

  void plant_beside(const Variant& variant) override {
    check_plantable(variant);
    machine_.planted.beside = variant;
  }

  std::int64_t planted_executions() const override { return machine_.planted_executions; }

 private:
  void check_plantable(const Variant& variant) const {
    check_fault_value({variant.id, variant.value, std::nullopt});
    try {
      const Step any_step;
      for (Op op : fault_facts(variant.id).ops) {
        parameters_at({.op = op, .layer = kNoLayer, .step = any_step, .config = machine_.weights.config()}, &variant);
      }
    } catch (const std::invalid_argument& error) {
      throw InputError("fault " + std::string(qdiff::name(variant.id)) + ": " + error.what());
    }
  }

  Machine machine_;
};

}  // namespace

std::unique_ptr<Engine> make_engine(const WeightSource& weights, const Precision& precision, const Options& options,
                                    const std::vector<Mistake>& mistakes) {
  use_threads(options.num_threads, weights.config());
  use_device(options.where, weights.config());
  keep_freed_memory();
  return std::make_unique<TorchEngine>(weights, precision, mistakes);
}

}  // namespace qdiff::reference
