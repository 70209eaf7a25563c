#include "harness/calibration/pairs.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <stdexcept>

#include "harness/calibration/far.h"
#include "harness/calibration/quantiles.h"
#include "harness/calibration/twin.h"
#include "harness/contract/number_text.h"
#include "harness/diagnose/reconcile/log_probabilities.h"
#include "harness/diagnose/reconcile/reconcile.h"
#include "harness/trace/trace_writer.h"
#include "reference/reference.h"

namespace qdiff::calibration {
namespace {

using diagnose::PredictedToken;

void draw_recorded(Random& random, Scenario& twin) {
  switch (random.below(3)) {
    case 0:
      twin.sparse = true;
      for (const OperationRow& r : kOperationTable) twin.recorded[r.op] = false;
      break;
    case 1:
      twin.sparse = true;
      for (const OperationRow& r : kOperationTable) {
        twin.recorded[r.op] = r.op == Op::kEmbedTokens || r.op == Op::kOutput;
      }
      break;
    default:
      break;
  }
  twin.recorded[Op::kLmHead] = true;
}

// Each logits' row with the token that its twin was fed next and with the one that it would choose: text is written in
// the latter, and of tokens drawn at random few are likely.
std::vector<PredictedToken> targets_of(const Scenario& twin, const TensorStore& store) {
  std::vector<PredictedToken> targets;
  for (const Step& step : twin.steps) {
    const TensorView logits = store.get({step.index, {Op::kLmHead}});
    for (std::int64_t b = 0; b < step.batch(); ++b) {
      for (std::int64_t t = 0; t < step.num_tokens(); ++t) {
        if (step.is_pad(b, t)) continue;
        const diagnose::LogitsPlace place{step.index, b, t};
        const std::vector<double> values = diagnose::row_at(logits, place, step.num_tokens());
        const auto likely = static_cast<std::int32_t>(std::ranges::max_element(values) - values.begin());
        const std::vector<std::int32_t>& row = step.tokens[static_cast<std::size_t>(b)];
        const bool is_last = t == step.num_tokens() - 1;
        const std::int32_t fed = row[static_cast<std::size_t>(is_last ? 0 : t + 1)];
        for (const std::int32_t token : {likely, fed}) targets.push_back({place, token, logits.dtype});
      }
    }
  }
  return targets;
}

// Of every `count` in a row.
void keep_worst_mean(const std::vector<double>& ratios, std::size_t count, double& worst) {
  for (std::size_t first = 0; first + count <= ratios.size(); ++first) {
    double sum = 0.0;
    for (std::size_t i = first; i < first + count; ++i) sum += ratios[i] * ratios[i];
    worst = std::max(worst, std::sqrt(sum / static_cast<double>(count)));
  }
}

void measure_twin(const Scenario& twin, const ScenarioWeights& weights, PairMeasurement& into) {
  const trace::Recording store = run_twin(twin, weights);
  const CaseInput input = case_of(twin);
  const diagnose::ReferenceMaker make_reference = reference_of(weights);
  const diagnose::ProgressReport progress;
  const diagnose::LogProbabilities walks(input, twin.config, make_reference, progress);
  const std::vector<PredictedToken> targets = targets_of(twin, store);
  if (targets.empty()) return;
  const std::vector<diagnose::ExpectedToken> expected = walks.expected(targets, twin.precision.weights);
  const std::vector<double> roundings = walks.roundings(targets, expected, twin.precision).tokens;
  double worst = 0.0, sum = 0.0;
  std::vector<double> ratios;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    if (!std::isfinite(roundings[i])) continue;
    const Step& step = twin.steps[static_cast<std::size_t>(targets[i].logits.step)];
    const std::vector<double> logits =
        diagnose::row_at(store.get({step.index, {Op::kLmHead}}), targets[i].logits, step.num_tokens());
    const double error = diagnose::log_probability(logits, targets[i].token) - expected[i].log_probability;
    const double ratio = error == 0.0 ? 0.0 : std::abs(error) / roundings[i];
    worst = std::max(worst, std::isnan(ratio) ? HUGE_VAL : ratio);
    sum += ratio * ratio;
    ratios.push_back(ratio);
  }
  if (ratios.empty()) return;
  into.tokens += static_cast<std::int64_t>(ratios.size());
  const double all = std::sqrt(sum / static_cast<double>(ratios.size()));
  auto& figures = into.figures[static_cast<std::size_t>(diagnose::row_precision(twin.precision))];
  figures.all.push_back(all);
  figures.worst.push_back(worst);
  for (std::size_t i = 0; i < kFewTokens.size(); ++i) keep_worst_mean(ratios, kFewTokens[i], figures.worst_of_few[i]);
  figures.worst_all.keep({all, to_string(twin)});
  figures.worst_token.keep({worst, to_string(twin)});
}

class TraceFolders {
 public:
  TraceFolders() {
    std::string path = (std::filesystem::temp_directory_path() / "qdiff-pairs-XXXXXX").string();
    if (::mkdtemp(path.data()) == nullptr) throw std::runtime_error("no folder can be made in " + path);
    path_ = path;
  }
  ~TraceFolders() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TraceFolders(const TraceFolders&) = delete;
  TraceFolders& operator=(const TraceFolders&) = delete;

  std::unique_ptr<trace::Trace> record(const Scenario& twin, const ScenarioWeights& weights,
                                       const std::string& name) const {
    trace::Manifest about;
    about.engine = {"twin", "1", "cpu"};
    about.precision = twin.precision;
    about.config = trace::declare(twin.config);
    about.positions_requested = true;
    trace::write_trace(path_ / name, about, twin.steps, run_twin(twin, weights));
    return trace::read_trace(path_ / name);
  }

