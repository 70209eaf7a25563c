// config.json of a Qwen2 or Llama checkpoint, in the dialects of transformers 4 and 5.
//
//                 transformers 4           transformers 5
//   rope theta    rope_theta               rope_parameters.rope_theta
//   rope type     rope_scaling.type        rope_parameters.rope_type
//   dtype         torch_dtype              dtype
//
// A file may mix them (5 reads files of 4); where it says the same thing twice, it must say it equally. Absent keys
// have the defaults of Qwen2Config (transformers 5.17 and 4.57, models/qwen2/configuration_qwen2.py), each with a note:
//   vocab_size 151936, hidden_size 4096, intermediate_size 22016, num_hidden_layers 32, num_attention_heads 32,
//   num_key_value_heads 32 (null: as many as attention heads), head_dim hidden_size / num_attention_heads,
//   hidden_act silu, max_position_embeddings 32768, rms_norm_eps 1e-6, rope theta 10000,
//   tie_word_embeddings false, use_sliding_window false, sliding_window 4096, max_window_layers 28.
// For Llama those of LlamaConfig: vocab_size 32000, intermediate_size 11008, max_position_embeddings 2048,
// attention_bias and mlp_bias false, and else the same. model_type has none. Whatever would make it
// another forward pass is refused, never ignored: rope scaling, a sliding window that some layer uses, another
// activation, quantisation.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "harness/contract/config.h"
#include "harness/formats/strict_json.h"

namespace qdiff::model {

struct HuggingFaceConfig {
  ModelConfig config;          // validated; its dtype is `dtype` where that is declared
  std::optional<DType> dtype;  // upstream then takes the checkpoint's own
  std::vector<std::string> notes;
};

// `where` names the file in messages. Throws qdiff::InputError.
HuggingFaceConfig parse_huggingface_config(const formats::Json& json, const std::string& where);

// The dialect of transformers 5.
formats::Json to_huggingface_config(const ModelConfig& config);

}  // namespace qdiff::model
