#include "harness/formats/gguf.h"

#include <algorithm>
#include <array>
#include <bit>
#include <functional>
#include <optional>
#include <stdexcept>
#include <utility>

#include "harness/contract/error.h"
#include "harness/contract/number_text.h"
#include "harness/formats/limits.h"
#include "harness/formats/suggest.h"

namespace qdiff::formats {
namespace {

constexpr std::uint64_t kWindowBytes = std::uint64_t{256} << 10;  // read from the file at a time
constexpr const char* kAlignmentKey = "general.alignment";

struct TypeFacts {
  GgufType type;
  std::string_view name;
  std::string_view plural;
  std::uint64_t bytes;  // 0: of any length
};
constexpr std::array<TypeFacts, 13> kTypeFacts = {{
    {GgufType::kUint8, "uint8", "uint8 values", 1},
    {GgufType::kInt8, "int8", "int8 values", 1},
    {GgufType::kUint16, "uint16", "uint16 values", 2},
    {GgufType::kInt16, "int16", "int16 values", 2},
    {GgufType::kUint32, "uint32", "uint32 values", 4},
    {GgufType::kInt32, "int32", "int32 values", 4},
    {GgufType::kFloat32, "float32", "float32 values", 4},
    {GgufType::kBool, "bool", "booleans", 1},
    {GgufType::kString, "string", "strings", 0},
    {GgufType::kArray, "array", "arrays", 0},
    {GgufType::kUint64, "uint64", "uint64 values", 8},
    {GgufType::kInt64, "int64", "int64 values", 8},
    {GgufType::kFloat64, "float64", "float64 values", 8},
}};

const TypeFacts& facts_of(GgufType type) { return kTypeFacts.at(static_cast<std::size_t>(type)); }

std::uint64_t little_endian(std::span<const std::byte> bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) value |= std::to_integer<std::uint64_t>(bytes[i]) << (8 * i);
  return value;
}

// A scalar of `facts.bytes` bytes.
std::int64_t signed_value(std::uint64_t bits, std::uint64_t bytes) {
  const std::uint64_t unused = 64 - 8 * bytes;
  return static_cast<std::int64_t>(bits << unused) >> unused;
}

// Fills a span with the bytes of the source from an offset on; it is never asked for more than there are.
using ReadBytes = std::function<void(std::uint64_t, std::span<std::byte>)>;

// Walks through the bytes before the data. Every step is checked against the file's end and the limit on the header.
class Cursor {
 public:
  // `readable` bytes of the file can be had.
  Cursor(ReadBytes read, std::uint64_t readable, std::uint64_t file_bytes, const std::string& source)
      : read_(std::move(read)), readable_(std::min(readable, file_bytes)), file_bytes_(file_bytes), source_(source) {}

  std::uint64_t at() const { return at_; }
  std::uint64_t left() const { return file_bytes_ - at_; }

  // `at` is where the wrong thing starts.
  [[noreturn]] void refuse(std::uint64_t at, const std::string& what) const {
    throw InputError(source_ + ": byte " + std::to_string(at) + ": " + what);
  }

  void require(std::uint64_t bytes, const std::string& what) const {
    if (bytes > left()) {
      refuse(at_, what + " would take " + std::to_string(bytes) + " bytes, but only " + std::to_string(left()) +
                      " follow; is the file cut short?");
    }
    if (at_ + bytes > kMaxGgufHeaderBytes) {  // no wrap: both are at most the file's size
      refuse(at_, what + " lies beyond the first " + std::to_string(kMaxGgufHeaderBytes) +
                      " bytes, the limit for all that comes before the data");
    }
    if (bytes > readable_ - at_) refuse(at_, what + ": the header is not there whole");
  }

  std::uint64_t number(std::uint64_t bytes, const std::string& what) {
    require(bytes, what);
    std::array<std::byte, 8> raw{};
    const auto part = std::span(raw).first(static_cast<std::size_t>(bytes));
    copy(part);
    return little_endian(part);
  }

  // Its length as 8 bytes, then the text.
  std::uint64_t string_length(std::uint64_t limit, const std::string& what) {
    const std::uint64_t start = at_;
    const std::uint64_t length = number(8, what + "'s length");
    if (length > limit) {
      refuse(start, what + " would have " + std::to_string(length) + " bytes, more than the limit of " +
                        std::to_string(limit));
    }
    require(length, what);
    return length;
  }

