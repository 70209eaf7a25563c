// A file of its own for each kind, so that they compile side by side.
#include "optimized/cuda/kernels/matvec.cuh"

namespace qdiff::optimized::cuda {

template void launch_matvec_kind<MatvecKind::kQkv>(const MatvecParams& params, const Launch& launch);

}  // namespace qdiff::optimized::cuda
