// What the GPU's memory delivers to a kernel that only reads: the roof of decoding.
#pragma once

namespace qdiff::optimized::cuda {

// Terabytes a second, the median of several passes over 8 GiB, by bulk copies into shared memory.
double read_terabytes_per_second();

}  // namespace qdiff::optimized::cuda
