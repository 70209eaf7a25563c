// Dense least squares of a few unknowns.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

namespace qdiff::explain {

// For callers that keep A^T A themselves: its lower triangle [n, n] in, L of L L^T = A^T A out (Cholesky). Nothing
// where a column is so nearly a sum of others that the square of its condition would be felt.
std::optional<std::vector<double>> factored(std::vector<double> squares, std::size_t n);
// Solves L L^T X = B in the place of B [n, k].
void substitute(const std::vector<double>& lower, std::vector<double>& b, std::size_t n, std::size_t k = 1);

// The x [n, k] that minimises |A x - B| for A [m, n] and B [m, k], row-major. Nothing where m < n or the columns of A
// are linearly dependent to within rounding.
std::optional<std::vector<double>> least_squares(std::vector<double> a, std::vector<double> b, std::size_t m,
                                                 std::size_t n, std::size_t k = 1);

}  // namespace qdiff::explain
