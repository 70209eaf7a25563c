#include "harness/formats/strict_json.h"

#include <algorithm>
#include <iterator>
#include <unordered_set>
#include <utility>
#include <vector>

#include "harness/contract/error.h"
#include "harness/formats/input_file.h"
#include "harness/formats/suggest.h"
#include "harness/formats/utf8.h"

namespace qdiff::formats {
namespace {

// Thrown by refuse_json(), and turned into an InputError where source and offset are known.
struct Refusal {
  std::string what;
};

// Walks the text and notes how far the reader came: nlohmann's SAX interface does not tell.
class TrackingIterator {
 public:
  using difference_type = std::ptrdiff_t;
  using value_type = char;
  using pointer = const char*;
  using reference = const char&;
  using iterator_category = std::input_iterator_tag;

  TrackingIterator(const char* at, const char** furthest) : at_(at), furthest_(furthest) {}
  reference operator*() const { return *at_; }
  TrackingIterator& operator++() {
    *furthest_ = ++at_;
    return *this;
  }
  TrackingIterator operator++(int) {
    const TrackingIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const TrackingIterator& other) const { return at_ == other.at_; }
  bool operator!=(const TrackingIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  const char** furthest_;
};

// The keys of one object. Most objects have a few, for which a list is quicker than a set.
class KeySet {
 public:
  // False where the key is there already.
  bool insert(const std::string& key) {
    if (!set_.empty()) return set_.insert(key).second;
    if (std::ranges::find(list_, key) != list_.end()) return false;
    list_.push_back(key);
    constexpr std::size_t kLongestList = 16;
    if (list_.size() > kLongestList) set_.insert(list_.begin(), list_.end());
    return true;
  }

 private:
  std::vector<std::string> list_;
  std::unordered_set<std::string> set_;  // used once the list is long
};

// Keeps the limits and the rule of unique keys, and hands everything on. The interface is that of nlohmann::json_sax.
class StrictSax {
 public:
  StrictSax(const JsonLimits& limits, JsonEvents& events) : limits_(limits), events_(events) {}

  bool null() {
    return value([&] { events_.on_null(); });
  }
  bool boolean(bool v) {
    return value([&] { events_.on_boolean(v); });
  }
  bool number_integer(std::int64_t v) {
    return value([&] { events_.on_integer(v); });
  }
  bool number_unsigned(std::uint64_t v) {
    return value([&] { events_.on_unsigned(v); });
  }
  bool number_float(double v, const std::string&) {
    return value([&] { events_.on_float(v); });
  }
  bool string(std::string& v) {
    check_string(v, "a string");
    return value([&] { events_.on_string(v); });
  }
  bool binary(Json::binary_t&) { return false; }  // JSON text has none
  bool key(std::string& v) {
    check_string(v, "a key");
    if (!keys_.back().insert(v)) refuse_json("the key \"" + printable(v) + "\" occurs twice in one object");
    events_.on_key(v);
    return true;
  }
  bool start_object(std::size_t) {
    open();
    return value([&] { events_.on_start_object(); });
  }
  bool end_object() {
    keys_.pop_back();
    events_.on_end_object();
    return true;
  }
  bool start_array(std::size_t) {
    open();
    return value([&] { events_.on_start_array(); });
  }
  bool end_array() {
    keys_.pop_back();
    events_.on_end_array();
    return true;
  }
  bool parse_error(std::size_t, const std::string& last_token, const Json::exception& error) {
    refuse_json(explain(last_token, error));
  }

 private:
  template <typename Emit>
  bool value(Emit emit) {
    if (++nodes_ > limits_.nodes) refuse_json("more than " + std::to_string(limits_.nodes) + " values");
    emit();
    return true;
  }

  void open() {
    if (keys_.size() >= limits_.depth) refuse_json("nested deeper than " + std::to_string(limits_.depth));
    keys_.emplace_back();
  }

  void check_string(const std::string& text, const char* what) const {
    if (text.size() > limits_.string_bytes) {
      refuse_json(std::string(what) + " of " + std::to_string(text.size()) + " bytes; at most " +
                  std::to_string(limits_.string_bytes) + " are allowed");
    }
    if (text.find('\0') != std::string::npos) refuse_json(std::string(what) + " holds a NUL (\\u0000)");
  }

