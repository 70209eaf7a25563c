// qdiff_calibrate: measures how far honest engines stray from gold, and writes or checks the judge's bounds.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <ctime>
#include <exception>
#include <fstream>
#include <future>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "harness/calibration/far.h"
#include "harness/calibration/measure.h"
#include "harness/calibration/pairs.h"

namespace qdiff::calibration {
namespace {

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::array<char, 16> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%d", std::gmtime(&now));
  return text.data();
}

// Seeds of the measurement and of its verification never meet.
constexpr std::uint64_t kFirstVerifyingSeed = 1'000'000;

struct Arguments {
  std::uint64_t first_seed = 1;
  std::int64_t runs = 1200;
  std::int64_t verify = 0;
  bool quick = false;
  bool explain = false;
  bool far = false;
  bool pairs = false;
  bool doses = false;
  bool layer_outputs = false;
  std::int64_t threads = std::max(1U, std::thread::hardware_concurrency());
  std::string write, command;
  std::string date = today();

  bool verifying() const { return verify > 0; }
  std::int64_t count() const { return verifying() ? verify : runs; }
  std::uint64_t seed(std::int64_t index) const {
    return (verifying() ? kFirstVerifyingSeed : 0) + first_seed + static_cast<std::uint64_t>(index);
  }
};

DType stored_type(std::int64_t index) { return kStoredTypes[static_cast<std::size_t>(index) % kStoredTypes.size()]; }

// Each thread measures every n-th twin.
Measurement run_twins(const Arguments& arguments) {
  const std::int64_t runs = arguments.count();
  std::atomic<std::int64_t> done = 0;
  const auto measure_part = [&](std::int64_t part) {
    Measurement measurement;
    for (std::int64_t i = part; i < runs; i += arguments.threads) {
      const Size size = arguments.quick ? Size::kQuick : Size::kFull;
      Scenario scenario = draw_scenario(arguments.seed(i), stored_type(i), size);
      if (arguments.layer_outputs) record_layer_outputs_alone(scenario);
      measure(scenario, measurement);
      const std::int64_t count = ++done;
      if (count % 50 == 0) std::cerr << ("\r" + std::to_string(count) + " of " + std::to_string(runs) + " twins");
    }
    return measurement;
  };
  std::vector<std::future<Measurement>> parts;
  for (std::int64_t part = 0; part < arguments.threads; ++part) {
    parts.push_back(std::async(std::launch::async, measure_part, part));
  }
  Measurement all;
  for (auto& part : parts) merge(part.get(), all);
  if (runs >= 50) std::cerr << '\n';
  return all;
}

void print_alarms(const Measurement& measurement) {
  for (const Alarm& alarm : measurement.alarms) {
    std::cout << "false alarm: " << alarm.where << "\n  " << alarm.judgement.reason << '\n';
  }
}

std::vector<std::array<Worst, compare::kNumStatistics>> worst_of_all(const Measurement& m) {
  std::vector<std::array<Worst, compare::kNumStatistics>> all;
  for (const auto& operation : m.worst) all.insert(all.end(), operation.begin(), operation.end());
  all.insert(all.end(), m.worst_ensemble.begin(), m.worst_ensemble.end());
  return all;
}

void explain(const Measurement& m) {
  for (const auto& worst : worst_of_all(m)) {
    for (std::size_t i = 0; i < compare::kNumStatistics; ++i) {
      if (worst[i].value <= 1.0) continue;
      std::cout << name(static_cast<compare::Statistic>(i)) << ' ' << worst[i].value << ": " << worst[i].where << '\n';
    }
  }
}

bool all_finite(const Measurement& m) {
  return std::ranges::all_of(worst_of_all(m), [](const auto& worst) {
    return std::ranges::all_of(worst, [](const Worst& w) { return std::isfinite(w.value); });
  });
}

// Where a file was asked for.
int write_table(const Arguments& arguments, const std::string& text) {
  if (arguments.write.empty()) return 0;
  std::ofstream file(arguments.write);
  file << text;
  if (file.flush()) return 0;
  std::cerr << "cannot write " << arguments.write << '\n';
  return 2;
}

int run(const Arguments& arguments) {
  const auto start = std::chrono::steady_clock::now();
  const Measurement measurement = run_twins(arguments);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::cout << summary(measurement);
  if (arguments.explain) explain(measurement);
  std::cout << measurement.runs << " twins, " << measurement.judged << " tensors judged in "
            << static_cast<std::int64_t>(seconds.count()) << " s\n";
  if (arguments.verifying()) {
    print_alarms(measurement);
    std::cout << measurement.alarmed_runs << " of " << measurement.runs << " honest runs flagged\n";
    return measurement.alarmed_runs == 0 ? 0 : 1;
  }
  // Statistics can be bounded anew; a hard gate that an honest twin fails is a defect of the judge or of the twin.
  int status = 0;
  for (const Alarm& alarm : measurement.alarms) {
    if (alarm.judgement.ratio_to_bound != 0.0) continue;
    std::cout << "hard gate: " << alarm.where << "\n  " << alarm.judgement.reason << '\n';
    status = 1;
  }
  if (!all_finite(measurement)) {
    std::cout << "a statistic was not finite on an honest twin; no bounds written\n";
    return 1;
  }
  return std::max(status, write_table(arguments, bounds_table(measurement, arguments.command, arguments.date)));
}

int run_far(const Arguments& arguments) {
  FarMeasurement measurement;
  for (std::int64_t i = 0; i < arguments.count(); ++i) {
    measure_far(draw_far_scenario(arguments.seed(i), stored_type(i)), arguments.doses, measurement);
  }
  std::cout << summary(measurement);
  if (arguments.verifying()) {
    for (const std::string& alarm : measurement.alarms) std::cout << "false alarm: " << alarm << '\n';
    std::cout << measurement.alarms.size() << " of " << measurement.runs << " honest runs flagged\n";
    return measurement.alarms.empty() ? 0 : 1;
  }
  return write_table(arguments, far_bounds_table(measurement, arguments.command, arguments.date));
}

int run_pairs(const Arguments& arguments) {
  const std::int64_t runs = arguments.count();
  PairMeasurement measurement;
  PairVerification verification;
  for (std::int64_t i = 0; i < runs; ++i) {
    const Pair pair = draw_pair(arguments.seed(i));
    if (arguments.verifying()) {
      verify_pair(pair, verification);
    } else {
      measure_pair(pair, measurement);
    }
    if ((i + 1) % 50 == 0) std::cerr << "\r" << i + 1 << " of " << runs << " pairs" << std::flush;
  }
  if (runs >= 50) std::cerr << '\n';
  if (arguments.verifying()) {
    std::cout << summary(verification);
    return verification.accused.empty() ? 0 : 1;
  }
  std::cout << summary(measurement);
  return write_table(arguments, pair_bounds_table(measurement, arguments.command, arguments.date));
}

}  // namespace
}  // namespace qdiff::calibration

