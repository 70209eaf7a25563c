// What the reference computed, as tensors of a store, and back to the last bit.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "harness/contract/oracle.h"
#include "harness/contract/tensor.h"
#include "harness/reference_cache/store.h"

namespace qdiff::reference_cache {

// Tensors and words of one value. It refers to what is added.
class Parts {
 public:
  void add(const Expectation& expectation);
  // What emulate() gave: numbers of the stored type, each of which that type holds.
  void add(const std::vector<double>& values, DType stored);
  void add(const std::string& name, const TensorView& tensor);

  Words words;
  std::vector<Part> parts;

 private:
  void add_deviations(const std::string& name, const Shape& shape, const std::vector<float>& deviations);
  std::deque<Tensor> made_;  // what has another form than it had; parts point at their bytes
};

// They throw Damaged where that is no such value.
Expectation expectation_in(const Found& found);
std::vector<double> values_in(const Found& found);
Tensor tensor_in(const Found& found, const std::string& name);

}  // namespace qdiff::reference_cache
