// Small kernels that compute in float32, as tests of the matcher need them: right ones in several orders of summing,
// and wrong ones; beside each operation the same written in double.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "harness/contract/dtype.h"
#include "qdiff/expected.h"

namespace qdiff::matcher {

struct Matrix {
  std::int64_t rows = 0, columns = 0;
  std::vector<float> values;

  float at(std::int64_t row, std::int64_t column) const {
    return values[static_cast<std::size_t>(row * columns + column)];
  }
  float& at(std::int64_t row, std::int64_t column) { return values[static_cast<std::size_t>(row * columns + column)]; }
};

// Nearly normal numbers of that deviation, rounded to `dtype`; `massive`: one column is 300 times the others.
Matrix random_matrix(std::int64_t rows, std::int64_t columns, DType dtype, double deviation, std::uint64_t seed,
                     bool massive = false);

// In what a kernel may differ, rightly and wrongly.
struct Kernel {
  std::int64_t block = 1;        // terms that are summed apart, before their sums are
  bool backwards = false;        // last term first
  bool fused = false;            // multiply-add with one rounding
  std::int64_t left_out = 0;     // products at the end of each sum that are forgotten
  bool bf16_sums = false;        // sums in bfloat16
  double factor = 1.0;           // of every element
  double eps = 1e-6;             // of a norm
  bool diagonal_hidden = false;  // attention that does not see its own token
  DType probabilities = DType::kF32;
};

Matrix multiply(const Matrix& x, const Matrix& weight, const Kernel& kernel);  // x weight^T
std::vector<double> multiply(const Matrix& x, const Matrix& weight, Rounding& rounding);

Matrix rms_norm(const Matrix& x, const Matrix& weight, const Kernel& kernel);
std::vector<double> rms_norm(const Matrix& x, const Matrix& weight, double eps, Rounding& rounding);

// One head, causal: softmax(q k^T / sqrt(d)) v.
Matrix attend(const Matrix& q, const Matrix& k, const Matrix& v, const Kernel& kernel);
std::vector<double> attend(const Matrix& q, const Matrix& k, const Matrix& v, Rounding& rounding);

// As stored in 16 bits.
std::vector<std::uint16_t> bits_of(const Matrix& matrix, Type type);

}  // namespace qdiff::matcher
