// Runs honest twins past the oracle and the judge, and keeps the worst that any statistic reached.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "harness/calibration/scenario.h"
#include "harness/compare/bounds.h"
#include "harness/compare/judge.h"

namespace qdiff::calibration {

inline constexpr std::array<DType, 3> kStoredTypes = {DType::kF32, DType::kBF16, DType::kF16};

struct Worst {
  double value = 0.0;
  std::string where;  // the scenario and tensor that reached it

  // NaN is worse than any number.
  void keep(const Worst& other) {
    if (!(other.value <= value)) *this = other;
  }
};

struct Alarm {
  std::string where;
  compare::Judgement judgement;
};

struct Measurement {
  std::int64_t runs = 0;
  std::int64_t judged = 0;  // tensors
  // These are by column of kStoredTypes and Statistic, where the expected rounding comes from an ensemble.
  std::array<std::array<Worst, compare::kNumStatistics>, 3> worst_ensemble;
  // These are by Arithmetic, column of kStoredTypes and Statistic, where it does not.
  std::array<std::array<std::array<Worst, compare::kNumStatistics>, 3>, kNumArithmetics> worst;
  std::array<std::array<std::int64_t, 3>, kNumArithmetics> tensors{};
  // Honest tensors that the judge, with the bounds it was built with, did not call a match.
  std::vector<Alarm> alarms;
  std::int64_t alarmed_runs = 0;
};

struct Replayed {
  compare::Judgement judgement;
  bool from_ensemble = false;  // which bounds judged it
  std::size_t span_size = 1;
};

std::string rounded_up(double value);  // to three digits behind the point

// Replays one recorded tensor from its recorded inputs and judges it.
Replayed replay(const TensorKey& key, const Scenario& scenario, const TensorStore& store, Oracle& oracle);

// One run of one twin; every recorded tensor is replayed and judged.
void measure(const Scenario& scenario, Measurement& into);

// What both saw.
void merge(const Measurement& part, Measurement& into);

// The text of bounds_table.inc; `command` repeats the measurement.
std::string bounds_table(const Measurement& measurement, const std::string& command, const std::string& date);

// A table for people, the one line for each arithmetic and stored type.
std::string summary(const Measurement& measurement);

}  // namespace qdiff::calibration
