// Every number that decides in the diagnosis, with the experiment behind it. Where none is named, the selftest
// (docs/selftest.md) is the only experiment: with these numbers every planted bug of the CPU engine is found and named,
// and 1200 honest runs raise no alarm.
//
// Distances are root mean square errors in units of what rounding does to right code (row_oracle.h): an honest engine
// lies about 1 from the reference that rounds.
#pragma once

#include <cstddef>
#include <cstdint>

#include "harness/contract/precision.h"
#include "harness/explain/rows.h"

namespace qdiff::diagnose {

// ---- What comes near ----

// What is the candidate's own, a bug or a rounding, takes most of right code's distance away.
inline constexpr double kLargestShareLeft = 0.5;
// A bug may make rounding a few times larger than right code's: so near is always worth a full judgement.
inline constexpr double kNearEnough = 4.0;
// A bug that leaves so many times what the nearest leaves is no second explanation. Two engines that round
// independently are sqrt(2) apart.
inline constexpr double kClearlyFarther = 2.0;
// Flips of a last bit make distances of this size, beside a bug that leaves nothing.
inline constexpr double kSameDistance = 0.1;
// A fit this near needs no rounding beside it: the candidate's own bug leaves 1 or less.
inline constexpr double kCloseFit = 2.0;
// A searched value that leaves more than this share of right code's distance is none. Where it comes near enough, and
// the span is short, the judge decides.
inline constexpr double kLargestShareLeftByValue = 0.9;

// ---- Roundings that nobody declared ----

// One of several roundings takes a good part of the distance that is left; together they take most of it.
inline constexpr double kLargestShareLeftByOneRounding = 0.8;
inline constexpr std::size_t kVariantsBesideRoundings = 3;  // the nearest ones, beside which roundings are tried

// ---- Bugs whose own rounding is coarse, such as sums in 16 bits ----

// In units of right code's rounding: from here on a bug's own covers errors of another cause.
inline constexpr double kCoarseRounding = 4.0;
// Engines of which such a bug was seen err by 0.11 of its rounding and more; what errs by less than this does not have
// it.
inline constexpr double kLeastShareOfCoarseRounding = 0.05;

using explain::kBeyondRounding;  // in right code's deviations
// Engines that sum in 16 bits in another order move as many elements beyond rounding as the reference that does.
inline constexpr double kLeastShareOfMoved = 0.25;
// Rows of one token that a bug moves in so many elements say whether it was there, and so many have to be moved in all
// steps. Fits of this bug to engines that sum so were weighed 2200 times: in all but two no row was quiet, in those two
// one of seven; where its own rounding is coarse they moved 67 elements and more. Of inputs recorded wrongly in up to
// six places, which this bug had named in 5 of 1300 runs, one row in seven was quiet and more, or a single element was
// moved. So the two overlap at one row in seven; all 72 engines with the bug are still named.
inline constexpr std::int64_t kEnoughMoved = 8;
inline constexpr double kLargestShareOfQuietRows = 0.1;
// A rounding that nobody declared and that is made moves elements in every token row of its phase. Of three spoiled
// recordings that one had explained, 6 of 8 rows were quiet in one; in the two others one or two rows tell, which is
// too few to deny it. The same share of the elements that a fit moves in rows of fewer than kEnoughMoved: in 39
// weighings of sums in 16 bits that were made at most 0.17 of them lay in quiet rows, in a recording spoiled in two
// tokens 0.89.
inline constexpr double kShareOfQuietRowsThatDenies = 0.5;

// ---- Memory that nobody wrote ----

// So many elements of one value are no accident: a key of the smallest head.
inline constexpr std::int64_t kEnoughUnwritten = 8;

// ---- Recordings of the same input ----

// Of the elements that differ from run to run, so many are what memory held before. Elements of two tensors of bfloat16
// are equal by chance in about one of a hundred.
inline constexpr double kLeastShareOfStale = 0.9;

// ---- Recorders ----

// A recorder that rounds tensors which the engine did not round makes nearly everything wrong that reads them; a share
// of a half leaves room for what a rounding does not show in.
inline constexpr double kLeastShareOfMisfits = 0.5;
// What may stay wrong once it is known: nine of ten are explained.
inline constexpr double kLargestShareStillWrong = 0.1;

// A right reader of a long span lies as far from gold as the emulation that rounds as declared: layer outputs in
// float32 and bfloat16, two models, layer 0's output replaced: 0.3 to 1.4 times as far
// (harness/cli/tests/misrecorded_test.cpp). Readers with a bug of their own, which had excused the same bug in the
// layer before, lay 2.7, 46 and 56 times as far.
inline constexpr double kLargestErrorOfRepaired = 2.0;
// The five that follow were measured on 1828 recordings of honest engines, of three models and types, in each of which
// one element was spoiled: 1539 of all tensors, with 2016 readers, and 289 of layer outputs alone, with 566. Each
// reader was weighed twice, as computed with the right value and as computed with the recorded one
// (`trace_run_tests "[.elements_whole]"`).
//
// In deviations: an element so far from right code is wrong. No element of an honest tensor lay farther than 3.6, of
// layer outputs 4.5.
inline constexpr double kClearlyWrong = 8.0;
// Two values that lead so far apart in a reader are told apart by it: what the reader holds lies with one of them then,
// within half of that (kBeyondRounding). From 4 on no reader named the value that was not used, at 2 one did and at 1
// three; of layer outputs 46 readers say nothing at 4, 72 at 8 and 99 at 16.
inline constexpr double kFarApart = 8.0;
// An element that is put right is known to within an eighth of what it was wrong by: twice that is left to its readers.
// Nine of ten elements of right readers lay within 0.04 of what the two are apart, all but one in a hundred within
// 0.15. With nothing left to them 42 right readers are taken for neither, with this 14.
inline constexpr double kShareOfApart = 0.25;
// Nearly all elements that tell say that the engine held the right value: where all had to, 33 right readers would be
// taken for neither, with this 14. Most say that it held the recorded one: from 0.1 to 0.9 all shares told the same.
inline constexpr double kShareWithRight = 0.9;
inline constexpr double kShareWithRecorded = 0.5;

// ---- Searches for a value, over its natural logarithm ----

inline constexpr double kSearchedBeyondListed = 9.210340371976184;  // a factor of 10000: rms_norm_eps 1e-3 for 1e-6
inline constexpr int kSearchGrid = 36;                              // intervals
inline constexpr int kSearchStepsBeyond = 24;                       // past the grid's end, while that comes nearer
inline constexpr double kSearchByExcess = 0.02;  // to either side of the nearest by RMS, which leaves far less open

// Whole numbers that compute the same on a row: so many are named, the rest would only lengthen the line.
inline constexpr std::size_t kMostEqualValues = 3;
// Layers of which a whole number is searched for in vain: an engine has the same bug in most of them, and to try some
// hundred numbers costs seconds where a model is large.
inline constexpr int kMostVainSearches = 2;
// Of a span, where each number asks for the whole span: windows and tiles of short sequences.
inline constexpr std::int64_t kLargestNumberOfSpan = 32;

// ---- Mistakes inside one span ----

inline constexpr std::size_t kJudgedSpanMistakes = 4;  // the nearest ones, which are judged in full

// ---- Two bugs inside one span ----

inline constexpr std::size_t kFirstOfPairs = 4;  // the nearest ones alone, beside which all others are tried
inline constexpr std::size_t kJudgedPairs = 3;   // the nearest ones, which are judged in full

// ---- Whole forward passes ----

// A span over more layers than this is not judged by replay: what rounding does to it is as wide as many a bug.
inline constexpr std::size_t kMostLayersOfSpan = 2;
inline constexpr std::size_t kPassesAtOnce = 48;     // whose caches are in memory together
inline constexpr std::size_t kRightPasses = 5;       // of right code, each rounding in a way of its own
inline constexpr std::size_t kRefinedVariants = 8;   // leading ones of which every listed value is tried
inline constexpr std::size_t kFirstOfFarPairs = 2;   // the nearest ones, beside which all others are planted
inline constexpr std::size_t kRankedVariants = 10;   // in the report
inline constexpr std::size_t kRecordedVariants = 4;  // leading ones whose rows are to be recorded next

// The largest distance from the reference that rounds as declared, in units of that reference's own distance from gold,
// that rounding explains. Measured on the CPU engine, three toy models and 40 seeds each
// (harness/cli/tests/trace_run_test.cpp with more seeds): at most 1.3 in bfloat16, 0.75 in float16. In float32 it is
// 2.6, since the order of a sum decides how much it rounds, and the reference's own order is a good one; an engine that
// adds one product after the other has several times that, and a bug thousands of times.
constexpr double explained_by_rounding(const Precision& precision) {
  return size_of(precision.activations) == 2 ? 3.0 : 10.0;
}

}  // namespace qdiff::diagnose
