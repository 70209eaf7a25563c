// From sums to statistics: what is measured on a tensor, and by how much chance alone may move it.
//
// Slices are the sets of elements that a real bug gets wrong together: a token row, a head, a head's dimension, a
// column, a tile of 16, 64 or 128 columns and the last partial tile, a batch row, the whole tensor.
//
// Each statistic is *normalised*: divided by what chance may give for so many elements and slices, so that one bound
// serves a tensor of one row and a tensor of ten million elements, and a bound measured on small shapes holds for
// large ones.
//
//   max_excess   / sqrt(2 ln(elements + 10)): the growth of the largest of so many Gaussian draws.
//   rms          sqrt(mean z^2 / (1 + 2 sqrt(x / n) + 2 x / n)): the upper tail of a chi-square mean of n degrees of
//                freedom, exceeded with probability exp(-x) (Laurent and Massart 2000, lemma 1), x = ln 10 for the
//                tensor and ln(10 + number of slices) for the worst slice. n counts independent errors, not elements:
//                1/n = r^2 + (1 - r^2) / distinct with r the mean share of shared variance, for a shared error is one
//                draw for the whole slice.
//   bias         |mean error| / sqrt(mean v (1 / distinct + 12 * 4^-(p+2)) + mean w) / sqrt(2 ln(slices + 10)). The
//                middle term: rounding to nearest is itself biased by up to s^2 / (8 |g|) = s 2^-(p+2) at the edges of
//                binades (p significant bits), which shows when millions of elements are averaged.
//   slope        |regression of error on gold|, weights 1 / (v + w), over its deviation: independent part, shared part
//                taken as moving all elements together, the same bias of rounding, and one constant (a scale, log2 e,
//                a reciprocal) rounded to the accumulate type, u^2 / 3.
//   share_beyond_one_spacing   elements beyond one spacing over m + 6 sqrt(m) + 6, where m bounds the number expected.
//
// `distinct`: equal inputs are rounded equally, so the rows of a repeated token bring one error many times, and so does
// a column that a huge bias holds within one spacing. Elements equal to 8 bits are taken to have equal errors:
// 1 / distinct = 1 / elements + the probability that two of the slice's elements are equal, from a sample. For bias and
// slope it is at least 2^-8 (slices.cpp says why).
#pragma once

#include <vector>

#include "harness/compare/judge.h"
#include "harness/compare/layout.h"
#include "harness/compare/sums.h"

namespace qdiff::compare {

// Which errors move together without being declared shared; a slice counts one error for so many elements.
struct Coherence {
  std::int64_t columns = 1;  // neighbouring ones
  bool rows = false;         // all rows of a column
};

struct Measured {
  const Layout& layout;  // of the candidate
  const TensorView& actual;
  const std::vector<SliceSums>& rows;
  const ColumnSums& columns;
  const TensorSums& total;
  DType accumulate;
  Coherence coherence = {};
};

Statistics statistics_of(const Measured& measured);

// How the largest of so many Gaussian draws grows: sqrt(2 ln(count + 10)). The ten keeps it near 2 for a handful.
double growth(double count);

// Of the tensor as a whole, as Statistics has them.
double rms_of(const std::vector<SliceSums>& rows);
double max_excess_of(const TensorSums& total);

}  // namespace qdiff::compare
