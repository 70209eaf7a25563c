#include "harness/diagnose/infer_points.h"

#include <algorithm>

namespace qdiff::diagnose {
namespace {

// The points that findings of kind precision name, each with the value that most of them want.
std::vector<DeclarablePoint> wanted_points(const Judged& judged) {
  std::map<std::string, std::vector<std::pair<DeclarablePoint, int>>> votes;  // by point
  for (const WrongTensor& tensor : judged.wrong) {
    const auto rounded = std::ranges::find_if(tensor.fits, [](const Fit& fit) { return !fit.points.empty(); });
    if (rounded == tensor.fits.end()) continue;
    for (const DeclarablePoint& declared : rounded->points) {
      auto& values = votes[declared.key()];
      auto same = std::ranges::find_if(values, [&](const auto& vote) { return vote.first == declared; });
      if (same == values.end()) same = values.insert(values.end(), {declared, 0});
      ++same->second;
    }
  }
  std::vector<DeclarablePoint> wanted;
  for (const auto& [point, values] : votes) {
    wanted.push_back(std::ranges::max_element(values, {}, [](const auto& vote) { return vote.second; })->first);
  }
  return wanted;
}

// Whether one was added.
bool add_points(const std::vector<DeclarablePoint>& wanted, Precision& precision) {
  bool added = false;
  for (const DeclarablePoint& point : wanted) {
    if (point.is_declared(precision)) continue;
    point.declare(precision);
    added = true;
  }
  return added;
}

}  // namespace

bool only_roundings(const Judged& judged) {
  return std::ranges::all_of(judged.wrong, [](const WrongTensor& tensor) {
    return !tensor.fits.empty() &&
           std::ranges::none_of(tensor.fits, [](const Fit& fit) { return fit.variant.has_value(); });
  });
}

Precision declaring_found(Precision declared, const Judged& judged) {
  add_points(wanted_points(judged), declared);
  return declared;
}

std::map<std::string, std::string> infer_points(const std::vector<Subject>& subjects, Oracle& oracle,
                                                const Precision& declared, const Extent& extent, const Judged& judged,
                                                const JudgingOptions& options) {
  Precision precision = declared;
  std::vector<DeclarablePoint> wanted = wanted_points(judged);
  JudgingOptions again = options;
  again.probing = false;
  // Each round adds a point or is the last, so there are no more rounds than points.
  while (add_points(wanted, precision)) {
    wanted = wanted_points(judge_subjects(subjects, oracle, precision, extent, again));
  }
  return declared_points(precision);
}

}  // namespace qdiff::diagnose
