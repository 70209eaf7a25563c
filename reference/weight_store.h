// A model's weights as tensors, each read when an operation asks for it: rounded once to Precision::weights, then
// widened to the type computed in. About one layer is kept, so that a walk which stays in a layer converts it once.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <string>

#include "harness/contract/weights.h"
#include "reference/torch.h"

namespace qdiff::reference {

// How a weight is wanted.
struct WeightForm {
  DType rounded_to = DType::kBF16;
  at::ScalarType compute = at::kDouble;
  bool squared = false;  // element by element, for the noise of dot products
  bool operator==(const WeightForm&) const = default;
};

class WeightStore {
 public:
  explicit WeightStore(const WeightSource& source);

  const ModelConfig& config() const { return source_.config(); }
  const Shape& shape(const std::string& name) const { return source_.find(name).shape; }
  at::Tensor get(const std::string& name, const WeightForm& form);
  // Rows of a [rows, columns] weight, [indices.size(), columns].
  at::Tensor gather_rows(const std::string& name, const std::vector<std::int64_t>& indices, const WeightForm& form);
  // f(first_row, rows) over a [rows, columns] weight in order: in one piece where it is kept, else in blocks, so that a
  // vocabulary's matrix never stands in memory as a whole.
  void for_each_block(const std::string& name, const WeightForm& form,
                      const std::function<void(std::int64_t, const at::Tensor&)>& f);

 private:
  struct Entry {
    std::string name;
    WeightForm form;
    at::Tensor tensor;
  };
  at::Tensor load(const WeightInfo& info, std::int64_t first, std::int64_t count, const Shape& shape,
                  const WeightForm& form) const;

  const WeightSource& source_;
  std::size_t budget_;       // bytes
  std::size_t kept_ = 0;     // bytes
  std::list<Entry> recent_;  // the latest used first
};

}  // namespace qdiff::reference
