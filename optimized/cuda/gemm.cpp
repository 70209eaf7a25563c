#include "optimized/cuda/gemm.h"

#include <algorithm>
#include <compare>
#include <cstring>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "optimized/cuda/cublaslt.h"
#include "optimized/cuda/device_memory.h"

namespace qdiff::optimized::cuda {
namespace {

constexpr std::size_t kWorkspaceBytes = 32U << 20;
constexpr int kMostAnswers = 8;  // of the heuristics, to one question

// The row counts for which the heuristics are asked; the first is the one whose bits are right.
constexpr std::int64_t kMostNominalRows = 4096;
constexpr std::int64_t kNominalRows[] = {64, 128, 256, 512, kMostNominalRows};
constexpr std::int64_t kTrialRows = 64;

// A sum of so many products is long.
constexpr std::int64_t kLongSum = 4096;

// The heuristics are far off for few rows and long sums: for down_proj of the 7B and 64 rows their first answer takes
// 430 us and their best 90, where 39 us are possible (0.5B: 105, 26 and 10; H200). So these tiles, of the output's
// columns and rows, are tried too, in clusters of one and two: they were the fastest of all 191 tiles in six clusters
// for 64 to 256 rows of the two.
constexpr std::int64_t kFewRows = 512;
constexpr cublasLtMatmulTile_t kTilesOfFewRows[] = {
    CUBLASLT_MATMUL_TILE_16x64,  CUBLASLT_MATMUL_TILE_24x64, CUBLASLT_MATMUL_TILE_32x64, CUBLASLT_MATMUL_TILE_40x64,
    CUBLASLT_MATMUL_TILE_48x64,  CUBLASLT_MATMUL_TILE_56x64, CUBLASLT_MATMUL_TILE_64x64, CUBLASLT_MATMUL_TILE_56x128,
    CUBLASLT_MATMUL_TILE_112x64, CUBLASLT_MATMUL_TILE_120x64};

// Another algorithm is looked for where the first takes so long, and taken where it saves so much of that. With the
// fastest of products that take less than their launch, by such times, 256 tokens of the 0.5B took 1392 to 1415 us for
// 1310 and eight rows 1170 for 1073. Of long ones, batches of 2 to 128 rows of the 7B took 2 to 3 % less and 4096
// tokens 92.4 ms for 93.8 (H200).
constexpr float kLongProduct = 0.03F;  // milliseconds
constexpr float kWorthwhile = 0.03F;
// What certainly takes less is not timed. By nominal rows, for the choice is theirs.
bool may_be_long(const GemmCall& call, std::int64_t rows) {
  constexpr std::int64_t kMultiplications = 1 << 27;
  return rows * call.n * call.k >= kMultiplications;
}

std::int64_t nominal_rows(std::int64_t m) {
  for (const std::int64_t rows : kNominalRows) {
    if (m <= rows) return rows;
  }
  return kMostNominalRows;
}

cudaDataType_t data_type(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return CUDA_R_16BF;
    case DType::kF16:
      return CUDA_R_16F;
    case DType::kF32:
      return CUDA_R_32F;
    case DType::kF64:
      break;
  }
  throw std::logic_error("the cuda engine has no float64 storage");
}

// What an algorithm is chosen for.
struct GemmShape {
  std::int64_t rows;
  std::int64_t n;
  std::int64_t k;
  std::int64_t x_stride;
  std::int64_t weight_stride;
  std::int64_t out_stride;
  int splits;
  bool partial;
  bool transposed;
  bool biased;

  GemmShape(const GemmCall& call, std::int64_t num_rows)
      : rows(num_rows),
        n(call.n),
        k(call.k),
        x_stride(call.x_stride),
        weight_stride(call.weight_stride),
        out_stride(call.out_stride),
        splits(call.splits),
        partial(call.partials != nullptr),
        transposed(call.transposed),
        biased(call.bias != nullptr) {}
  auto operator<=>(const GemmShape&) const = default;
};

// The descriptors of one call. cuBLASLt counts in columns, so it computes out' = weights' x with out' the transpose;
// the parts of k are a batch of products.
struct Description {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t weights = nullptr;
  cublasLtMatrixLayout_t x = nullptr;
  cublasLtMatrixLayout_t out = nullptr;

