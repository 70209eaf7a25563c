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
  std::string write;
  std::string date;
};

// Seeds of the measurement and of its verification never meet.
constexpr std::uint64_t kFirstVerifyingSeed = 1'000'000;

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::array<char, 16> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%d", std::gmtime(&now));
  return text.data();
}

// Each thread measures every n-th twin.
Measurement run_twins(const Arguments& arguments, std::int64_t runs, std::uint64_t first_seed) {
  std::atomic<std::int64_t> done = 0;
  const auto measure_part = [&](std::int64_t part) {
    Measurement measurement;
    for (std::int64_t i = part; i < runs; i += arguments.threads) {
      const DType dtype = kStoredTypes[static_cast<std::size_t>(i) % kStoredTypes.size()];
      const std::uint64_t seed = first_seed + static_cast<std::uint64_t>(i);
      Scenario scenario = draw_scenario(seed, dtype, arguments.quick ? Size::kQuick : Size::kFull);
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

void explain(const std::array<Worst, compare::kNumStatistics>& worst) {
  for (std::size_t i = 0; i < compare::kNumStatistics; ++i) {
    if (worst[i].value <= 1.0) continue;
    std::cout << name(static_cast<compare::Statistic>(i)) << ' ' << worst[i].value << ": " << worst[i].where << '\n';
  }
}

void explain(const Measurement& m) {
  for (const auto& operation : m.worst) {
    for (const auto& worst : operation) explain(worst);
  }
  for (const auto& worst : m.worst_ensemble) explain(worst);
}

bool all_finite(const Measurement& m) {
  const auto finite = [](const std::array<Worst, compare::kNumStatistics>& worst) {
    return std::all_of(worst.begin(), worst.end(), [](const Worst& w) { return std::isfinite(w.value); });
  };
  return std::all_of(m.worst_ensemble.begin(), m.worst_ensemble.end(), finite) &&
         std::all_of(m.worst.begin(), m.worst.end(),
                     [&](const auto& columns) { return std::all_of(columns.begin(), columns.end(), finite); });
}

int write_to(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  if (file.flush()) return 0;
  std::cerr << "cannot write " << path << '\n';
  return 2;
}

int run(const Arguments& arguments, const std::string& command) {
  const auto start = std::chrono::steady_clock::now();
  const bool verifying = arguments.verify > 0;
  const Measurement measurement =
      verifying ? run_twins(arguments, arguments.verify, kFirstVerifyingSeed + arguments.first_seed)
                : run_twins(arguments, arguments.runs, arguments.first_seed);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::cout << summary(measurement);
  if (arguments.explain) explain(measurement);
  std::cout << measurement.runs << " twins, " << measurement.judged << " tensors judged in "
            << static_cast<std::int64_t>(seconds.count()) << " s\n";
  if (verifying) {
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
  if (arguments.write.empty()) return status;
  const std::string table = bounds_table(measurement, command, arguments.date.empty() ? today() : arguments.date);
  return std::max(status, write_to(arguments.write, table));
}

int run_far(const Arguments& arguments, const std::string& command) {
  const bool verifying = arguments.verify > 0;
  const std::int64_t runs = verifying ? arguments.verify : arguments.runs;
  const std::uint64_t first = (verifying ? kFirstVerifyingSeed : 0) + arguments.first_seed;
  FarMeasurement measurement;
  for (std::int64_t i = 0; i < runs; ++i) {
    const DType dtype = kStoredTypes[static_cast<std::size_t>(i) % kStoredTypes.size()];
    measure_far(draw_far_scenario(first + static_cast<std::uint64_t>(i), dtype), arguments.doses, measurement);
  }
  std::cout << summary(measurement);
  if (verifying) {
    for (const std::string& alarm : measurement.alarms) std::cout << "false alarm: " << alarm << '\n';
    std::cout << measurement.alarms.size() << " of " << measurement.runs << " honest runs flagged\n";
    return measurement.alarms.empty() ? 0 : 1;
  }
  if (arguments.write.empty()) return 0;
  return write_to(arguments.write,
                  far_bounds_table(measurement, command, arguments.date.empty() ? today() : arguments.date));
}

int run_pairs(const Arguments& arguments, const std::string& command) {
  const bool verifying = arguments.verify > 0;
  const std::int64_t runs = verifying ? arguments.verify : arguments.runs;
  const std::uint64_t first = (verifying ? kFirstVerifyingSeed : 0) + arguments.first_seed;
  PairMeasurement measurement;
  PairVerification verification;
  for (std::int64_t i = 0; i < runs; ++i) {
    const Pair pair = draw_pair(first + static_cast<std::uint64_t>(i));
    if (verifying) {
      verify_pair(pair, verification);
    } else {
      measure_pair(pair, measurement);
    }
    if ((i + 1) % 50 == 0) std::cerr << "\r" << i + 1 << " of " << runs << " pairs" << std::flush;
  }
  if (runs >= 50) std::cerr << '\n';
  if (verifying) {
    std::cout << summary(verification);
    return verification.accused.empty() ? 0 : 1;
  }
  std::cout << summary(measurement);
  if (arguments.write.empty()) return 0;
  return write_to(arguments.write,
                  pair_bounds_table(measurement, command, arguments.date.empty() ? today() : arguments.date));
}

}  // namespace
}  // namespace qdiff::calibration

int main(int argc, char** argv) {
  using namespace qdiff::calibration;
  Arguments arguments;
  CLI::App app{"Measures on honest twins how far a correct engine strays from gold: the judge's bounds."};
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
  std::string command = "qdiff_calibrate";
  for (int i = 1; i < argc; ++i) command += std::string(" ") + argv[i];
  try {
    if (arguments.pairs) return run_pairs(arguments, command);
    return arguments.far ? run_far(arguments, command) : run(arguments, command);
  } catch (const std::exception& error) {
    std::cerr << "qdiff_calibrate: " << error.what() << '\n';
    return 2;
  }
}
