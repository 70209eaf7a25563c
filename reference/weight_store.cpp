#include "reference/weight_store.h"

#include <c10/core/CachingDeviceAllocator.h>

#include <algorithm>
#include <map>

#include "reference/memory.h"

namespace qdiff::reference {
namespace {

constexpr std::int64_t kBlockElements = std::int64_t{1} << 22;  // 32 MiB in fp64
constexpr std::int64_t kLargestKept = std::int64_t{1} << 27;    // 1 GiB in fp64: larger ones go in blocks
constexpr std::int64_t kReadAtOnce = std::int64_t{1} << 18;     // elements, of a thread
constexpr std::int64_t kStagedAtOnce = std::int64_t{1} << 25;   // elements, on their way to a GPU

bool is_vocabulary_matrix(const WeightInfo& info, const ModelConfig& config) {
  return info.shape.size() == 2 && info.shape[0] == config.vocab && info.name.find("layers.") == std::string::npos;
}

// All weights as stored, where they take no more than a third of what is free on the GPU.
std::size_t stored_on_device(const WeightSource& source) {
  std::size_t bytes = 0;
  for (const WeightInfo& info : source.weights()) {
    bytes += static_cast<std::size_t>(num_elements(info.shape)) * size_of(info.dtype);
  }
  const std::size_t free_bytes = at::getDeviceAllocator(at::kCUDA)->getMemoryInfo(device().index()).first;
  return bytes <= free_bytes / 3 ? std::max(bytes, kKeptOnDevice) : kKeptOnDevice;
}

// Writes what was stored into `values`, in the form that is wanted.
void convert(const at::Tensor& stored, DType stored_type, const WeightForm& form, const at::Tensor& values) {
  at::Tensor rounded = stored;
  if (stored_type != form.rounded_to && size_of(form.rounded_to) <= size_of(stored_type)) {
    // bfloat16 and float16 hold different numbers, so the way between them goes through fp32, which holds both.
    const bool through_float = size_of(stored_type) == 2;
    rounded =
        through_float ? round_to(form.rounded_to, stored.to(at::kFloat)) : stored.to(scalar_type(form.rounded_to));
  }
  values.copy_(rounded.view(values.sizes()));
  if (form.squared) values.square_();
}

}  // namespace

WeightStore::WeightStore(const WeightSource& source) : source_(source) {
  const WeightBudget budget = weight_budget(config());
  converted_.budget = device().is_cpu() ? budget.converted : kKeptOnDevice;
  stored_ = device().is_cpu() ? std::make_shared<Stored>(budget.stored) : Stored::on_device(source);
}

// The reference engine and the oracle read the same weights, and a GPU has room for one set: the end-to-end case of a
// synthetic 7B took 25 s where each made them for itself, and 21 s since.
std::shared_ptr<WeightStore::Stored> WeightStore::Stored::on_device(const WeightSource& source) {
  static std::mutex mutex;
  static std::map<const WeightSource*, std::weak_ptr<Stored>> of_source;
  const std::lock_guard lock(mutex);
  std::erase_if(of_source, [](const auto& entry) { return entry.second.expired(); });
  std::weak_ptr<Stored>& known = of_source[&source];
  if (std::shared_ptr<Stored> stored = known.lock()) return stored;
  const auto stored = std::make_shared<Stored>(stored_on_device(source));
  known = stored;
  return stored;
}

const at::Tensor* WeightStore::Kept::find(const std::string& name, const WeightForm& form) {
  const auto found =
      std::ranges::find_if(entries, [&](const Entry& entry) { return entry.name == name && entry.form == form; });
  if (found == entries.end()) return nullptr;
  entries.splice(entries.begin(), entries, found);
  return &entries.front().tensor;
}

at::Tensor WeightStore::Kept::room_for(const Shape& shape, at::ScalarType type) {
  const std::size_t needed = static_cast<std::size_t>(num_elements(shape)) * at::elementSize(type);
  at::Tensor free;
  while (bytes + needed > budget && !entries.empty()) {
    at::Tensor last = std::move(entries.back().tensor);
    entries.pop_back();
    bytes -= last.nbytes();
    // Copies of a tensor count its users, views of it those of its storage.
    const bool unused = last.use_count() == 1 && last.storage().use_count() == 1;
    if (unused && last.nbytes() == needed && last.scalar_type() == type) free = last.view(shape);
  }
  return free.defined() ? free : at::empty(shape, of_type(type));
}

void WeightStore::Kept::add(Entry entry) {
  bytes += entry.tensor.nbytes();
  entries.push_front(std::move(entry));
}

void WeightStore::read(const WeightInfo& info, std::int64_t first, const at::Tensor& stored) const {
  const std::size_t size = size_of(info.dtype);
  // In parallel, because a synthetic model computes what it "reads".
  const auto fill = [&](const at::Tensor& part, std::int64_t from) {
    auto* to = static_cast<std::byte*>(part.mutable_data_ptr());
    at::parallel_for(0, part.numel(), kReadAtOnce, [&](std::int64_t begin, std::int64_t end) {
      source_.read(info, first + from + begin, end - begin,
                   {to + static_cast<std::size_t>(begin) * size, static_cast<std::size_t>(end - begin) * size});
    });
  };
  if (device().is_cpu()) return fill(stored, 0);
  // A GPU takes memory that is pinned several times as fast.
  const std::int64_t count = stored.numel();
  const at::Tensor staged =
      at::empty({std::min(count, kStagedAtOnce)}, at::dtype(stored.scalar_type()).pinned_memory(true));
  for (std::int64_t from = 0; from < count; from += kStagedAtOnce) {
    const at::Tensor part = staged.narrow(0, 0, std::min(kStagedAtOnce, count - from));
    fill(part, from);
    stored.narrow(0, from, part.numel()).copy_(part);
  }
}

at::Tensor WeightStore::kept_or_read(const WeightInfo& info, std::int64_t first, std::int64_t count) {
  const std::int64_t elements = num_elements(info.shape);
  const WeightForm as_stored = {info.dtype, scalar_type(info.dtype), false};
  const std::lock_guard lock(stored_->mutex);
  Kept& kept = stored_->kept;
  if (static_cast<std::size_t>(elements) * size_of(info.dtype) > kept.budget) {
    at::Tensor part = at::empty({count}, of_type(as_stored.compute));
    read(info, first, part);
    return part;
  }
  if (kept.find(info.name, as_stored) == nullptr) {
    const at::Tensor whole = kept.room_for({elements}, as_stored.compute);
    read(info, 0, whole);
    kept.add({info.name, as_stored, whole});
  }
  return kept.find(info.name, as_stored)->narrow(0, first, count);
}

at::Tensor WeightStore::get(const std::string& name, const WeightForm& form) {
  if (const at::Tensor* kept = converted_.find(name, form)) return *kept;
  const WeightInfo& info = source_.find(name);
  const at::Tensor stored = kept_or_read(info, 0, num_elements(info.shape));
  at::Tensor values = converted_.room_for(info.shape, form.compute);
  convert(stored, info.dtype, form, values);
  converted_.add({name, form, values});
  return values;
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
  at::Tensor values = at::empty(shape, of_type(form.compute));
  convert(stored.to(device()), info.dtype, form, values);
  return values;
}

void WeightStore::for_each_block(const std::string& name, const WeightForm& form,
                                 const std::function<void(std::int64_t, const at::Tensor&)>& f) {
  const WeightInfo& info = source_.find(name);
  const std::int64_t elements = num_elements(info.shape);
  if (elements <= (is_vocabulary_matrix(info, config()) ? kBlockElements : kLargestKept)) return f(0, get(name, form));
  const std::int64_t columns = info.shape[1];
  const std::int64_t block = std::max<std::int64_t>(1, kBlockElements / columns);
  const at::Tensor room = at::empty({std::min(block, info.shape[0]), columns}, of_type(form.compute));
  for (std::int64_t first = 0; first < info.shape[0]; first += block) {
    const std::int64_t rows = std::min(block, info.shape[0] - first);
    const at::Tensor stored = kept_or_read(info, first * columns, rows * columns);
    const at::Tensor values = room.narrow(0, 0, rows);
    convert(stored, info.dtype, form, values);
    f(first, values);
  }
}

}  // namespace qdiff::reference