  Description(const GemmCall& call, std::int64_t m, DType dtype) {
    const CublasLt& l = cublaslt();
    const cudaDataType_t type = data_type(dtype);
    QDIFF_CUBLASLT_CHECK(l.desc_create(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    const cublasOperation_t op_weights = call.transposed ? CUBLAS_OP_N : CUBLAS_OP_T;
    QDIFF_CUBLASLT_CHECK(l.desc_set(operation, CUBLASLT_MATMUL_DESC_TRANSA, &op_weights, sizeof(op_weights)));
    if (call.bias != nullptr) {
      const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
      QDIFF_CUBLASLT_CHECK(l.desc_set(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof(epilogue)));
      QDIFF_CUBLASLT_CHECK(l.desc_set(operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof(type)));
      set_bias(call.bias);
    }
    const bool partial = call.partials != nullptr;
    const std::int64_t part = call.k / call.splits;
    const auto rows = static_cast<std::uint64_t>(call.transposed ? call.n : part);
    const auto columns = static_cast<std::uint64_t>(call.transposed ? call.k : call.n);
    QDIFF_CUBLASLT_CHECK(l.layout_create(&weights, type, rows, columns, call.weight_stride));
    QDIFF_CUBLASLT_CHECK(
        l.layout_create(&x, type, static_cast<std::uint64_t>(part), static_cast<std::uint64_t>(m), call.x_stride));
    QDIFF_CUBLASLT_CHECK(l.layout_create(&out, partial ? CUDA_R_32F : type, static_cast<std::uint64_t>(call.n),
                                         static_cast<std::uint64_t>(m), partial ? call.n : call.out_stride));
    if (!partial) return;
    set_batch(weights, call.splits, part);
    set_batch(x, call.splits, part);
    set_batch(out, call.splits, m * call.n);
  }
  Description(const Description&) = delete;
  Description& operator=(const Description&) = delete;
  ~Description() {
    const CublasLt& l = cublaslt();
    if (out != nullptr) l.layout_destroy(out);
    if (x != nullptr) l.layout_destroy(x);
    if (weights != nullptr) l.layout_destroy(weights);
    if (operation != nullptr) l.desc_destroy(operation);
  }

  void set_bias(const void* bias) const {
    QDIFF_CUBLASLT_CHECK(cublaslt().desc_set(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof(bias)));
  }

 private:
  static void set_batch(cublasLtMatrixLayout_t layout, int count, std::int64_t stride) {
    const std::int32_t batch = count;
    const CublasLt& l = cublaslt();
    QDIFF_CUBLASLT_CHECK(l.layout_set(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof(batch)));
    QDIFF_CUBLASLT_CHECK(l.layout_set(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride, sizeof(stride)));
  }
};

// Rows of random numbers below one in magnitude, from a counter, in device memory.
DeviceBuffer random_rows(std::int64_t rows, std::int64_t stride, DType dtype, cudaStream_t stream) {
  const std::int64_t count = rows * stride;
  std::vector<std::byte> host(static_cast<std::size_t>(count) * size_of(dtype));
  for (std::int64_t i = 0; i < count; ++i) {
    std::uint64_t z = static_cast<std::uint64_t>(i + 1) * 0x9E3779B97F4A7C15ULL;
    z = (z ^ (z >> 29)) * 0xBF58476D1CE4E5B9ULL;
    store_element(host.data(), dtype, static_cast<std::size_t>(i), 0x1p-31 * static_cast<std::int32_t>(z >> 32));
  }
  DeviceBuffer device(host.size());
  QDIFF_CUDA_CHECK(cudaMemcpyAsync(device.data(), host.data(), host.size(), cudaMemcpyHostToDevice, stream));
  QDIFF_CUDA_CHECK(cudaStreamSynchronize(stream));
  return device;
}

}  // namespace

// Two and four parts were the fastest of 1, 2, 4, 8 and 16 over 8 to 256 rows of the 0.5B and the 7B, or within 5 % of
// it (H200; docs/performance.md has the table). Undivided, cuBLASLt takes 418 us for down_proj of the 7B, in four
// parts 38.
int splits_of_product(std::int64_t k) {
  for (const int splits : {4, 2}) {
    if ((splits == 2 || k >= kLongSum) && k % (8 * splits) == 0) return splits;  // parts of whole 16-byte packs
  }
  return 1;
}

struct Gemm::State {
  struct Plan {
    std::unique_ptr<const Description> description;
    cublasLtMatmulAlgo_t algorithm;
  };

