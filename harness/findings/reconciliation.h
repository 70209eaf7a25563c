// What lies between two traces of the same tokens, as data: how far apart their log-probabilities are, how much of that
// their roundings explain, and what each of the two has wrong.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "harness/compare/verdict.h"
#include "harness/contract/operation_table.h"
#include "harness/findings/result.h"

namespace qdiff::findings {

inline constexpr std::size_t kNumSides = 2;  // A and B
inline constexpr std::array<std::string_view, kNumSides> kSideNames = {"A", "B"};

// A token of whose log-probability, in nats, both traces hold the logits.
struct ReconciledToken {
  std::int64_t batch_row = 0;
  std::int64_t index = 0;  // in the row's sequence, without its pads
  std::int32_t token = 0;
  std::array<double, kNumSides> log_probability{};  // by side
  std::array<double, kNumSides> expected{};         // of the reference in float64, with the side's weights
  std::array<double, kNumSides> rounding{};         // the deviation that the side's roundings cause
  double explained_up_to = 0.0;                     // of a difference, by the roundings of both

  double error(std::size_t side) const { return log_probability[side] - expected[side]; }
  double difference() const { return std::abs(log_probability[0] - log_probability[1]); }
  // NaN is explained by nothing.
  double explained() const { return difference() <= explained_up_to ? difference() : explained_up_to; }
};

// A figure beside the largest that honest engines have.
struct BoundedFigure {
  double value = 0.0;
  double bound = 0.0;
  bool within() const { return value <= bound; }
};

// The residual stream behind a layer, over the tokens: ||A - B|| / ||expected||, and how far roundings take it apart.
struct StreamDifference {
  int layer = 0;
  BoundedFigure difference;
};

struct ReconciledSide {
  std::string trace;    // as the command line names it
  RunResult diagnosis;  // of this trace by itself
  // Undeclared roundings that the diagnosis found; log-probabilities are judged as if they were declared.
  std::map<std::string, std::string> undeclared = {};
  // The errors of its log-probabilities in units of what its roundings do to each: root mean square, and the largest.
  BoundedFigure all, worst;
  std::size_t worst_token = 0;  // in Reconciliation::tokens

  bool within() const { return all.within() && worst.within(); }
};

struct Reconciliation {
  compare::Verdict verdict = compare::Verdict::kInconclusive;
  std::string reason;  // of the verdict, in one sentence
  std::string model;
  std::string command;
  std::array<ReconciledSide, kNumSides> sides;
  std::vector<ReconciledToken> tokens;    // by row of the batch, then by index
  std::vector<StreamDifference> streams;  // of the layers whose output both recorded
  std::vector<std::string> notes;
  // Pairs of right engines that were reconciled on seeds which did not set the bounds, and how many were accused.
  std::int64_t honest_verified = 0, honest_accused = 0;
  bool logits_alone = false;  // in one of them at least: no tensor before the logits was recorded
  double seconds = 0.0;

  // The first layer behind which the two are further apart than roundings take them; null where there is none.
  const StreamDifference* parting() const {
    const auto found = std::ranges::find_if(streams, [](const auto& stream) { return !stream.difference.within(); });
    return found == streams.end() ? nullptr : &*found;
  }
  double mean_difference() const {
    double sum = 0.0;
    for (const ReconciledToken& token : tokens) sum += token.difference();
    return tokens.empty() ? 0.0 : sum / static_cast<double>(tokens.size());
  }
  // Of all differences together; 1 where there is none.
  double share_explained() const {
    double all = 0.0, explained = 0.0;
    for (const ReconciledToken& token : tokens) {
      all += token.difference();
      explained += token.explained();
    }
    return all > 0.0 ? explained / all : std::isnan(all) ? 0.0 : 1.0;
  }
  // The tokens with the largest differences first.
  std::vector<const ReconciledToken*> by_difference() const {
    std::vector<const ReconciledToken*> sorted;
    for (const ReconciledToken& token : tokens) sorted.push_back(&token);
    // NaN is no number to sort by: it comes first.
    const auto size = [](const ReconciledToken* token) {
      return std::isnan(token->difference()) ? HUGE_VAL : token->difference();
    };
    std::ranges::stable_sort(sorted, std::ranges::greater(), size);
    return sorted;
  }
};

}  // namespace qdiff::findings
