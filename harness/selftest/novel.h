// What the diagnosis makes of mistakes that no table lists: drawn at random, one or two at a time, planted in the
// reference as an engine, and judged as any engine is. An explanation is held to what it says: an engine planted with
// it has to compute what the candidate computed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "harness/compare/verdict.h"
#include "harness/contract/mistake.h"
#include "harness/selftest/bench.h"
#include "harness/selftest/planting.h"
#include "harness/selftest/scoring.h"

namespace qdiff::selftest {

// What became of one planted mistake.
struct NovelMistake {
  Mistake mistake;
  TensorKey first = {};     // the first tensor that it moves by more than kDetectable deviations
  double deviations = 0.0;  // there
  bool found = false;       // something is wrong at its tensor
  bool exact = false;       // and no finding comes before it, nor before the other one's
  std::string said = {};    // the explanation given there, as --inject takes it or as the report says; empty: none
  bool same_mechanism = false;
  // The explanation, planted in its place, moves no element of its tensor by more than kDetectable deviations from what
  // the candidate holds.
  bool same_effect = false;
  bool hypothesis_refuted = false;  // that its mechanism speaks for

  bool is_explained() const { return !said.empty(); }
  bool is_named() const { return is_explained() && same_effect; }  // in the same words or in others that mean the same
  bool is_falsely_explained() const { return is_explained() && !same_effect; }
};

struct NovelTrial {
  std::uint64_t seed = 0;
  DType dtype = DType::kBF16;
  std::string model = {};  // its sizes
  compare::Verdict verdict = compare::Verdict::kMatch;
  std::vector<NovelMistake> mistakes = {};

  bool is_found() const;
  bool is_exact() const;  // each at its own tensor
};

// Engines that compute with mistakes; an InputError where the model has no place for one.
using MakeMistaken = std::function<std::unique_ptr<Engine>(const WeightSource&, DType, const std::vector<Mistake>&)>;

// So many mistakes at once. What moves no tensor far enough is drawn anew, on the same seed.
NovelTrial run_novel(std::uint64_t seed, DType dtype, std::size_t num_mistakes, const Makers& makers,
                     const MakeMistaken& mistaken);

// `runs` trials on seeds from `first_seed`, in types that go round.
std::vector<NovelTrial> run_all_novel(std::int64_t runs, std::uint64_t first_seed, std::size_t num_mistakes,
                                      const Makers& makers, const MakeMistaken& mistaken, const Crew& crew);

struct NovelScore {
  std::int64_t trials = 0;
  Ratio found, exact;    // of the trials
  Ratio named;           // mistakes: mechanism, parameters and scope, in these words or in others of the same effect
  Ratio same_mechanism;  // in these words
  Ratio not_false;       // mistakes without a false explanation
  Ratio all_named;       // trials of which each mistake is named
  Ratio not_refuted;     // mistakes of which the hypothesis is not refuted
};
NovelScore score(const std::vector<NovelTrial>& trials);
struct SpoiledScore;
std::vector<Goal> novel_goals(const NovelScore& novel, const NovelScore& pairs, const SpoiledScore& spoiled);
// Why a trial is not all that it should be; empty where it is.
std::string reason_of_miss(const NovelTrial& trial);

}  // namespace qdiff::selftest
