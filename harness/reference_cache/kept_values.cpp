#include "harness/reference_cache/kept_values.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <utility>

#include "harness/contract/number_text.h"

namespace qdiff::reference_cache {
namespace {

template <typename T>
std::span<const std::byte> bytes_of(const std::vector<T>& numbers) {
  return std::as_bytes(std::span(numbers));
}

std::size_t size_of_shape(const Shape& shape) {
  try {
    return static_cast<std::size_t>(num_elements(shape));
  } catch (const std::exception&) {
    throw Damaged("it has a shape of no tensor");
  }
}

template <typename T>
std::vector<T> numbers_in(const Found& found, const std::string& name, DType dtype) {
  const formats::SafetensorsEntry& entry = found.entry(name);
  if (entry.dtype != dtype) throw Damaged("tensor \"" + name + "\" has another type than it should");
  std::vector<T> numbers(size_of_shape(entry.shape));
  found.read(name, std::as_writable_bytes(std::span(numbers)));
  return numbers;
}

// One deviation for all elements, as where data only moves, is a word: its bits.
std::string word_of(float deviation) { return std::to_string(std::bit_cast<std::uint32_t>(deviation)); }

std::vector<float> deviations_in(const Found& found, const std::string& name, std::size_t size) {
  std::vector<float> deviations;
  if (found.has(name)) {
    deviations = numbers_in<float>(found, name, DType::kF32);
    if (deviations.size() != size) throw Damaged("\"" + name + "\" has not one number for each element");
    return deviations;
  }
  const std::string& word = found.word(name);
  if (word.empty()) return {};
  const auto bits = number_in<std::uint32_t>(word);
  if (!bits) throw Damaged("\"" + name + "\" is no number");
  return std::vector<float>(size, std::bit_cast<float>(*bits));
}

}  // namespace

void Parts::add_deviations(const std::string& name, const Shape& shape, const std::vector<float>& deviations) {
  const auto same = [&](float deviation) { return word_of(deviation) == word_of(deviations.front()); };
  if (deviations.empty()) {
    words[name] = "";
  } else if (std::ranges::all_of(deviations, same)) {
    words[name] = word_of(deviations.front());
  } else {
    parts.push_back({name, DType::kF32, shape, bytes_of(deviations)});
  }
}

void Parts::add(const Expectation& expectation) {
  parts.push_back({"value", DType::kF64, expectation.shape, bytes_of(expectation.value)});
  add_deviations("sigma_independent", expectation.shape, expectation.sigma_independent);
  add_deviations("sigma_shared", expectation.shape, expectation.sigma_shared);
  words["exact"] = expectation.exact ? "yes" : "no";
  if (expectation.unknown.empty()) return;
  Tensor& unknown = made_.emplace_back(DType::kBF16, expectation.shape);  // the formats have no type for a truth
  for (std::size_t i = 0; i < expectation.unknown.size(); ++i) {
    unknown.set(static_cast<std::int64_t>(i), expectation.unknown[i]);
  }
  parts.push_back({"unknown", DType::kBF16, expectation.shape, unknown.bytes()});
}

void Parts::add(const std::vector<double>& values, DType stored) {
  const Shape shape = {static_cast<std::int64_t>(values.size())};
  Tensor narrow = Tensor::rounded(stored, shape, values);
  const std::vector<double> widened = to_doubles(narrow.view());
  // Bits, for a NaN is none of its own.
  const bool holds = std::ranges::equal(values, widened, [](double a, double b) {
    return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b);
  });
  if (holds) {
    parts.push_back({"emulated", stored, shape, made_.emplace_back(std::move(narrow)).bytes()});
  } else {
    parts.push_back({"emulated", DType::kF64, shape, bytes_of(values)});
  }
}

void Parts::add(const std::string& name, const TensorView& tensor) {
  parts.push_back({name, tensor.dtype, tensor.shape, {static_cast<const std::byte*>(tensor.data), tensor.bytes()}});
}

Expectation expectation_in(const Found& found) {
  Expectation expectation;
  expectation.shape = found.entry("value").shape;
  expectation.value = numbers_in<double>(found, "value", DType::kF64);
  const std::size_t size = expectation.value.size();
  expectation.sigma_independent = deviations_in(found, "sigma_independent", size);
  expectation.sigma_shared = deviations_in(found, "sigma_shared", size);
  expectation.exact = found.word("exact") == "yes";
  if (!found.has("unknown")) return expectation;
  const std::vector<std::uint16_t> unknown = numbers_in<std::uint16_t>(found, "unknown", DType::kBF16);
  if (unknown.size() != size) throw Damaged("\"unknown\" has not one number for each element");
  for (const std::uint16_t bits : unknown) expectation.unknown.push_back(bits != 0 ? 1 : 0);
  return expectation;
}

std::vector<double> values_in(const Found& found) { return to_doubles(tensor_in(found, "emulated").view()); }

Tensor tensor_in(const Found& found, const std::string& name) {
  const formats::SafetensorsEntry& entry = found.entry(name);
  if (!entry.dtype) throw Damaged("tensor \"" + name + "\" has a type that no value has");
  size_of_shape(entry.shape);
  Tensor tensor(*entry.dtype, entry.shape);
  found.read(name, tensor.bytes());
  return tensor;
}

}  // namespace qdiff::reference_cache
