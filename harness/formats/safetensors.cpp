#include "harness/formats/safetensors.h"

#include <algorithm>
#include <array>
#include <stdexcept>
#include <utility>

#include "harness/contract/error.h"
#include "harness/formats/limits.h"
#include "harness/formats/strict_json.h"
#include "harness/formats/suggest.h"

namespace qdiff::formats {
namespace {

constexpr std::uint64_t kLengthBytes = 8;

struct ElementSize {
  std::string_view name;
  std::uint64_t bits;
};
// The variants of `Dtype` in safetensors/src/tensor.rs, 0.8.
constexpr std::array<ElementSize, 22> kElementSizes = {{
    {"BOOL", 8},    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"U8", 8},          {"I8", 8},
    {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16},
    {"U16", 16},    {"F16", 16},    {"BF16", 16},   {"I32", 32},        {"U32", 32},        {"F32", 32},
    {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64},
}};

std::optional<std::uint64_t> bits_of(std::string_view dtype) {
  for (const ElementSize& size : kElementSizes) {
    if (size.name == dtype) return size.bits;
  }
  return std::nullopt;
}

// {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {"key": "text"}}
class HeaderEvents : public JsonEvents {
 public:
  explicit HeaderEvents(SafetensorsHeader& header) : header_(header) {}

  void on_null() override { unexpected("null"); }
  void on_boolean(bool) override { unexpected("a boolean"); }
  void on_integer(std::int64_t) override { unexpected("a negative number"); }
  void on_float(double) override { unexpected("a number that is not whole or is beyond 64 bits"); }
  void on_unsigned(std::uint64_t value) override {
    if (state_ != State::kShape && state_ != State::kOffsets) unexpected("a number");
    std::vector<std::uint64_t>& numbers = state_ == State::kShape ? shape_ : offsets_;
    const std::size_t most = state_ == State::kShape ? kMaxTensorRank : 2;
    if (numbers.size() == most) {
      refuse_json("tensor " + in_quotes(entry_.name) +
                  (state_ == State::kShape ? " has more than " + std::to_string(most) + " dimensions"
                                           : " has more than 2 data_offsets"));
    }
    numbers.push_back(value);
  }
  void on_string(std::string& value) override {
    if (state_ == State::kMetadata) {
      header_.metadata[key_] = std::move(value);
    } else if (state_ == State::kEntry && key_ == "dtype") {
      entry_.dtype_name = std::move(value);
    } else {
      unexpected("a string");
    }
  }
  void on_key(std::string& value) override {
    key_ = std::move(value);
    if (state_ == State::kEntry && key_ != "dtype" && key_ != "shape" && key_ != "data_offsets") {
      refuse_json("tensor " + in_quotes(entry_.name) + " has the unknown key " + in_quotes(key_));
    }
  }
  void on_start_object() override {
    if (state_ == State::kStart) {
      state_ = State::kTop;
    } else if (state_ == State::kTop && key_ == "__metadata__") {
      state_ = State::kMetadata;
    } else if (state_ == State::kTop) {
      state_ = State::kEntry;
      entry_ = {};
      entry_.name = key_;
      has_shape_ = has_offsets_ = false;
    } else {
      unexpected("an object");
    }
  }
  void on_end_object() override {
    if (state_ == State::kEntry) finish_entry();
    state_ = State::kTop;
  }
  void on_start_array() override {
    if (state_ != State::kEntry || key_ == "dtype") unexpected("an array");
    const bool is_shape = key_ == "shape";
    state_ = is_shape ? State::kShape : State::kOffsets;
    (is_shape ? shape_ : offsets_).clear();
    (is_shape ? has_shape_ : has_offsets_) = true;
  }
  void on_end_array() override { state_ = State::kEntry; }

 private:
  enum class State { kStart, kTop, kMetadata, kEntry, kShape, kOffsets };

  [[noreturn]] void unexpected(const char* what) const {
    switch (state_) {
      case State::kStart:
        refuse_json(std::string("the header is ") + what + ", but must be an object");
      case State::kTop:
        refuse_json("the entry " + in_quotes(key_) + " is " + what + ", but must be an object");
      case State::kMetadata:
        refuse_json("__metadata__ " + in_quotes(key_) + " is " + what + ", but must be a string");
      case State::kEntry:
        refuse_json("tensor " + in_quotes(entry_.name) + ": " + key_ + " is " + what + ", but must be " +
                    (key_ == "dtype" ? "a string" : "an array of whole numbers"));
      default:
        refuse_json("tensor " + in_quotes(entry_.name) + ": " + key_ + " holds " + what +
                    ", but must hold whole numbers from 0 to 2^64 - 1");
    }
  }

