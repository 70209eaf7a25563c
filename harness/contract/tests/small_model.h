// The sizes of small models, for the tests of every room.
#pragma once

#include <cstdint>

#include "harness/contract/config.h"

namespace qdiff::testing {

// Two layers and a vocabulary of 101, unless the test says otherwise.
inline ModelConfig small_config(std::int64_t num_q_heads, std::int64_t num_kv_heads, std::int64_t head_dim,
                                std::int64_t hidden, std::int64_t intermediate, bool tied = false,
                                std::int64_t vocab = 101) {
  ModelConfig c;
  c.hidden = hidden;
  c.num_layers = 2;
  c.num_q_heads = num_q_heads;
  c.num_kv_heads = num_kv_heads;
  c.head_dim = head_dim;
  c.intermediate = intermediate;
  c.vocab = vocab;
  c.rms_norm_eps = 1e-6;
  c.rope_theta = 1e6;
  c.tie_word_embeddings = tied;
  c.max_position_embeddings = 4096;
  return c;
}

}  // namespace qdiff::testing
