// The hyper-parameters of a GGUF file, from its keys, for the architectures "qwen2" and "llama" (A stands for it):
//   hidden size           A.embedding_length
//   layers                A.block_count
//   query heads           A.attention.head_count
//   key/value heads       A.attention.head_count_kv           absent: as many as query heads
//   head dimension        A.attention.key_length              absent: hidden size / query heads
//   intermediate size     A.feed_forward_length
//   rms_norm eps          A.attention.layer_norm_rms_epsilon
//   rope theta            A.rope.freq_base                    absent: 10000
//   max positions         A.context_length
// The defaults are those of llama_model::load_hparams() (llama.cpp, src/llama-model.cpp). The vocabulary's size is that
// of token_embd.weight; embeddings are tied where there is no output.weight. Keys that would make
// it another forward pass (rope scaling, a sliding window, experts, another head dimension for values) are refused.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "harness/contract/config.h"
#include "harness/formats/gguf.h"

namespace qdiff::model {

struct GgufConfig {
  ModelConfig config;  // validated; its dtype is not set, for no key states it
  std::vector<std::string> notes;
};

// A tensor of any file of the model; null where there is none.
using FindTensor = std::function<const formats::GgufTensor*(const std::string&)>;

// `header` is that of the file, or of the first of a split set; `where` names it in messages. Throws qdiff::InputError.
GgufConfig parse_gguf_config(const formats::GgufHeader& header, const FindTensor& find_tensor,
                             const std::string& where);

}  // namespace qdiff::model
