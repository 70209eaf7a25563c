// A model's weights as tensors, each read when an operation asks for it: rounded once to Precision::weights, then
// widened to the type computed in. About one layer is kept, so that a walk which stays in a layer converts it once; and
// of what was read, about one layer and the vocabulary's matrix, as stored.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
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
  const WeightInfo& info(const std::string& name) const { return source_.find(name); }
  const Shape& shape(const std::string& name) const { return info(name).shape; }
  at::Tensor get(const std::string& name, const WeightForm& form);
  // Rows of a [rows, columns] weight, [indices.size(), columns].
  at::Tensor gather_rows(const std::string& name, const std::vector<std::int64_t>& indices,
                         const WeightForm& form) const;
  // f(first_row, rows) over a [rows, columns] weight in order: in one piece where it is kept, else in blocks, so that a
  // vocabulary's matrix never stands in memory as a whole. A block is overwritten by the next.
  void for_each_block(const std::string& name, const WeightForm& form,
                      const std::function<void(std::int64_t, const at::Tensor&)>& f);

 private:
  struct Entry {
    std::string name;
    WeightForm form;
    at::Tensor tensor;
  };
  // The latest used first, at most `budget` bytes, but always the latest.
  struct Kept {
    std::list<Entry> entries;
    std::size_t bytes = 0;
    std::size_t budget = 0;

    const at::Tensor* find(const std::string& name, const WeightForm& form);
    // Memory for what is added next: where it can, that of an entry which has to go and which nobody holds. Memory that
    // is asked for anew costs a page fault for every 4 KiB, which was half of the time of a walk through a 0.5B.
    at::Tensor room_for(const Shape& shape, at::ScalarType type);
    void add(Entry entry);
  };

  // What is kept as stored, of one store, or on a GPU of all stores of a source.
  struct Stored {
    explicit Stored(std::size_t budget) { kept.budget = budget; }
    static std::shared_ptr<Stored> on_device(const WeightSource& source);

    std::mutex mutex;
    Kept kept;
  };

  // Reads the elements from `first` on into `stored`.
  void read(const WeightInfo& info, std::int64_t first, const at::Tensor& stored) const;
  // Elements [first, first + count) as stored: from the file, or from what is kept.
  at::Tensor kept_or_read(const WeightInfo& info, std::int64_t first, std::int64_t count);

  const WeightSource& source_;
  Kept converted_;
  std::shared_ptr<Stored> stored_;
};

}  // namespace qdiff::reference
