// cuBLASLt's functions, loaded when an engine is made and not when the program starts: the library is half a gigabyte,
// and machines without a GPU need not have it.
#pragma once

#include <cublasLt.h>

namespace qdiff::optimized::cuda {

struct CublasLt {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtDestroy) destroy;
  decltype(&cublasLtGetStatusString) status_string;
  decltype(&cublasLtMatmulDescCreate) desc_create;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&cublasLtMatrixLayoutSetAttribute) layout_set;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmulAlgoCheck) algo_check;
  decltype(&cublasLtMatmulAlgoConfigSetAttribute) algo_set;
  decltype(&cublasLtMatmul) matmul;
};

// Throws qdiff::CannotJudgeError where the library cannot be loaded.
const CublasLt& cublaslt();

// Throws std::runtime_error with the call and cuBLASLt's own words unless `status` is success.
void check_cublaslt(cublasStatus_t status, const char* call, const char* file, int line);
#define QDIFF_CUBLASLT_CHECK(call) ::qdiff::optimized::cuda::check_cublaslt((call), #call, __FILE__, __LINE__)

}  // namespace qdiff::optimized::cuda
