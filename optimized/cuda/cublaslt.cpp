#include "optimized/cuda/cublaslt.h"

#include <dlfcn.h>

#include <stdexcept>
#include <string>

#include "harness/contract/error.h"

namespace qdiff::optimized::cuda {
namespace {

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

}  // namespace

const CublasLt& cublaslt() {
  static const CublasLt kLibrary = [] {
    void* handle = open_library();
    CublasLt l{};
    resolve(handle, "cublasLtCreate", l.create);
    resolve(handle, "cublasLtDestroy", l.destroy);
    resolve(handle, "cublasLtGetStatusString", l.status_string);
    resolve(handle, "cublasLtMatmulDescCreate", l.desc_create);
    resolve(handle, "cublasLtMatmulDescDestroy", l.desc_destroy);
    resolve(handle, "cublasLtMatmulDescSetAttribute", l.desc_set);
    resolve(handle, "cublasLtMatrixLayoutCreate", l.layout_create);
    resolve(handle, "cublasLtMatrixLayoutDestroy", l.layout_destroy);
    resolve(handle, "cublasLtMatrixLayoutSetAttribute", l.layout_set);
    resolve(handle, "cublasLtMatmulPreferenceCreate", l.preference_create);
    resolve(handle, "cublasLtMatmulPreferenceDestroy", l.preference_destroy);
    resolve(handle, "cublasLtMatmulPreferenceSetAttribute", l.preference_set);
    resolve(handle, "cublasLtMatmulAlgoGetHeuristic", l.heuristic);
    resolve(handle, "cublasLtMatmulAlgoCheck", l.algo_check);
    resolve(handle, "cublasLtMatmulAlgoConfigSetAttribute", l.algo_set);
    resolve(handle, "cublasLtMatmul", l.matmul);
    return l;
  }();
  return kLibrary;
}

void check_cublaslt(cublasStatus_t status, const char* call, const char* file, int line) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw std::runtime_error(std::string(file) + ":" + std::to_string(line) + ": " + call + ": " +
                           cublaslt().status_string(status));
}

}  // namespace qdiff::optimized::cuda
