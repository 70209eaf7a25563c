// What of a wrong tensor lies beyond rounding, and how much of that a fit accounts for.
#pragma once

#include <cstdint>
#include <optional>

#include "harness/diagnose/row_oracle.h"
#include "harness/diagnose/subject.h"

namespace qdiff::diagnose {

// How many elements lie beyond rounding, and how many of a fit do. And token rows: those of which a fit moves enough
// to tell, and those among them that moved far less; of the other rows, in which it moves few, those elements of the
// fit, and how many of them lie in rows that moved far less.
struct Moved {
  std::int64_t so_far = 0, expected = 0;
  std::int64_t rows = 0, quiet_rows = 0;
  std::int64_t most_of_a_row = 0;  // beyond rounding
  std::int64_t in_small_rows = 0, in_quiet_small_rows = 0;

  void add(const Moved& other);
  // Sums in 16 bits move elements everywhere. An input that was recorded wrongly moves those of its own token.
  bool as_many() const;
  // Whether a rounding was made: it moves enough elements to tell, and about as many were moved, without the token that
  // has the most of them too. Of 16 recordings spoiled in a few places that a declaration made right, 13 had no element
  // that it moves, two were wrong in one token alone, and one was quiet in 40 of 42 rows. SiLU as mlx rounds it moves
  // 31 elements of a small layer, fewer than 8 in each row.
  bool tells() const;
  // Whether a rounding was not made: of the token rows in which it moves enough to tell, most were moved far less.
  bool denies() const;
};

// The elements whose error is beyond rounding, under right code and under a fit.
struct BeyondRounding {
  double of_right = 0.0, of_fit = 0.0;  // sums of squared errors, in right code's deviations
  Moved elements;

  // Whether the fit gives these errors. Of a few elements any coarse rounding comes near to one by chance, so that it
  // has to give them as they are.
  bool is_predicted() const;
};

// Nothing where data only moves, or where the tensor has another shape than right code's.
std::optional<BeyondRounding> beyond_rounding(RowOracle& oracle, const RowJudgement& row, const Fit& fit);

}  // namespace qdiff::diagnose
