#include "harness/trace/recording.h"

#include <cstring>
#include <stdexcept>
#include <utility>

namespace qdiff::trace {
namespace {

std::string place(const TensorKey& key) { return tensor_name(key.id) + " of step " + std::to_string(key.step); }

}  // namespace

TensorView Recording::get(const TensorKey& key) const {
  const auto found = tensors_.find(key);
  if (found == tensors_.end()) throw std::out_of_range("nothing recorded for " + place(key));
  return found->second.view();
}

void Recording::put(const TensorKey& key, Tensor tensor) {
  const std::size_t size = tensor.bytes().size();
  if (!tensors_.try_emplace(key, std::move(tensor)).second) {
    throw std::logic_error(place(key) + " was handed out twice");
  }
  bytes_ += size;
}

void Recording::erase(const TensorKey& key) {
  const auto found = tensors_.find(key);
  if (found == tensors_.end()) return;
  bytes_ -= found->second.bytes().size();
  tensors_.erase(found);
}

std::vector<TensorKey> Recording::keys() const {
  std::vector<TensorKey> keys;
  for (const auto& [key, tensor] : tensors_) keys.push_back(key);
  return keys;
}

void RecordingSink::take(const TensorId& id, const TensorView& view) {
  const TensorKey key{step_, id};
  if (view.device.kind != DeviceKind::kCpu) {
    throw std::logic_error(place(key) + " is not in host memory; a recording takes host views only");
  }
  if (view.data == nullptr && num_elements(view.shape) != 0) throw std::logic_error(place(key) + " has no data");
  recording_.put(key, Tensor::copy_of(view));
  live_.push_back({id, view.data});
}

std::vector<std::string> RecordingSink::verify_unchanged() {
  std::vector<std::string> changed;
  for (const Live& live : live_) {
    const TensorKey key{step_, live.id};
    if (!recording_.has(key)) continue;  // erased meanwhile
    const TensorView snapshot = recording_.get(key);
    const std::size_t size = snapshot.bytes();
    // Bits, not values: NaN differs from itself, and +0 equals -0.
    if (size != 0 && std::memcmp(snapshot.data, live.data, size) != 0) changed.push_back(tensor_name(live.id));
  }
  live_.clear();
  return changed;
}

}  // namespace qdiff::trace
