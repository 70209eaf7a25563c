// Pairs that turn at other frequencies: the angle of pair i at position p is c_i * p * theta^(-2 i / d), with one
// factor for all pairs (positions that are interpolated, 1 / 4) or one for each (a scaling of RoPE by wavelength), and
// lengths that are multiplied by m beside it (YaRN, arXiv:2309.00071). The factors come from a search of the smallest
// error over all wrong elements of a pair, by steps of 1 % and then closer. Or each frequency was rounded to 16 bits.
#include <algorithm>
#include <cmath>

#include "harness/explain/mechanisms.h"
#include "harness/explain/rotation.h"
#include "harness/explain/rows.h"

namespace qdiff::explain {
namespace {

constexpr double kLargestFactor = 100.0;

// Of some pairs, in all tokens.
class Frequencies {
 public:
  Frequencies(const ModelConfig& config, const std::vector<Turned>& turned) : config_(config), turned_(turned) {}

  bool is_wrong(std::size_t pair) const {
    return std::ranges::any_of(turned_, [&](const Turned& of) { return of.by[pair].yy > 0.0; });
  }
  std::vector<std::size_t> wrong_pairs() const {
    std::vector<std::size_t> pairs;
    for (std::size_t i = 0; i < turned_.front().by.size(); ++i) {
      if (is_wrong(i)) pairs.push_back(i);
    }
    return pairs;
  }
  // The factor of the smallest error in these pairs, where lengths are multiplied by `length`.
  double nearest(const std::vector<std::size_t>& pairs, double length) const {
    const double step = std::log(1.01), reach = std::log(kLargestFactor);
    double best = 0.0, least = HUGE_VAL;
    for (double at = -reach; at <= reach; at += step) {
      const double here = error_of(pairs, std::exp(at), length);
      if (!(here < least)) continue;
      least = here;
      best = at;
    }
    double low = best - step, high = best + step;
    constexpr double kGolden = 0.6180339887498949;
    constexpr int kHalvings = 60;
    for (int i = 0; i < kHalvings; ++i) {
      const double left = high - kGolden * (high - low), right = low + kGolden * (high - low);
      const bool in_left = error_of(pairs, std::exp(left), length) < error_of(pairs, std::exp(right), length);
      (in_left ? high : low) = in_left ? right : left;
    }
    return std::exp(0.5 * (low + high));
  }
  // By what lengths are multiplied, where pair i turns factors[i] times as fast.
  double length(const std::vector<double>& factors) const {
    double along = 0.0, whole = 0.0;
    for (const Turned& of : turned_) {
      for (std::size_t i = 0; i < of.by.size(); ++i) {
        const Complex turn = turn_of(of, i, factors[i]);
        along += of.by[i].yc * turn.real() + of.by[i].ys * turn.imag();
        whole += square_of(of.by[i], turn);
      }
    }
    return whole > 0.0 ? along / whole : 1.0;
  }
  // Variance of a factor that was found for these pairs, by how fast their error grows beside it.
  double variance(const std::vector<std::size_t>& pairs, const std::vector<double>& factors, double length) const {
    double whole = 0.0;
    for (const Turned& of : turned_) {
      for (std::size_t i : pairs) {
        const double speed = static_cast<double>(of.position) * frequency(config_, static_cast<std::int64_t>(i));
        const Complex change = length * speed * Complex(0.0, 1.0) * turn_of(of, i, factors[i]);
        whole += square_of(of.by[i], change);
      }
    }
    return whole > 0.0 ? 1.0 / whole : 0.0;
  }
  double variance_of_length(const std::vector<double>& factors) const {
    double whole = 0.0;
    for (const Turned& of : turned_) {
      for (std::size_t i = 0; i < of.by.size(); ++i) whole += square_of(of.by[i], turn_of(of, i, factors[i]));
    }
    return whole > 0.0 ? 1.0 / whole : 0.0;
  }

 private:
  static double square_of(const Equations& by, const Complex& turn) {
    return by.cc * turn.real() * turn.real() + 2.0 * by.cs * turn.real() * turn.imag() +
           by.ss * turn.imag() * turn.imag();
  }
  Complex turn_of(const Turned& of, std::size_t pair, double factor) const {
    return std::polar(1.0,
                      factor * static_cast<double>(of.position) * frequency(config_, static_cast<std::int64_t>(pair)));
  }
  double error_of(const std::vector<std::size_t>& pairs, double factor, double length) const {
    double sum = 0.0;
    for (const Turned& of : turned_) {
      for (std::size_t i : pairs) {
        if (of.by[i].yy == 0.0) continue;
        const Complex turn = length * turn_of(of, i, factor);
        sum += of.by[i].error(turn.real(), turn.imag());
      }
    }
    return sum;
  }

