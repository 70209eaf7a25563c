#include "optimized/cuda/gemm.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include <algorithm>
#include <map>
#include <stdexcept>
#include <string>
#include <tuple>

#include "harness/contract/error.h"
#include "optimized/cuda/device_memory.h"

namespace qdiff::optimized::cuda {
namespace {

constexpr std::size_t kWorkspaceBytes = 32U << 20;

struct Library {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtDestroy) destroy;
  decltype(&cublasLtGetStatusString) status_string;
  decltype(&cublasLtMatmulDescCreate) desc_create;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmulAlgoCheck) algo_check;
  decltype(&cublasLtMatmul) matmul;
};

void* open_library() {
  // QDIFF_CUBLASLT_HINT is where the CUDA toolkit of the build has it; the loader's own places come first.
  const std::string names[] = {"libcublasLt.so." QDIFF_CUDA_MAJOR,
                               QDIFF_CUBLASLT_HINT "/libcublasLt.so." QDIFF_CUDA_MAJOR, "libcublasLt.so"};
  std::string errors;
  for (const std::string& name : names) {
    if (void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) return handle;
    errors += std::string("\n  ") + dlerror();
  }
  throw CannotJudgeError("the cuda engine needs cuBLASLt of CUDA " QDIFF_CUDA_MAJOR
                         ", and could not load it; install it, or add its folder to LD_LIBRARY_PATH:" +
                         errors);
}

template <typename F>
void resolve(void* handle, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(handle, name));
  if (function == nullptr)
    throw CannotJudgeError(std::string("cuBLASLt has no ") + name + "; is it of another version?");
}

const Library& library() {
  static const Library kLibrary = [] {
    void* handle = open_library();
    Library l{};
    resolve(handle, "cublasLtCreate", l.create);
    resolve(handle, "cublasLtDestroy", l.destroy);
    resolve(handle, "cublasLtGetStatusString", l.status_string);
    resolve(handle, "cublasLtMatmulDescCreate", l.desc_create);
    resolve(handle, "cublasLtMatmulDescDestroy", l.desc_destroy);
    resolve(handle, "cublasLtMatmulDescSetAttribute", l.desc_set);
    resolve(handle, "cublasLtMatrixLayoutCreate", l.layout_create);
    resolve(handle, "cublasLtMatrixLayoutDestroy", l.layout_destroy);
    resolve(handle, "cublasLtMatmulPreferenceCreate", l.preference_create);
    resolve(handle, "cublasLtMatmulPreferenceDestroy", l.preference_destroy);
    resolve(handle, "cublasLtMatmulPreferenceSetAttribute", l.preference_set);
    resolve(handle, "cublasLtMatmulAlgoGetHeuristic", l.heuristic);
    resolve(handle, "cublasLtMatmulAlgoCheck", l.algo_check);
    resolve(handle, "cublasLtMatmul", l.matmul);
    return l;
  }();
  return kLibrary;
}

void check_lt(cublasStatus_t status, const char* call, int line) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw std::runtime_error(std::string(__FILE__) + ":" + std::to_string(line) + ": " + call + ": " +
                           library().status_string(status));
}
#define QDIFF_CUBLASLT_CHECK(call) check_lt((call), #call, __LINE__)

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

// The descriptors of one call. cuBLASLt counts in columns, so it computes out' = weights' x with out' the transpose.
struct Description {
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t weights = nullptr;
  cublasLtMatrixLayout_t x = nullptr;
  cublasLtMatrixLayout_t out = nullptr;

