// Writes a qdiff trace (docs/trace-format.md, section 3) from a C++ engine. One header, C++17, the standard library
// alone: copy it into your engine. record_trace.cpp beside it shows its use.
//
// Tensors go to disk as they come. The folder appears under its name, whole, with commit(); without it nothing is left
// behind. Errors are thrown as std::runtime_error, with what is wrong and where. Not thread-safe.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace qdiff {

enum class TraceDType { kFloat32, kFloat16, kBFloat16 };

struct TraceAbout {
  std::string engine_name;
  std::string engine_version;
  std::string device = "cpu";
  // How the engine rounds: float32, float16 or bfloat16. `points` as docs/trace-format.md lists them.
  std::string weights = "bfloat16";
  std::string activations = "bfloat16";
  std::string accumulate = "float32";
  std::map<std::string, std::string> points;
  std::string architecture = "qwen2";
  std::string config_json;  // the text of the model's config.json, unchanged
  // The caller chose positions that do not follow from slots and padding. Without it they are judged against what does.
  bool positions_requested = false;
};

class TraceWriter {
 public:
  TraceWriter(const std::filesystem::path& directory, TraceAbout about) : about_(std::move(about)) {
    namespace fs = std::filesystem;
    directory_ = fs::absolute(directory).lexically_normal();
    if (directory_.filename().empty()) directory_ = directory_.parent_path();
    refuse_other_folder();
    if (about_.config_json.find('{') == std::string::npos) fail("config_json is not the text of a config.json");
    fs::create_directories(directory_.parent_path());
    const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
    for (std::int64_t attempt = 0;; ++attempt) {
      temporary_ = directory_.parent_path() / (".qdiff-trace-" + std::to_string(now + attempt) + ".tmp");
      if (fs::create_directory(temporary_)) break;
    }
  }
  ~TraceWriter() {
    data_.close();
    std::error_code ignored;
    if (!temporary_.empty()) std::filesystem::remove_all(temporary_, ignored);
  }
  TraceWriter(const TraceWriter&) = delete;
  TraceWriter& operator=(const TraceWriter&) = delete;

  // Ends the step before. `phase` is "prefill" or "decode"; `tokens` is [B][T], all rows equally long; `left_padding`
  // [B] counts the pad tokens at the left of each row, over the whole sequence. `positions` [B][T] are those that the
  // caller asked for; empty means slot less padding.
  void begin_step(const std::string& phase, std::vector<std::vector<std::int64_t>> tokens,
                  const std::vector<std::int64_t>& left_padding = {},
                  const std::vector<std::vector<std::int64_t>>& positions = {}) {
    end_step();
    if (phase != "prefill" && phase != "decode") fail("the phase \"" + phase + "\" is neither prefill nor decode");
    if (tokens.empty() || tokens[0].empty()) fail("tokens must be [B][T]");
    for (const auto& row : tokens) {
      if (row.size() != tokens[0].size()) fail("all rows of tokens must be equally long; pad them on the left");
    }
    if (!steps_.empty() && tokens.size() != batch_) fail("every step must have as many rows as the first");
    batch_ = tokens.size();
    num_tokens_ = tokens[0].size();
    char file[48];
    std::snprintf(file, sizeof file, "step-%04zu.safetensors", steps_.size());
    file_ = file;
    std::ostringstream step;
    step << "{\"index\": " << steps_.size() << ", \"phase\": \"" << phase << "\", \"file\": \"" << file
         << "\", \"tokens\": " << json(tokens) << ", \"past_length\": " << past_;
    if (!positions.empty()) step << ", \"positions\": " << json(positions);
    if (!left_padding.empty()) step << ", \"left_padding\": " << json(left_padding);
    step << '}';
    steps_.push_back(step.str());
    valid_ = past_ + num_tokens_;
    data_.open(temporary_ / "step.data", std::ios::binary | std::ios::in | std::ios::out | std::ios::trunc);
    in_step_ = true;
  }

