// The device computes the same cache offsets as the host, for every index of several layouts.
// Ends with 0 (all equal), 1 (some differ, or CUDA failed) or 77 (no GPU here: nothing was compared).
#include <cstdint>
#include <cstdio>
#include <exception>
#include <vector>

#include "optimized/cuda/check.h"
#include "optimized/kv_cache_layout.h"

namespace {

using qdiff::optimized::KvCacheLayout;

constexpr int kSkipped = 77;
constexpr std::int64_t kUnwritten = -1;
constexpr int kBlockSize = 256;

// One thread an element. Thread n takes the n-th index of (layer, batch, kv_head, pos, d) with d fastest and writes the
// offset that the layout gives it.
__global__ void offset_kernel(KvCacheLayout layout, std::int64_t* offsets) {
  const std::int64_t n = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (n >= layout.num_elements()) return;
  std::int64_t rest = n;
  const std::int64_t d = rest % layout.head_dim;
  rest /= layout.head_dim;
  const std::int64_t pos = rest % layout.capacity;
  rest /= layout.capacity;
  const std::int64_t kv_head = rest % layout.num_kv_heads;
  rest /= layout.num_kv_heads;
  const std::int64_t b = rest % layout.batch;
  const std::int64_t layer = rest / layout.batch;
  offsets[n] = layout.offset(layer, b, kv_head, pos, d);
}

std::vector<std::int64_t> offsets_of_device(const KvCacheLayout& layout) {
  const std::int64_t count = layout.num_elements();
  std::vector<std::int64_t> offsets(static_cast<std::size_t>(count), kUnwritten);
  const std::size_t bytes = offsets.size() * sizeof(std::int64_t);
  std::int64_t* buffer = nullptr;
  QDIFF_CUDA_CHECK(cudaMalloc(&buffer, bytes));
  QDIFF_CUDA_CHECK(cudaMemcpy(buffer, offsets.data(), bytes, cudaMemcpyHostToDevice));
  const auto blocks = static_cast<unsigned>((count + kBlockSize - 1) / kBlockSize);
  offset_kernel<<<blocks, kBlockSize>>>(layout, buffer);
  QDIFF_CUDA_CHECK_LAUNCH();
  QDIFF_CUDA_CHECK(cudaMemcpy(offsets.data(), buffer, bytes, cudaMemcpyDeviceToHost));
  QDIFF_CUDA_CHECK(cudaFree(buffer));
  return offsets;
}

// Number of indices at which device and host differ, or at which two indices share an offset.
std::int64_t count_errors(const KvCacheLayout& layout) {
  const std::vector<std::int64_t> actual = offsets_of_device(layout);
  std::vector<bool> taken(actual.size(), false);
  std::int64_t errors = 0;
  std::size_t n = 0;
  for (std::int64_t layer = 0; layer < layout.num_layers; ++layer) {
    for (std::int64_t b = 0; b < layout.batch; ++b) {
      for (std::int64_t kv_head = 0; kv_head < layout.num_kv_heads; ++kv_head) {
        for (std::int64_t pos = 0; pos < layout.capacity; ++pos) {
          for (std::int64_t d = 0; d < layout.head_dim; ++d, ++n) {
            const std::int64_t expected = layout.offset(layer, b, kv_head, pos, d);
            const bool inside = expected >= 0 && expected < layout.num_elements();
            if (actual[n] == expected && inside && !taken[static_cast<std::size_t>(expected)]) {
              taken[static_cast<std::size_t>(expected)] = true;
              continue;
            }
            if (errors++ == 0) {
              std::printf("layer %lld, batch %lld, kv_head %lld, pos %lld, d %lld: device %lld, host %lld\n",
                          static_cast<long long>(layer), static_cast<long long>(b), static_cast<long long>(kv_head),
                          static_cast<long long>(pos), static_cast<long long>(d), static_cast<long long>(actual[n]),
                          static_cast<long long>(expected));
            }
          }
        }
      }
    }
  }
  return n == actual.size() ? errors : errors + 1;
}

int run() {
  int devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status == cudaErrorNoDevice || status == cudaErrorInsufficientDriver || (status == cudaSuccess && devices == 0)) {
    std::printf("skipped: no GPU (%s)\n", cudaGetErrorString(status));
    return kSkipped;
  }
  QDIFF_CUDA_CHECK(status);
  // {num_layers, batch, num_kv_heads, capacity, head_dim}: all extents different; extents of one; the 0.5B's heads at a
  // capacity that is no multiple of a tile, and one of a page exactly.
  const std::vector<KvCacheLayout> layouts = {
      {2, 3, 5, 7, 11}, {1, 1, 1, 1, 1}, {24, 1, 2, 69, 64}, {3, 4, 8, 256, 128}};
  std::int64_t errors = 0;
  std::int64_t compared = 0;
  for (const KvCacheLayout& layout : layouts) {
    errors += count_errors(layout);
    compared += layout.num_elements();
  }
  std::printf("%lld offsets compared, %lld wrong\n", static_cast<long long>(compared), static_cast<long long>(errors));
  return errors == 0 && compared > 0 ? 0 : 1;
}

}  // namespace

int main() {
  try {
    return run();
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
    return 1;
  }
}