  Description(const GemmCall& call, std::int64_t m, DType dtype) {
    const Library& l = library();
    const cudaDataType_t type = data_type(dtype);
    QDIFF_CUBLASLT_CHECK(l.desc_create(&operation, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    const cublasOperation_t op_weights = call.transposed ? CUBLAS_OP_N : CUBLAS_OP_T;
    QDIFF_CUBLASLT_CHECK(l.desc_set(operation, CUBLASLT_MATMUL_DESC_TRANSA, &op_weights, sizeof(op_weights)));
    if (call.bias != nullptr) {
      const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
      QDIFF_CUBLASLT_CHECK(l.desc_set(operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof(epilogue)));
      QDIFF_CUBLASLT_CHECK(l.desc_set(operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &call.bias, sizeof(call.bias)));
      QDIFF_CUBLASLT_CHECK(l.desc_set(operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof(type)));
    }
    const auto rows = static_cast<std::uint64_t>(call.transposed ? call.n : call.k);
    const auto columns = static_cast<std::uint64_t>(call.transposed ? call.k : call.n);
    QDIFF_CUBLASLT_CHECK(l.layout_create(&weights, type, rows, columns, call.weight_stride));
    QDIFF_CUBLASLT_CHECK(
        l.layout_create(&x, type, static_cast<std::uint64_t>(call.k), static_cast<std::uint64_t>(m), call.x_stride));
    QDIFF_CUBLASLT_CHECK(l.layout_create(&out, type, static_cast<std::uint64_t>(call.n), static_cast<std::uint64_t>(m),
                                         call.out_stride));
  }
  Description(const Description&) = delete;
  Description& operator=(const Description&) = delete;
  ~Description() {
    const Library& l = library();
    if (out != nullptr) l.layout_destroy(out);
    if (x != nullptr) l.layout_destroy(x);
    if (weights != nullptr) l.layout_destroy(weights);
    if (operation != nullptr) l.desc_destroy(operation);
  }
};

// The row count for which the heuristics are asked, one for each class of calls.
std::int64_t nominal_rows(std::int64_t m) {
  for (const std::int64_t rows : {64, 512}) {
    if (m <= rows) return rows;
  }
  return 4096;
}

}  // namespace

struct Gemm::State {
  using Key = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t, bool, bool>;

  explicit State(DType storage) : dtype(storage), workspace(kWorkspaceBytes) {
    QDIFF_CUBLASLT_CHECK(library().create(&handle));
  }
  ~State() { library().destroy(handle); }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  cublasLtMatmulAlgo_t ask(const GemmCall& call, std::int64_t m) const {
    const Library& l = library();
    const Description description(call, m, dtype);
    cublasLtMatmulPreference_t preference = nullptr;
    QDIFF_CUBLASLT_CHECK(l.preference_create(&preference));
    const std::uint32_t no_split_k = CUBLASLT_REDUCTION_SCHEME_NONE;
    cublasLtMatmulHeuristicResult_t result{};
    int found = 0;
    cublasStatus_t status = l.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspaceBytes,
                                             sizeof(kWorkspaceBytes));
    if (status == CUBLAS_STATUS_SUCCESS) {
      status =
          l.preference_set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &no_split_k, sizeof(no_split_k));
    }
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = l.heuristic(handle, description.operation, description.weights, description.x, description.out,
                           description.out, preference, 1, &result, &found);
    }
    l.preference_destroy(preference);
    QDIFF_CUBLASLT_CHECK(status);
    if (found == 0) {
      throw std::runtime_error("cuBLASLt has no algorithm for a product of " + std::to_string(m) + " x " +
                               std::to_string(call.n) + " x " + std::to_string(call.k));
    }
    return result.algo;
  }

  bool fits(const cublasLtMatmulAlgo_t& algo, const Description& description) const {
    cublasLtMatmulHeuristicResult_t result{};
    const cublasStatus_t status = library().algo_check(handle, description.operation, description.weights,
                                                       description.x, description.out, description.out, &algo, &result);
    return status == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= kWorkspaceBytes;
  }

  DType dtype;
  cublasLtHandle_t handle = nullptr;
  DeviceBuffer workspace;
  std::map<Key, cublasLtMatmulAlgo_t> algorithms;
};

Gemm::Gemm(DType dtype) : state_(std::make_unique<State>(dtype)) {}
Gemm::~Gemm() = default;

void Gemm::run(const GemmCall& call, cudaStream_t stream) {
  State& s = *state_;
  const Description description(call, call.m, s.dtype);
  const auto key_of = [&call](std::int64_t rows) {
    return State::Key(rows, call.n, call.k, call.weight_stride, call.out_stride, call.transposed, call.bias != nullptr);
  };
  const std::int64_t nominal = nominal_rows(call.m);
  auto found = s.algorithms.find(key_of(nominal));
  if (found == s.algorithms.end()) found = s.algorithms.emplace(key_of(nominal), s.ask(call, nominal)).first;
  if (!s.fits(found->second, description)) {
    found = s.algorithms.find(key_of(call.m));
    if (found == s.algorithms.end()) found = s.algorithms.emplace(key_of(call.m), s.ask(call, call.m)).first;
  }
  const float one = 1.0F;
  const float zero = 0.0F;
  QDIFF_CUBLASLT_CHECK(library().matmul(s.handle, description.operation, &one, call.weights, description.weights,
                                        call.x, description.x, &zero, call.out, description.out, call.out,
                                        description.out, &found->second, s.workspace.data(), kWorkspaceBytes, stream));
}

}  // namespace qdiff::optimized::cuda
