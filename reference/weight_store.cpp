#include "reference/weight_store.h"

#include <algorithm>

#include "harness/contract/operation_table.h"

namespace qdiff::reference {
namespace {

constexpr std::int64_t kBlockElements = std::int64_t{1} << 23;   // 64 MiB in fp64
constexpr std::int64_t kLargestKept = std::int64_t{1} << 27;     // 1 GiB in fp64: larger matrices go in blocks
constexpr std::size_t kSmallestBudget = std::size_t{256} << 20;  // bytes
constexpr std::size_t kLargestBudget = std::size_t{4} << 30;     // bytes
constexpr std::size_t kBytesOfBothForms = sizeof(double) + sizeof(float);  // fp64, and fp32 squared

bool is_vocabulary_matrix(const WeightInfo& info, const ModelConfig& config) {
  return info.shape.size() == 2 && info.shape[0] == config.vocab && info.name.find("layers.") == std::string::npos;
}

// One layer in both forms, with a tenth to spare.
std::size_t budget_for(const ModelConfig& config) {
  std::int64_t elements = 0;
  for (const OperationRow& operation : kOperationTable) {
    if (operation.scope != Scope::kLayer) continue;
    for (std::size_t i = 0; i < operation.weights.size(); ++i) {
      elements += num_elements(weight_shape(operation.op, i, config));
    }
  }
  const auto wanted = static_cast<std::size_t>(elements) * kBytesOfBothForms / 10 * 11;
  return std::clamp(wanted, kSmallestBudget, kLargestBudget);
}

}  // namespace

WeightStore::WeightStore(const WeightSource& source) : source_(source), budget_(budget_for(source.config())) {}

at::Tensor WeightStore::load(const WeightInfo& info, std::int64_t first, std::int64_t count, const Shape& shape,
                             const WeightForm& form) const {
  const at::Tensor raw = at::empty({count}, at::dtype(scalar_type(info.dtype)));
  source_.read(
      info, first, count,
      {static_cast<std::byte*>(raw.mutable_data_ptr()), static_cast<std::size_t>(count) * size_of(info.dtype)});
  at::Tensor values = raw;
  if (info.dtype != form.rounded_to && size_of(form.rounded_to) <= size_of(info.dtype)) {
    // bfloat16 and float16 hold different numbers, so the way between them goes through fp32, which holds both.
    const bool through_float = size_of(info.dtype) == 2;
    values = through_float ? round_to(form.rounded_to, raw.to(at::kFloat)) : raw.to(scalar_type(form.rounded_to));
  }
  values = values.to(form.compute).view(shape);
  return form.squared ? values.square() : values;
}

at::Tensor WeightStore::get(const std::string& name, const WeightForm& form) {
  const auto found = std::find_if(recent_.begin(), recent_.end(),
                                  [&](const Entry& entry) { return entry.name == name && entry.form == form; });
  if (found != recent_.end()) {
    recent_.splice(recent_.begin(), recent_, found);
    return recent_.front().tensor;
  }
  const WeightInfo& info = source_.find(name);
  const at::Tensor tensor = load(info, 0, num_elements(info.shape), info.shape, form);
  kept_ += tensor.nbytes();
  recent_.push_front({name, form, tensor});
  while (kept_ > budget_ && recent_.size() > 1) {
    kept_ -= recent_.back().tensor.nbytes();
    recent_.pop_back();
  }
  return tensor;
}

at::Tensor WeightStore::gather_rows(const std::string& name, const std::vector<std::int64_t>& indices,
                                    const WeightForm& form) {
  const WeightInfo& info = source_.find(name);
  const std::int64_t columns = info.shape.back();
  at::Tensor rows = at::empty({static_cast<std::int64_t>(indices.size()), columns}, at::dtype(form.compute));
  for (std::size_t i = 0; i < indices.size(); ++i) {
    rows.select(0, static_cast<std::int64_t>(i)).copy_(load(info, indices[i] * columns, columns, {columns}, form));
  }
  return rows;
}

void WeightStore::for_each_block(const std::string& name, const WeightForm& form,
                                 const std::function<void(std::int64_t, const at::Tensor&)>& f) {
  const WeightInfo& info = source_.find(name);
  const std::int64_t elements = num_elements(info.shape);
  if (elements <= (is_vocabulary_matrix(info, config()) ? kBlockElements : kLargestKept)) return f(0, get(name, form));
  const std::int64_t columns = info.shape[1];
  const std::int64_t block = std::max<std::int64_t>(1, kBlockElements / columns);
  for (std::int64_t first = 0; first < info.shape[0]; first += block) {
    const std::int64_t rows = std::min(block, info.shape[0] - first);
    f(first, load(info, first * columns, rows * columns, {rows, columns}, form));
  }
}

}  // namespace qdiff::reference
