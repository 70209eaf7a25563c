#include "harness/selftest/spoiled.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <deque>

#include "harness/contract/number_text.h"
#include "harness/contract/wording.h"
#include "harness/selftest/archive.h"
#include "harness/selftest/novel_draw.h"

namespace qdiff::selftest {
namespace {

// How an element is spoiled, as a memory or a transfer may do it.
enum class Damage : std::uint8_t { kNegated, kScaled, kReplaced, kExchanged, kBitFlipped };
constexpr std::array kDamages = {"negated", "scaled", "replaced", "exchanged", "with a bit flipped"};

struct Spoil {
  TensorKey key;
  Damage damage = Damage::kNegated;
  std::int64_t count = 1;  // elements
  std::uint64_t seed = 0;  // of their places and values
};

// One to three tensors, each in few elements: no tensor as a whole, which would be a mistake of some kind.
std::vector<Spoil> draw_spoils(Draws& draw, const ModelConfig& config, const CaseInput& input) {
  const std::vector<TensorId> ids = all_tensors(config, /*optional_too=*/false);
  std::vector<Spoil> spoils;
  for (std::int64_t n = draw.between(1, 3); n > 0; --n) {
    const int step = static_cast<int>(draw.below(static_cast<std::int64_t>(input.steps.size())));
    spoils.push_back({{step, draw.one_of(ids)},
                      static_cast<Damage>(draw.below(static_cast<std::int64_t>(kDamages.size()))),
                      draw.between(1, 6),
                      draw.bits()});
  }
  return spoils;
}

void spoil(const Spoil& by, Tensor& tensor) {
  Draws draw(by.seed);
  double squares = 0.0;
  for (std::int64_t i = 0; i < tensor.size(); ++i) squares += tensor.at(i) * tensor.at(i);
  const double rms = std::sqrt(squares / static_cast<double>(tensor.size()));
  for (std::int64_t n = 0; n < by.count; ++n) {
    const std::int64_t i = draw.below(tensor.size());
    const double value = tensor.at(i);
    switch (by.damage) {
      case Damage::kNegated:
        tensor.set(i, -value - (value == 0.0 ? rms : 0.0));
        break;
      case Damage::kScaled:
        tensor.set(i, value * (1.5 + 6.0 * draw.uniform()) + rms);
        break;
      case Damage::kReplaced:
        tensor.set(i, rms * 8.0 * (draw.uniform() - 0.5));
        break;
      case Damage::kExchanged: {
        const std::int64_t j = draw.below(tensor.size());
        tensor.set(i, tensor.at(j));
        tensor.set(j, value);
        break;
      }
      case Damage::kBitFlipped: {  // of the exponent
        const double factor = std::ldexp(1.0, 1 << draw.between(0, 3));
        tensor.set(i, draw.one_in(2) ? value * factor : value / factor);
        break;
      }
    }
  }
}

// Hands the tensors of a session on, some of them spoiled; the session goes on with its own.
class SpoilingSink final : public TensorSink {
 public:
  SpoilingSink(TensorSink& next, const std::vector<Spoil>& spoils, int step, std::deque<Tensor>& held)
      : next_(next), spoils_(spoils), step_(step), held_(held) {}

  void take(const TensorId& id, const TensorView& view) override {
    const auto concerns = [&](const Spoil& by) { return by.key == TensorKey{step_, id}; };
    if (std::ranges::none_of(spoils_, concerns)) return next_.take(id, view);
    held_.push_back(Tensor::copy_of(view));
    for (const Spoil& by : spoils_) {
      if (concerns(by)) spoil(by, held_.back());
    }
    next_.take(id, held_.back().view());
  }

 private:
  TensorSink& next_;
  const std::vector<Spoil>& spoils_;
  int step_;
  std::deque<Tensor>& held_;  // until the session ends: whoever took one looks at it again
};

class SpoilingSession final : public Session {
 public:
  SpoilingSession(std::unique_ptr<Session> session, const std::vector<Spoil>& spoils)
      : session_(std::move(session)), spoils_(spoils) {}
  TensorView run_embedding(const Step& step, TensorSink* sink) override {
    return spoiling(step, sink, [&](TensorSink* to) { return session_->run_embedding(step, to); });
  }
  TensorView run_layer(int layer, const Step& step, const TensorView& input, TensorSink* sink) override {
    return spoiling(step, sink, [&](TensorSink* to) { return session_->run_layer(layer, step, input, to); });
  }
  TensorView run_head(const Step& step, const TensorView& input, TensorSink* sink) override {
    return spoiling(step, sink, [&](TensorSink* to) { return session_->run_head(step, input, to); });
  }
  TensorView run_step(const Step& step, TensorSink* sink) override {
    return spoiling(step, sink, [&](TensorSink* to) { return session_->run_step(step, to); });
  }