  std::string text(std::uint64_t limit, const std::string& what) {
    std::string text(static_cast<std::size_t>(string_length(limit, what)), '\0');
    copy(std::as_writable_bytes(std::span(text)));
    return text;
  }

  void skip(std::uint64_t bytes, const std::string& what) {
    require(bytes, what);
    at_ += bytes;
  }

 private:
  // require() has been asked.
  void copy(std::span<std::byte> destination) {
    std::size_t done = 0;
    while (done < destination.size()) {
      if (at_ < window_start_ || at_ >= window_start_ + window_.size()) {
        window_start_ = at_;
        window_.resize(static_cast<std::size_t>(std::min(kWindowBytes, readable_ - at_)));
        read_(window_start_, window_);
      }
      const auto from = static_cast<std::size_t>(at_ - window_start_);
      const std::size_t count = std::min(window_.size() - from, destination.size() - done);
      std::copy_n(window_.begin() + static_cast<std::ptrdiff_t>(from), count,
                  destination.begin() + static_cast<std::ptrdiff_t>(done));
      at_ += count;
      done += count;
    }
  }

  ReadBytes read_;
  std::uint64_t readable_, file_bytes_, at_ = 0, window_start_ = 0;
  std::vector<std::byte> window_;
  const std::string& source_;
};

bool is_key_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.' || c == '-';
}
bool is_name_character(char c) { return is_key_character(c) || (c >= 'A' && c <= 'Z'); }

class HeaderParser {
 public:
  HeaderParser(ReadBytes read, std::uint64_t readable, std::uint64_t file_bytes, const std::string& source)
      : cursor_(std::move(read), readable, file_bytes, source), file_bytes_(file_bytes) {}

  GgufHeader parse() {
    read_start();
    const std::uint64_t num_tensors = count("the number of tensors", kMaxGgufTensors);
    const std::uint64_t num_keys = count("the number of keys", kMaxGgufKeys);
    for (std::uint64_t i = 0; i < num_keys; ++i) read_key(i);
    read_alignment();
    for (std::uint64_t i = 0; i < num_tensors; ++i) read_tensor(i);
    place_data();
    return std::move(header_);
  }

 private:
  void read_start() {
    if (file_bytes_ < 4) cursor_.refuse(0, "the file is too short to be GGUF, which starts with \"GGUF\"");
    if (cursor_.number(4, "the magic number") != 0x46554747U) {
      cursor_.refuse(0, "does not start with \"GGUF\"; is this a GGUF file?");
    }
    const auto version = static_cast<std::uint32_t>(cursor_.number(4, "the version"));
    if (version != 0 && (version & 0xFFFFU) == 0) {
      cursor_.refuse(4, "the version is " + std::to_string(version) + ": a big-endian file, which is not read");
    }
    if (version != 2 && version != 3) {
      cursor_.refuse(4, "the version is " + std::to_string(version) + ", but only 2 and 3 are read" +
                            (version == 1 ? "; convert the model again" : ""));
    }
    header_.version = version;
  }

  std::uint64_t count(const std::string& what, std::uint64_t limit) {
    const std::uint64_t start = cursor_.at();
    const std::uint64_t number = cursor_.number(8, what);
    if (number > limit) {
      cursor_.refuse(start,
                     what + " is " + std::to_string(number) + ", more than the limit of " + std::to_string(limit));
    }
    return number;
  }

  GgufType value_type(const std::string& what) {
    const std::uint64_t start = cursor_.at();
    const std::uint64_t number = cursor_.number(4, what + ": the type");
    if (number >= kTypeFacts.size()) {
      cursor_.refuse(start, what + " has the unknown type " + std::to_string(number));
    }
    return static_cast<GgufType>(number);
  }

  void read_key(std::uint64_t place) {
    GgufKey key;
    key.offset = cursor_.at();
    const std::string which = "key " + std::to_string(place);
    key.name = cursor_.text(kMaxGgufKeyBytes, which);
    if (key.name.empty()) cursor_.refuse(key.offset, which + " has an empty name");
    if (!std::ranges::all_of(key.name, is_key_character)) {
      cursor_.refuse(key.offset, which + " is named " + in_quotes(key.name) + ", but names have a-z, 0-9, _ . and -");
    }
    const std::string what = in_quotes(key.name);
    if (!header_.key_index.try_emplace(key.name, header_.keys.size()).second) {
      cursor_.refuse(key.offset, what + " is there twice");
    }
    key.type = value_type(what);
    read_value(key, what);
    header_.keys.push_back(std::move(key));
  }

