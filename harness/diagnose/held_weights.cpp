#include "harness/diagnose/held_weights.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <unordered_map>

#include "harness/contract/error.h"
#include "harness/contract/number_text.h"
#include "harness/contract/splitmix64.h"
#include "harness/contract/wording.h"
#include "harness/explain/weight_levels.h"
#include "harness/formats/input_file.h"
#include "harness/formats/safetensors.h"
#include "harness/formats/suggest.h"

namespace qdiff::diagnose {
namespace {

namespace fs = std::filesystem;
using formats::printable;

constexpr std::int64_t kElementsAtOnce = std::int64_t{1} << 20;

// A weight in the file of the model or in what the engine saved; a vector is a matrix of one row.
struct Matrix {
  std::int64_t rows = 0, columns = 0;
  DType dtype = DType::kF32;
  std::function<void(std::int64_t first, std::int64_t count, std::span<std::byte> to)> read_elements;

  // [count, columns]
  std::vector<double> read(std::int64_t first, std::int64_t count) const {
    std::vector<std::byte> bytes(static_cast<std::size_t>(count * columns) * size_of(dtype));
    read_elements(first * columns, count * columns, bytes);
    std::vector<double> values(static_cast<std::size_t>(count * columns));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = load_element(bytes.data(), dtype, i);
    return values;
  }

  std::int64_t rows_at_once() const { return std::clamp<std::int64_t>(kElementsAtOnce / columns, 1, rows); }
};

Matrix shaped(const Shape& shape, DType dtype) {
  return {.rows = shape.size() == 2 ? shape[0] : 1, .columns = shape.back(), .dtype = dtype, .read_elements = {}};
}

Matrix of_model(const WeightSource& model, const WeightInfo& info) {
  Matrix matrix = shaped(info.shape, info.dtype);
  matrix.read_elements = [&](std::int64_t first, std::int64_t count, std::span<std::byte> to) {
    model.read(info, first, count, to);
  };
  return matrix;
}

// What the engine saved, by name.
class Held {
 public:
  explicit Held(const fs::path& path) {
    std::vector<fs::path> files;
    std::error_code error;
    if (fs::is_directory(path, error)) {
      for (const fs::directory_entry& entry : fs::directory_iterator(path, error)) {
        if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
      }
      if (files.empty()) {
        throw InputError("--weights " + printable(path.string(), 400) +
                         ": the folder has no .safetensors file; save the engine's weights there, with the "
                         "checkpoint's names");
      }
      std::ranges::sort(files);
    } else {
      files.push_back(path);
    }
    for (const fs::path& file : files) open(file);
  }

  const std::map<std::string, const formats::SafetensorsEntry*>& entries() const { return entries_; }

  // Null where it was not saved.
  const formats::SafetensorsEntry* find(const std::string& name) const {
    if (const auto twice = files_of_twice_.find(name); twice != files_of_twice_.end()) {
      throw InputError(twice->second + ": tensor \"" + printable(name) + "\" is in " + file_of_.at(name)->name() +
                       " too; which one the engine holds cannot be told");
    }
    const auto found = entries_.find(name);
    return found == entries_.end() ? nullptr : found->second;
  }

  Matrix matrix(const std::string& name) const {
    const formats::SafetensorsEntry& entry = *entries_.at(name);
    const formats::SafetensorsReader& file = *file_of_.at(name);
    if (!entry.dtype) {
      throw InputError(file.name() + ": tensor \"" + printable(name) + "\" is of type " + printable(entry.dtype_name) +
                       ", which needs scales to say numbers; save it dequantised, in float32");
    }
    Matrix matrix = shaped(entry.shape, *entry.dtype);
    matrix.read_elements = [&file, &entry](std::int64_t first, std::int64_t, std::span<std::byte> to) {
      file.read(entry, static_cast<std::uint64_t>(first) * size_of(*entry.dtype), to);
    };
    return matrix;
  }

 private:
  void open(const fs::path& path) {
    files_.push_back(std::make_unique<formats::SafetensorsReader>(path));
    const formats::SafetensorsReader& file = *files_.back();
    for (const formats::SafetensorsEntry& entry : file.header().entries) {
      if (!entries_.emplace(entry.name, &entry).second) files_of_twice_.emplace(entry.name, file.name());
      file_of_.emplace(entry.name, &file);
    }
  }

  std::vector<std::unique_ptr<formats::SafetensorsReader>> files_;
  std::map<std::string, const formats::SafetensorsEntry*> entries_;
  std::map<std::string, const formats::SafetensorsReader*> file_of_;
  std::map<std::string, std::string> files_of_twice_;  // of a name that another file has too
};

// Of each row and of each column a number that says whether another has the same elements in the same order.
struct Marks {
  std::vector<std::uint64_t> rows, columns;

