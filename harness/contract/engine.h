// A candidate: something that runs the forward pass and hands out its tensors. The optimized engines implement this,
// and so does the reference, which makes it recordable and comparable like any other.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "harness/contract/error.h"
#include "harness/contract/fault.h"
#include "harness/contract/fault_table.h"
#include "harness/contract/operation_table.h"
#include "harness/contract/precision.h"
#include "harness/contract/step.h"
#include "harness/contract/tensor.h"
#include "harness/contract/weights.h"

namespace qdiff {

// Receives each named tensor where it is produced. The view is the engine's own buffer: snapshot it at once.
class TensorSink {
 public:
  virtual ~TensorSink() = default;
  virtual void take(const TensorId& id, const TensorView& view) = 0;
};

// What buffers hold before they are first written: cache slots, scratch, outputs.
enum class Poison : std::uint8_t { kNaN, kLargeFinite };

// One matrix product as the engine calls it: out[M, n] = x[M, k] . weight (+ bias), M the tokens of a step. Leading
// dimensions are the distance from one row to the next, in elements; equal to the row's length where rows are packed.
struct GemmFacts {
  std::string name;  // "self_attn.q_proj"; a fused one names its parts, "mlp.gate_proj+up_proj"
  std::int64_t layers = 1;
  std::int64_t n = 0;
  std::int64_t k = 0;
  bool weight_is_n_by_k = true;  // in memory, and so read as its transpose; else [k, n]
  std::int64_t x_stride = 0;
  std::int64_t weight_stride = 0;
  std::int64_t out_stride = 0;
  std::optional<std::int64_t> bias_length = {};  // of the bias in memory; none: the product takes no bias
};

struct SessionOptions {
  std::int64_t batch = 1;                  // B
  std::int64_t capacity = 0;               // cache slots of each row, at least the final S
  std::vector<std::int64_t> left_padding;  // [B]
  Poison poison = Poison::kNaN;
};

// One batch of sequences with a KV cache of its own. Steps are run in order of index. Calls throw qdiff::InputError on
// a step that does not fit the session.
class Session {
 public:
  virtual ~Session() = default;

  // Parts of a step, each from a given input. Every call hands the tensors of its rows to `sink` (which may be null),
  // in execution order. The returned view is valid until the next call on this session.
  virtual TensorView run_embedding(const Step& step, TensorSink* sink) = 0;  // [B,T,D]
  // `input` is the residual stream [B,T,D], in the engine's activations dtype, in host memory. Cache and positions are
  // the session's own. For each layer, steps arrive in order.
  virtual TensorView run_layer(int layer, const Step& step, const TensorView& input, TensorSink* sink) = 0;  // [B,T,D]
  virtual TensorView run_head(const Step& step, const TensorView& input, TensorSink* sink) = 0;              // [B,T,V]

  // The whole step, feeding itself. Equal bits to the three parts in a row.
  virtual TensorView run_step(const Step& step, TensorSink* sink) = 0;
};

class Engine {
 public:
  virtual ~Engine() = default;
  virtual std::string name() const = 0;  // "cpu"
  virtual Device device() const = 0;
  virtual const Precision& precision() const = 0;
  virtual std::unique_ptr<Session> open(const SessionOptions& options) = 0;

  // What a cache that starts as `poison` reads as, in the engine's activations: NaN for Poison::kNaN, unless a planted
  // fault fills it with something else.
  virtual double poison_value(Poison poison) const = 0;

  // Its matrix products, of a layer in execution order, without any planted fault; empty where the engine does not
  // tell. May read weights.
  virtual std::vector<GemmFacts> gemms() { return {}; }

  // The faults that this engine can plant, in the order of the fault table.
  virtual std::vector<FaultId> plantable_faults() const { return {}; }
  // Throws qdiff::InputError for a fault that plantable_faults() does not list, a value that check_fault_value()
  // refuses or a layer that the model lacks, and then changes nothing. Holds for sessions opened afterwards.
  virtual void plant(const Fault& fault) = 0;
  // A second one, in every layer beside what plant() was given last, which takes it away again. Throws InputError where
  // the engine has no two at once.
  virtual void plant_beside(const Variant& variant);
  // How often planted code ran in a place where it differs from the right code (a wrong head index, say).
  virtual std::int64_t planted_executions() const { return 0; }
};

inline void Engine::plant_beside(const Variant& variant) {
  throw InputError("the engine " + name() + " plants one fault at a time; " + std::string(qdiff::name(variant.id)) +
                   " would be a second");
}

}  // namespace qdiff
