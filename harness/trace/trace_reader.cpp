#include "harness/trace/trace_reader.h"

#include <cmath>
#include <stdexcept>

#include "harness/contract/error.h"
#include "harness/formats/shape_hint.h"
#include "harness/formats/suggest.h"

namespace qdiff::trace {
namespace {

std::string name_of(const std::filesystem::path& path) { return formats::printable(path.string(), 400); }

// Whether a tensor is of a type with more digits than `held` and holds no value that `held` has not.
bool is_widened(const TensorView& view, DType held) {
  if (facts(view.dtype).significant_bits <= facts(held).significant_bits) return false;
  const auto count = static_cast<std::size_t>(num_elements(view.shape));
  for (std::size_t i = 0; i < count; ++i) {
    const double value = load_element(view.data, view.dtype, i);
    if (!std::isnan(value) && round_to(held, value) != value) return false;
  }
  return true;
}

bool is_stored_dtype(const std::optional<DType>& dtype) { return dtype && *dtype != DType::kF64; }

// Absent dimensions are 0, and so is every product with one.
ModelConfig known_dimensions(const DeclaredConfig& declared) {
  ModelConfig config;
  for (const DeclaredNumber& number : kDeclaredNumbers) {
    config.*number.of_model = (declared.*number.declared).value_or(0);
  }
  return config;
}

bool fits(const Shape& actual, const Shape& expected) {
  if (actual.size() != expected.size()) return false;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    if (expected[i] != 0 && actual[i] != expected[i]) return false;
  }
  return true;
}

}  // namespace

Trace::Trace(const std::filesystem::path& directory) : directory_(directory), manifest_(read_manifest(directory)) {
  for (std::size_t step = 0; step < manifest_.steps.size(); ++step) {
    open_step(step, directory / manifest_.files[step]);
  }
}

void Trace::open_step(std::size_t step, const std::filesystem::path& path) {
  const formats::SafetensorsReader reader(path);
  const std::uint64_t data_bytes = reader.header().entries.empty() ? 0 : reader.header().entries.back().end;
  files_.push_back(std::make_unique<File>(File{path, reader.header().data_start + data_bytes, reader.header()}));
  for (const formats::SafetensorsEntry& entry : files_.back()->header.entries) {
    const auto id = parse_tensor_name(entry.name);
    if (!id) {
      unknown_.push_back({static_cast<int>(step), entry.name});
      continue;
    }
    if (!is_stored_dtype(entry.dtype)) {
      throw InputError(name_of(path) + ": " + entry.name + " is " + formats::printable(entry.dtype_name) +
                       ", but a trace holds F32, F16 or BF16; record it as the engine held it");
    }
    places_[{static_cast<int>(step), *id}] = &entry;
    bytes_ += entry.bytes();
  }
}

TensorView Trace::get(const TensorKey& key) const {
  const auto found = places_.find(key);
  if (found == places_.end()) {
    throw std::out_of_range("the trace holds no " + tensor_name(key.id) + " of step " + std::to_string(key.step));
  }
  const std::lock_guard lock(mutex_);
  const auto loaded = loaded_.find(key);
  if (loaded != loaded_.end()) return loaded->second.view();
  const File& file = *files_[static_cast<std::size_t>(key.step)];
  const formats::InputFile input(file.path);
  if (input.size() != file.size) throw InputError(name_of(file.path) + ": changed while it was read; read it again");
  Tensor tensor(*found->second->dtype, found->second->shape);
  input.read(file.header.data_start + found->second->begin, tensor.bytes());
  const DType held = manifest_.precision.activations;
  if (is_widened(tensor.view(), held)) {
    tensor = Tensor::rounded(held, tensor.shape(), to_doubles(tensor.view()));
    widened_.insert(key);
  }
  return loaded_.emplace(key, std::move(tensor)).first->second.view();
}

void Trace::forget() const {
  const std::lock_guard lock(mutex_);
  loaded_.clear();
}

std::set<TensorKey> Trace::widened() const {
  const std::lock_guard lock(mutex_);
  return widened_;
}

std::vector<TensorKey> Trace::keys() const {
  std::vector<TensorKey> keys;
  for (const auto& [key, place] : places_) keys.push_back(key);
  return keys;
}

std::unique_ptr<Trace> read_trace(const std::filesystem::path& directory) { return std::make_unique<Trace>(directory); }

void check_shapes(const Trace& trace, const DeclaredConfig& config) {
  const ModelConfig dimensions = known_dimensions(config);
  for (const TensorKey& key : trace.keys()) {
    const auto index = static_cast<std::size_t>(key.step);
    const Step& step = trace.manifest().steps[index];
    const std::string where = name_of(trace.file_of(key.step)) + ": " + tensor_name(key.id);
    if (config.num_layers && key.id.layer >= *config.num_layers) {
      throw InputError(where + ": the model has " + std::to_string(*config.num_layers) + " layers, 0 to " +
                       std::to_string(*config.num_layers - 1));
    }
    const Shape expected = output_shape(key.id.op, dimensions, step.batch(), step.num_tokens(), step.valid_length());
    Shape last_row = expected;
    if (may_be_last_row_alone(key.id.op)) last_row[1] = 1;
    if (fits(trace.shape(key), expected) || fits(trace.shape(key), last_row)) continue;
    throw InputError(where + " has shape " + to_string(trace.shape(key)) +
                     ", but the manifest's steps and config give " + to_string(expected) +
                     formats::shape_hint(trace.shape(key), expected));
  }
}

}  // namespace qdiff::trace
