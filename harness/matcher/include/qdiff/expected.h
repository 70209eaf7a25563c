// Is what a kernel put out explained by rounding? qdiff's judge for other people's tests, with no tolerance to choose.
//
// A test writes the operation once more in double, and says in it where the kernel rounds. From that, the expected
// value of each element and the error that a correct kernel is expected to make there are measured, and the judge of
// qdiff asks whether the error seen is explained by it.
//
//   using namespace qdiff::matcher;
//   const Expected expected = expect(num_tokens, out_width, {}, [&](Rounding& rounding) {
//     std::vector<double> y;
//     for (int t = 0; t < num_tokens; ++t)
//       for (int o = 0; o < out_width; ++o)
//         y.push_back(rounding.sum(in_width, [&](std::int64_t k) { return double{x[t][k]} * w[o][k]; }));
//     return y;
//   });
//   CHECK_THAT(stored(kernel_output), explained_by_rounding(expected));   // qdiff/catch2.h or qdiff/googletest.h
//
// Needs the C++ standard library alone. Everything is deterministic.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

namespace qdiff::matcher {

enum class Type : std::uint8_t { kFloat32, kBFloat16, kFloat16 };

// The numbers of a tensor as the kernel stored them, row-major and borrowed. How they fall into rows is the
// expectation's to say.
struct Stored {
  const void* data = nullptr;
  Type type = Type::kFloat32;
  std::int64_t size = 0;  // elements
};
inline Stored stored(std::span<const float> values) {
  return {values.data(), Type::kFloat32, static_cast<std::int64_t>(values.size())};
}
// `bits` of bfloat16 or float16, as a __nv_bfloat16 or a __half holds them.
inline Stored stored(Type type, std::span<const std::uint16_t> bits) {
  return {bits.data(), type, static_cast<std::int64_t>(bits.size())};
}

// How the kernel computes between its inputs and its output.
struct Arithmetic {
  Type accumulate = Type::kFloat32;  // in which sums are kept and single operations rounded
  bool matrix_units = false;         // tensor cores, which cut sums off where other units round them
};

// What an operation written in double asks where its kernel rounds. For the expected value nothing is rounded; for its
// error the operation is run some times more, and each of these calls then adds a random error of the size that correct
// rounding has. The formulas are derived in reference/noise.cpp of qdiff's sources.
//
// Call it once for each rounding of the kernel: what a kernel computes once for a row (1/rms, a softmax's maximum) and
// uses many times is to be asked for once, for its error is then the row's.
class Rounding {
 public:
  Rounding(Arithmetic arithmetic, std::uint64_t member) : arithmetic_(arithmetic), member_(member), state_(member) {}

  // The sum of term(0) … term(length - 1), products among them, in any order and any number of parts.
  template <typename Term>
  double sum(std::int64_t length, Term&& term) {
    double value = 0.0, squares = 0.0;
    for (std::int64_t k = 0; k < length; ++k) {
      const double t = term(k);
      value += t;
      squares += t * t;
    }
    return sum_of(value, squares, length);
  }
  // The same of a sum that is known already, with that of its terms' squares.
  double sum_of(double value, double squares, std::int64_t length);
  // The result x of one addition, product or quotient.
  double once(double x);
  // The result x of a library function that is right to two units in the last place: exp, rsqrt, sin.
  double function(double x);
  // x as it is kept in a tensor, in shared memory or in a fragment of this type before the kernel goes on with it. Not
  // for the output itself, whose last rounding the judge adds.
  double kept_as(Type type, double x);

 private:
  double error(double deviation);  // a random one, 0 for the expected value

  Arithmetic arithmetic_;
  std::uint64_t member_;  // 0: the expected value
  std::uint64_t state_;
};

// [rows, columns], row-major. What rows and columns are decides what the judge looks at together: a row is what one
// token brings, a column what one channel is.
struct Expected {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::vector<double> value;
  // Deviations of the error before the output is stored: the part of each element and the part that its row shares.
  std::vector<float> own, shared;
  Arithmetic arithmetic;
};

// Runs `operation` seventeen times. It returns rows * columns values, and must be the same function each time: it may
// depend on nothing but its inputs. Throws std::invalid_argument where it returns another number of values.
Expected expect(std::int64_t rows, std::int64_t columns, Arithmetic arithmetic,
                const std::function<std::vector<double>(Rounding&)>& operation);

struct Answer {
  bool explained = false;
  // One sentence: the statistic nearest to its bound; or what rounding does not explain, with the worst element.
  std::string sentence;
  double ratio_to_bound = 0.0;         // of that statistic; 0 where something else decided, as NaN
  std::int64_t row = -1, column = -1;  // of the worst element; -1 where none differs
};

// Explained only where every statistic of the judge is within its bound. Another number of elements, NaN where none is
// expected, zeros alone, an empty tensor: not explained, and said.
Answer judge(const Stored& actual, const Expected& expected);

}  // namespace qdiff::matcher
