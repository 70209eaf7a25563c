// Independent pieces of work on several threads. Which thread does which piece changes nothing in the results.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace qdiff::selftest {

// work(state, i) for each i below `count`; each thread makes a state of its own. `finished(i, n)` is called one at a
// time, after n pieces are done. The first exception ends the work and is thrown here.
template <typename MakeState, typename Work, typename Finished>
void in_parallel(std::size_t count, int threads, const MakeState& make_state, const Work& work,
                 const Finished& finished) {
  std::atomic<std::size_t> next = 0;
  std::size_t num_finished = 0;
  std::exception_ptr failure;
  std::mutex mutex;
  const auto serve = [&] {
    try {
      auto state = make_state();
      for (std::size_t i = next++; i < count; i = next++) {
        work(state, i);
        const std::lock_guard lock(mutex);
        finished(i, ++num_finished);
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
      next = count;
    }
  };
  std::vector<std::thread> others;
  const std::size_t wanted = std::min(count, static_cast<std::size_t>(std::max(threads, 1)));
  for (std::size_t i = 1; i < wanted; ++i) others.emplace_back(serve);
  serve();
  for (std::thread& thread : others) thread.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace qdiff::selftest
