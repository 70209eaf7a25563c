#include "optimized/cpu/bench/read_bandwidth.h"

#include <atomic>
#include <cstddef>

namespace qdiff::optimized::cpu {
namespace {

typedef std::uint64_t Word8 __attribute__((vector_size(64)));

// Eight independent sums, so that loads and not additions set the pace.
#define QDIFF_SUM_BODY                                                         \
  const auto* words = reinterpret_cast<const Word8*>(data);                    \
  const std::int64_t count = bytes / static_cast<std::int64_t>(sizeof(Word8)); \
  Word8 sums[8] = {};                                                          \
  for (std::int64_t i = 0; i + 8 <= count; i += 8) {                           \
    for (int j = 0; j < 8; ++j) sums[j] += words[i + j];                       \
  }                                                                            \
  std::uint64_t total = 0;                                                     \
  for (const Word8& sum : sums) {                                              \
    for (int lane = 0; lane < 8; ++lane) total += sum[lane];                   \
  }                                                                            \
  return total;

#if defined(__x86_64__)
__attribute__((target("avx512f"))) std::uint64_t sum_avx512(const std::byte* data, std::int64_t bytes) {
  QDIFF_SUM_BODY
}
__attribute__((target("avx2"))) std::uint64_t sum_avx2(const std::byte* data, std::int64_t bytes){QDIFF_SUM_BODY}
#endif
std::uint64_t sum_baseline(const std::byte* data, std::int64_t bytes) {
  QDIFF_SUM_BODY
}

auto best_sum() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return sum_avx512;
  if (__builtin_cpu_supports("avx2")) return sum_avx2;
#endif
  return sum_baseline;
}

}  // namespace

std::uint64_t read_all_bytes(ThreadPool& pool, const std::byte* data, std::int64_t bytes) {
  constexpr std::int64_t kPiece = 64 << 10;
  const auto sum = best_sum();
  std::atomic<std::uint64_t> total{0};
  pool.for_each(bytes / kPiece, [&](std::int64_t piece, int) { total += sum(data + piece * kPiece, kPiece); });
  return total;
}

}  // namespace qdiff::optimized::cpu