  [[noreturn]] void refuse_entry(const std::string& what) const {
    refuse_json("tensor " + in_quotes(entry_.name) + what);
  }

  void finish_entry() {
    if (entry_.dtype_name.empty()) refuse_entry(" has no dtype");
    if (!has_shape_) refuse_entry(" has no shape");
    if (!has_offsets_ || offsets_.size() != 2) refuse_entry(" must have 2 data_offsets");
    entry_.begin = offsets_[0];
    entry_.end = offsets_[1];
    if (entry_.begin > entry_.end) {
      refuse_entry(": data_offsets " + std::to_string(entry_.begin) + " and " + std::to_string(entry_.end) +
                   " run backwards");
    }
    const std::optional<std::uint64_t> bits = bits_of(entry_.dtype_name);
    if (!bits) refuse_entry(" has the unknown dtype " + in_quotes(entry_.dtype_name));
    // Factor by factor, as upstream: a product that wraps, to 0 even, is seen.
    std::uint64_t size = 1;
    for (std::uint64_t dimension : shape_) {
      if (__builtin_mul_overflow(size, dimension, &size) || dimension > INT64_MAX) {
        refuse_entry(": the shape has more elements than 64 bits count");
      }
      entry_.shape.push_back(static_cast<std::int64_t>(dimension));
    }
    if (__builtin_mul_overflow(size, *bits, &size)) refuse_entry(": the size does not fit in 64 bits");
    if (size % 8 != 0) refuse_entry(": the size is not a whole number of bytes");
    if (size / 8 != entry_.bytes()) {
      refuse_entry(": data_offsets span " + std::to_string(entry_.bytes()) + " bytes, but shape and dtype ask for " +
                   std::to_string(size / 8));
    }
    for (DType dtype : {DType::kF64, DType::kF32, DType::kF16, DType::kBF16}) {
      if (entry_.dtype_name == facts(dtype).safetensors) entry_.dtype = dtype;
    }
    header_.entries.push_back(std::move(entry_));
  }

  SafetensorsHeader& header_;
  State state_ = State::kStart;
  std::string key_;
  SafetensorsEntry entry_;
  std::vector<std::uint64_t> shape_, offsets_;
  bool has_shape_ = false, has_offsets_ = false;
};

void check_layout(const SafetensorsHeader& header, std::uint64_t data_bytes, const std::string& source) {
  std::uint64_t expected = 0;
  for (const SafetensorsEntry& entry : header.entries) {
    if (entry.begin != expected) {
      throw InputError(source + ": tensor " + in_quotes(entry.name) + " starts at byte " + std::to_string(entry.begin) +
                       " of the data, but the one before ends at " + std::to_string(expected) +
                       (entry.begin < expected ? ": they overlap" : ": there is a hole"));
    }
    expected = entry.end;
  }
  if (expected != data_bytes) {
    throw InputError(source + ": the tensors end at byte " + std::to_string(expected) +
                     " of the data, but the file has " + std::to_string(data_bytes) +
                     (expected > data_bytes ? "; it is cut short, fetch it again" : "; the rest belongs to nothing"));
  }
}

// The length of the header, checked against the file's size.
std::uint64_t header_bytes(std::span<const std::byte> start, std::uint64_t file_bytes, const std::string& source) {
  if (file_bytes < kLengthBytes || start.size() < kLengthBytes) {
    throw InputError(source + ": has " + std::to_string(std::min<std::uint64_t>(file_bytes, start.size())) +
                     " bytes; a safetensors file starts with 8 bytes that give the length of its header");
  }
  std::uint64_t length = 0;
  for (std::size_t i = 0; i < kLengthBytes; ++i) length |= std::to_integer<std::uint64_t>(start[i]) << (8 * i);
  if (length > kMaxSafetensorsHeaderBytes) {
    throw InputError(source + ": byte 0: the header would have " + std::to_string(length) +
                     " bytes, more than the limit of " + std::to_string(kMaxSafetensorsHeaderBytes) +
                     "; is this a safetensors file?");
  }
  if (length > file_bytes - kLengthBytes) {
    throw InputError(source + ": byte 0: the header would have " + std::to_string(length) + " bytes, but only " +
                     std::to_string(file_bytes - kLengthBytes) + " follow; it is cut short, fetch it again");
  }
  return length;
}

}  // namespace

const SafetensorsEntry* SafetensorsHeader::find(const std::string& name) const {
  const auto found = index.find(name);
  return found == index.end() ? nullptr : &entries[found->second];
}

