// A fixed set of threads that run one function together, again and again. Work is split statically by thread index;
// nothing in the engine's arithmetic depends on how.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <utility>
#include <vector>

namespace qdiff::optimized::cpu {

struct Range {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

// Part `index` of `parts` nearly equal, contiguous parts of [0, count).
constexpr Range part_of(std::int64_t count, int index, int parts) {
  return {count * index / parts, count * (index + 1) / parts};
}

class ThreadPool {
 public:
  // num_threads counts the calling thread; 0 means every processor that this process may use.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return num_threads_; }

  // Calls function(thread_index) on every thread, index 0 on the caller's, and returns when all are done. Not
  // reentrant, and one caller at a time. `function` must not throw.
  template <typename Function>
  void run(Function&& function) {
    using Body = std::remove_reference_t<Function>;
    start([](void* body, int index) { (*static_cast<Body*>(body))(index); }, &function);
  }

  // Inside run(): returns on every thread once all have called it.
  void barrier();

 private:
  void start(void (*call)(void*, int), void* body);
  void work(int index);

  int num_threads_ = 1;
  void (*call_)(void*, int) = nullptr;
  void* body_ = nullptr;
  bool stop_ = false;
  alignas(64) std::atomic<std::uint32_t> generation_{0};  // of run(); the workers wait for it to change
  alignas(64) std::atomic<int> unfinished_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<std::uint32_t> barrier_phase_{0};
  std::vector<std::thread> workers_;
};

}  // namespace qdiff::optimized::cpu
