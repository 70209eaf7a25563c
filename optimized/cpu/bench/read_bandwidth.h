// How fast this machine can read memory: what a decode step, which reads every weight once, is measured against.
#pragma once

#include <cstdint>

#include "optimized/cpu/thread_pool.h"

namespace qdiff::optimized::cpu {

// Sums `bytes` (a multiple of 65536) with the widest loads that the processor has, all threads at once, and gives the
// sum so that nothing is optimised away.
std::uint64_t read_all_bytes(ThreadPool& pool, const std::byte* data, std::int64_t bytes);

}  // namespace qdiff::optimized::cpu