  // A tensor of the current step, contiguous, in host memory.
  void tensor(const std::string& name, TraceDType dtype, const std::vector<std::int64_t>& shape, const void* data) {
    begin_tensor(name, dtype, shape);
    append(data, entries_.back().elements);
  }

  // The same piece by piece, in row-major order: for strided tensors and paged caches.
  void begin_tensor(const std::string& name, TraceDType dtype, const std::vector<std::int64_t>& shape) {
    finish_tensor();
    if (!in_step_) fail(name + ": no step has begun");
    check_shape(name, shape);
    for (const Entry& entry : entries_) {
      if (entry.name == name) fail(name + " is there twice in one step");
    }
    Entry entry{name, dtype, shape, 1, 0, 0};
    for (const std::int64_t size : shape) entry.elements *= static_cast<std::size_t>(size);
    entry.begin = static_cast<std::size_t>(data_.tellp());
    entries_.push_back(std::move(entry));
  }
  void append(const void* data, std::size_t num_elements) {
    if (entries_.empty()) fail("append() needs begin_tensor() before it");
    Entry& entry = entries_.back();
    if (num_elements > entry.elements - entry.written) fail(entry.name + ": more elements than its shape has");
    entry.written += num_elements;
    data_.write(static_cast<const char*>(data), static_cast<std::streamsize>(num_elements * bytes_of(entry.dtype)));
  }

  // Gives the trace its name; an older trace of that name is replaced.
  void commit() {
    namespace fs = std::filesystem;
    if (temporary_.empty()) fail("was committed already");
    end_step();
    if (steps_.empty()) fail("a trace needs at least one step");
    std::ofstream manifest(temporary_ / "manifest.json", std::ios::binary);
    manifest << "{\n  \"format\": \"qdiff-trace\", \"version\": 1,\n  \"engine\": {\"name\": "
             << quoted(about_.engine_name) << ", \"version\": " << quoted(about_.engine_version)
             << ", \"device\": " << quoted(about_.device)
             << "},\n  \"compute\": {\"weights\": " << quoted(about_.weights)
             << ", \"activations\": " << quoted(about_.activations) << ", \"accumulate\": " << quoted(about_.accumulate)
             << ", \"points\": {";
    const char* comma = "";
    for (const auto& [point, dtype] : about_.points) {
      manifest << comma << quoted(point) << ": " << quoted(dtype);
      comma = ", ";
    }
    manifest << "}},\n  \"model\": {\"architecture\": " << quoted(about_.architecture)
             << ", \"config\": " << about_.config_json << "},\n"
             << (about_.positions_requested ? "  \"positions_are\": \"requested\",\n" : "") << "  \"steps\": [";
    comma = "\n    ";
    for (const std::string& step : steps_) {
      manifest << comma << step;
      comma = ",\n    ";
    }
    manifest << "\n  ]\n}\n";
    manifest.close();
    if (!manifest) fail("manifest.json cannot be written");
    refuse_other_folder();
    const fs::path older = temporary_.string() + ".older";
    const bool replaces = fs::exists(directory_);
    if (replaces) fs::rename(directory_, older);
    fs::rename(temporary_, directory_);
    temporary_.clear();
    if (replaces) fs::remove_all(older);
  }

 private:
  struct Entry {
    std::string name;
    TraceDType dtype;
    std::vector<std::int64_t> shape;
    std::size_t elements, written, begin;
  };

  [[noreturn]] void fail(const std::string& what) const {
    throw std::runtime_error("trace " + directory_.string() + ": " + what);
  }

  static std::size_t bytes_of(TraceDType dtype) { return dtype == TraceDType::kFloat32 ? 4 : 2; }
  static const char* name_of(TraceDType dtype) {
    return dtype == TraceDType::kFloat32 ? "F32" : dtype == TraceDType::kFloat16 ? "F16" : "BF16";
  }

