#include <algorithm>
#include <stdexcept>

#include "optimized/cuda/kernels/params.h"

namespace qdiff::optimized::cuda {

// Compiled by nvcc in matvec_*.cu.
template <MatvecKind kKind>
void launch_matvec_kind(const MatvecParams& params, const Launch& launch);
extern template void launch_matvec_kind<MatvecKind::kQkv>(const MatvecParams&, const Launch&);
extern template void launch_matvec_kind<MatvecKind::kResidual>(const MatvecParams&, const Launch&);
extern template void launch_matvec_kind<MatvecKind::kGateUp>(const MatvecParams&, const Launch&);
extern template void launch_matvec_kind<MatvecKind::kHead>(const MatvecParams&, const Launch&);

int max_matvec_batch(int inner, DType dtype) {
  constexpr std::size_t kRings = 64 * 1024;  // of a block's warps, for several rows (matvec.cuh)
  const std::size_t row = static_cast<std::size_t>(inner) * size_of(dtype);
  return static_cast<int>(std::min<std::size_t>(kMaxMatvecRows, (kMatvecSharedBytes - kRings) / row));
}

void launch_matvec(MatvecKind kind, const MatvecParams& params, const Launch& launch) {
  switch (kind) {
    case MatvecKind::kQkv:
      return launch_matvec_kind<MatvecKind::kQkv>(params, launch);
    case MatvecKind::kResidual:
      return launch_matvec_kind<MatvecKind::kResidual>(params, launch);
    case MatvecKind::kGateUp:
      return launch_matvec_kind<MatvecKind::kGateUp>(params, launch);
    case MatvecKind::kHead:
      return launch_matvec_kind<MatvecKind::kHead>(params, launch);
  }
  throw std::logic_error("launch_matvec: unknown kind");
}

}  // namespace qdiff::optimized::cuda