  const ModelConfig& config_;
  const std::vector<Turned>& turned_;
};

struct Found {
  std::vector<double> factors, variances;  // by pair
  double length = 1.0, variance_of_length = 0.0;
};

// What was found errs by its deviation, and an angle by the more the further it has turned. `bits`: beside those of the
// length.
Candidate at_frequencies(Scene& scene, const Found& found, double bits, const std::string& says) {
  bits += found.length == 1.0 ? 1.0 : bits_of_digits(5);
  Candidate candidate = turning(
      scene, candidate_of(scene, "rotation.frequency", bits, says),
      [&scene, found](const Instance& instance, std::int64_t b, std::int64_t t, std::int64_t i) {
        const std::int64_t p = instance.step().positions[static_cast<std::size_t>(b)][static_cast<std::size_t>(t)];
        const double factor = found.factors[static_cast<std::size_t>(i)];
        return std::polar(found.length, factor * static_cast<double>(p) * frequency(scene.config(), i));
      });
  candidate.predict = [&scene, found, by_angles = candidate.predict](const Instance& instance) {
    std::optional<Expectation> theory = by_angles(instance);
    if (!theory) return theory;
    const compare::Layout& layout = scene.layout(instance);
    const std::int64_t d = scene.config().head_dim, half = d / 2, width = layout.num_columns();
    for (std::int64_t r = 0; r < layout.num_rows(); ++r) {
      const auto b = static_cast<std::size_t>(layout.batch_of(r)), t = static_cast<std::size_t>(layout.position_of(r));
      const auto position = static_cast<double>(instance.step().positions[b][t]);
      for (std::int64_t c = 0; c < width; ++c) {
        const std::int64_t i = c % d % half;
        const auto lower = static_cast<std::size_t>(r * width + c / d * d + i),
                   here = static_cast<std::size_t>(r * width + c);
        const double size = std::hypot(theory->value[lower], theory->value[lower + static_cast<std::size_t>(half)]);
        const double turned = position * frequency(scene.config(), i);
        const double relative = found.variance_of_length / (found.length * found.length);
        const double variance = turned * turned * found.variances[static_cast<std::size_t>(i)] + relative;
        theory->sigma_independent[here] =
            static_cast<float>(std::hypot(theory->sigma_independent[here], size * std::sqrt(variance)));
      }
    }
    return theory;
  };
  // Inputs of a token or two that were recorded wrongly turn by any angle.
  candidate.least_tokens = 3;
  return candidate;
}

// What errs by more covers whatever a pair may hold.
bool is_determined(double found, double variance) {
  constexpr double kLargestError = 0.05;  // of what was found
  return variance <= kLargestError * kLargestError * found * found;
}

// As many digits as a reader wants.
std::string short_text(double value) {
  const double unit = std::pow(10.0, 2.0 - std::floor(std::log10(value)));
  return number_text(std::round(value * unit) / unit);
}

// One factor for all, as a person would have written it, and as it was found.
void add_one(Scene& scene, const Frequencies& frequencies, std::size_t pairs, std::vector<Candidate>& candidates) {
  const double found = frequencies.nearest(frequencies.wrong_pairs(), 1.0);
  const double ratio = found >= 1.0 ? found : 1.0 / found;
  // Where pairs hardly turn, what is found is a rough guess: the next power of two, and the next whole number.
  for (const double written : {std::exp2(std::round(std::log2(ratio))), std::round(ratio), ratio}) {
    if (written == 1.0) continue;
    const double factor = found >= 1.0 ? written : 1.0 / written;
    const std::vector<double> factors(pairs, factor);
    const double variance = written == ratio ? frequencies.variance(frequencies.wrong_pairs(), factors, 1.0) : 0.0;
    if (!is_determined(factor, variance)) continue;
    const std::string words = (found >= 1.0 ? "" : "1/") + number_text(written);
    candidates.push_back(at_frequencies(scene, {factors, std::vector<double>(pairs, variance)},
                                        written == ratio ? bits_of_digits(6) : 2.0 + std::log2(written),
                                        " turns pairs " + words + " times as fast as right code"));
    candidates.back().theory.parameters = {{"factor", factor}};
  }
}

// Each frequency as a narrower type holds it: a model that was cast after it was loaded (model.to(torch.bfloat16)) has
// its table of inverse frequencies cast with it.
void add_rounded(Scene& scene, std::size_t pairs, std::vector<Candidate>& candidates) {
  for (const DType type : {DType::kBF16, DType::kF16}) {
    Found found{{}, std::vector<double>(pairs, 0.0)};
    for (std::size_t i = 0; i < pairs; ++i) {
      const double right = frequency(scene.config(), static_cast<std::int64_t>(i));
      found.factors.push_back(round_to(type, right) / right);
    }
    const std::string of_type(name(type));
    constexpr double kWhichType = 1.0;
    candidates.push_back(at_frequencies(scene, found, kWhichType,
                                        " is turned at frequencies that were rounded to " + of_type +
                                            ", as by a model that was cast after it was loaded"));
    candidates.back().theory.parameters = {{"rounded to", of_type}};
  }
}

// Lengths alone, which an engine multiplies its tables by.
void add_length(Scene& scene, const Frequencies& frequencies, std::size_t pairs, std::vector<Candidate>& candidates) {
  Found found{std::vector<double>(pairs, 1.0), std::vector<double>(pairs, 0.0)};
  found.length = frequencies.length(found.factors);
  found.variance_of_length = frequencies.variance_of_length(found.factors);
  if (!(found.length > 0.0) || !is_determined(found.length, found.variance_of_length)) return;
  candidates.push_back(
      at_frequencies(scene, found, 0.0, " makes pairs " + short_text(found.length) + " times as long"));
  candidates.back().theory.parameters = {{"length", found.length}};
}

void add_each(Scene& scene, const Frequencies& frequencies, std::size_t pairs, std::vector<Candidate>& candidates) {
  Found found{std::vector<double>(pairs, 1.0), std::vector<double>(pairs, 0.0)};
  constexpr int kRounds = 3;
  for (int round = 0; round < kRounds; ++round) {
    for (std::size_t i : frequencies.wrong_pairs()) found.factors[i] = frequencies.nearest({i}, found.length);
    found.length = frequencies.length(found.factors);
  }
  constexpr double kNoLength = 2e-3;  // a last bit of bfloat16 makes so much
  if (std::fabs(found.length - 1.0) < kNoLength) found.length = 1.0;
  // Of a pair that hardly turns the factor is a guess. Its error moves no element that it was found from by more than
  // that element's own deviation, so it may stand whole.
  for (std::size_t i : frequencies.wrong_pairs())
    found.variances[i] = frequencies.variance({i}, found.factors, found.length);
  if (found.length != 1.0) found.variance_of_length = frequencies.variance_of_length(found.factors);
  const auto [slowest, fastest] = std::ranges::minmax(found.factors);
  Candidate candidate = at_frequencies(
      scene, found, static_cast<double>(frequencies.wrong_pairs().size()) * bits_of_digits(4),
      " turns each pair at a speed of its own, " + short_text(slowest) + " to " + short_text(fastest) +
          " times right code's" +
          (found.length == 1.0 ? "" : ", and makes them " + short_text(found.length) + " times as long"));
  candidate.theory.parameters = {{"slowest", slowest}, {"fastest", fastest}};
  if (found.length != 1.0) candidate.theory.parameters.emplace_back("length", found.length);
  candidates.push_back(std::move(candidate));
}

}  // namespace

std::vector<Candidate> recover_rotation_frequency(Scene& scene) {
  std::vector<Candidate> candidates;
  if (!is_rotation(scene)) return candidates;
  const std::vector<Turned> turned = solve_turns(scene);
  if (turned.empty() || scene.right(*turned.front().instance).sigma_independent.empty()) return candidates;
  const Frequencies frequencies(scene.config(), turned);
  if (frequencies.wrong_pairs().empty()) return candidates;
  const std::size_t pairs = turned.front().by.size();
  add_rounded(scene, pairs, candidates);
  add_one(scene, frequencies, pairs, candidates);
  add_length(scene, frequencies, pairs, candidates);
  add_each(scene, frequencies, pairs, candidates);
  return candidates;
}

}  // namespace qdiff::explain
