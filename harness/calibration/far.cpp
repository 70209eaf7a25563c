#include "harness/calibration/far.h"

#include <algorithm>
#include <cmath>

#include "harness/calibration/quantiles.h"
#include "harness/calibration/twin.h"
#include "harness/contract/number_text.h"
#include "harness/diagnose/far/planting.h"
#include "reference/reference.h"

namespace qdiff::calibration {
namespace {

using diagnose::Planting;
using diagnose::Target;

// Of several layers the last one's alone.
MemoryStore last_of(const MemoryStore& all, const ModelConfig& config) {
  MemoryStore kept;
  for (const auto& [key, tensor] : all.all()) {
    const bool last = row(key.id.op).scope != Scope::kLayer || key.id.layer == config.num_layers - 1;
    if (last) kept.put(key, Tensor::copy_of(tensor.view()));
  }
  return kept;
}

// The smallest dose that is found, over its logarithm; what is found at one dose is taken to be found at each larger.
template <typename Finds>
double smallest(double least, double most, Finds finds) {
  constexpr int kHalvings = 12;
  if (!finds(most)) return HUGE_VAL;
  double low = std::log(least), high = std::log(most);
  for (int i = 0; i < kHalvings; ++i) {
    const double middle = (low + high) / 2;
    (finds(std::exp(middle)) ? high : low) = middle;
  }
  return std::exp(high);
}

bool finds(const Planting& passes, const Target& target, const std::vector<double>& values,
           const Precision& precision) {
  return diagnose::verdict_of(passes.rows_of(target, values), precision).ratio_to_bound > 1.0;
}

std::vector<double> recorded(const Target& target, std::vector<double> values) {
  for (double& value : values) value = round_to(target.recorded().dtype, value);
  return values;
}

double smallest_scale(const Planting& passes, const Target& target, std::int64_t first_row, std::int64_t end_row,
                      const Precision& precision) {
  return smallest(1e-7, 1.0, [&](double dose) {
    std::vector<double> values(target.candidate().begin(), target.candidate().end());
    for (std::int64_t i = first_row * target.width(); i < end_row * target.width(); ++i) {
      values[static_cast<std::size_t>(i)] *= 1.0 + dose;
    }
    return finds(passes, target, recorded(target, std::move(values)), precision);
  });
}

// The logit in the middle of the last row, away from gold.
double smallest_move(const Planting& passes, const Target& target, const Precision& precision) {
  const std::int64_t row = target.num_rows() - 1;
  const auto element = static_cast<std::size_t>(row * target.width() + target.width() / 2);
  return smallest(0.1, 1e4, [&](double dose) {
    std::vector<double> values(target.candidate().begin(), target.candidate().end());
    values[element] = target.gold()[element] + dose * passes.rounding_of_row(target, row);
    return finds(passes, target, recorded(target, std::move(values)), precision);
  });
}

void search_doses(const Planting& passes, const Scenario& scenario, std::array<std::vector<double>, kNumDoses>& doses) {
  const Precision& precision = scenario.precision;
  const auto keep = [&](Dose dose, double found) { doses[static_cast<std::size_t>(dose)].push_back(found); };
  for (const auto& [key, target] : passes.targets()) {
    if (key.id.op != Op::kLmHead || !target.counts(target.num_rows() - 1)) continue;
    const bool decodes = target.num_rows() == target.layout().batch();
    if (!decodes) {
      keep(Dose::kOneLogit, smallest_move(passes, target, precision));
      keep(Dose::kOneRow, smallest_scale(passes, target, target.num_rows() - 1, target.num_rows(), precision));
    } else {
      keep(Dose::kOneStep, smallest_scale(passes, target, 0, target.num_rows(), precision));
    }
  }
}

}  // namespace

Scenario draw_far_scenario(std::uint64_t seed, DType dtype) {
  Scenario s = draw_scenario(seed, dtype, Size::kQuick);
  Random random(seed * 4 + static_cast<std::uint64_t>(dtype) + 0x666172);
  s.config.num_layers = random.between(3, 6);
  if (dtype == DType::kF32 && random.chance(0.5)) s.precision.points.clear();  // else most of these round coarser
  s.sparse = true;
  for (const OperationRow& r : kOperationTable) s.recorded[r.op] = false;
  Op op = Op::kLmHead;
  if (random.chance(0.3)) {
    op = random.one_of({Op::kInputLayernorm, Op::kQProj, Op::kQRope, Op::kKCache, Op::kVCache, Op::kAttnOutput,
                        Op::kResidMid, Op::kGateProj, Op::kAct, Op::kOutput, Op::kNorm});
  }
  s.recorded[op] = true;
  return s;
}

void measure_far(const Scenario& scenario, bool doses, FarMeasurement& into) {
  const ScenarioWeights weights(scenario);
  const MemoryStore store = last_of(run_twin(scenario, weights), scenario.config);
  const CaseInput input{
      .id = "twin", .title = "", .hypothesis = {}, .argument = "", .seed = 0, .capacity = 0, .steps = scenario.steps};
  diagnose::Subject subject{&input, "trace", &store, &store, {}};
  std::set<TensorKey> targets;
  for (const auto& [key, tensor] : store.all()) targets.insert(key);
  const std::vector<VariantFacts> no_bugs;
  const diagnose::ReferenceMaker make_reference = [&](const Precision& precision) {
    return reference::make_engine(weights, precision, {.num_threads = 1});
  };
  const diagnose::ProgressReport progress;
  const diagnose::FreeRankingQuery query{.trace = store,
                                         .subject = subject,
                                         .targets = targets,
                                         .precision = scenario.precision,
                                         .config = scenario.config,
                                         .catalogue = no_bugs,
                                         .make_reference = make_reference,
                                         .progress = progress,
                                         .probing = false};
  Planting passes(query);
  passes.run();
  ++into.runs;
  if (passes.targets().empty()) {
    ++into.overflowed;
    return;
  }
  const auto column = static_cast<std::size_t>(diagnose::row_precision(scenario.precision));
  std::array<double, diagnose::kNumRowStatistics> of_run{};
  for (const auto& [key, target] : passes.targets()) {
    ++into.tensors;
    for (std::size_t i = 0; i < of_run.size(); ++i) {
      const double value = passes.rows_of(key)[i].value;
      of_run[i] = std::max(of_run[i], value);
      Worst& worst = into.worst[column][i];
      if (!(value <= worst.value))
        worst = {value, to_string(scenario) + ": step " + std::to_string(key.step) + ", " + tensor_name(key.id)};
    }
  }
  for (std::size_t i = 0; i < of_run.size(); ++i) into.figures[column][i].push_back(of_run[i]);
  into.times_rounding[column].push_back(passes.times_rounding(passes.right()));
  if (!passes.reproduces(passes.right())) {
    into.alarms.push_back(to_string(scenario) + ": " + digits(passes.times_rounding(passes.right()), 3) +
                          " times rounding, rows at " + digits(passes.right().worst_row, 3) + " of their bound");
  }
  if (doses) search_doses(passes, scenario, into.doses[column]);
}

std::string far_bounds_table(const FarMeasurement& m, const std::string& command, const std::string& date) {
  std::string text =
      "// Worst honest value of each figure of rows.h (free_run_row, free_run_scale, free_run_element), by\n"
      "// RowPrecision.\n"
      "//\n"
      "// Generated, do not edit. Measured on " +
      date + " over " + std::to_string(m.runs) + " honest twins, " + std::to_string(m.tensors) + " tensors, by\n//   " +
      command + "\n// clang-format off\ninline constexpr std::array<WorstHonestRows, 4> kWorstHonestRows = {{\n";
  for (const auto& worst : m.worst) {
    text += "  {";
    for (std::size_t i = 0; i < diagnose::kNumRowStatistics; ++i) {
      text += (i == 0 ? "" : ", ") + decimals(std::ceil(worst[i].value * 1000.0) / 1000.0, 3);
    }
    text += "},\n";
  }
  return text + "}};\n// clang-format on\n";
}

std::string summary(const FarMeasurement& m) {
  std::string text;
  for (std::size_t column = 0; column < diagnose::kNumRowPrecisions; ++column) {
    text += std::string(name(static_cast<diagnose::RowPrecision>(column))) + '\n';
    text += quantiles("free_run_distance", m.times_rounding[column]);
    for (std::size_t i = 0; i < diagnose::kNumRowStatistics; ++i) {
      text += quantiles(std::string(name(static_cast<diagnose::RowStatistic>(i))), m.figures[column][i]);
      if (m.worst[column][i].value > 0.0) text += "    " + m.worst[column][i].where + '\n';
    }
    for (std::size_t i = 0; i < kNumDoses; ++i) {
      if (m.doses[column][i].empty()) continue;
      text += quantiles("found, " + std::string(describe(static_cast<Dose>(i))), m.doses[column][i]);
    }
  }
  text += std::to_string(m.runs) + " twins, " + std::to_string(m.tensors) + " tensors, " +
          std::to_string(m.overflowed) + " twins before whose tensors right code overflows\n";
  return text;
}

}  // namespace qdiff::calibration
