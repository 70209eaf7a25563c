// A trace's manifest.json: who computed, how precisely, which model, and which tokens entered in which step.
// docs/trace-format.md, section 3.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "harness/contract/config.h"
#include "harness/contract/precision.h"
#include "harness/contract/step.h"
#include "harness/formats/limits.h"

namespace qdiff::trace {

inline constexpr std::string_view kManifestName = "manifest.json";
// A manifest lists every token, so it may be longer than other documents.
inline constexpr formats::JsonLimits kManifestLimits = {std::size_t{64} << 20, 32, 8'000'000, std::size_t{64} << 10};
inline constexpr std::size_t kMaxSteps = 65536;
inline constexpr std::size_t kMaxFileNameBytes = 255;

struct EngineInfo {
  std::string name;
  std::string version;
  std::string device;  // "cpu", "cuda:0"
  bool operator==(const EngineInfo&) const = default;
};

// What the manifest says of the model, in the keys of config.json (both dialects). A recorder may know less than the
// checkpoint does, so every field can be absent; the checkpoint itself is the truth.
struct DeclaredConfig {
  Architecture architecture = Architecture::kQwen2;
  std::optional<std::int64_t> hidden, num_layers, num_q_heads, num_kv_heads, head_dim, intermediate, vocab,
      max_position_embeddings;
  std::optional<double> rms_norm_eps, rope_theta;
  std::optional<bool> tie_word_embeddings;
  std::optional<DType> dtype;
  bool operator==(const DeclaredConfig&) const = default;
};

// Its whole numbers: how config.json calls them, what they are of a model, and whether tensors' shapes depend on them.
struct DeclaredNumber {
  const char* key;
  std::optional<std::int64_t> DeclaredConfig::*declared;
  std::int64_t ModelConfig::*of_model;
  bool decides_shapes = true;
};
inline constexpr std::array<DeclaredNumber, 8> kDeclaredNumbers = {
    {{"hidden_size", &DeclaredConfig::hidden, &ModelConfig::hidden},
     {"num_hidden_layers", &DeclaredConfig::num_layers, &ModelConfig::num_layers},
     {"num_attention_heads", &DeclaredConfig::num_q_heads, &ModelConfig::num_q_heads},
     {"num_key_value_heads", &DeclaredConfig::num_kv_heads, &ModelConfig::num_kv_heads},
     {"head_dim", &DeclaredConfig::head_dim, &ModelConfig::head_dim},
     {"intermediate_size", &DeclaredConfig::intermediate, &ModelConfig::intermediate},
     {"vocab_size", &DeclaredConfig::vocab, &ModelConfig::vocab},
     {"max_position_embeddings", &DeclaredConfig::max_position_embeddings, &ModelConfig::max_position_embeddings,
      false}}};

DeclaredConfig declare(const ModelConfig& config);

// One sentence for each shape key in which the two differ, and for each other key; empty lists where they agree.
struct ConfigDifferences {
  std::vector<std::string> shapes;
  std::vector<std::string> others;
};
ConfigDifferences differences(const DeclaredConfig& declared, const ModelConfig& truth);

struct Manifest {
  EngineInfo engine;
  Precision precision;
  DeclaredConfig config;
  std::map<std::string, std::string> weights_sha256;  // by tensor name, 64 hexadecimal digits
  std::vector<Step> steps;
  // Whether the caller chose the steps' positions. Where not, they are those that slots and padding give.
  bool positions_requested = false;
  std::optional<std::int64_t> cache_capacity;  // cache slots of each row, where the engine had a fixed number
  std::vector<std::string> repeats;            // folders of further recordings of the same input, beside this one's
  std::vector<std::string> files;              // of each step: a name, never a path
  // What was read and understood but deserves a word in a report: positions that are not the usual ones, rounding
  // points of another version.
  std::vector<std::string> notes;
  // What every verdict on the trace depends on, for its first line: which positions it was judged with.
  std::vector<std::string> conditions;
};

// `source` stands in errors. Throws InputError that names the field, its value and what it must be. Unknown keys are
// ignored: the format may grow.
Manifest parse_manifest(std::string_view text, const std::string& source);

// Throws InputError where `directory` has no manifest, or it cannot be read.
Manifest read_manifest(const std::filesystem::path& directory);

std::string to_json(const Manifest& manifest);

// "step-0003.safetensors"
std::string step_file_name(std::size_t index);

}  // namespace qdiff::trace
