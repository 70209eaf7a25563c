// Honest twins of which logits alone, or a tensor of the last layer alone, are recorded: what the judging of whole
// passes (harness/diagnose/far) makes of them, its bounds, and the smallest doses of mistakes that it finds there.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "harness/calibration/measure.h"
#include "harness/diagnose/far/bounds.h"
#include "harness/diagnose/far/logit_mistakes.h"
#include "harness/diagnose/far/planting.h"

namespace qdiff::calibration {

// What the diagnosis is given of a twin: the reference on its weights, and its steps as a case.
diagnose::ReferenceMaker reference_of(const ScenarioWeights& weights);
CaseInput case_of(const Scenario& twin);

// Three to six layers, with one recorded name.
Scenario draw_far_scenario(std::uint64_t seed, DType dtype);

struct FarMeasurement {
  std::int64_t runs = 0;
  std::int64_t tensors = 0;
  std::int64_t overflowed = 0;  // runs in which right code overflows as declared: nothing is said of them
  // By RowPrecision: of each run the worst over its tensors.
  std::array<std::array<std::vector<double>, diagnose::kNumRowStatistics>, diagnose::kNumRowPrecisions> figures{};
  std::array<std::vector<double>, diagnose::kNumRowPrecisions> times_rounding{};  // the distance of the whole tensor
  std::array<std::array<Worst, diagnose::kNumRowStatistics>, diagnose::kNumRowPrecisions> worst;
  // By RowPrecision and LogitMistake: the smallest dose that is found, of each run with logits.
  std::array<std::array<std::vector<double>, diagnose::kLogitMistakes.size()>, diagnose::kNumRowPrecisions> doses{};
  std::vector<std::string> alarms;  // runs that are not explained
};

// With `doses` the smallest that is found in each run is searched for.
void measure_far(const Scenario& scenario, bool doses, FarMeasurement& into);

// The text of harness/diagnose/far/bounds_table.inc.
std::string far_bounds_table(const FarMeasurement& measurement, const std::string& command, const std::string& date);
std::string summary(const FarMeasurement& measurement);

}  // namespace qdiff::calibration