  Marks(std::int64_t num_rows, std::int64_t num_columns)
      : rows(static_cast<std::size_t>(num_rows)), columns(static_cast<std::size_t>(num_columns)) {}

  void add(double value, std::int64_t row, std::int64_t column) {
    const auto bits = std::bit_cast<std::uint64_t>(value + 0.0);  // -0 is 0
    rows[static_cast<std::size_t>(row)] += splitmix64(bits + factor(column));
    columns[static_cast<std::size_t>(column)] += splitmix64(bits + factor(row));
  }

 private:
  static std::uint64_t factor(std::int64_t place) { return splitmix64(static_cast<std::uint64_t>(place) + 1); }
};

Marks marks_of(const Matrix& matrix) {
  Marks marks(matrix.rows, matrix.columns);
  for (std::int64_t first = 0; first < matrix.rows; first += matrix.rows_at_once()) {
    const std::int64_t count = std::min(matrix.rows_at_once(), matrix.rows - first);
    const std::vector<double> values = matrix.read(first, count);
    for (std::int64_t i = 0; i < count * matrix.columns; ++i) {
      marks.add(values[static_cast<std::size_t>(i)], first + i / matrix.columns, i % matrix.columns);
    }
  }
  return marks;
}

// Both matrices gone through once, where their shapes are the same.
struct Beside {
  std::int64_t elements = 0, unequal = 0;
  std::int64_t first_unequal = 0;
  double held_there = 0.0, file_there = 0.0;
  double squares = 0.0, of_difference = 0.0, products = 0.0, sum_of_difference = 0.0;
  std::int64_t not_finite = 0;  // of what is held
  bool held_is_constant = true;
  double constant = 0.0;
  explain::WeightRange range;  // of the file's

