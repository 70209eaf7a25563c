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

}  // namespace

ThreadPool::ThreadPool(int num_threads) : num_threads_(num_threads > 0 ? num_threads : usable_processors()) {
  for (int thread = 1; thread < num_threads_; ++thread) workers_.emplace_back([this, thread] { serve(thread); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::work_through(Work work) {
  if (work.count <= 0) return;
  if (num_threads_ == 1 || work.count == 1) return work.call(work.body, 0, work.count, 0);
  // Long runs keep each thread's memory accesses together; eight for each thread even out what the threads lose.
  work.run = std::max<std::int64_t>(1, work.count / (8 * num_threads_));
  work_ = work;
  next_.store(0, std::memory_order_relaxed);
  door_.store(kOpen, std::memory_order_release);
  generation_.fetch_add(1, std::memory_order_release);
  generation_.notify_all();
  take_part(0);
  door_.fetch_and(~kOpen, std::memory_order_acq_rel);
  constexpr int kSpins = 2000;  // a thread inside has microseconds left, unless it has lost its core
  for (int i = 0; door_.load(std::memory_order_acquire) != 0; ++i) {
    if (i < kSpins) {
      pause_briefly();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::take_part(int thread) {
  for (;;) {
    const std::int64_t begin = next_.fetch_add(work_.run, std::memory_order_relaxed);
    if (begin >= work_.count) return;
    work_.call(work_.body, begin, std::min(begin + work_.run, work_.count), thread);
  }
}

void ThreadPool::serve(int thread) {
  constexpr int kSpins = 20000;  // some hundred microseconds: between two stages of a step no thread falls asleep
  std::uint32_t seen = 0;
  for (;;) {
    for (int i = 0; i < kSpins && generation_.load(std::memory_order_acquire) == seen; ++i) pause_briefly();
    generation_.wait(seen, std::memory_order_acquire);
    seen = generation_.load(std::memory_order_acquire);
    if (stop_.load()) return;
    std::uint32_t door = door_.load(std::memory_order_relaxed);
    while ((door & kOpen) != 0) {
      if (!door_.compare_exchange_weak(door, door + 1, std::memory_order_acq_rel, std::memory_order_relaxed)) continue;
      take_part(thread);
      door_.fetch_sub(1, std::memory_order_release);
      break;
    }
  }
}

}  // namespace qdiff::optimized::cpu
