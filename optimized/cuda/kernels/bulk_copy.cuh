// Bulk copies from global to shared memory, and the barriers in shared memory that say when they are there (PTX ISA,
// cp.async.bulk and mbarrier; sm_90).
#pragma once

#include <cstdint>

namespace qdiff::optimized::cuda {

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// So many arrivals end a phase; one: that of the thread that starts the copies.
__device__ __forceinline__ void init_barrier(std::uint64_t* barrier, unsigned arrivals = 1) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
// After the init and before the first copy, by the thread that did the init.
__device__ __forceinline__ void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void expect_bytes(std::uint64_t* barrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}

// Both addresses and `bytes` are multiples of 16.
__device__ __forceinline__ void start_copy(void* destination, const void* source, unsigned bytes,
                                           std::uint64_t* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(destination)),
               "l"(source), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}
// The same for what the L2 is to give up before all else. (A policy of evict_normal is not the same as none: a kernel
// that only reads took 3.8 TB/s with it, for 4.7 without; H200.)
__device__ __forceinline__ void start_passing_copy(void* destination, const void* source, unsigned bytes,
                                                   std::uint64_t* barrier) {
  std::uint64_t policy = 0;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::
          "r"(shared_address(destination)),
      "l"(source), "r"(bytes), "r"(shared_address(barrier)), "l"(policy)
      : "memory");
}

// Whether the phase of this parity has ended.
__device__ __forceinline__ bool have_arrived(std::uint64_t* barrier, unsigned parity) {
  unsigned done = 0;
  asm volatile(
      "{\n"
      "  .reg .pred done;\n"
      "  mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;\n"
      "  selp.u32 %0, 1, 0, done;\n"
      "}"
      : "=r"(done)
      : "r"(shared_address(barrier)), "r"(parity)
      : "memory");
  return done != 0;
}
// Each thread that is expected calls this.
__device__ __forceinline__ void arrive(std::uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}

// Waits for the end of the phase of this parity: 0 for a barrier's first, then 1, then 0.
__device__ __forceinline__ void wait_for_bytes(std::uint64_t* barrier, unsigned parity) {
  asm volatile(
      "{\n"
      "  .reg .pred done;\n"
      "again_%=:\n"
      "  mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "  @done bra over_%=;\n"
      "  bra again_%=;\n"
      "over_%=:\n"
      "}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

}  // namespace qdiff::optimized::cuda
