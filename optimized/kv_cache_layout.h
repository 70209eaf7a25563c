// Where an element of the KV cache lives. Both optimized engines keep keys and values in one contiguous buffer each,
// laid out [layer][batch][kv_head][pos][d], and both ask offset() below for every address: there is no second
// expression for it anywhere.
//
// Positions are cache slots (pads included) and stand next to each other, so that attention over one kv head streams
// through memory; neighbouring elements of one head's vector are neighbours in memory.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define QDIFF_HOST_DEVICE __host__ __device__
#else
#define QDIFF_HOST_DEVICE
#endif

namespace qdiff::optimized {

struct KvCacheLayout {
  std::int64_t num_layers = 0;
  std::int64_t batch = 0;
  std::int64_t num_kv_heads = 0;
  std::int64_t capacity = 0;  // slots of each row
  std::int64_t head_dim = 0;

  // Index of one element, in elements from the start of the key (or of the value) buffer.
  QDIFF_HOST_DEVICE constexpr std::int64_t offset(std::int64_t layer, std::int64_t b, std::int64_t kv_head,
                                                  std::int64_t pos, std::int64_t d) const {
    return (((layer * batch + b) * num_kv_heads + kv_head) * capacity + pos) * head_dim + d;
  }

  // Elements of the key buffer; the value buffer has as many.
  QDIFF_HOST_DEVICE constexpr std::int64_t num_elements() const {
    return num_layers * batch * num_kv_heads * capacity * head_dim;
  }
};

}  // namespace qdiff::optimized