  static std::string quoted(const std::string& text) {
    std::string quoted = "\"";
    for (const char c : text) {
      if (c == '"' || c == '\\') quoted += '\\';
      quoted += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
    return quoted + '"';
  }
  static std::string json(std::int64_t number) { return std::to_string(number); }
  template <typename T>
  static std::string json(const std::vector<T>& list) {
    std::string text = "[";
    for (const T& item : list) text += (text.size() > 1 ? ", " : "") + json(item);
    return text + ']';
  }

  // Docs/trace-format.md, section 2: the dimensions of each tensor, by its name without "model.layers.{i}.".
  static const std::map<std::string, std::vector<std::string>>& contract() {
    static const std::vector<std::string> kHidden = {"B", "T", "D"}, kQuery = {"B", "T", "H*d"},
                                          kKeyValue = {"B", "T", "K*d"}, kCache = {"B", "S", "K", "d"},
                                          kScores = {"B", "H", "T", "S"}, kInner = {"B", "T", "I"};
    static const std::map<std::string, std::vector<std::string>> kContract = {
        {"model.embed_tokens", kHidden},
        {"input_layernorm", kHidden},
        {"self_attn.q_proj.matmul", kQuery},
        {"self_attn.k_proj.matmul", kKeyValue},
        {"self_attn.v_proj.matmul", kKeyValue},
        {"self_attn.q_proj", kQuery},
        {"self_attn.k_proj", kKeyValue},
        {"self_attn.v_proj", kKeyValue},
        {"self_attn.q_rope", {"B", "T", "H", "d"}},
        {"self_attn.k_rope", {"B", "T", "K", "d"}},
        {"self_attn.k_cache", kCache},
        {"self_attn.v_cache", kCache},
        {"self_attn.scores", kScores},
        {"self_attn.probs", kScores},
        {"self_attn.attn_output", kQuery},
        {"self_attn.o_proj", kHidden},
        {"resid_mid", kHidden},
        {"post_attention_layernorm", kHidden},
        {"mlp.gate_proj", kInner},
        {"mlp.up_proj", kInner},
        {"mlp.act", kInner},
        {"mlp.down_proj", kHidden},
        {"output", kHidden},
        {"model.norm", kHidden},
        {"lm_head", {"B", "T", "V"}},
    };
    return kContract;
  }

  // A dimension of the model is whatever its first tensor says; all others have to agree.
  void check_shape(const std::string& name, const std::vector<std::int64_t>& shape) {
    static const std::string kLayers = "model.layers.";
    std::string part = name;
    const bool in_layer = name.compare(0, kLayers.size(), kLayers) == 0;
    if (in_layer) {
      const std::size_t dot = name.find('.', kLayers.size());
      const std::string layer = name.substr(kLayers.size(), dot - kLayers.size());
      const bool is_number = !layer.empty() && layer.find_first_not_of("0123456789") == std::string::npos;
      part = dot == std::string::npos || !is_number ? "" : name.substr(dot + 1);
    }
    const auto found = contract().find(part);
    const bool stands_outside = part == "lm_head" || part.compare(0, 6, "model.") == 0;
    if (found == contract().end() || stands_outside == in_layer) {
      fail("\"" + name + "\" is no tensor of docs/trace-format.md");
    }
    if (shape.size() != found->second.size()) {
      fail(name + " has " + std::to_string(shape.size()) + " dimensions, but must have " +
           std::to_string(found->second.size()));
    }
    for (std::size_t i = 0; i < shape.size(); ++i) {
      const std::string& letter = found->second[i];
      if (part == "lm_head" && letter == "T" && shape[i] == 1) continue;  // the last row alone
      std::int64_t expected = shape[i];
      if (letter == "B") expected = static_cast<std::int64_t>(batch_);
      if (letter == "T") expected = static_cast<std::int64_t>(num_tokens_);
      if (letter == "S") expected = static_cast<std::int64_t>(valid_);
      if (letter != "B" && letter != "T" && letter != "S") expected = sizes_.emplace(letter, shape[i]).first->second;
      if (shape[i] != expected || shape[i] < 1) {
        fail(name + ": dimension " + letter + " is " + std::to_string(shape[i]) + ", but must be " +
             std::to_string(expected));
      }
    }
  }

  void finish_tensor() const {
    if (!entries_.empty() && entries_.back().written != entries_.back().elements) {
      fail(entries_.back().name + ": " + std::to_string(entries_.back().written) + " elements were written of " +
           std::to_string(entries_.back().elements));
    }
  }

  // The header comes first in the file, and only now it is known.
  void end_step() {
    if (!in_step_) return;
    finish_tensor();
    std::vector<const Entry*> ordered;  // larger elements first, so that each tensor is aligned to its own
    for (const std::size_t size : {std::size_t{4}, std::size_t{2}}) {
      for (const Entry& entry : entries_) {
        if (bytes_of(entry.dtype) == size) ordered.push_back(&entry);
      }
    }
    std::string header = "{";
    std::size_t offset = 0;
    for (const Entry* entry : ordered) {
      const std::size_t end = offset + entry->elements * bytes_of(entry->dtype);
      header += (offset > 0 ? ", " : "") + quoted(entry->name) + ": {\"dtype\": \"" + name_of(entry->dtype) +
                "\", \"shape\": " + json(entry->shape) + ", \"data_offsets\": [" + std::to_string(offset) + ", " +
                std::to_string(end) + "]}";
      offset = end;
    }
    header += '}';
    header.append((8 - header.size() % 8) % 8, ' ');
    std::ofstream file(temporary_ / file_, std::ios::binary);
    for (int byte = 0; byte < 8; ++byte) file.put(static_cast<char>(header.size() >> (8 * byte) & 0xFF));
    file << header;
    std::array<char, 65536> piece;
    for (const Entry* entry : ordered) {
      data_.seekg(static_cast<std::streamoff>(entry->begin));
      for (std::size_t left = entry->elements * bytes_of(entry->dtype); left > 0;) {
        const std::size_t size = left < piece.size() ? left : piece.size();
        data_.read(piece.data(), static_cast<std::streamsize>(size));
        file.write(piece.data(), static_cast<std::streamsize>(size));
        left -= size;
      }
    }
    file.close();
    if (!data_ || !file) fail(file_ + " cannot be written; is the disk full?");
    data_.close();
    std::filesystem::remove(temporary_ / "step.data");
    entries_.clear();
    in_step_ = false;
    past_ = valid_;
  }

  // Only a trace is replaced, never anything else.
  void refuse_other_folder() const {
    namespace fs = std::filesystem;
    if (directory_.filename().empty()) fail("is no place for a trace; name a folder of its own");
    if (!fs::exists(fs::symlink_status(directory_))) return;
    if (!fs::is_directory(fs::symlink_status(directory_))) fail("is there already and is no folder");
    bool empty = true;
    for (const fs::directory_entry& entry : fs::directory_iterator(directory_)) {
      empty = false;
      const std::string name = entry.path().filename().string();
      const bool is_part =
          name == "manifest.json" || (name.compare(0, 5, "step-") == 0 && entry.path().extension() == ".safetensors");
      if (!is_part) fail("holds " + name + ", which is no part of a trace, so it is not replaced");
    }
    std::ostringstream text;
    text << std::ifstream(directory_ / "manifest.json").rdbuf();
    if (!empty && text.str().find("\"qdiff-trace\"") == std::string::npos) fail("is no trace, so it is not replaced");
  }

  TraceAbout about_;
  std::filesystem::path directory_, temporary_;
  std::vector<std::string> steps_;  // as JSON
  std::string file_;                // of the current step
  bool in_step_ = false;
  std::size_t batch_ = 0, num_tokens_ = 0, past_ = 0, valid_ = 0;
  std::map<std::string, std::int64_t> sizes_;  // of the model, by letter
  std::vector<Entry> entries_;                 // of the current step
  std::fstream data_;
};

}  // namespace qdiff