  explicit State(DType storage) : dtype(storage), workspace(kWorkspaceBytes) {
    QDIFF_CUBLASLT_CHECK(cublaslt().create(&handle));
  }
  ~State() { cublaslt().destroy(handle); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  // The heuristics' answers for m rows, the likeliest to be fast first; at least one.
  std::vector<cublasLtMatmulAlgo_t> ask(const GemmCall& call, std::int64_t m) const {
    const CublasLt& l = cublaslt();
    const Description description(call, m, dtype);
    cublasLtMatmulPreference_t preference = nullptr;
    QDIFF_CUBLASLT_CHECK(l.preference_create(&preference));
    const std::uint32_t no_split_k = CUBLASLT_REDUCTION_SCHEME_NONE;
    cublasLtMatmulHeuristicResult_t results[kMostAnswers] = {};
    int found = 0;
    cublasStatus_t status = l.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspaceBytes,
                                             sizeof(kWorkspaceBytes));
    if (status == CUBLAS_STATUS_SUCCESS) {
      status =
          l.preference_set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &no_split_k, sizeof(no_split_k));
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = l.heuristic(handle, description.operation, description.weights, description.x, description.out,
                           description.out, preference, kMostAnswers, results, &found);
    }
    l.preference_destroy(preference);
    QDIFF_CUBLASLT_CHECK(status);
    if (found == 0) {
      throw std::runtime_error("cuBLASLt has no algorithm for a product of " + std::to_string(m) + " x " +
                               std::to_string(call.n) + " x " + std::to_string(call.k));
    }
    std::vector<cublasLtMatmulAlgo_t> answers;
    for (int i = 0; i < found; ++i) answers.push_back(results[i].algo);
    return answers;
  }

  bool fits(const cublasLtMatmulAlgo_t& algorithm, const Description& description) const {
    cublasLtMatmulHeuristicResult_t result{};
    const cublasStatus_t status =
        cublaslt().algo_check(handle, description.operation, description.weights, description.x, description.out,
                              description.out, &algorithm, &result);
    return status == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= kWorkspaceBytes;
  }

  void multiply(const GemmCall& call, const Description& description, const cublasLtMatmulAlgo_t& algorithm,
                cudaStream_t stream) const {
    const float one = 1.0F;
    const float zero = 0.0F;
    void* out = call.partials != nullptr ? call.partials : call.out;
    QDIFF_CUBLASLT_CHECK(cublaslt().matmul(handle, description.operation, &one, call.weights, description.weights,
                                           call.x, description.x, &zero, out, description.out, out, description.out,
                                           &algorithm, workspace.data(), kWorkspaceBytes, stream));
  }

  // Those of `candidates`, `most` of them at most, that give the bits of `right` for random rows; `right` where none
  // does.
  std::vector<cublasLtMatmulAlgo_t> with_same_bits(const GemmCall& call, const cublasLtMatmulAlgo_t& right,
                                                   const std::vector<cublasLtMatmulAlgo_t>& candidates,
                                                   std::size_t most, cudaStream_t stream) const {
    GemmCall trial = call;
    trial.m = kTrialRows;
    const DeviceBuffer x = random_rows(kTrialRows, call.x_stride, dtype, stream);
    trial.x = x.data();
    const std::size_t bytes = call.partials != nullptr
                                  ? static_cast<std::size_t>(call.splits * kTrialRows * call.n) * sizeof(float)
                                  : static_cast<std::size_t>(kTrialRows * call.out_stride) * size_of(dtype);
    const DeviceBuffer out(bytes);
    if (call.partials != nullptr) {
      trial.partials = out.as<float>();
    } else {
      trial.out = out.data();
    }
    const Description description(trial, trial.m, dtype);
    const auto bits_of = [&](const cublasLtMatmulAlgo_t& algorithm) {
      std::vector<std::byte> bits(bytes);
      QDIFF_CUDA_CHECK(cudaMemsetAsync(out.data(), 0, bytes, stream));
      multiply(trial, description, algorithm, stream);
      QDIFF_CUDA_CHECK(cudaMemcpyAsync(bits.data(), out.data(), bytes, cudaMemcpyDeviceToHost, stream));
      QDIFF_CUDA_CHECK(cudaStreamSynchronize(stream));
      return bits;
    };
    const std::vector<std::byte> expected = bits_of(right);
    std::vector<cublasLtMatmulAlgo_t> same;
    for (const cublasLtMatmulAlgo_t& algorithm : candidates) {
      if (same.size() == most) break;
      if (fits(algorithm, description) && bits_of(algorithm) == expected) same.push_back(algorithm);
    }
    if (same.empty()) same.push_back(right);
    return same;
  }

  // `algorithm` with other tiles.
  static std::vector<cublasLtMatmulAlgo_t> variants_of(const cublasLtMatmulAlgo_t& algorithm) {
    const CublasLt& l = cublaslt();
    std::vector<cublasLtMatmulAlgo_t> variants;
    for (const cublasLtMatmulTile_t tile : kTilesOfFewRows) {
      for (const cublasLtClusterShape_t cluster : {CUBLASLT_CLUSTER_SHAPE_1x1x1, CUBLASLT_CLUSTER_SHAPE_2x1x1}) {
        cublasLtMatmulAlgo_t variant = algorithm;
        const auto tile_id = static_cast<std::uint32_t>(tile);
        const auto cluster_id = static_cast<std::uint16_t>(cluster);
        const std::uint32_t plain = 0;
        if (l.algo_set(&variant, CUBLASLT_ALGO_CONFIG_TILE_ID, &tile_id, sizeof(tile_id)) == CUBLAS_STATUS_SUCCESS &&
            l.algo_set(&variant, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, &cluster_id, sizeof(cluster_id)) ==
                CUBLAS_STATUS_SUCCESS &&
            l.algo_set(&variant, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, &plain, sizeof(plain)) == CUBLAS_STATUS_SUCCESS) {
          variants.push_back(variant);
        }
      }
    }
    return variants;
  }

