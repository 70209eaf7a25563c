// Pieces of work on several threads: each is done once, what ends is told one at a time, an error ends the rest.
#include "harness/selftest/parallel.h"

#include <memory>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>

#include "cmake/catch2.h"

namespace qdiff::selftest {
namespace {

TEST_CASE("every piece is done once, by however many threads", "[parallel]") {
  for (const int threads : {0, 1, 3, 8}) {
    INFO(threads << " threads");
    for (const std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{5}, std::size_t{200}}) {
      std::vector<int> done(count, 0);
      std::vector<std::size_t> ended;
      std::size_t told = 0;
      in_parallel(
          count, threads, [] { return 0; }, [&](int& state, std::size_t i) { done[i] += 1 + 0 * ++state; },
          [&](std::size_t i, std::size_t n) {  // no lock: calls come one at a time
            ended.push_back(i);
            CHECK(n == ++told);
          });
      CHECK(done == std::vector<int>(count, 1));
      CHECK(std::set<std::size_t>(ended.begin(), ended.end()).size() == count);
      CHECK(ended.size() == count);
    }
  }
}

TEST_CASE("each thread has a state of its own", "[parallel]") {
  std::mutex mutex;
  std::vector<std::shared_ptr<int>> states;
  in_parallel(
      100, 4,
      [&] {
        const std::lock_guard lock(mutex);
        states.push_back(std::make_shared<int>(0));
        return states.back();
      },
      [](const std::shared_ptr<int>& state, std::size_t) { ++*state; }, [](std::size_t, std::size_t) {});
  CHECK(states.size() == 4);
  CHECK(std::accumulate(states.begin(), states.end(), 0, [](int sum, const auto& s) { return sum + *s; }) == 100);
}

TEST_CASE("the first exception ends the work and is thrown to the caller", "[parallel]") {
  for (const int threads : {1, 4}) {
    std::atomic<int> begun = 0;
    const auto run = [&] {
      in_parallel(
          100000, threads, [] { return 0; },
          [&](int, std::size_t i) {
            ++begun;
            if (i == 3) throw std::runtime_error("piece 3");
          },
          [](std::size_t, std::size_t) {});
    };
    CHECK_THROWS_WITH(run(), "piece 3");
    CHECK(begun < 100000);
  }
  const auto no_state = [] {
    in_parallel(
        2, 2, []() -> int { throw std::runtime_error("no state"); }, [](int, std::size_t) {},
        [](std::size_t, std::size_t) {});
  };
  CHECK_THROWS_WITH(no_state(), "no state");
}

}  // namespace
}  // namespace qdiff::selftest