  static std::string explain(const std::string& last_token, const Json::exception& error) {
    const char last = last_token.empty() ? '\0' : last_token.back();
    if (last == 'N' || last == 'I') return "not JSON: NaN and Infinity are not numbers there";
    if (last == '/') return "not JSON: comments are not allowed";
    std::string text = error.what();  // "[json.exception.parse_error.101] parse error at line 1, column 2: ..."
    if (const std::size_t bracket = text.find("] "); bracket != std::string::npos) text.erase(0, bracket + 2);
    if (text.starts_with("parse error at ")) {
      if (const std::size_t colon = text.find(": "); colon != std::string::npos) text.erase(0, colon + 2);
    }
    return "not JSON: " + printable(text, 200);
  }

  const JsonLimits& limits_;
  JsonEvents& events_;
  std::size_t nodes_ = 0;
  std::vector<KeySet> keys_;  // one for each open object; arrays leave theirs empty
};

class TreeBuilder : public JsonEvents {
 public:
  void on_null() override { place(Json(nullptr)); }
  void on_boolean(bool value) override { place(Json(value)); }
  void on_integer(std::int64_t value) override { place(Json(value)); }
  void on_unsigned(std::uint64_t value) override { place(Json(value)); }
  void on_float(double value) override { place(Json(value)); }
  void on_string(std::string& value) override { place(Json(std::move(value))); }
  void on_key(std::string& value) override { key_ = std::move(value); }
  void on_start_object() override { open_.push_back(place(Json::object())); }
  void on_end_object() override { open_.pop_back(); }
  void on_start_array() override { open_.push_back(place(Json::array())); }
  void on_end_array() override { open_.pop_back(); }

  Json take() { return std::move(root_); }

 private:
  // A container's address holds as long as it is open: its parent gets no other child meanwhile.
  Json* place(Json&& value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *open_.back();
    if (parent.is_object()) return &(parent[key_] = std::move(value));
    parent.push_back(std::move(value));
    return &parent.back();
  }

  Json root_;
  std::vector<Json*> open_;
  std::string key_;
};

std::string at_byte(const std::string& source, std::size_t offset) {
  return source + ": byte " + std::to_string(offset) + ": ";
}

// What nlohmann's lexer would let through: it skips a byte order mark and takes a NUL for the end of the text.
void check_text(std::string_view text, const std::string& source, const JsonLimits& limits) {
  if (text.size() > limits.bytes) {
    throw InputError(source + ": has " + std::to_string(text.size()) + " bytes; at most " +
                     std::to_string(limits.bytes) + " are allowed");
  }
  if (text.find_first_not_of(" \t\r\n") == std::string_view::npos) {
    throw InputError(source + ": is empty; a JSON value was expected");
  }
  if (text.starts_with("\xEF\xBB\xBF")) {
    throw InputError(at_byte(source, 0) + "starts with a byte order mark; save it as UTF-8 without one");
  }
  if (const std::size_t nul = text.find('\0'); nul != std::string_view::npos) {
    throw InputError(at_byte(source, nul) + "holds a NUL byte");
  }
  if (const std::size_t bad = find_invalid_utf8(text); bad != text.size()) {
    throw InputError(at_byte(source, bad) + "is not UTF-8");
  }
}

}  // namespace

void refuse_json(const std::string& what) { throw Refusal{what}; }

void parse_json_events(std::string_view text, const std::string& source, const JsonLimits& limits, JsonEvents& events) {
  check_text(text, source, limits);
  const char* furthest = text.data();
  StrictSax sax(limits, events);
  try {
    const TrackingIterator first(text.data(), &furthest);
    const TrackingIterator last(text.data() + text.size(), &furthest);
    if (!Json::sax_parse(first, last, &sax)) refuse_json("not JSON");
  } catch (const Refusal& refusal) {
    throw InputError(at_byte(source, static_cast<std::size_t>(furthest - text.data())) + refusal.what);
  }
}

Json parse_json(std::string_view text, const std::string& source, const JsonLimits& limits) {
  TreeBuilder builder;
  parse_json_events(text, source, limits, builder);
  return builder.take();
}

Json read_json_file(const std::filesystem::path& path, const JsonLimits& limits) {
  return parse_json(read_text_file(path, limits.bytes), printable(path.string(), 400), limits);
}

}  // namespace qdiff::formats
