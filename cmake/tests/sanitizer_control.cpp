// Makes one mistake, which the sanitizer that this program is built with must report.
//
//   sanitizer_control read_beyond_the_end | signed_overflow | race
#include <cstdio>
#include <limits>
#include <string>
#include <thread>
#include <vector>

int main(int argc, char** argv) {
  const std::string mistake = argc == 2 ? argv[1] : "";
  const auto zero = static_cast<std::size_t>(argc - argc);  // so that no compiler sees the mistake coming
  if (mistake == "read_beyond_the_end") {
    const std::vector<int> values(8, 1);
    std::printf("%d\n", values.data()[8 + zero]);
  } else if (mistake == "signed_overflow") {
    const int sum = std::numeric_limits<int>::max() + argc;
    std::printf("%d\n", sum);
  } else if (mistake == "race") {
    int counter = 0;
    const auto count = [&counter] {
      for (int i = 0; i < 1000; ++i) ++counter;
    };
    std::thread other(count);
    count();
    other.join();
    std::printf("%d\n", counter);
  } else {
    std::fprintf(stderr, "usage: sanitizer_control read_beyond_the_end | signed_overflow | race\n");
    return 2;
  }
  return 0;
}
