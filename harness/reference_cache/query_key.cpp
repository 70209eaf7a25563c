#include "harness/reference_cache/query_key.h"

#include <algorithm>
#include <bit>
#include <sstream>

namespace qdiff::reference_cache {
namespace {

using formats::ContentHash;

void add_number(ContentHash& hash, std::int64_t number) { hash.add(static_cast<std::uint64_t>(number)); }
void add_real(ContentHash& hash, double number) { hash.add(std::bit_cast<std::uint64_t>(number)); }

template <typename T>
void add_all(ContentHash& hash, const std::vector<T>& numbers) {
  hash.add(std::uint64_t{numbers.size()});
  for (const T number : numbers) add_number(hash, number);
}

void add_key(ContentHash& hash, const TensorKey& key) {
  add_number(hash, key.step);
  hash.add(tensor_name(key.id));
}

void add_variant(ContentHash& hash, const Variant* variant) {
  if (variant == nullptr) {
    hash.add("right");
    return;
  }
  hash.add(name(variant->id)).add(variant->value ? "valued" : "plain");
  add_real(hash, variant->value.value_or(0.0));
}

}  // namespace

std::string Digests::of(const TensorView& view) {
  const std::tuple place{view.data, view.dtype, view.shape};
  const auto found = known_.find(place);
  if (found != known_.end()) return found->second;
  ContentHash hash;
  hash.add(name(view.dtype)).add(to_string(view.shape));
  hash.add(std::span(static_cast<const std::byte*>(view.data), view.bytes()));
  return known_.emplace(place, hash.text()).first->second;
}

std::string Digests::of(const TensorStore& recorded, const TensorKey& key) {
  return recorded.has(key) ? of(recorded.get(key)) : "-";
}

std::string reads(const std::set<TensorKey>& keys, const TensorStore& recorded, Digests& digests) {
  std::string text;
  for (const TensorKey& key : keys) {
    text += std::to_string(key.step) + ' ' + tensor_name(key.id) + ' ' + digests.of(recorded, key) + '\n';
  }
  return text;
}

bool are_in(const std::string& reads, const TensorStore& recorded, Digests& digests) {
  std::istringstream lines(reads);
  int step = 0;
  for (std::string tensor, digest; lines >> step >> tensor >> digest;) {
    const auto id = parse_tensor_name(tensor);
    if (!id || digests.of(recorded, {step, *id}) != digest) return false;
  }
  return lines.eof();
}

std::set<TensorKey> inputs_of(const Query& query, const ModelConfig& config) {
  std::set<TensorKey> inputs;
  for (const TensorKey& key : query.operations) {
    for (const Input& input : row(key.id.op).inputs) {
      const int step = input.from == From::kPreviousStep ? key.step - 1 : key.step;
      const TensorKey wanted{step, resolve(input, key.id, config)};
      if (step < 0 || std::ranges::find(query.operations, wanted) != query.operations.end()) continue;
      inputs.insert(wanted);
    }
  }
  return inputs;
}

void add_to(ContentHash& hash, const Step& step) {
  add_number(hash, step.index);
  hash.add(name(step.phase)).add(std::uint64_t{step.tokens.size()});
  for (const auto& row : step.tokens) add_all(hash, row);
  add_number(hash, step.past_length);
  hash.add(std::uint64_t{step.positions.size()});
  for (const auto& row : step.positions) add_all(hash, row);
  add_all(hash, step.left_padding);
}

void add_to(ContentHash& hash, const Precision& precision) {
  hash.add(name(precision.weights)).add(name(precision.activations)).add(name(precision.accumulate));
  hash.add(std::uint64_t{precision.points.size()});
  for (const auto& [point, dtype] : precision.points) hash.add(name(point)).add(name(dtype));
  hash.add(std::uint64_t{precision.taken_as.size()});
  for (const auto& [op, dtype] : precision.taken_as) hash.add(row(op).name).add(name(dtype));
  hash.add(name(precision.quantized)).add(name(precision.cache));
  for (const auto& [cache, scales] : precision.cache_scales) {
    hash.add(name(cache)).add(std::uint64_t{scales.size()});
    for (const auto& [id, of_heads] : scales) {
      hash.add(tensor_name(id)).add(std::uint64_t{of_heads.size()});
      for (const double scale : of_heads) add_real(hash, scale);
    }
  }
}

void add_to(ContentHash& hash, const Query& query, const ModelConfig& config, Digests& digests) {
  hash.add(std::uint64_t{query.operations.size()});
  for (const TensorKey& key : query.operations) add_key(hash, key);
  hash.add(std::uint64_t{query.steps.size()});
  for (const Step& step : query.steps) add_to(hash, step);
  add_to(hash, query.precision);
  hash.add(name(query.stored));
  add_variant(hash, query.variant);
  add_variant(hash, query.beside);
  add_number(hash, query.capacity);
  add_real(hash, query.unwritten);
  hash.add(query.with_noise ? "noise" : "value").add(query.divides_last ? "last" : "first");
  hash.add(std::uint64_t{query.mistakes.size()});
  for (const Mistake& mistake : query.mistakes) hash.add(to_string(mistake));
  for (const TensorKey& input : inputs_of(query, config)) {
    add_key(hash, input);
    hash.add(digests.of(query.recorded, input));
  }
}

}  // namespace qdiff::reference_cache