  // Milliseconds of the call itself, whose result is written. Others may be at work on the device.
  float time_of(const GemmCall& call, const Description& description, const cublasLtMatmulAlgo_t& algorithm,
                cudaStream_t stream) const {
    constexpr int kRepeats = 3;
    const Event begin = make_event();
    const Event end = make_event();
    multiply(call, description, algorithm, stream);
    QDIFF_CUDA_CHECK(cudaEventRecord(begin.get(), stream));
    for (int i = 0; i < kRepeats; ++i) multiply(call, description, algorithm, stream);
    QDIFF_CUDA_CHECK(cudaEventRecord(end.get(), stream));
    QDIFF_CUDA_CHECK(cudaEventSynchronize(end.get()));
    float milliseconds = 0.0F;
    QDIFF_CUDA_CHECK(cudaEventElapsedTime(&milliseconds, begin.get(), end.get()));
    return milliseconds / kRepeats;
  }

  // The fastest with the bits of `first`, if that takes long and another much less.
  cublasLtMatmulAlgo_t fastest(const GemmCall& call, std::int64_t rows, const cublasLtMatmulAlgo_t& first,
                               cudaStream_t stream) const {
    const Description description(call, call.m, dtype);
    if (call.bias != nullptr) description.set_bias(call.bias);
    if (!fits(first, description)) return first;
    const float time_of_first = time_of(call, description, first, stream);
    if (time_of_first < kLongProduct) return first;
    std::vector<cublasLtMatmulAlgo_t> candidates = ask(call, rows);
    if (rows <= kFewRows && call.k >= kLongSum) {
      const std::vector<cublasLtMatmulAlgo_t> variants = variants_of(ask(call, kMostNominalRows).front());
      candidates.insert(candidates.end(), variants.begin(), variants.end());
    }
    cublasLtMatmulAlgo_t best = first;
    float least = (1.0F - kWorthwhile) * time_of_first;
    for (const cublasLtMatmulAlgo_t& other : with_same_bits(call, first, candidates, candidates.size(), stream)) {
      if (!fits(other, description)) continue;
      const float time = time_of(call, description, other, stream);
      if (time >= least) continue;
      least = time;
      best = other;
    }
    return best;
  }

  const cublasLtMatmulAlgo_t& algorithm_for(const GemmCall& call, std::int64_t rows, cudaStream_t stream) {
    const GemmShape shape(call, rows);
    const auto found = algorithms.find(shape);
    if (found != algorithms.end()) return found->second;
    cublasLtMatmulAlgo_t chosen = ask(call, kNominalRows[0]).front();
    if (rows != kNominalRows[0]) chosen = with_same_bits(call, chosen, ask(call, rows), 1, stream).front();
    if (may_be_long(call, rows)) chosen = fastest(call, rows, chosen, stream);
    return algorithms.emplace(shape, chosen).first->second;
  }

  const Plan& plan_for(const GemmCall& call, cudaStream_t stream) {
    const auto found = plans.find(GemmShape(call, call.m));
    if (found != plans.end()) return found->second;
    auto description = std::make_unique<const Description>(call, call.m, dtype);
    cublasLtMatmulAlgo_t algorithm = algorithm_for(call, nominal_rows(call.m), stream);
    if (!fits(algorithm, *description)) algorithm = ask(call, call.m).front();
    return plans.emplace(GemmShape(call, call.m), Plan{std::move(description), algorithm}).first->second;
  }

  DType dtype;
  cublasLtHandle_t handle = nullptr;
  DeviceBuffer workspace;
  std::map<GemmShape, cublasLtMatmulAlgo_t> algorithms;  // by nominal rows
  std::map<GemmShape, Plan> plans;                       // by rows
};

Gemm::Gemm(DType dtype) : state_(std::make_unique<State>(dtype)) {}
Gemm::~Gemm() = default;

void Gemm::run(const GemmCall& call, cudaStream_t stream) {
  if (call.partials != nullptr && (call.transposed || call.bias != nullptr || call.k % call.splits != 0)) {
    throw std::logic_error("Gemm::run: a product in parts has no bias, is not transposed and has equal parts");
  }
  const State::Plan& plan = state_->plan_for(call, stream);
  if (call.bias != nullptr) plan.description->set_bias(call.bias);
  state_->multiply(call, *plan.description, plan.algorithm, stream);
}

}  // namespace qdiff::optimized::cuda