  void read_value(GgufKey& key, const std::string& what) {
    const std::uint64_t bytes = facts_of(key.type).bytes;
    const std::uint64_t start = cursor_.at();
    switch (key.type) {
      case GgufType::kString:
        key.value = cursor_.text(kMaxGgufStringBytes, what);
        return;
      case GgufType::kArray:
        key.value = read_array(what);
        return;
      case GgufType::kBool: {
        const std::uint64_t bits = cursor_.number(bytes, what);
        if (bits > 1) cursor_.refuse(start, what + " is a boolean of " + std::to_string(bits) + ", but must be 0 or 1");
        key.value = bits == 1;
        return;
      }
      case GgufType::kFloat32:
        key.value = static_cast<double>(std::bit_cast<float>(static_cast<std::uint32_t>(cursor_.number(bytes, what))));
        return;
      case GgufType::kFloat64:
        key.value = std::bit_cast<double>(cursor_.number(bytes, what));
        return;
      case GgufType::kInt8:
      case GgufType::kInt16:
      case GgufType::kInt32:
      case GgufType::kInt64:
        key.value = signed_value(cursor_.number(bytes, what), bytes);
        return;
      case GgufType::kUint8:
      case GgufType::kUint16:
      case GgufType::kUint32:
      case GgufType::kUint64:
        key.value = cursor_.number(bytes, what);
        return;
    }
  }

  // Walks over an array, so that all of it is known to be there.
  GgufArray read_array(const std::string& what) {
    GgufArray array;
    array.element_type = value_type(what);
    const std::uint64_t start = cursor_.at();
    if (array.element_type == GgufType::kArray) {
      cursor_.refuse(start - 4, what + " is an array of arrays, which is not read");
    }
    array.count = count(what + ": the number of elements", kMaxGgufArrayElements);
    array.begin = cursor_.at();
    const std::uint64_t element_bytes = facts_of(array.element_type).bytes;
    if (element_bytes != 0) {
      cursor_.skip(array.count * element_bytes, what);  // no wrap: the count has a limit
    } else {
      for (std::uint64_t i = 0; i < array.count; ++i) {
        cursor_.skip(cursor_.string_length(kMaxGgufStringBytes, what), what);
      }
    }
    array.end = cursor_.at();
    return array;
  }

  void read_alignment() {
    const GgufKey* key = header_.find_key(kAlignmentKey);
    if (key == nullptr) return;
    const auto* value = std::get_if<std::uint64_t>(&key->value);
    if (key->type != GgufType::kUint32 || value == nullptr) {
      cursor_.refuse(key->offset, std::string(kAlignmentKey) + " is of type " + std::string(name(key->type)) +
                                      ", but must be uint32");
    }
    if (!std::has_single_bit(*value) || *value < kMinGgufAlignment || *value > kMaxGgufAlignment) {
      cursor_.refuse(key->offset, std::string(kAlignmentKey) + " is " + std::to_string(*value) +
                                      ", but must be a power of two from " + std::to_string(kMinGgufAlignment) +
                                      " to " + std::to_string(kMaxGgufAlignment));
    }
    header_.alignment = *value;
  }

  void read_tensor(std::uint64_t place) {
    GgufTensor tensor;
    const std::uint64_t start = cursor_.at();
    const std::string which = "tensor " + std::to_string(place);
    tensor.name = cursor_.text(kMaxGgufTensorNameBytes, which + "'s name");
    if (tensor.name.empty()) cursor_.refuse(start, which + " has an empty name");
    if (!std::ranges::all_of(tensor.name, is_name_character)) {
      cursor_.refuse(start,
                     which + " is named " + in_quotes(tensor.name) + ", but names have A-Z, a-z, 0-9, _ . and -");
    }
    const std::string what = "tensor " + in_quotes(tensor.name);
    if (!header_.tensor_index.try_emplace(tensor.name, header_.tensors.size()).second) {
      cursor_.refuse(start, what + " is there twice");
    }
    read_shape(tensor, what);
    const std::uint64_t type_at = cursor_.at();
    const auto number = static_cast<std::uint32_t>(cursor_.number(4, what + ": the type"));
    const std::optional<GgmlTypeFacts> type = find_ggml_type(number);
    if (!type) {
      cursor_.refuse(type_at,
                     what + " has the type " + std::to_string(number) + ", which ggml does not know or has removed");
    }
    tensor.type = type->type;
    set_size(tensor, *type, what, start);
    tensor.begin = cursor_.number(8, what + ": the offset");  // within the data as yet
    header_.tensors.push_back(std::move(tensor));
  }

