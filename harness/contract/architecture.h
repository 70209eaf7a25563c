// The architectures whose forward pass is the operation table, and what each of them settles about a model. An
// architecture is added here; nothing else lists them.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace qdiff {

enum class Architecture : std::uint8_t { kQwen2, kLlama };

// What some models have and others lack. Rows of the operation table name the component that they belong to.
enum class Component : std::uint8_t {
  kCore,     // every model has it
  kQkvBias,  // the biases of q, k and v
};

struct ArchitectureFacts {
  Architecture architecture;
  std::string_view name;          // `model_type` of config.json, `general.architecture` of a GGUF file
  std::string_view models;        // what people call the models that are made this way
  std::string_view causal_model;  // transformers' class, which `architectures` of config.json names
  bool qkv_bias;                  // a checkpoint holds biases of q, k and v
  bool slides;                    // config.json says which layers attend through a sliding window
  // A GGUF file holds the two elements that RoPE turns together side by side, in rows of q and k (permute() of
  // LlamaModel in llama.cpp's convert_hf_to_gguf.py).
  bool interleaved_in_gguf;
  // What transformers takes where config.json lacks the key (configuration_qwen2.py, configuration_llama.py).
  std::int64_t vocab, intermediate, max_position_embeddings;
  std::int64_t num_kv_heads;  // 0: as many as there are query heads
};

// clang-format off
inline constexpr std::array kArchitectures = {
  //                architecture           name     models                                      causal_model        qkv_bias  slides  interleaved  vocab  intermediate  positions  kv heads
  ArchitectureFacts{Architecture::kQwen2, "qwen2", "Qwen2, Qwen2.5 and models made from them", "Qwen2ForCausalLM", true,     true,   false,      151936, 22016,        32768,     32},
  ArchitectureFacts{Architecture::kLlama, "llama", "Llama and models made from it",            "LlamaForCausalLM", false,    false,  true,        32000, 11008,         2048,      0},
};
// clang-format on

constexpr const ArchitectureFacts& facts(Architecture architecture) {
  return kArchitectures[static_cast<std::size_t>(architecture)];
}
static_assert(facts(Architecture::kQwen2).architecture == Architecture::kQwen2 &&
                  facts(Architecture::kLlama).architecture == Architecture::kLlama,
              "kArchitectures must stand in the order of enum Architecture");
constexpr std::string_view name(Architecture architecture) { return facts(architecture).name; }

// The architecture of this name; empty where there is none.
std::optional<Architecture> parse_architecture(std::string_view name);
// For the errors of those who read a name: `"qwen2" (Qwen2, …) and "llama" (…)`.
std::string known_architectures();

}  // namespace qdiff
