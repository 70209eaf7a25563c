// The model's weights in the engine's dtype, in memory, each rounded once to nearest even from what the source stores.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "harness/contract/operation_table.h"
#include "harness/contract/weights.h"
#include "optimized/cpu/aligned_buffer.h"
#include "optimized/cpu/kernels/kernels.h"

namespace qdiff::optimized::cpu {

// A projection, row-major [rows, columns] as in the checkpoint.
struct Matrix {
  AlignedBuffer data;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
};

struct LayerWeights {
  // Vectors are rounded to the engine's dtype like everything else and then held as floats, exactly.
  std::vector<float> input_layernorm;           // [D]
  std::vector<float> post_attention_layernorm;  // [D]
  std::vector<float> q_bias, k_bias, v_bias;    // [H*d], [K*d], [K*d]
  Matrix q, k, v;                               // [H*d, D], [K*d, D], [K*d, D]
  Matrix o;                                     // [D, H*d]
  Matrix gate, up;                              // [I, D]
  Matrix down;                                  // [D, I]
};

DType dtype_of(Storage storage);
// Throws InputError for float64, which this engine neither stores nor computes in.
Storage storage_of(DType dtype);

class WeightStore {
 public:
  // Checks that every weight is there and has its shape (throws InputError), and reads none yet. `source` must outlive
  // the store. Where all weights together exceed `max_resident_bytes` (0: no limit), at most one layer or one block of
  // the vocabulary is in memory at a time; otherwise what has been read stays.
  WeightStore(const WeightSource& source, Storage storage, const KernelSet& kernels, std::int64_t max_resident_bytes);

  bool streams() const { return streams_; }
  std::int64_t total_bytes() const { return total_bytes_; }  // of all weights, in the engine's dtype

  std::shared_ptr<const LayerWeights> layer(int index);
  const std::vector<float>& final_norm();  // [D]
  // One row of the embedding, in the engine's dtype, into `destination` [D].
  void copy_embedding_row(std::int64_t token, std::byte* destination);
  // Rows of lm_head's weight from `first` on, at most `rows_at_once()`; valid until the next call.
  const Matrix& lm_head_rows(std::int64_t first, std::int64_t count);
  // The same of the embedding.
  const Matrix& embedding_rows(std::int64_t first, std::int64_t count);
  std::int64_t rows_at_once() const;

 private:
  void read_into(const WeightInfo& info, std::int64_t first, std::int64_t count, std::byte* destination) const;
  Matrix read_matrix(const TensorId& id) const;
  Matrix read_rows(const WeightInfo& info, std::int64_t first, std::int64_t count) const;
  std::vector<float> read_vector(const TensorId& id) const;
  const WeightInfo& info_of(const TensorId& id) const;
  const Matrix& embedding();
  const Matrix& block_of(const WeightInfo& info, std::int64_t first, std::int64_t count);

  const WeightSource& source_;
  Storage storage_;
  const KernelSet& kernels_;
  bool streams_ = false;
  std::int64_t total_bytes_ = 0;
  std::vector<std::shared_ptr<const LayerWeights>> layers_;
  std::vector<float> final_norm_;
  Matrix embedding_;
  Matrix lm_head_;      // empty where the embedding is tied
  Matrix vocab_block_;  // of lm_head or the embedding, when streaming
};

}  // namespace qdiff::optimized::cpu