  double apart() const { return squares > 0.0 ? std::sqrt(of_difference / squares) : HUGE_VAL; }
};

Beside go_through(const Matrix& file, const Matrix& held) {
  Beside beside;
  for (std::int64_t first = 0; first < file.rows; first += file.rows_at_once()) {
    const std::int64_t count = std::min(file.rows_at_once(), file.rows - first);
    const std::vector<double> right = file.read(first, count), other = held.read(first, count);
    beside.range.add(right);
    if (first == 0) beside.constant = other.front();
    for (std::size_t i = 0; i < right.size(); ++i) {
      const double difference = other[i] - right[i];
      beside.held_is_constant = beside.held_is_constant && other[i] == beside.constant;
      if (!std::isfinite(other[i])) ++beside.not_finite;
      if (!(difference == 0.0) && beside.unequal++ == 0) {
        beside.first_unequal = first * file.columns + static_cast<std::int64_t>(i);
        beside.held_there = other[i];
        beside.file_there = right[i];
      }
      beside.squares += right[i] * right[i];
      beside.of_difference += difference * difference;
      beside.products += other[i] * right[i];
      beside.sum_of_difference += difference;
    }
    beside.elements += std::ssize(right);
  }
  return beside;
}

// How each element of what is held may be made of the file's at its place. Of a row of both it says how much it leaves
// of the difference, or nothing where an element lies farther off than the type in which it is kept allows.
struct Law {
  std::string words;
  std::function<std::optional<double>(const std::vector<double>& file, const std::vector<double>& held)> left;
};

// Every stride-th row.
bool explains(const Law& law, const Matrix& file, const Matrix& held, std::int64_t stride) {
  constexpr double kLargestShareLeft = 0.5;  // as the mechanism of products asks (explain/product_weights.cpp)
  double left = 0.0, difference = 0.0;
  for (std::int64_t n = 0; n < file.rows; n += stride) {
    const std::vector<double> right = file.read(n, 1), other = held.read(n, 1);
    const std::optional<double> of_row = law.left(right, other);
    if (!of_row) return false;
    left += *of_row;
    for (std::size_t k = 0; k < right.size(); ++k) difference += std::fabs(other[k] - right[k]);
  }
  // Where no row of a sample differs, the others have to tell.
  return left <= kLargestShareLeft * difference;
}

// Few rows tell what cannot be, and all of them what is.
bool holds(const Law& law, const Matrix& file, const Matrix& held) {
  constexpr std::int64_t kSampledRows = 16;
  const std::int64_t stride = std::max<std::int64_t>(1, file.rows / kSampledRows);
  return explains(law, file, held, stride) && (stride == 1 || explains(law, file, held, 1));
}

// A law of each element by itself.
Law of_elements(std::string words, std::function<double(double)> value, DType kept_as) {
  return {std::move(words), [value = std::move(value), kept_as](const auto& file, const auto& held) {
            std::optional<double> left = 0.0;
            for (std::size_t k = 0; k < file.size() && left; ++k) {
              const double expected = value(file[k]);
              const double error = std::fabs(held[k] - expected);
              if (error <= spacing(kept_as, expected)) {
                *left += error;
              } else {
                left.reset();
              }
            }
            return left;
          }};
}

Law of_rounding(const explain::WeightRounding& how, const explain::WeightRange& whole, DType kept_as) {
  return {how.words(), [how, whole, kept_as](const auto& file, const auto& held) {
            const explain::WeightChange change = explain::change_by_rounding(file, how, whole, DType::kF64);
            std::optional<double> left = 0.0;
            for (std::size_t k = 0; k < file.size() && left; ++k) {
              const double expected = file[k] + change.by[k];
              const double error = std::fabs(held[k] - expected);
              // A scale is one of float32; a type's own rounding is known to the bit.
              const double allowed = how.type ? 0.0
                                              : spacing(kept_as, expected) + change.unsure[k] +
                                                    4.0 * unit_roundoff(DType::kF32) * std::fabs(expected);
              if (error <= allowed) {
                *left += error;
              } else {
                left.reset();
              }
            }
            return left;
          }};
}

// The order in which what is held takes the file's rows or columns; nothing where it holds others.
std::optional<std::string> reordered(const std::vector<std::uint64_t>& file, const std::vector<std::uint64_t>& held,
                                     const std::string& what) {
  std::unordered_map<std::uint64_t, std::size_t> places;
  for (std::size_t i = 0; i < file.size(); ++i) places.emplace(file[i], i);
  std::size_t moved = 0;
  std::string first;
  for (std::size_t i = 0; i < held.size(); ++i) {
    if (held[i] == file[i]) continue;
    const auto found = places.find(held[i]);
    if (found == places.end()) return std::nullopt;
    if (moved++ == 0) {
      first = what + ' ' + std::to_string(i) + " is the file's " + what + ' ' + std::to_string(found->second);
    }
  }
  if (moved == 0) return std::nullopt;
  const auto sorted = [](std::vector<std::uint64_t> marks) {
    std::ranges::sort(marks);
    return marks;
  };
  const bool each_once = sorted(file) == sorted(held);
  return what + (each_once ? "s in another order (" : "s of other places, some lost (") + std::to_string(moved) +
         " of " + std::to_string(held.size()) + ": " + first + ")";
}

class Comparison {
 public:
  Comparison(const WeightSource& model, const fs::path& path) : model_(model), held_(path) {}

  WeightComparison run(const std::function<void(std::int64_t, std::int64_t)>& progress) {
    WeightComparison result;
    std::vector<std::string> names;
    for (const WeightInfo& info : model_.weights()) names.push_back(info.name);
    for (const auto& [name, entry] : held_.entries()) {
      if (std::ranges::find(names, name) == names.end()) result.unknown.push_back(name);
    }
    if (result.unknown.size() == held_.entries().size()) refuse_all(result.unknown, names);
    std::int64_t done = 0;
    for (const WeightInfo& info : model_.weights()) {
      if (progress) progress(done++, std::ssize(model_.weights()));
      const formats::SafetensorsEntry* entry = held_.find(info.name);
      if (entry == nullptr) {
        ++result.absent;
      } else if (auto difference = compare(info, *entry)) {
        result.different.push_back(std::move(*difference));
      } else {
        ++result.equal;
      }
    }
    return result;
  }

 private:
  [[noreturn]] static void refuse_all(const std::vector<std::string>& unknown, const std::vector<std::string>& names) {
    const std::string first = unknown.empty() ? "no tensor" : "\"" + printable(unknown.front()) + "\"";
    throw InputError("--weights: none of the tensors there is a weight of the model; the first is " + first +
                     (unknown.empty() ? "" : formats::suggestion(unknown.front(), names)) +
                     "; save them under the checkpoint's names, as \"" + names.front() + "\"");
  }

  std::optional<WeightDifference> compare(const WeightInfo& info, const formats::SafetensorsEntry& entry) {
    if (entry.shape != info.shape) return of_another_shape(info, entry);
    const Matrix file = of_model(model_, info), held = held_.matrix(info.name);
    const Beside beside = go_through(file, held);
    if (beside.unequal == 0) return std::nullopt;
    if (beside.held_is_constant) {
      return WeightDifference{info.name, beside.constant == 0.0 ? "zeros" : "all " + digits(beside.constant, 6), {}};
    }
    if (auto law = law_of_values(file, held, beside)) return WeightDifference{info.name, *law, beside.apart()};
    if (auto order = law_of_places(info, file, held)) return WeightDifference{info.name, *order, {}};
    return WeightDifference{info.name, other_values(info, file, beside), beside.apart()};
  }

