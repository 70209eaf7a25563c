// Products of a warpgroup (PTX ISA, wgmma; sm_90a): 64 rows times N columns, 16 deep, with float32 sums in registers.
//
// Operands in shared memory are tiles of 128-byte rows, in panels of 64 16-bit columns. The 16-byte piece c of row r
// stands at piece c ^ (r % 8) of its row, and tiles start at multiples of 1024 bytes (the 128-byte swizzle).
#pragma once

#include <cstdint>
#include <type_traits>

#include "optimized/cuda/kernels/bulk_copy.cuh"
#include "optimized/cuda/kernels/storage.cuh"

namespace qdiff::optimized::cuda {

// What a product reads: from `tile` on; `leading` bytes between panels of an operand whose rows run along the depth,
// and 1024 bytes between groups of eight rows.
__device__ __forceinline__ std::uint64_t tile_descriptor(const void* tile, unsigned leading) {
  constexpr std::uint64_t kGroupOfRows = 1024 / 16;
  constexpr std::uint64_t kSwizzle128 = 1;
  return static_cast<std::uint64_t>((shared_address(tile) & 0x3FFFFU) >> 4) |
         static_cast<std::uint64_t>(leading >> 4) << 16 | kGroupOfRows << 32 | kSwizzle128 << 62;
}

// The same so many bytes further on; the address is in the lower half, and is all that changes.
__device__ __forceinline__ std::uint64_t advanced(std::uint64_t descriptor, unsigned bytes) {
  return (descriptor & 0xFFFFFFFF00000000U) | (static_cast<unsigned>(descriptor) + (bytes >> 4));
}

// Before the first product, and after registers that products read or add to were written otherwise.
__device__ __forceinline__ void order_before_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wait_for_products() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }
// Keeps the compiler from moving a use of the sums across this place.
template <int kCount>
__device__ __forceinline__ void pin_sums(float (&sums)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}

// clang-format off
#define QDIFF_REGISTERS_32 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, " \
  "%23, %24, %25, %26, %27, %28, %29, %30, %31"
#define QDIFF_REGISTERS_64 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, " \
  "%23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, " \
  "%44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define QDIFF_SUMS_8(d, i) \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define QDIFF_SUMS_32(d, i) QDIFF_SUMS_8(d, i), QDIFF_SUMS_8(d, i + 8), QDIFF_SUMS_8(d, i + 16), QDIFF_SUMS_8(d, i + 24)
#define QDIFF_SUMS_64(d) QDIFF_SUMS_32(d, 0), QDIFF_SUMS_32(d, 32)

// Both operands in shared memory, the second as [columns][depth].
#define QDIFF_PRODUCT_128(type) \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n" \
               "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" QDIFF_REGISTERS_64 "}, " \
               "%64, %65, p, 1, 1, 0, 0;\n}" \
               : QDIFF_SUMS_64(sums) : "l"(a), "l"(b), "r"(static_cast<int>(add)))
// The first operand in registers, the second in shared memory as [depth][columns].
#define QDIFF_WEIGHTED_64(type) \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n" \
               "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" QDIFF_REGISTERS_32 "}, " \
               "{%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}" \
               : QDIFF_SUMS_32(sums, 0) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1))
#define QDIFF_WEIGHTED_128(type) \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %69, 0;\n" \
               "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" QDIFF_REGISTERS_64 "}, " \
               "{%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}" \
               : QDIFF_SUMS_64(sums) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(1))
// clang-format on

// sums [64][128] (+)= a [64][16] b [128][16]'; `add` false: what was in the sums is dropped.
template <typename T>
__device__ __forceinline__ void start_product(float (&sums)[64], std::uint64_t a, std::uint64_t b, bool add) {
  if constexpr (std::is_same_v<T, Bf16>) {
    QDIFF_PRODUCT_128("bf16");
  } else {
    QDIFF_PRODUCT_128("f16");
  }
}

// sums [64][64 or 128] += a [64][16] b [16][64 or 128].
template <typename T>
__device__ __forceinline__ void start_weighted(float (&sums)[32], const unsigned (&a)[4], std::uint64_t b) {
  if constexpr (std::is_same_v<T, Bf16>) {
    QDIFF_WEIGHTED_64("bf16");
  } else {
    QDIFF_WEIGHTED_64("f16");
  }
}
template <typename T>
__device__ __forceinline__ void start_weighted(float (&sums)[64], const unsigned (&a)[4], std::uint64_t b) {
  if constexpr (std::is_same_v<T, Bf16>) {
    QDIFF_WEIGHTED_128("bf16");
  } else {
    QDIFF_WEIGHTED_128("f16");
  }
}

#undef QDIFF_REGISTERS_32
#undef QDIFF_REGISTERS_64
#undef QDIFF_SUMS_8
#undef QDIFF_SUMS_32
#undef QDIFF_SUMS_64
#undef QDIFF_PRODUCT_128
#undef QDIFF_WEIGHTED_64
#undef QDIFF_WEIGHTED_128

}  // namespace qdiff::optimized::cuda
