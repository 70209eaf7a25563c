// A rotation between two layouts of a head's dimensions: y = Q(R(P x)), where R is right code's rotation of halves
// (i, i + d/2), P is how the input's dimensions are arranged before it and Q how the output's are behind it: as they
// are, neighbours apart into halves (2i to i, 2i + 1 to i + d/2), or halves together into neighbours.
//
// And one that is no rotation, for what stands beside an element and what it is turned by come from two conventions:
// y_i = x_i cos(a_i) + s_i x_j sin(a_i), where j is i's neighbour or its other half, and a is laid out for halves or
// for neighbours. Right code on heads that hold x_i and s_i x_j in the places of angle a_i computes it.
#include <array>
#include <utility>

#include "harness/explain/mechanisms.h"
#include "harness/explain/rows.h"

namespace qdiff::explain {
namespace {

enum class Arranged : std::uint8_t { kAsIs, kIntoHalves, kIntoNeighbours };

// Where dimension i of the arranged head comes from.
std::int64_t source_of(Arranged arranged, std::int64_t i, std::int64_t d) {
  const std::int64_t half = d / 2;
  switch (arranged) {
    case Arranged::kIntoHalves:
      return i < half ? 2 * i : 2 * (i - half) + 1;
    case Arranged::kIntoNeighbours:
      return i % 2 == 0 ? i / 2 : half + i / 2;
    case Arranged::kAsIs:
      break;
  }
  return i;
}

template <typename T>
std::vector<T> arrange(Arranged arranged, const std::vector<T>& heads, std::int64_t d) {
  std::vector<T> result(heads.size());
  for (std::size_t i = 0; i < heads.size(); ++i) {
    const auto dimension = static_cast<std::int64_t>(i) % d;
    result[i] =
        heads[i - static_cast<std::size_t>(dimension) + static_cast<std::size_t>(source_of(arranged, dimension, d))];
  }
  return result;
}

std::string words_of(Arranged arranged) {
  switch (arranged) {
    case Arranged::kIntoHalves:
      return "neighbours taken apart into halves";
    case Arranged::kIntoNeighbours:
      return "halves laid together as neighbours";
    case Arranged::kAsIs:
      break;
  }
  return "as they are";
}

// How an engine puts together what it turns; right code has halves in both, and lower halves turned by minus the sine.
struct Convention {
  bool neighbours, table_of_neighbours, minus;