  void read_shape(GgufTensor& tensor, const std::string& what) {
    const std::uint64_t start = cursor_.at();
    const std::uint64_t num_dimensions = cursor_.number(4, what + ": the number of dimensions");
    if (num_dimensions < 1 || num_dimensions > kMaxGgufDimensions) {
      cursor_.refuse(start, what + " has " + std::to_string(num_dimensions) + " dimensions, but must have 1 to " +
                                std::to_string(kMaxGgufDimensions));
    }
    for (std::uint64_t i = 0; i < num_dimensions; ++i) {
      const std::uint64_t at = cursor_.at();
      const std::uint64_t extent = cursor_.number(8, what + ": a dimension");
      if (extent < 1 || extent > INT64_MAX) {
        cursor_.refuse(at, what + " has a dimension of " + std::to_string(static_cast<std::int64_t>(extent)) +
                               ", but must have positive ones");
      }
      tensor.shape.push_back(static_cast<std::int64_t>(extent));
    }
    std::ranges::reverse(tensor.shape);
  }

  void set_size(GgufTensor& tensor, const GgmlTypeFacts& type, const std::string& what, std::uint64_t start) const {
    std::int64_t elements = 1;
    for (std::int64_t extent : tensor.shape) {
      if (__builtin_mul_overflow(elements, extent, &elements)) {
        cursor_.refuse(start, what + " has more elements than 63 bits count");
      }
    }
    if (tensor.shape.back() % type.block_elements != 0) {
      cursor_.refuse(start, what + " has rows of " + std::to_string(tensor.shape.back()) + " elements, but " +
                                std::string(type.name) + " comes in blocks of " + std::to_string(type.block_elements));
    }
    const auto blocks = static_cast<std::uint64_t>(elements) / type.block_elements;
    if (__builtin_mul_overflow(blocks, std::uint64_t{type.block_bytes}, &tensor.bytes)) {
      cursor_.refuse(start, what + ": the size does not fit in 64 bits");
    }
  }

  // Where the data starts, and whether each tensor lies where the ones before it end.
  void place_data() {
    const std::uint64_t padding = (header_.alignment - cursor_.at() % header_.alignment) % header_.alignment;
    header_.data_start = cursor_.at() + padding;  // no wrap: the header has a limit
    std::uint64_t expected = 0;                   // within the data
    for (GgufTensor& tensor : header_.tensors) {
      const std::string what = "tensor " + in_quotes(tensor.name);
      if (tensor.begin != expected) {
        cursor_.refuse(header_.data_start, what + " is said to start at byte " + std::to_string(tensor.begin) +
                                               " of the data, but the ones before it and their padding to " +
                                               std::to_string(header_.alignment) + " end at " +
                                               std::to_string(expected));
      }
      std::uint64_t end = 0;  // within the file
      if (__builtin_add_overflow(header_.data_start, tensor.begin, &tensor.begin) ||
          __builtin_add_overflow(tensor.begin, tensor.bytes, &end) || end > file_bytes_) {
        cursor_.refuse(header_.data_start, what + " would take " + std::to_string(tensor.bytes) + " bytes from byte " +
                                               std::to_string(expected) + " of the data, but the file ends at byte " +
                                               std::to_string(file_bytes_) + "; it is cut short, fetch it again");
      }
      // No wrap: what has just been added lies inside the file.
      const std::uint64_t size = tensor.bytes + header_.alignment - 1;
      expected += size - size % header_.alignment;
    }
  }

  Cursor cursor_;
  std::uint64_t file_bytes_;
  GgufHeader header_;
};

}  // namespace

const GgufKey* GgufHeader::find_key(const std::string& wanted) const {
  const auto found = key_index.find(wanted);
  return found == key_index.end() ? nullptr : &keys[found->second];
}

const GgufTensor* GgufHeader::find_tensor(const std::string& wanted) const {
  const auto found = tensor_index.find(wanted);
  return found == tensor_index.end() ? nullptr : &tensors[found->second];
}

GgufHeader parse_gguf(std::span<const std::byte> start, std::uint64_t file_bytes, const std::string& source) {
  const auto read = [&](std::uint64_t offset, std::span<std::byte> destination) {
    std::copy_n(start.begin() + static_cast<std::ptrdiff_t>(offset), destination.size(), destination.begin());
  };
  return HeaderParser(read, start.size(), file_bytes, source).parse();
}

std::string_view name(GgufType type) { return facts_of(type).name; }