 private:
  template <typename Run>
  TensorView spoiling(const Step& step, TensorSink* sink, Run run) {
    if (sink == nullptr) return run(nullptr);
    SpoilingSink spoiled(*sink, spoils_, step.index, held_);
    return run(&spoiled);
  }

  std::unique_ptr<Session> session_;
  const std::vector<Spoil>& spoils_;
  std::deque<Tensor> held_;
};

class SpoilingEngine final : public Engine {
 public:
  SpoilingEngine(Engine& engine, const std::vector<Spoil>& spoils) : engine_(engine), spoils_(spoils) {}
  std::string name() const override { return engine_.name(); }
  Device device() const override { return engine_.device(); }
  const Precision& precision() const override { return engine_.precision(); }
  double poison_value(Poison poison) const override { return engine_.poison_value(poison); }
  std::unique_ptr<Session> open(const SessionOptions& options) override {
    return std::make_unique<SpoilingSession>(engine_.open(options), spoils_);
  }
  void plant(const Fault& fault) override { engine_.plant(fault); }

 private:
  Engine& engine_;
  const std::vector<Spoil>& spoils_;
};

std::string spoil_words(const Spoil& by) {
  return counted(by.count, "element") + " of " + tensor_name(by.key.id) + " of step " + std::to_string(by.key.step) +
         ' ' + kDamages[static_cast<std::size_t>(by.damage)];
}

std::string explanation_words(const findings::Finding& finding) {
  const findings::Explanation& explanation = finding.explanation;
  std::string text = explanation.variant ? std::string(name(*explanation.variant)) : explanation.sentence;
  for (const auto& [point, type] : explanation.points) text += (text.empty() ? "" : ", ") + point + " in " + type;
  return text + " at " + tensor_name(finding.tensor) + " of step " + std::to_string(finding.step);
}

}  // namespace

SpoiledTrial run_spoiled(std::uint64_t seed, DType dtype, const Makers& makers) {
  const RandomCase drawn = draw_small_case(seed);
  Draws draw(splitmix64(seed));
  const std::vector<Spoil> spoils = draw_spoils(draw, drawn.weights->config(), drawn.input);
  const auto clean = makers.engines.front().second(*drawn.weights, dtype);
  SpoilingEngine spoiled(*clean, spoils);
  const findings::RunResult result = judge_random_case(drawn, spoiled, makers, dtype, diagnose::Mode::kFree);
  SpoiledTrial trial{.seed = seed, .dtype = dtype, .verdict = result.verdict};
  trial.what = joined(spoils, ", ", spoil_words);
  for (const findings::Finding& finding : result.findings) {
    if (!finding.explanation.verdict || !findings::is_explained(finding.explanation)) continue;
    trial.explained_as += (trial.explained_as.empty() ? "" : "; ") + explanation_words(finding);
  }
  return trial;
}

std::vector<SpoiledTrial> run_all_spoiled(std::int64_t runs, std::uint64_t first_seed, const Makers& makers,
                                          const Crew& crew) {
  constexpr std::array kTypes = {DType::kBF16, DType::kF32, DType::kF16};
  return in_units<SpoiledTrial>(
      seed_units("spoiled", runs, first_seed), crew, no_state,
      [&](NoState&, std::size_t i) {
        const std::uint64_t seed = first_seed + i;
        return run_spoiled(seed, kTypes[seed % kTypes.size()], makers);
      },
      [](std::size_t) { return "spoiled recordings"; });
}

SpoiledScore score(const std::vector<SpoiledTrial>& trials) {
  SpoiledScore result;
  for (const SpoiledTrial& trial : trials) {
    result.found.count(trial.verdict == compare::Verdict::kDiverged);
    result.unexplained.count(trial.explained_as.empty());
  }
  return result;
}

}  // namespace qdiff::selftest
