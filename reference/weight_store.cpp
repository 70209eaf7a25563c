#include "reference/weight_store.h"

#include <algorithm>

#include "reference/memory.h"

namespace qdiff::reference {
namespace {

constexpr std::int64_t kBlockElements = std::int64_t{1} << 22;  // 32 MiB in fp64
constexpr std::int64_t kLargestKept = std::int64_t{1} << 27;    // 1 GiB in fp64: larger ones go in blocks
constexpr std::size_t kOnDevice = std::size_t{12} << 30;        // bytes, of either kind in a GPU's memory
constexpr std::int64_t kReadAtOnce = std::int64_t{1} << 18;     // elements, of a thread

bool is_vocabulary_matrix(const WeightInfo& info, const ModelConfig& config) {
  return info.shape.size() == 2 && info.shape[0] == config.vocab && info.name.find("layers.") == std::string::npos;
}

at::Tensor convert(const at::Tensor& stored, DType stored_type, const Shape& shape, const WeightForm& form) {
  at::Tensor values = stored;
  if (stored_type != form.rounded_to && size_of(form.rounded_to) <= size_of(stored_type)) {
    // bfloat16 and float16 hold different numbers, so the way between them goes through fp32, which holds both.
    const bool through_float = size_of(stored_type) == 2;
    values = through_float ? round_to(form.rounded_to, stored.to(at::kFloat)) : stored.to(scalar_type(form.rounded_to));
  }
  values = values.to(form.compute).view(shape);
  return form.squared ? values.square() : values;
}

}  // namespace

WeightStore::WeightStore(const WeightSource& source) : source_(source) {
  const WeightBudget budget = weight_budget(config());
  converted_.budget = device().is_cpu() ? budget.converted : kOnDevice;
  stored_.budget = device().is_cpu() ? budget.stored : kOnDevice;
}

const at::Tensor* WeightStore::Kept::find(const std::string& name, const WeightForm& form) {
  const auto found = std::find_if(entries.begin(), entries.end(),
                                  [&](const Entry& entry) { return entry.name == name && entry.form == form; });
  if (found == entries.end()) return nullptr;
  entries.splice(entries.begin(), entries, found);
  return &entries.front().tensor;
}

void WeightStore::Kept::add(Entry entry) {
  bytes += entry.tensor.nbytes();
  entries.push_front(std::move(entry));
  while (bytes > budget && entries.size() > 1) {
    bytes -= entries.back().tensor.nbytes();
    entries.pop_back();
  }
}

at::Tensor WeightStore::read(const WeightInfo& info, std::int64_t first, std::int64_t count) const {
  const at::Tensor stored = at::empty({count}, at::dtype(scalar_type(info.dtype)));
  auto* to = static_cast<std::byte*>(stored.mutable_data_ptr());
  // In parallel, because a synthetic model computes what it "reads".
  at::parallel_for(0, count, kReadAtOnce, [&](std::int64_t begin, std::int64_t end) {
    const std::size_t size = size_of(info.dtype);
    source_.read(info, first + begin, end - begin,
                 {to + static_cast<std::size_t>(begin) * size, static_cast<std::size_t>(end - begin) * size});
  });
  return stored.to(device());
}

at::Tensor WeightStore::kept_or_read(const WeightInfo& info, std::int64_t first, std::int64_t count) {
  const std::int64_t elements = num_elements(info.shape);
  if (static_cast<std::size_t>(elements) * size_of(info.dtype) > stored_.budget) return read(info, first, count);
  const WeightForm as_stored = {info.dtype, scalar_type(info.dtype), false};
  if (stored_.find(info.name, as_stored) == nullptr) stored_.add({info.name, as_stored, read(info, 0, elements)});
  return stored_.find(info.name, as_stored)->narrow(0, first, count);
}

at::Tensor WeightStore::get(const std::string& name, const WeightForm& form) {
  if (const at::Tensor* kept = converted_.find(name, form)) return *kept;
  const WeightInfo& info = source_.find(name);
  const at::Tensor stored = kept_or_read(info, 0, num_elements(info.shape));
  const at::Tensor tensor = convert(stored, info.dtype, info.shape, form);
  converted_.add({name, form, tensor});
  return tensor;
}

at::Tensor WeightStore::gather_rows(const std::string& name, const std::vector<std::int64_t>& indices,
                                    const WeightForm& form) const {
  const WeightInfo& info = source_.find(name);
  const std::int64_t columns = info.shape.back();
  const Shape shape = {static_cast<std::int64_t>(indices.size()), columns};
  const at::Tensor stored = at::empty(shape, at::dtype(scalar_type(info.dtype)));
  const std::size_t row_bytes = static_cast<std::size_t>(columns) * size_of(info.dtype);
  auto* to = static_cast<std::byte*>(stored.mutable_data_ptr());
  for (std::size_t i = 0; i < indices.size(); ++i) {
    source_.read(info, indices[i] * columns, columns, {to + i * row_bytes, row_bytes});
  }
  return convert(stored.to(device()), info.dtype, shape, form);
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
    const at::Tensor stored = kept_or_read(info, first * columns, rows * columns);
    f(first, convert(stored, info.dtype, {rows, columns}, form));
  }
}

}  // namespace qdiff::reference
