// Hyper-parameters of a Qwen2.5 decoder, or of one of another architecture that has the same forward pass, as the
// model's own files state them.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "harness/contract/architecture.h"
#include "harness/contract/dtype.h"

namespace qdiff {

struct ModelConfig {
  Architecture architecture = Architecture::kQwen2;
  std::int64_t hidden = 0;        // D
  std::int64_t num_layers = 0;    //
  std::int64_t num_q_heads = 0;   // H
  std::int64_t num_kv_heads = 0;  // K
  std::int64_t head_dim = 0;      // d; H*d need not be D
  std::int64_t intermediate = 0;  // I
  std::int64_t vocab = 0;         // V
  double rms_norm_eps = 0.0;
  double rope_theta = 0.0;
  bool tie_word_embeddings = false;
  bool qkv_bias = true;  // whether the model has biases of q, k and v
  std::int64_t max_position_embeddings = 0;
  DType dtype = DType::kBF16;  // of the checkpoint's weights

  std::int64_t q_width() const { return num_q_heads * head_dim; }    // H*d
  std::int64_t kv_width() const { return num_kv_heads * head_dim; }  // K*d
  std::int64_t group_size() const { return num_q_heads / num_kv_heads; }

  bool has(Component component) const { return component == Component::kCore || qkv_bias; }

  // Throws std::invalid_argument naming the field, its value and what it must be.
  void validate() const;
  bool operator==(const ModelConfig&) const = default;
};

// One line: "qwen2 D=896 L=24 H=14 K=2 d=64 I=4864 V=151936 eps=1e-06 theta=1e+06 tied bfloat16".
std::string to_string(const ModelConfig& config);

}  // namespace qdiff
