// Dense least squares of a few unknowns.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

namespace qdiff::explain {

// The x [n, k] that minimises |A x - B| for A [m, n] and B [m, k], row-major, by Householder's QR (Golub and Van Loan,
// "Matrix Computations", 5.2). Nothing where m < n or the columns of A are linearly dependent to within rounding.
std::optional<std::vector<double>> least_squares(std::vector<double> a, std::vector<double> b, std::size_t m,
                                                 std::size_t n, std::size_t k = 1);

}  // namespace qdiff::explain