SafetensorsHeader parse_safetensors(std::span<const std::byte> start, std::uint64_t file_bytes,
                                    const std::string& source) {
  const std::uint64_t length = header_bytes(start, file_bytes, source);
  if (length > start.size() - kLengthBytes) throw InputError(source + ": the header is not there whole");
  const std::string_view text(reinterpret_cast<const char*>(start.data()) + kLengthBytes,
                              static_cast<std::size_t>(length));
  const std::string in_header = source + ": header";
  if (!text.starts_with('{')) throw InputError(in_header + ": byte 0: must start with '{'");

  SafetensorsHeader header;
  header.data_start = kLengthBytes + length;
  HeaderEvents events(header);
  parse_json_events(text, in_header, kSafetensorsHeaderLimits, events);
  const auto by_place = [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
    return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
  };
  if (!std::ranges::is_sorted(header.entries, by_place)) {
    std::ranges::stable_sort(header.entries, by_place);
  }
  check_layout(header, file_bytes - header.data_start, source);
  header.index.reserve(header.entries.size());
  for (std::size_t i = 0; i < header.entries.size(); ++i) header.index[header.entries[i].name] = i;
  return header;
}

SafetensorsReader::SafetensorsReader(const std::filesystem::path& path) : file_(path) {
  std::array<std::byte, kLengthBytes> first{};
  const std::size_t there = static_cast<std::size_t>(std::min<std::uint64_t>(kLengthBytes, file_.size()));
  file_.read(0, std::span(first).first(there));
  const std::uint64_t length = header_bytes(std::span(first).first(there), file_.size(), file_.name());
  std::vector<std::byte> start(static_cast<std::size_t>(kLengthBytes + length));
  file_.read(0, start);
  header_ = parse_safetensors(start, file_.size(), file_.name());
}

void SafetensorsReader::read(const SafetensorsEntry& entry, std::uint64_t first,
                             std::span<std::byte> destination) const {
  if (first > entry.bytes() || destination.size() > entry.bytes() - first) {
    throw std::out_of_range("read beyond tensor " + entry.name);
  }
  file_.read(header_.data_start + entry.begin + first, destination);
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, const std::vector<SafetensorsTensor>& tensors,
                                     const std::map<std::string, std::string>& metadata)
    : file_(path) {
  std::vector<const SafetensorsTensor*> ordered;
  for (const SafetensorsTensor& tensor : tensors) ordered.push_back(&tensor);
  std::ranges::stable_sort(ordered, [](const SafetensorsTensor* a, const SafetensorsTensor* b) {
    return size_of(a->dtype) > size_of(b->dtype);
  });

  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  std::uint64_t offset = 0;
  for (const SafetensorsTensor* tensor : ordered) {
    const std::uint64_t end = offset + static_cast<std::uint64_t>(num_elements(tensor->shape)) * size_of(tensor->dtype);
    if (tensor->name == "__metadata__" || !parts_.try_emplace(tensor->name, Part{offset, end}).second) {
      throw std::invalid_argument("safetensors: the name \"" + tensor->name + "\" is taken");
    }
    header[tensor->name] = {{"dtype", std::string(facts(tensor->dtype).safetensors)},
                            {"shape", tensor->shape},
                            {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.append((kLengthBytes - text.size() % kLengthBytes) % kLengthBytes, ' ');
  std::array<std::byte, kLengthBytes> length{};
  for (std::size_t i = 0; i < kLengthBytes; ++i) {
    length[i] = static_cast<std::byte>(static_cast<std::uint64_t>(text.size()) >> (8 * i));
  }
  file_.append(length);
  file_.append(text);
  for (auto& [name, part] : parts_) {
    part.next += kLengthBytes + text.size();
    part.end += kLengthBytes + text.size();
  }
}

void SafetensorsWriter::append(const std::string& name, std::span<const std::byte> bytes) {
  const auto found = parts_.find(name);
  if (found == parts_.end()) throw std::invalid_argument("safetensors: no tensor \"" + name + "\" was announced");
  Part& part = found->second;
  if (bytes.size() > part.end - part.next) {
    throw std::invalid_argument("safetensors: more bytes for \"" + name + "\" than its shape has");
  }
  file_.write_at(part.next, bytes);
  part.next += bytes.size();
}

void SafetensorsWriter::finish() {
  for (const auto& [name, part] : parts_) {
    if (part.next != part.end) {
      throw std::logic_error("safetensors: tensor \"" + name + "\" lacks " + std::to_string(part.end - part.next) +
                             " bytes");
    }
  }
  file_.commit();
}

}  // namespace qdiff::formats