  std::int64_t partner(std::int64_t i, std::int64_t d) const {
    if (neighbours) return i ^ 1;
    return i < d / 2 ? i + d / 2 : i - d / 2;
  }
  std::int64_t angle(std::int64_t i, std::int64_t d) const { return table_of_neighbours ? i / 2 : i % (d / 2); }
  double sign(std::int64_t i, std::int64_t d) const {
    const bool lower = neighbours ? i % 2 == 0 : i < d / 2;
    return lower && minus ? -1.0 : 1.0;
  }
  std::string words() const {
    return std::string("partners ") + (neighbours ? "(2i, 2i+1)" : "(i, i+d/2)") + ", angles laid out for " +
           (table_of_neighbours ? "(2i, 2i+1)" : "(i, i+d/2)") + (minus ? "" : ", no minus before the sine");
  }
};

// Those that are no rotation, for any of the two conventions alone is one of the above or right.
constexpr std::array kMixed = {Convention{true, false, true}, Convention{false, true, true},
                               Convention{false, false, false}, Convention{true, true, false}};

// Two elements of a head have each angle: right code is asked for the first of them and for the second.
Expectation mixed_up(Scene& scene, const Instance& instance, const TensorKey& input, const std::vector<double>& x,
                     const Convention& convention) {
  const std::int64_t d = scene.config().head_dim;
  const TensorView recorded = instance.recorded->get(input);
  Expectation theory = scene.right(instance);
  std::vector<std::vector<std::int64_t>> of_angle(static_cast<std::size_t>(d / 2));
  for (std::int64_t i = 0; i < d; ++i) of_angle[static_cast<std::size_t>(convention.angle(i, d))].push_back(i);
  for (std::size_t which = 0; which < 2; ++which) {
    std::vector<double> heads(x.size());
    // Calls visit(element of the theory, element of right code) of each angle of each head.
    const auto for_each = [&](const auto& visit) {
      for (std::size_t start = 0; start < x.size(); start += static_cast<std::size_t>(d)) {
        for (std::size_t angle = 0; angle < of_angle.size(); ++angle)
          visit(start, of_angle[angle][which], start + angle);
      }
    };
    for_each([&](std::size_t start, std::int64_t i, std::size_t lower) {
      heads[lower] = x[start + static_cast<std::size_t>(i)];
      heads[lower + static_cast<std::size_t>(d / 2)] =
          -convention.sign(i, d) * x[start + static_cast<std::size_t>(convention.partner(i, d))];
    });
    Overlay overlay(*instance.recorded);
    overlay.replace(input, Tensor::rounded(recorded.dtype, recorded.shape, heads));
    const Expectation turned = scene.evaluate(instance, overlay);
    for_each([&](std::size_t start, std::int64_t i, std::size_t lower) {
      set_moved(theory, start + static_cast<std::size_t>(i), turned, lower);
    });
  }
  return theory;
}

void add_mixed(Scene& scene, TensorId input, std::vector<Candidate>& candidates) {
  for (const Convention& convention : kMixed) {
    Candidate candidate = candidate_of(scene, "rotation.pairs", bits_of_choice(8 + kMixed.size()),
                                       " is turned by two conventions at once: " + convention.words());
    candidate.theory.hypothesis = "H03";
    candidate.theory.parameters = {{"convention", convention.words()}};
    candidate.predict = [&scene, input, convention](const Instance& instance) -> std::optional<Expectation> {
      const TensorKey key{instance.key.step, input};
      const auto x = scene.recorded(instance, key);
      if (!x || scene.right(instance).sigma_independent.empty()) return std::nullopt;
      return mixed_up(scene, instance, key, *x, convention);
    };
    candidates.push_back(std::move(candidate));
  }
}

}  // namespace

std::vector<Candidate> recover_rotation_pairs(Scene& scene) {
  std::vector<Candidate> candidates;
  const Instance& first = scene.instances().front();
  const std::int64_t d = scene.config().head_dim;
  if (first.span.size() != 1 || arithmetic_of(scene.op()) != Arithmetic::kRotate || d % 2 != 0) return candidates;
  const TensorId input = input_keys(first.key, scene.config()).front().id;
  for (Arranged before : {Arranged::kAsIs, Arranged::kIntoHalves, Arranged::kIntoNeighbours}) {
    for (Arranged behind : {Arranged::kAsIs, Arranged::kIntoHalves, Arranged::kIntoNeighbours}) {
      if (before == Arranged::kAsIs && behind == Arranged::kAsIs) continue;
      Candidate candidate = candidate_of(
          scene, "rotation.pairs", bits_of_choice(8 + kMixed.size()),
          " is rotated with its input's dimensions " + words_of(before) + " and its output's " + words_of(behind));
      candidate.theory.hypothesis = "H03";
      candidate.theory.parameters = {{"input", words_of(before)}, {"output", words_of(behind)}};
      candidate.predict = [&scene, input, before, behind, d](const Instance& instance) -> std::optional<Expectation> {
        const TensorKey key{instance.key.step, input};
        const auto x = scene.recorded(instance, key);
        if (!x) return std::nullopt;
        const TensorView recorded = instance.recorded->get(key);
        Overlay overlay(*instance.recorded);
        overlay.replace(key, Tensor::rounded(recorded.dtype, recorded.shape, arrange(before, *x, d)));
        Expectation theory = scene.evaluate(instance, overlay);
        theory.value = arrange(behind, theory.value, d);
        theory.sigma_independent = arrange(behind, theory.sigma_independent, d);
        theory.sigma_shared = arrange(behind, theory.sigma_shared, d);
        return theory;
      };
      candidates.push_back(std::move(candidate));
    }
  }
  add_mixed(scene, input, candidates);
  return candidates;
}

}  // namespace qdiff::explain
