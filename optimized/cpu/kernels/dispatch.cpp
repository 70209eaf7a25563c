// Chooses among the kernel sets by what the processor says it can do.
#include "optimized/cpu/kernels/kernels.h"

namespace qdiff::optimized::cpu {

namespace baseline {
const KernelSet& kernel_set();
}
#if defined(QDIFF_X86_KERNELS)
namespace avx2 {
const KernelSet& kernel_set();
}
namespace avx512 {
const KernelSet& kernel_set();
}
#endif

KernelSets available_kernel_sets() {
  KernelSets available;
#if defined(QDIFF_X86_KERNELS)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma")) {
    available.sets[available.count++] = &avx512::kernel_set();
  }
  // Every processor with AVX2 has F16C; GCC 12 has no name for it in __builtin_cpu_supports.
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    available.sets[available.count++] = &avx2::kernel_set();
  }
#endif
  available.sets[available.count++] = &baseline::kernel_set();
  return available;
}

}  // namespace qdiff::optimized::cpu
