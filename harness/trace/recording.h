// What a candidate handed out, kept in host memory, and the sink that keeps it.
//
// An engine's buffers are its own: it may reuse one as soon as a part of a step is over. The sink therefore copies each
// tensor at the moment it is handed out, and remembers where it lay so that a write to it later in the same part, which
// would make the copy differ from what the engine went on with, does not pass unseen.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "harness/contract/engine.h"
#include "harness/contract/oracle.h"

namespace qdiff::trace {

// All recorded tensors of one case. Views that get() returns stay valid until that tensor is erased.
class Recording final : public TensorStore {
 public:
  bool has(const TensorKey& key) const override { return tensors_.contains(key); }
  TensorView get(const TensorKey& key) const override;

  // Throws std::logic_error if the tensor is already there: one step puts out each tensor once.
  void put(const TensorKey& key, Tensor tensor);
  void erase(const TensorKey& key);

  std::vector<TensorKey> keys() const;  // by step, then in execution order
  std::size_t size() const { return tensors_.size(); }
  std::size_t bytes() const { return bytes_; }  // of all tensors held

 private:
  std::map<TensorKey, Tensor> tensors_;
  std::size_t bytes_ = 0;
};

// Fills a Recording with the tensors of one step. Not thread-safe: an engine hands tensors out in execution order.
class RecordingSink final : public TensorSink {
 public:
  // Both must outlive the sink.
  RecordingSink(Recording& recording, int step) : recording_(recording), step_(step) {}

  // Throws std::logic_error on a tensor that this step already put out, on a view without data and on a view that is
  // not in host memory.
  void take(const TensorId& id, const TensorView& view) override;

  // Names of the tensors taken since the last call whose buffer no longer holds, bit for bit, what was taken; in the
  // order they were taken. Call it after each part of a step, while the engine's buffers are still valid: it forgets
  // them afterwards, for the next part may use them again.
  std::vector<std::string> verify_unchanged();

 private:
  struct Live {
    TensorId id;
    const void* data;
  };
  Recording& recording_;
  int step_;
  std::vector<Live> live_;
};

}  // namespace qdiff::trace
