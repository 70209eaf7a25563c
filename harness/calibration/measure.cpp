#include "harness/calibration/measure.h"

#include <array>
#include <cctype>
#include <cmath>
#include <cstdio>

#include "harness/calibration/twin.h"
#include "harness/contract/number_text.h"
#include "harness/contract/wording.h"
#include "reference/reference.h"

namespace qdiff::calibration {
namespace {

// "kWeightedSum", as the table writes it.
std::string enumerator(Arithmetic arithmetic) {
  std::string text = "k";
  bool starts = true;
  for (const char c : facts(arithmetic).name) {
    if (c != '_') text += starts ? static_cast<char>(std::toupper(static_cast<unsigned char>(c))) : c;
    starts = c == '_';
  }
  return text;
}

}  // namespace

std::string rounded_up(double value) { return decimals(std::ceil(value * 1000.0) / 1000.0, 3); }

Replayed replay(const TensorKey& key, const Scenario& scenario, const TensorStore& store, Oracle& oracle) {
  const std::vector<TensorKey> span = compare::replay_span(key, store, scenario.config);
  const TensorView actual = store.get(key);
  const Expectation expected = oracle.evaluate({.operations = span,
                                                .recorded = store,
                                                .steps = scenario.steps,
                                                .precision = scenario.precision,
                                                .stored = actual.dtype});
  const compare::Comparison comparison{.op = key.id.op,
                                       .actual = actual,
                                       .expected = expected,
                                       .step = scenario.steps[static_cast<std::size_t>(key.step)],
                                       .precision = scenario.precision,
                                       .config = scenario.config,
                                       .operations = span};
  return {compare::judge(comparison), compare::from_ensemble(comparison), span.size()};
}

void measure(const Scenario& scenario, Measurement& into) {
  const ScenarioWeights weights(scenario);
  const trace::Recording store = run_twin(scenario, weights);
  const std::unique_ptr<Oracle> oracle = reference::make_oracle(weights, {.num_threads = 1});
  bool alarmed = false;
  for (const TensorKey& key : store.keys()) {
    const auto [judgement, from_ensemble, span_size] = replay(key, scenario, store, *oracle);
    if (judgement.outcome == compare::Outcome::kUnjudged) continue;  // all pads
    const DType dtype = store.get(key).dtype;
    const std::string where = to_string(scenario) + ": step " + std::to_string(key.step) + ", " + tensor_name(key.id) +
                              " as " + std::string(name(dtype)) +
                              (span_size > 1 ? ", span of " + std::to_string(span_size) : "");
    const auto arithmetic = static_cast<std::size_t>(arithmetic_of(key.id.op));
    const std::size_t column = compare::bounds_column(dtype);
    ++into.judged;
    ++into.tensors[arithmetic][column];
    auto& worst_here = from_ensemble ? into.worst_ensemble[column] : into.worst[arithmetic][column];
    for (std::size_t i = 0; i < compare::kNumStatistics; ++i) {
      worst_here[i].keep({judgement.statistics.normalised[i], where});
    }
    if (judgement.outcome != compare::Outcome::kMatch) {
      into.alarms.push_back({where, judgement});
      alarmed = true;
    }
  }
  ++into.runs;
  if (alarmed) ++into.alarmed_runs;
}

namespace {

void keep_worse(const std::array<Worst, compare::kNumStatistics>& part,
                std::array<Worst, compare::kNumStatistics>& into) {
  for (std::size_t i = 0; i < compare::kNumStatistics; ++i) into[i].keep(part[i]);
}

}  // namespace

void merge(const Measurement& part, Measurement& into) {
  into.runs += part.runs;
  into.judged += part.judged;
  into.alarmed_runs += part.alarmed_runs;
  into.alarms.insert(into.alarms.end(), part.alarms.begin(), part.alarms.end());
  for (std::size_t column = 0; column < kStoredTypes.size(); ++column) {
    keep_worse(part.worst_ensemble[column], into.worst_ensemble[column]);
    for (std::size_t arithmetic = 0; arithmetic < kNumArithmetics; ++arithmetic) {
      keep_worse(part.worst[arithmetic][column], into.worst[arithmetic][column]);
      into.tensors[arithmetic][column] += part.tensors[arithmetic][column];
    }
  }
}

namespace {

std::string braced(const std::array<Worst, compare::kNumStatistics>& worst) {
  return '{' + joined(worst, ", ", [](const Worst& one) { return rounded_up(one.value); }) + '}';
}

std::string statistics_text(const std::array<Worst, compare::kNumStatistics>& worst) {
  std::string text;
  for (std::size_t i = 0; i < compare::kNumStatistics; ++i) {
    text += "  " + std::string(name(static_cast<compare::Statistic>(i))) + ' ' + rounded_up(worst[i].value);
  }
  return text + '\n';
}
}  // namespace

std::string bounds_table(const Measurement& m, const std::string& command, const std::string& date) {
  std::string text =
      "// Worst honest value of each statistic, by arithmetic and stored type (float32, bfloat16, float16); columns "
      "as\n"
      "// enum Statistic: max_excess, rms, worst_slice_rms, bias, slope, share_beyond_one_spacing.\n"
      "//\n"
      "// Generated, do not edit. Measured on " +
      date + " over " + std::to_string(m.runs) + " honest twins, " + std::to_string(m.judged) + " tensors, by\n//   " +
      command + "\n// clang-format off\ninline constexpr std::array<BoundsRow, kNumArithmetics> kWorstHonest = {{\n";
  for (const ArithmeticFacts& measured : kArithmetics) {
    const auto& worst = m.worst[static_cast<std::size_t>(measured.arithmetic)];
    text += "  {Arithmetic::" + enumerator(measured.arithmetic) + ", {{";
    text += joined(worst, ", ", braced) + "}}},\n";
  }
  text += "}};\ninline constexpr std::array<WorstHonest, 3> kWorstHonestEnsemble = {{\n";
  for (const auto& worst : m.worst_ensemble) text += "  " + braced(worst) + ",\n";
  return text + "}};\n// clang-format on\n";
}

std::string summary(const Measurement& m) {
  std::string text;
  for (const ArithmeticFacts& measured : kArithmetics) {
    const auto index = static_cast<std::size_t>(measured.arithmetic);
    for (std::size_t column = 0; column < kStoredTypes.size(); ++column) {
      if (m.tensors[index][column] == 0) continue;
      std::array<char, 128> head{};
      std::snprintf(head.data(), head.size(), "%-12s %-9s %6lld tensors ", std::string(measured.name).c_str(),
                    std::string(name(kStoredTypes[column])).c_str(), static_cast<long long>(m.tensors[index][column]));
      text += head.data();
      text += statistics_text(m.worst[index][column]);
    }
  }
  for (std::size_t column = 0; column < kStoredTypes.size(); ++column) {
    text += "ensembles " + std::string(name(kStoredTypes[column])) + statistics_text(m.worst_ensemble[column]);
  }
  return text;
}

}  // namespace qdiff::calibration