  WeightDifference of_another_shape(const WeightInfo& info, const formats::SafetensorsEntry& entry) const {
    const bool turned = entry.shape.size() == 2 && entry.shape == Shape(info.shape.rbegin(), info.shape.rend());
    if (turned && marks_of(held_.matrix(info.name)).rows == marks_of(of_model(model_, info)).columns) {
      return {info.name, "transposed", {}};
    }
    return {info.name, "of shape " + to_string(entry.shape) + " where the file has " + to_string(info.shape), {}};
  }

  static std::string other_values(const WeightInfo& info, const Matrix& file, const Beside& beside) {
    const std::string where = info.shape.size() == 2 ? std::to_string(beside.first_unequal / file.columns) + ", " +
                                                           std::to_string(beside.first_unequal % file.columns)
                                                     : std::to_string(beside.first_unequal);
    const std::string not_finite =
        beside.not_finite == 0 ? "" : " (" + std::to_string(beside.not_finite) + " of them not finite)";
    return "other values in " + std::to_string(beside.unequal) + " of " + counted(beside.elements, "element") +
           not_finite + ", first at [" + where + "]: " + digits(beside.held_there, 9) + " where the file has " +
           digits(beside.file_there, 9);
  }

  // Each element is made of the file's at its place.
  std::optional<std::string> law_of_values(const Matrix& file, const Matrix& held, const Beside& beside) {
    const double factor = beside.squares > 0.0 ? beside.products / beside.squares : 1.0;
    const double offset = beside.sum_of_difference / static_cast<double>(beside.elements);
    const std::vector<explain::WeightRounding> roundings = explain::roundings_of(file.columns);
    const auto rounded_so = [&](const explain::WeightRounding& how) {
      return holds(of_rounding(how, beside.range, held.dtype), file, held);
    };
    for (const explain::WeightRounding& how : roundings) {
      if (how.type && rounded_so(how)) return how.words();
    }
    // What is held was rounded, so that the roundest number that fits is meant.
    for (int significant = 1; significant <= 4; ++significant) {
      const double times = to_digits(factor, significant), plus = to_digits(offset, significant);
      for (const Law& law : {of_elements(
                                 "the file's values times " + digits(times, significant),
                                 [times](double x) { return times * x; }, held.dtype),
                             of_elements(
                                 "the file's values plus " + digits(plus, significant),
                                 [plus](double x) { return x + plus; }, held.dtype)}) {
        if (holds(law, file, held)) return law.words;
      }
    }
    if (file.rows == 1) return std::nullopt;
    // Most weights of an engine are rounded alike.
    const auto last = std::ranges::find(roundings, last_levels_, &explain::WeightRounding::words);
    const auto found =
        last != roundings.end() && rounded_so(*last)
            ? last
            : std::ranges::find_if(roundings, [&](const auto& how) { return !how.type && rounded_so(how); });
    if (found == roundings.end()) return std::nullopt;
    last_levels_ = found->words();
    return last_levels_;
  }

  // The elements are the file's, of other places or of another weight.
  std::optional<std::string> law_of_places(const WeightInfo& info, const Matrix& file, const Matrix& held) const {
    const Marks of_file = marks_of(file), of_held = marks_of(held);
    if (file.rows == file.columns && of_held.rows == of_file.columns) return "transposed";
    if (auto order = reordered(of_file.rows, of_held.rows, "row")) return order;
    if (auto order = reordered(of_file.columns, of_held.columns, file.rows == 1 ? "element" : "column")) return order;
    const std::vector<double> first = held.read(0, 1);
    for (const WeightInfo& other : model_.weights()) {
      if (other.name == info.name || other.shape != info.shape) continue;
      const Matrix matrix = of_model(model_, other);
      if (matrix.read(0, 1) == first && marks_of(matrix).rows == of_held.rows) return "the file's " + other.name;
    }
    return std::nullopt;
  }

  const WeightSource& model_;
  Held held_;
  std::string last_levels_;  // in words
};

}  // namespace

WeightComparison compare_weights(const WeightSource& model, const fs::path& held,
                                 const std::function<void(std::int64_t, std::int64_t)>& progress) {
  return Comparison(model, held).run(progress);
}

}  // namespace qdiff::diagnose
