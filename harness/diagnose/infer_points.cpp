#include "harness/diagnose/infer_points.h"

#include <algorithm>

namespace qdiff::diagnose {
namespace {

// The points that findings of kind precision name, each in the type that most of them want.
std::map<RoundingPoint, DType> wanted_points(const Judged& judged) {
  std::map<RoundingPoint, std::map<DType, int>> votes;
  for (const WrongTensor& tensor : judged.wrong) {
    const auto rounded =
        std::find_if(tensor.fits.begin(), tensor.fits.end(), [](const Fit& fit) { return !fit.points.empty(); });
    if (rounded == tensor.fits.end()) continue;
    for (const DeclarablePoint& declared : rounded->points) ++votes[declared.point][declared.dtype];
  }
  std::map<RoundingPoint, DType> wanted;
  for (const auto& [point, types] : votes) {
    wanted[point] = std::max_element(types.begin(), types.end(), [](const auto& a, const auto& b) {
                      return a.second < b.second;
                    })->first;
  }
  return wanted;
}

}  // namespace

bool only_roundings(const Judged& judged) {
  return std::all_of(judged.wrong.begin(), judged.wrong.end(), [](const WrongTensor& tensor) {
    const bool bug =
        std::any_of(tensor.fits.begin(), tensor.fits.end(), [](const Fit& fit) { return fit.variant.has_value(); });
    return !tensor.fits.empty() && !bug;
  });
}

Precision declaring_found(Precision declared, const Judged& judged) {
  const std::map<RoundingPoint, DType> wanted = wanted_points(judged);
  declared.points.insert(wanted.begin(), wanted.end());
  return declared;
}

std::map<std::string, std::string> infer_points(const std::vector<Subject>& subjects, Oracle& oracle,
                                                const Precision& declared, const Extent& extent, const Judged& judged,
                                                const JudgingOptions& options) {
  Precision precision = declared;
  std::map<RoundingPoint, DType> wanted = wanted_points(judged);
  JudgingOptions again = options;
  again.probing = false;
  // Each round adds a point or is the last, so there are no more rounds than points.
  while (!wanted.empty()) {
    const std::size_t before = precision.points.size();
    precision.points.insert(wanted.begin(), wanted.end());
    if (precision.points.size() == before) break;
    wanted = wanted_points(judge_subjects(subjects, oracle, precision, extent, again));
  }
  return declared_points(precision);
}

}  // namespace qdiff::diagnose