 private:
  std::filesystem::path path_;
};

}  // namespace

Pair draw_pair(std::uint64_t seed) {
  Random random(seed * 4 + 0x70616972);
  const DType coarse = random.one_of({DType::kBF16, DType::kF16});
  const DType first = random.chance(0.3) ? DType::kF32 : coarse, second = random.chance(0.5) ? DType::kF32 : coarse;
  Pair pair;
  pair.weights = draw_scenario(seed, first, Size::kQuick);
  pair.weights.config.num_layers = random.between(1, 6);
  // Values that either type holds.
  if (first == DType::kF32) pair.weights.precision.weights = second;
  constexpr std::uint64_t kOtherChoices = std::uint64_t{1} << 40;
  Scenario other = draw_scenario(seed + kOtherChoices, second, Size::kQuick);
  if (can_overflow(other) || can_overflow(pair.weights)) {
    pair.weights.profile.massive_channels = pair.weights.profile.huge_k_bias = false;
  }
  other.config = pair.weights.config;
  other.steps = pair.weights.steps;
  other.profile = pair.weights.profile;
  pair.twins = {pair.weights, other};
  pair.twins[0].precision.weights = first;
  for (Scenario& twin : pair.twins) draw_recorded(random, twin);
  if (random.chance(0.5)) std::swap(pair.twins[0], pair.twins[1]);
  return pair;
}

void measure_pair(const Pair& pair, PairMeasurement& into) {
  const ScenarioWeights weights(pair.weights);
  for (const Scenario& twin : pair.twins) measure_twin(twin, weights, into);
  ++into.pairs;
}

void verify_pair(const Pair& pair, PairVerification& into) {
  const ScenarioWeights weights(pair.weights);
  const TraceFolders folders;
  const auto a = folders.record(pair.twins[0], weights, "a"), b = folders.record(pair.twins[1], weights, "b");
  const std::unique_ptr<Oracle> oracle = reference::make_oracle(weights, {.num_threads = 1});
  const auto options_of = [](const std::string& name) {
    diagnose::TraceOptions options;
    options.id = name;
    options.probing = false;
    return options;
  };
  const findings::Reconciliation result =
      diagnose::reconcile({weights, *oracle, reference_of(weights)}, {{{*a, options_of("a")}, {*b, options_of("b")}}});
  ++into.pairs;
  if (!result.tokens.empty()) {
    ++into.judged;
    into.shares.push_back(result.share_explained());
  }
  if (result.verdict != compare::Verdict::kDiverged) return;
  std::string text = to_string(pair.twins[0]) + "\n  and " + to_string(pair.twins[1]) + "\n  " + result.reason;
  for (const findings::ReconciledSide& side : result.sides) {
    text += "\n  " + side.trace + " errs by " + digits(side.all.value, 4) + " of up to " + digits(side.all.bound, 4) +
            ", at worst by " + digits(side.worst.value, 4) + " of up to " + digits(side.worst.bound, 4);
    if (const findings::Finding* first = side.diagnosis.first_divergence()) {
      text += "\n  " + side.trace + ": " + tensor_name(first->span_start) + " to " + tensor_name(first->tensor) +
              ", step " + std::to_string(first->step) + ": " + first->judgement.reason;
    }
  }
  into.accused.push_back(text);
}

std::string pair_bounds_table(const PairMeasurement& m, const std::string& command, const std::string& date) {
  std::string text =
      "// Worst honest log-probabilities, by RowPrecision: over the tokens of a trace, and of one token.\n"
      "//\n"
      "// Generated, do not edit. Measured on " +
      date + " on " + std::to_string(m.pairs) + " pairs of honest twins, " + std::to_string(m.tokens) +
      " tokens, by\n//   " + command +
      "\n// clang-format off\n"
      "inline constexpr std::array<WorstHonestLogProbabilities, kNumRowPrecisions> kWorstHonestLogProbabilities = {{\n";
  for (const auto& figures : m.figures) {
    text += "  {" + rounded_up(figures.worst_all.value) + ", " + rounded_up(figures.worst_token.value) + "},\n";
  }
  return text + "}};\n// clang-format on\n";
}

std::string summary(const PairMeasurement& m) {
  std::string text;
  for (std::size_t i = 0; i < m.figures.size(); ++i) {
    const auto& figures = m.figures[i];
    text += std::string(name(static_cast<diagnose::RowPrecision>(i))) + '\n' + quantiles("all tokens", figures.all) +
            "    " + figures.worst_all.where + '\n' + quantiles("worst token", figures.worst) + "    " +
            figures.worst_token.where + '\n';
    const double bound = diagnose::kLogProbabilityMargin * diagnose::kWorstHonestLogProbabilities[i].all;
    text += "  worst mean over few, of the bound of a mean:";
    for (std::size_t n = 0; n < kFewTokens.size(); ++n) {
      text +=
          (n == 0 ? " " : ", ") + digits(figures.worst_of_few[n] / bound, 3) + " of " + std::to_string(kFewTokens[n]);
    }
    text += '\n';
  }
  return text + std::to_string(m.pairs) + " pairs, " + std::to_string(m.tokens) + " tokens\n";
}

std::string summary(const PairVerification& verification) {
  std::string text;
  for (const std::string& accused : verification.accused) text += "false alarm: " + accused + '\n';
  const auto least = std::ranges::min_element(verification.shares);
  if (least != verification.shares.end()) text += "least share explained: " + digits(*least, 4) + '\n';
  return text + std::to_string(verification.accused.size()) + " of " + std::to_string(verification.pairs) +
         " honest pairs accused, " + std::to_string(verification.judged) + " with tokens in common\n";
}

}  // namespace qdiff::calibration