std::string describe_value(const GgufKey& key) {
  if (const auto* array = std::get_if<GgufArray>(&key.value)) {
    return std::to_string(array->count) + ' ' + std::string(facts_of(array->element_type).plural);
  }
  if (const auto* text = std::get_if<std::string>(&key.value)) return in_quotes(*text);
  if (const auto* boolean = std::get_if<bool>(&key.value)) return *boolean ? "true" : "false";
  if (const auto* whole = std::get_if<std::uint64_t>(&key.value)) return std::to_string(*whole);
  if (const auto* whole = std::get_if<std::int64_t>(&key.value)) return std::to_string(*whole);
  return digits(std::get<double>(key.value), key.type == GgufType::kFloat32 ? 7 : 15);
}

GgufReader::GgufReader(const std::filesystem::path& path) : file_(path) {
  const auto read = [this](std::uint64_t offset, std::span<std::byte> destination) { file_.read(offset, destination); };
  header_ = HeaderParser(read, file_.size(), file_.size(), file_.name()).parse();
}

void GgufReader::read(const GgufTensor& tensor, std::uint64_t first, std::span<std::byte> destination) const {
  if (first > tensor.bytes || destination.size() > tensor.bytes - first) {
    throw std::out_of_range("read beyond tensor " + tensor.name);
  }
  file_.read(tensor.begin + first, destination);
}

const GgufArray& GgufReader::array_of(const GgufKey& key, const char* wanted) const {
  if (const auto* array = std::get_if<GgufArray>(&key.value)) return *array;
  throw InputError(file_.name() + ": byte " + std::to_string(key.offset) + ": " + in_quotes(key.name) + " is " +
                   std::string(formats::name(key.type)) + ", but must be an array of " + wanted);
}

std::vector<std::string> GgufReader::strings(const GgufKey& key) const {
  const GgufArray& array = array_of(key, "strings");
  if (array.element_type != GgufType::kString) {
    throw InputError(file_.name() + ": byte " + std::to_string(key.offset) + ": " + in_quotes(key.name) + " holds " +
                     describe_value(key) + ", but must hold strings");
  }
  std::vector<std::byte> raw(static_cast<std::size_t>(array.end - array.begin));
  file_.read(array.begin, raw);
  std::vector<std::string> strings(static_cast<std::size_t>(array.count));
  std::size_t at = 0;
  for (std::string& text : strings) {
    // Checked when the header was read; checked again, for the file may have changed since.
    const std::uint64_t length = raw.size() - at < 8 ? UINT64_MAX : little_endian(std::span(raw).subspan(at, 8));
    if (length == UINT64_MAX || length > raw.size() - at - 8) {
      throw InputError(file_.name() + ": " + in_quotes(key.name) + " has changed since the file was opened");
    }
    text.assign(reinterpret_cast<const char*>(raw.data()) + at + 8, static_cast<std::size_t>(length));
    at += 8 + static_cast<std::size_t>(length);
  }
  return strings;
}

std::vector<std::int64_t> GgufReader::integers(const GgufKey& key) const {
  const GgufArray& array = array_of(key, "whole numbers");
  const GgufType type = array.element_type;
  const bool is_float = type == GgufType::kFloat32 || type == GgufType::kFloat64;
  if (is_float || type == GgufType::kString || type == GgufType::kBool) {
    throw InputError(file_.name() + ": byte " + std::to_string(key.offset) + ": " + in_quotes(key.name) + " holds " +
                     describe_value(key) + ", but must hold whole numbers");
  }
  const bool is_signed =
      type == GgufType::kInt8 || type == GgufType::kInt16 || type == GgufType::kInt32 || type == GgufType::kInt64;
  const auto bytes = static_cast<std::size_t>(facts_of(type).bytes);
  std::vector<std::byte> raw(static_cast<std::size_t>(array.end - array.begin));
  file_.read(array.begin, raw);
  std::vector<std::int64_t> values(static_cast<std::size_t>(array.count));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::uint64_t bits = little_endian(std::span(raw).subspan(i * bytes, bytes));
    if (!is_signed && bits > INT64_MAX) {
      throw InputError(file_.name() + ": " + in_quotes(key.name) + "[" + std::to_string(i) + "] is " +
                       std::to_string(bits) + ", beyond 63 bits");
    }
    values[i] = is_signed ? signed_value(bits, bytes) : static_cast<std::int64_t>(bits);
  }
  return values;
}

}  // namespace qdiff::formats
