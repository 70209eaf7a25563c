#include "optimized/cpu/thread_pool.h"

#include <algorithm>

#if defined(__linux__)
#include <sched.h>
#endif

namespace qdiff::optimized::cpu {
namespace {

int usable_processors() {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
}

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Spins while the others are likely to be on their way (a stage of a decode step lasts some tens of microseconds), and
// then lets other processes have the core.
template <typename Condition>
void wait_for(Condition&& done) {
  constexpr int kSpins = 2000;
  for (int i = 0; !done(); ++i) {
    if (i < kSpins) {
      pause_briefly();
    } else {
      std::this_thread::yield();
    }
  }
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) : num_threads_(num_threads > 0 ? num_threads : usable_processors()) {
  for (int index = 1; index < num_threads_; ++index) workers_.emplace_back([this, index] { work(index); });
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::start(void (*call)(void*, int), void* body) {
  if (num_threads_ == 1) return call(body, 0);
  call_ = call;
  body_ = body;
  unfinished_.store(num_threads_ - 1, std::memory_order_relaxed);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  call(body, 0);
  wait_for([this] { return unfinished_.load(std::memory_order_acquire) == 0; });
}

void ThreadPool::work(int index) {
  constexpr int kSpins = 20000;  // about a millisecond: from one stage to the next no thread should fall asleep
  std::uint32_t seen = 0;
  for (;;) {
    for (int i = 0; i < kSpins && generation_.load(std::memory_order_acquire) == seen; ++i) pause_briefly();
    generation_.wait(seen, std::memory_order_acquire);
    ++seen;
    if (stop_) return;
    call_(body_, index);
    unfinished_.fetch_sub(1, std::memory_order_release);
  }
}

void ThreadPool::barrier() {
  if (num_threads_ == 1) return;
  const std::uint32_t phase = barrier_phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == num_threads_) {
    arrived_.store(0, std::memory_order_relaxed);
    barrier_phase_.store(phase + 1, std::memory_order_release);
    return;
  }
  wait_for([&] { return barrier_phase_.load(std::memory_order_acquire) != phase; });
}

}  // namespace qdiff::optimized::cpu
