// A fixed set of threads that work through numbered pieces together. Which thread takes which piece is left to chance:
// nothing in the engine's arithmetic depends on it. (A fixed split would be no more reproducible, and where other
// processes want the same cores, everybody would wait for the thread that was put aside.)
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace qdiff::optimized::cpu {

class ThreadPool {
 public:
  // num_threads counts the calling thread; 0 means every processor that this process may use.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return num_threads_; }

  // Calls function(index, thread) once for each index in [0, count), `thread` being below size() and the same for no
  // two calls at a time, and returns when all are done. Each thread takes runs of neighbouring indices. Not reentrant,
  // and one caller at a time. `function` must not throw.
  template <typename Function>
  void for_each(std::int64_t count, Function&& function) {
    using Body = std::remove_reference_t<Function>;
    const auto call = [](void* body, std::int64_t begin, std::int64_t end, int thread) {
      for (std::int64_t index = begin; index < end; ++index) (*static_cast<Body*>(body))(index, thread);
    };
    work_through({call, const_cast<void*>(static_cast<const void*>(&function)), count, 0});
  }

 private:
  struct Work {
    void (*call)(void* body, std::int64_t begin, std::int64_t end, int thread) = nullptr;
    void* body = nullptr;
    std::int64_t count = 0;
    std::int64_t run = 0;  // indices taken at a time
  };

  void work_through(Work work);
  void take_part(int thread);
  void serve(int thread);

  int num_threads_ = 1;
  Work work_;
  std::atomic<bool> stop_{false};
  alignas(64) std::atomic<std::int64_t> next_{0};  // index that nobody has taken yet
  // Work is announced by a new generation. Threads may join while the door is open and are counted inside; the caller
  // closes it when all indices are taken, and waits for those inside alone.
  alignas(64) std::atomic<std::uint32_t> generation_{0};
  alignas(64) std::atomic<std::uint32_t> door_{0};  // kOpen, plus the number of threads inside
  static constexpr std::uint32_t kOpen = std::uint32_t{1} << 31;
  std::vector<std::thread> workers_;
};

}  // namespace qdiff::optimized::cpu
