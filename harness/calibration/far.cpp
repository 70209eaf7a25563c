#include "harness/calibration/far.h"

#include <algorithm>
#include <cmath>

#include "harness/calibration/quantiles.h"
#include "harness/calibration/twin.h"
#include "harness/contract/number_text.h"
#include "reference/reference.h"

namespace qdiff::calibration {
namespace {

using diagnose::Planting;
using diagnose::Target;

// Of several layers the last one's alone.
trace::Recording last_of(trace::Recording all, const ModelConfig& config) {
  for (const TensorKey& key : all.keys()) {
    const bool last = row(key.id.op).scope != Scope::kLayer || key.id.layer == config.num_layers - 1;
    if (!last) all.erase(key);
  }
  return all;
}

constexpr int kHalvings = 12;

using diagnose::LogitMistake;
using Doses = std::array<std::vector<double>, diagnose::kLogitMistakes.size()>;

void search_doses(const Planting& passes, Doses& doses) {
  for (const auto& entry : passes.targets()) {
    const Target& target = entry.second;
    if (target.key().id.op != Op::kLmHead || !target.counts(target.num_rows() - 1)) continue;
    const bool decodes = target.num_rows() == target.layout().batch();
    const auto search = [&](LogitMistake mistake, double least, double most) {
      const auto finds = [&](double dose) {
        return diagnose::is_found(with_mistake(mistake, dose, passes, target), passes, target);
      };
      doses[static_cast<std::size_t>(mistake)].push_back(
          diagnose::smallest_dose(least, most, kHalvings, finds).value_or(HUGE_VAL));
    };
    if (decodes) {
      search(LogitMistake::kOneStep, 1e-7, 1.0);
    } else {
      search(LogitMistake::kOneLogit, 0.1, 1e4);
      search(LogitMistake::kOneRow, 1e-7, 1.0);
    }
  }
}

}  // namespace

diagnose::ReferenceMaker reference_of(const ScenarioWeights& weights) {
  return
      [&weights](const Precision& precision) { return reference::make_engine(weights, precision, {.num_threads = 1}); };
}

CaseInput case_of(const Scenario& twin) {
  return {.id = "twin", .title = "", .hypothesis = {}, .argument = "", .seed = 0, .capacity = 0, .steps = twin.steps};
}

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
  const trace::Recording store = last_of(run_twin(scenario, weights), scenario.config);
  const CaseInput input = case_of(scenario);
  diagnose::Subject subject{&input, "trace", &store, &store, {}};
  const std::vector<TensorKey> keys = store.keys();
  const std::set<TensorKey> targets(keys.begin(), keys.end());
  const std::vector<VariantFacts> no_bugs;
  const diagnose::ReferenceMaker make_reference = reference_of(weights);
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
      into.worst[column][i].keep(
          {value, to_string(scenario) + ": step " + std::to_string(key.step) + ", " + tensor_name(key.id)});
    }
  }
  for (std::size_t i = 0; i < of_run.size(); ++i) into.figures[column][i].push_back(of_run[i]);
  into.times_rounding[column].push_back(passes.times_rounding(passes.right()));
  if (!passes.reproduces(passes.right())) {
    into.alarms.push_back(to_string(scenario) + ": " + digits(passes.times_rounding(passes.right()), 3) +
                          " times rounding, rows at " + digits(passes.right().worst_row, 3) + " of their bound");
  }
  if (doses) search_doses(passes, into.doses[column]);
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
      text += (i == 0 ? "" : ", ") + rounded_up(worst[i].value);
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
    for (const LogitMistake mistake : diagnose::kLogitMistakes) {
      const std::vector<double>& found = m.doses[column][static_cast<std::size_t>(mistake)];
      if (found.empty()) continue;
      const diagnose::LogitMistakeFacts of = facts(mistake);
      text += quantiles("smallest found, " + std::string(of.name) + ", " + std::string(of.unit), found);
    }
  }
  text += std::to_string(m.runs) + " twins, " + std::to_string(m.tensors) + " tensors, " +
          std::to_string(m.overflowed) + " twins before whose tensors right code overflows\n";
  return text;
}

}  // namespace qdiff::calibration