int main(int argc, char** argv) {
  using namespace qdiff::calibration;
  Arguments arguments;
  CLI::App app{"Measures on honest twins how far a correct engine strays from float64: the judge's bounds."};
  app.add_option("--runs", arguments.runs, "Twins to measure, the three storage types in turn");
  app.add_option("--first-seed", arguments.first_seed, "Seed of the first twin; the others follow");
  app.add_option("--verify", arguments.verify,
                 "Judge this many twins on seeds of their own with the built-in bounds; status 1 if any is flagged");
  app.add_flag("--quick", arguments.quick, "Smaller shapes");
  app.add_flag("--far", arguments.far,
               "Record one tensor alone, mostly logits, and measure the judging of whole passes: --write then writes "
               "harness/diagnose/far/bounds_table.inc");
  app.add_flag("--pairs", arguments.pairs,
               "Two twins of one model that round differently, and their log-probabilities: --write then writes "
               "harness/diagnose/reconcile/bounds_table.inc, --verify reconciles them")
      ->excludes("--far");
  app.add_flag("--layer-outputs", arguments.layer_outputs,
               "Record the embedding, the layers' outputs and the logits alone, of two or three layers");
  app.add_flag("--doses", arguments.doses, "With --far: also search for the smallest doses of mistakes that are found");
  app.add_flag("--explain", arguments.explain, "Name the twin behind each worst value above 1");
  app.add_option("--threads", arguments.threads, "Twins measured side by side, but with --far and --pairs")
      ->check(CLI::PositiveNumber);
  app.add_option("--write", arguments.write, "Write the bounds to this file: harness/compare/bounds_table.inc");
  app.add_option("--date", arguments.date, "Date for the head of that file; default today");
  CLI11_PARSE(app, argc, argv);
  arguments.command = "qdiff_calibrate";
  for (int i = 1; i < argc; ++i) arguments.command += std::string(" ") + argv[i];
  try {
    if (arguments.pairs) return run_pairs(arguments);
    return arguments.far ? run_far(arguments) : run(arguments);
  } catch (const std::exception& error) {
    std::cerr << "qdiff_calibrate: " << error.what() << '\n';
    return 2;
  }
}
