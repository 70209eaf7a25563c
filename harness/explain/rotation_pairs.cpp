// A rotation between two layouts of a head's dimensions: y = Q(R(P x)), where R is right code's rotation of halves
// (i, i + d/2), P is how the input's dimensions are arranged before it and Q how the output's are behind it: as they
// are, neighbours apart into halves (2i to i, 2i + 1 to i + d/2), or halves together into neighbours.
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
      Candidate candidate;
      candidate.theory.mechanism = "rotation.pairs";
      candidate.theory.hypothesis = "H03";
      candidate.theory.bits = kMechanismBits + bits_of_choice(8);
      candidate.theory.parameters = {{"input", words_of(before)}, {"output", words_of(behind)}};
      candidate.theory.sentence = std::string(row(scene.op()).name) + " is rotated with its input's dimensions " +
                                  words_of(before) + " and its output's " + words_of(behind);
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
  return candidates;
}

}  // namespace qdiff::explain
