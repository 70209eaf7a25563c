// What each kernel is told, and how it is launched. Plain data; the caller validates.
//
// Shape words: B batch, T tokens of this step, M = B*T rows, D hidden, H query heads, K key/value heads, d head dim,
// I intermediate, V vocabulary. Every `void*` points at elements of Launch::dtype.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "harness/contract/dtype.h"
#include "optimized/cuda/kernel_fault.h"
#include "optimized/kv_cache_layout.h"

namespace qdiff::optimized::cuda {

inline constexpr int kKeyTile = 64;       // keys of one softmax tile, and of one split in decode
inline constexpr int kMaxMatvecRows = 4;  // batch rows that the matrix-vector kernels serve
// Of the 227 KB that a block may have on sm_90, for rings and input rows of the matrix-vector kernels.
inline constexpr int kMatvecSharedBytes = 216 * 1024;

struct Launch {
  DType dtype;
  cudaStream_t stream;
  bool planted;
  // Start before the kernel in front has ended (programmatic dependent launch): loads that depend on no other kernel
  // are then under way when its results arrive.
  bool overlapped;
};

// The current step, in device memory.
struct StepInputs {
  const std::int32_t* tokens;        // [B,T]
  const std::int32_t* positions;     // [B,T]
  const std::int32_t* left_padding;  // [B]
  const std::int32_t* past_length;   // [1]
};

struct EmbeddingParams {
  const void* table;  // [V,D]
  StepInputs inputs;
  void* out;  // [M,D]
  int rows;   // M
  int hidden;
  int vocab;
  KernelFault fault;
};
void launch_embedding(const EmbeddingParams& params, const Launch& launch);

struct RmsNormParams {
  const void* x;       // [M,D]
  const void* weight;  // [D]
  void* y;             // [M,D]
  int rows;
  int hidden;
  float eps;
  KernelFault fault;
};
void launch_rms_norm(const RmsNormParams& params, const Launch& launch);

// A product of M rows and n columns whose sum over k was taken in equal parts: [splits,M,n]. No parts: sums is null.
struct PartialSums {
  const float* sums;
  int splits;
};

// Rotates q and k and appends k and v to the cache.
struct RopeAppendParams {
  void* qkv;             // [M, (H+2K)*d]: q, k, v behind their biases
  PartialSums partials;  // where given, qkv is still to be made of them and of the bias
  const void* bias;      // [(H+2K)*d], with partials
  void* q_rope;          // [M,H,d]
  void* k_rope;          // [M,K,d]
  void* key_cache;
  void* value_cache;
  KvCacheLayout layout;
  int layer;
  StepInputs inputs;
  const float2* table;  // [max_position, d/2]: cosine, sine
  int batch;
  int num_tokens;
  int num_q_heads;
  int num_kv_heads;
  int head_dim;
  const void* late_bias;  // [(H+2K)*d], added after rotation by one fault
  bool decode;            // the step's phase
  KernelFault fault;
};
void launch_rope_append(const RopeAppendParams& params, const Launch& launch);

struct AttentionParams {
  const void* q;  // [M,H,d], rotated
  const void* key_cache;
  const void* value_cache;
  KvCacheLayout layout;
  int layer;
  StepInputs inputs;
  void* out;  // [M,H*d]
  int batch;
  int num_tokens;
  int num_q_heads;
  int num_kv_heads;
  int head_dim;
  float scale;
  bool decode;  // the step's phase
  bool first_decode;
  // One token a row only: partial results of the splits, float32.
  float* partial_max;  // [B,H,splits]
  float* partial_sum;  // [B,H,splits]
  float* partial_out;  // [B,H,splits,d]
  unsigned* tickets;   // [B,H], zero between launches
  int num_splits;      // of the cache's capacity
  KernelFault fault;
};
// Prefill: a block a tile of queries of one head. Right 16-bit attention is launch_tensor_attention's.
void launch_flash_attention(const AttentionParams& params, const Launch& launch);
void launch_tensor_attention(const AttentionParams& params, const Launch& launch);
// One token a row: a block a split of the keys, all query heads of a group together. Any storage, right and planted.
void launch_decode_attention(const AttentionParams& params, const Launch& launch);
// Right 16-bit attention of groups of up to eight query heads: of many rows, and of few.
void launch_tensor_decode_attention(const AttentionParams& params, const Launch& launch);
void launch_cluster_decode_attention(const AttentionParams& params, const Launch& launch);
bool tensor_decode_attention_takes(const AttentionParams& params, DType dtype);

enum class MatvecKind : int {
  kQkv,       // rms_norm, then q, k and v with bias, rotated and appended to the cache
  kResidual,  // out = W x, sum = residual + out
  kGateUp,    // rms_norm, gate, up, act = silu(gate) * up
  kHead,      // rms_norm, out = W x; an even number of rows
};

// Weights read at wrong addresses, by faults. Parts are what is packed into one matrix: q, k, v; gate, up; or the
// whole.
struct WrongWeights {
  int ends[3];          // behind the last row of each part
  unsigned parts;       // a bit for each that is read wrongly; 0: none
  bool transposed;      // element (row, k) is read at k * rows + row of its part
  std::int64_t excess;  // else at row * (inner + excess) + k
};

// Matrix times one vector for each batch row, fused with what stands around it.
struct MatvecParams {
  const void* weights;  // [rows, inner]; kQkv: rows (H+2K)*d; kGateUp: gate then up, 2*I
  const void* bias;     // kQkv
  const void* x;        // [B, inner]
  int batch;
  int inner;
  int num_outputs;          // tasks: rows of kResidual, half the rows of the others
  const void* norm_weight;  // [inner], kinds with rms_norm
  void* normed;             // [B, inner]
  float eps;
  void* out;  // [B, out_stride]
  std::int64_t out_stride;
  const void* residual;   // [B, rows], kResidual
  void* sum;              // [B, rows], kResidual
  void* act;              // [B, I], kGateUp
  bool rotate;            // kQkv: false leaves rotation and cache to launch_rope_append
  RopeAppendParams rope;  // kQkv
  bool weights_pass;      // through the L2, which gives them up before all else
  WrongWeights wrong;
  int num_stages;  // of each warp's ring; the launcher's
  KernelFault fault;
};
void launch_matvec(MatvecKind kind, const MatvecParams& params, const Launch& launch);
// Largest batch for which the input rows of `inner` elements fit in shared memory; at most kMaxMatvecRows.
int max_matvec_batch(int inner, DType dtype);

// sum = residual + product.
struct AddParams {
  const void* residual;  // [M,D]
  void* product;         // [M,D]
  PartialSums partials;  // where given, the product is still to be made of them
  void* sum;             // [M,D]
  int rows;
  int hidden;
};
void launch_add(const AddParams& params, const Launch& launch);

// The same, and the RMSNorm of the sum.
struct AddNormParams {
  AddParams add;
  const void* weight;  // [D]
  void* normed;        // [M,D]
  float eps;
};
void launch_add_norm(const AddNormParams& params, const Launch& launch);

struct SiluMulParams {
  const void* gate_up;  // [M, 2*I]
  void* act;            // [M, I]
  int rows;
  int intermediate;
  KernelFault fault;
};
void launch_silu_mul(const SiluMulParams& params, const Launch& launch);

// One row's index of the largest element, the lowest index on a tie.
struct ArgmaxParams {
  const void* logits;  // [B, stride]
  std::int64_t stride;
  int batch;
  int vocab;
  float* block_best;          // [B, kArgmaxBlocks]
  std::int32_t* block_index;  // [B, kArgmaxBlocks]
  std::int32_t* tokens;       // [B]
  std::int32_t* positions;    // [B], advanced by one
  std::int32_t* past_length;  // advanced by one
};
inline constexpr int kArgmaxBlocks = 64;
void launch_argmax(const ArgmaxParams& params, const Launch& launch);

// The logical view of one cache: out[b][s][h][d] for all S valid slots.
struct GatherCacheParams {
  const void* cache;
  KvCacheLayout layout;
  int layer;
  int valid_length;
  void* out;  // [B,S,K,d]
  KernelFault fault;
};
void launch_gather_cache(const GatherCacheParams& params, const Launch& launch);

struct RopeTableParams {
  float2* table;  // [num_positions, d/2]
  int num_positions;
  int head_dim;
  int rotated;  // dimensions that turn, from 0 on; right: d
  double theta;
  bool through_bf16;
};
void launch_rope_table(const RopeTableParams& params, cudaStream_t stream);

}  // namespace qdiff::optimized::cuda
