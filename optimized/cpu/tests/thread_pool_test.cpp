// The thread pool does every piece exactly once, whatever the number of threads; and the cache layout gives every
// element a place of its own.
#include "optimized/cpu/thread_pool.h"

#include <atomic>
#include <vector>

#include "cmake/catch2.h"
#include "optimized/kv_cache_layout.h"

namespace qdiff::optimized {
namespace {

TEST_CASE("every index is visited once, by a thread that exists", "[cpu][pool]") {
  for (int threads : {1, 2, 3, 7}) {
    cpu::ThreadPool pool(threads);
    CHECK(pool.size() == threads);
    for (std::int64_t count : {0, 1, 2, 5, 16, 17, 1000}) {
      for (int repeat = 0; repeat < 20; ++repeat) {  // one call right after the other
        std::vector<std::atomic<int>> visits(static_cast<std::size_t>(count));
        std::atomic<int> strangers{0};
        pool.for_each(count, [&](std::int64_t index, int thread) {
          visits[static_cast<std::size_t>(index)].fetch_add(1);
          if (thread < 0 || thread >= threads) strangers.fetch_add(1);
        });
        std::int64_t once = 0;
        for (const auto& visit : visits) once += visit.load() == 1 ? 1 : 0;
        CHECK(once == count);
        CHECK(strangers.load() == 0);
      }
    }
  }
}

TEST_CASE("no two calls at a time have the same thread index", "[cpu][pool]") {
  cpu::ThreadPool pool(4);
  std::atomic<bool> busy[4] = {};
  std::atomic<int> clashes{0};
  for (int repeat = 0; repeat < 50; ++repeat) {
    pool.for_each(64, [&](std::int64_t, int thread) {
      if (busy[thread].exchange(true)) clashes.fetch_add(1);
      for (int i = 0; i < 50; ++i) std::atomic_signal_fence(std::memory_order_seq_cst);
      busy[thread].store(false);
    });
  }
  CHECK(clashes.load() == 0);
}

TEST_CASE("what the pieces wrote is seen when for_each returns", "[cpu][pool]") {
  cpu::ThreadPool pool(3);
  std::vector<std::int64_t> values(500, 0);
  for (std::int64_t round = 1; round <= 200; ++round) {
    pool.for_each(500, [&](std::int64_t index, int) { values[static_cast<std::size_t>(index)] += index; });
    std::int64_t wrong = 0;
    for (std::int64_t i = 0; i < 500; ++i) wrong += values[static_cast<std::size_t>(i)] == round * i ? 0 : 1;
    CHECK(wrong == 0);
  }
}

TEST_CASE("the cache layout is dense, in order of layer, row, head, slot and dimension", "[kv_cache]") {
  constexpr KvCacheLayout layout{2, 3, 2, 5, 4};
  std::int64_t next = 0;
  for (std::int64_t layer = 0; layer < 2; ++layer) {
    for (std::int64_t b = 0; b < 3; ++b) {
      for (std::int64_t head = 0; head < 2; ++head) {
        for (std::int64_t slot = 0; slot < 5; ++slot) {
          for (std::int64_t d = 0; d < 4; ++d) CHECK(layout.offset(layer, b, head, slot, d) == next++);
        }
      }
    }
  }
  CHECK(layout.num_elements() == next);
  static_assert(KvCacheLayout{80, 64, 8, 131072, 128}.num_elements() > (std::int64_t{1} << 32), "64-bit offsets");
}

}  // namespace
}  // namespace qdiff::optimized
