#include "harness/contract/weights.h"

#include <algorithm>

#include "harness/contract/error.h"

namespace qdiff {

const WeightInfo& WeightSource::find(const std::string& name) const {
  const auto found =
      std::find_if(weights().begin(), weights().end(), [&](const WeightInfo& w) { return w.name == name; });
  if (found == weights().end()) {
    throw InputError(description() + ": the model has no weight \"" + name + "\"; is the checkpoint complete?");
  }
  return *found;
}

Tensor WeightSource::read_all(const std::string& name) const {
  const WeightInfo& info = find(name);
  Tensor tensor(info.dtype, info.shape);
  read(info, 0, tensor.size(), tensor.bytes());
  return tensor;
}

}  // namespace qdiff
