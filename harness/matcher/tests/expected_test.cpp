#include "qdiff/expected.h"

#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <regex>
#include <stdexcept>

#include "cmake/catch2.h"
#include "harness/matcher/tests/kernels.h"
#include "qdiff/catch2.h"

namespace qdiff::matcher {
namespace {

const std::vector<Kernel> kRightKernels = {{},
                                           {.block = 16},
                                           {.block = 7, .backwards = true},
                                           {.block = 32, .fused = true},
                                           {.backwards = true, .fused = true}};

// Each operation on inputs of its own: what a right kernel gives, and what is expected.
struct Operation {
  std::string name;
  std::int64_t rows, columns;
  std::function<Matrix(const Kernel&)> kernel;
  std::function<std::vector<double>(Rounding&)> in_double;

  Expected expected() const { return expect(rows, columns, {}, in_double); }
};

std::vector<Operation> operations(std::uint64_t seed, DType inputs) {
  const bool massive = seed % 2 == 1;
  const Matrix x = random_matrix(17, 100, inputs, 1.0, seed + 1, massive),
               w = random_matrix(40, 100, inputs, 0.1, seed + 2);
  Matrix rows = random_matrix(9, 200, inputs, 1.0, seed + 3, massive);
  for (std::int64_t c = 0; c < rows.columns; ++c) {  // of tiny norm
    rows.at(4, c) = static_cast<float>(round_to(inputs, rows.at(4, c) * 1e-3));
  }
  const Matrix g = random_matrix(1, 200, inputs, 1.0, seed + 4);
  const Matrix q = random_matrix(33, 16, inputs, 2.0, seed + 5), k = random_matrix(33, 16, inputs, 2.0, seed + 6);
  const Matrix v = random_matrix(33, 16, inputs, 1.0, seed + 7);
  return {{"product", 17, 40, [=](const Kernel& kernel) { return multiply(x, w, kernel); },
           [=](Rounding& rounding) { return multiply(x, w, rounding); }},
          {"norm", 9, 200, [=](const Kernel& kernel) { return rms_norm(rows, g, kernel); },
           [=](Rounding& rounding) { return rms_norm(rows, g, 1e-6, rounding); }},
          {"attention", 33, 16, [=](const Kernel& kernel) { return attend(q, k, v, kernel); },
           [=](Rounding& rounding) { return attend(q, k, v, rounding); }}};
}

Answer judged(const Matrix& y, Type type, const Expected& expected) {
  if (type == Type::kFloat32) return judge(stored(y.values), expected);
  return judge(stored(type, bits_of(y, type)), expected);
}

TEST_CASE("right kernels are explained by rounding, however they sum", "[matcher]") {
  int judged_kernels = 0;
  for (const auto& [type, dtype] : {std::pair{Type::kFloat32, DType::kF32}, std::pair{Type::kBFloat16, DType::kBF16},
                                    std::pair{Type::kFloat16, DType::kF16}}) {
    for (std::uint64_t seed = 0; seed < 8; ++seed) {
      for (const Operation& operation : operations(1000 * seed, dtype)) {
        const Expected expected = operation.expected();
        for (const Kernel& kernel : kRightKernels) {
          const Answer answer = judged(operation.kernel(kernel), type, expected);
          INFO(operation.name << ", seed " << seed << ", type " << static_cast<int>(type) << ": " << answer.sentence);
          CHECK(answer.explained);
          ++judged_kernels;
        }
      }
    }
  }
  CHECK(judged_kernels == 360);
}

TEST_CASE("wrong kernels are not explained by rounding", "[matcher]") {
  const auto [name, operation, kernel] = GENERATE(table<std::string, std::size_t, Kernel>({
      {"the last product left out", 0, {.left_out = 1}},
      {"sums in bfloat16", 0, {.bf16_sums = true}},
      {"a factor of 1.01", 0, {.factor = 1.01}},
      {"the epsilon of another model", 1, {.eps = 1e-5}},
      {"a token that does not see itself", 2, {.diagonal_hidden = true}},
      {"a scale of 1.01", 2, {.factor = 1.01}},
  }));
  for (const auto& [type, dtype] : {std::pair{Type::kFloat32, DType::kF32}, std::pair{Type::kBFloat16, DType::kBF16},
                                    std::pair{Type::kFloat16, DType::kF16}}) {
    const Operation chosen = operations(5, dtype).at(operation);
    const Answer answer = judged(chosen.kernel(kernel), type, chosen.expected());
    INFO(name << ", type " << static_cast<int>(type) << ": " << answer.sentence);
    CHECK_FALSE(answer.explained);
    CHECK(answer.row >= 0);
    CHECK_THAT(answer.sentence, ContainsSubstring(" is expected"));
    CHECK_THAT(answer.sentence, !ContainsSubstring("batch"));
  }
}

TEST_CASE("a tensor that a kernel keeps in 16 bits is expected to round there, if that is said", "[matcher]") {
  const Operation attention = operations(0, DType::kF32).at(2);
  const Matrix y = attention.kernel({.probabilities = DType::kBF16});
  CHECK_FALSE(judge(stored(y.values), attention.expected()).explained);
  const Matrix x = random_matrix(12, 64, DType::kF32, 1.0, 3), w = random_matrix(20, 64, DType::kF32, 1.0, 4);
  Matrix narrow = x;
  for (float& value : narrow.values) value = static_cast<float>(round_to(DType::kBF16, value));
  const Expected said = expect(12, 20, {}, [&](Rounding& rounding) {
    std::vector<double> kept;
    for (const float value : x.values) kept.push_back(rounding.kept_as(Type::kBFloat16, value));
    std::vector<double> out;
    for (std::int64_t r = 0; r < 12; ++r) {
      for (std::int64_t o = 0; o < 20; ++o) {
        out.push_back(
            rounding.sum(64, [&](std::int64_t k) { return kept[static_cast<std::size_t>(r * 64 + k)] * w.at(o, k); }));
      }
    }
    return out;
  });
  const Expected unsaid = expect(12, 20, {}, [&](Rounding& rounding) { return multiply(x, w, rounding); });
  const Matrix product = multiply(narrow, w, {});
  CHECK_THAT(stored(product.values), explained_by_rounding(said));
  CHECK_THAT(stored(product.values), !explained_by_rounding(unsaid));
}

TEST_CASE("what cannot be explained is said in a sentence", "[matcher]") {
  const Expected expected = expect(2, 3, {}, [](Rounding& rounding) {
    std::vector<double> y;
    for (const double x : {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}) y.push_back(rounding.once(x));
    return y;
  });
  std::vector<float> values = {1, 2, 3, 4, 5, 6};
  CHECK(judge(stored(values), expected).explained);
  SECTION("NaN") {
    values[4] = std::numeric_limits<float>::quiet_NaN();
    const Answer answer = judge(stored(values), expected);
    CHECK_FALSE(answer.explained);
    CHECK_THAT(answer.sentence, ContainsSubstring("NaN") && ContainsSubstring("[1, 1]"));
  }
  SECTION("zeros alone") {
    values.assign(6, 0.0F);
    CHECK_FALSE(judge(stored(values), expected).explained);
  }
  SECTION("one element") {
    values[2] = 3.5F;
    const Answer answer = judge(stored(values), expected);
    CHECK_FALSE(answer.explained);
    CHECK_THAT(answer.sentence, ContainsSubstring("worst at [0, 2]: 3.5 where 3 is expected"));
  }
  SECTION("another number of elements") {
    values.pop_back();
    CHECK(judge(stored(values), expected).sentence == "5 elements where 2 rows of 3 are expected");
  }
  SECTION("nothing at all") {
    const Expected nothing = expect(0, 3, {}, [](Rounding&) { return std::vector<double>(); });
    CHECK_FALSE(judge(stored(std::span<const float>()), nothing).explained);
  }
}

TEST_CASE("an operation that returns another number of values is refused", "[matcher]") {
  CHECK_THROWS_AS(expect(2, 3, {}, [](Rounding&) { return std::vector<double>(5); }), std::invalid_argument);
  CHECK_THROWS_AS(expect(-1, 3, {}, [](Rounding&) { return std::vector<double>(); }), std::invalid_argument);
}

TEST_CASE("the same test gives the same expectation, and gold has no rounding", "[matcher]") {
  const Operation product = operations(2, DType::kF32).at(0);
  const Expected once = product.expected(), again = product.expected();
  CHECK(once.own == again.own);
  CHECK(once.shared == again.shared);
  Rounding none({}, 0);
  CHECK(once.value == product.in_double(none));
}

TEST_CASE("sums that a matrix unit cuts off are explained where that is said", "[matcher]") {
  // Towards zero by as much as was measured: half of 0.034 n u of each sum (reference/noise.cpp).
  const std::int64_t n = 4096;
  const Matrix x = random_matrix(8, n, DType::kBF16, 1.0, 1), w = random_matrix(30, n, DType::kBF16, 1.0, 2);
  Matrix y = multiply(x, w, {});
  const double cut_off = 0.017 * static_cast<double>(n) * unit_roundoff(DType::kF32);
  for (float& value : y.values) value = static_cast<float>(value * (1.0 - cut_off));
  const auto in_double = [&](Rounding& rounding) { return multiply(x, w, rounding); };
  CHECK_THAT(stored(y.values), explained_by_rounding(expect(8, 30, {.matrix_units = true}, in_double)));
}

// What stands behind "name =" in a source of the tree.
std::string constant(const std::string& file, const std::string& name) {
  std::ifstream source(std::string(QDIFF_SOURCE_DIR) + '/' + file);
  const std::string text((std::istreambuf_iterator<char>(source)), std::istreambuf_iterator<char>());
  std::smatch found;
  return std::regex_search(text, found, std::regex("\\b" + name + " = ([^;]+);")) ? found[1].str() : "";
}

TEST_CASE("the model of rounding is the reference's, whose derivations hold for both", "[matcher]") {
  const auto [file, theirs, ours] = GENERATE(table<std::string, std::string, std::string>({
      {"reference/noise.h", "kSumRounding", "kSumRounding"},
      {"reference/noise.h", "kOneRounding", "kOneRounding"},
      {"reference/noise.h", "kTwoUlps", "kTwoUlps"},
      {"reference/noise.cpp", "kOfEach", "kCutOffOfEach"},
      {"reference/noise.cpp", "kOfAll", "kCutOffOfAll"},
      {"reference/memory.h", "kMembers", "kMembers"},
  }));
  const std::string expected = constant(file, theirs);
  CAPTURE(file, theirs);
  CHECK_FALSE(expected.empty());
  CHECK(constant("harness/matcher/expected.cpp", ours) == expected);
}

}  // namespace
}  // namespace qdiff::matcher
