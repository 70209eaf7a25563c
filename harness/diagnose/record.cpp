#include "harness/diagnose/record.h"

#include <cmath>
#include <memory>

namespace qdiff::diagnose {
namespace {

SessionOptions session_options(const CaseInput& input, Poison poison) {
  const Step& first = input.steps.front();
  return {.batch = first.batch(), .capacity = input.capacity, .left_padding = first.left_padding, .poison = poison};
}

std::span<const Step> first_steps(const CaseInput& input, int last_step) {
  return std::span(input.steps).first(static_cast<std::size_t>(last_step) + 1);
}

// Behind a part.
void finish_part(trace::RecordingSink& sink, int step, Recorded& recorded, const PartDone& done) {
  for (std::string& name : sink.verify_unchanged()) recorded.later_writes.push_back({step, std::move(name)});
  if (done) done();
}

Tensor rounded_copy(const TensorView& view, DType dtype) {
  return Tensor::rounded(dtype, view.shape, to_doubles(view));
}

}  // namespace

Recorded record_free(Engine& engine, const CaseInput& input, int num_layers, int last_step, Poison poison,
                     const PartDone& done) {
  Recorded recorded;
  const auto session = engine.open(session_options(input, poison));
  for (const Step& step : first_steps(input, last_step)) {
    trace::RecordingSink sink(recorded.tensors, step.index);
    // Copies: the view that one part returns ends with the call of the next.
    Tensor residual = Tensor::copy_of(session->run_embedding(step, &sink));
    finish_part(sink, step.index, recorded, done);
    for (int layer = 0; layer < num_layers; ++layer) {
      residual = Tensor::copy_of(session->run_layer(layer, step, residual.view(), &sink));
      finish_part(sink, step.index, recorded, done);
    }
    session->run_head(step, residual.view(), &sink);
    finish_part(sink, step.index, recorded, done);
  }
  return recorded;
}

std::vector<Tensor> run_untapped(Engine& engine, const CaseInput& input, int last_step, Poison poison,
                                 const std::function<void()>& step_done) {
  std::vector<Tensor> logits;
  const auto session = engine.open(session_options(input, poison));
  for (const Step& step : first_steps(input, last_step)) {
    logits.push_back(Tensor::copy_of(session->run_step(step, nullptr)));
    if (step_done) step_done();
  }
  return logits;
}

std::optional<compare::Judgement> first_difference(const TensorView& tapped, const TensorView& untapped,
                                                   const Step& step) {
  compare::Judgement difference;
  difference.outcome = compare::Outcome::kDiverged;
  if (tapped.shape != untapped.shape || tapped.dtype != untapped.dtype) {
    difference.reason = "a second, untapped run gives logits of another shape or dtype: " + to_string(untapped.shape) +
                        " for " + to_string(tapped.shape);
    return difference;
  }
  const std::int64_t vocab = tapped.shape.back();
  const std::int64_t rows_of_batch = tapped.shape[1];  // T, or 1 where only the last row is handed out
  for (std::int64_t i = 0; i < num_elements(tapped.shape); ++i) {
    const std::int64_t b = i / vocab / rows_of_batch;
    const std::int64_t t = i / vocab % rows_of_batch;
    if (step.is_pad(b, t + step.num_tokens() - rows_of_batch)) continue;
    const double with_taps = load_element(tapped.data, tapped.dtype, static_cast<std::size_t>(i));
    const double without = load_element(untapped.data, untapped.dtype, static_cast<std::size_t>(i));
    if (with_taps == without || (std::isnan(with_taps) && std::isnan(without))) continue;
    difference.reason =
        "a second run, untapped and with other values in memory not yet written, gives other logits: the engine reads "
        "unwritten memory, races, or computes differently when it is recorded";
    difference.worst_index = {b, t, i % vocab};
    difference.actual = without;
    difference.expected = with_taps;
    return difference;
  }
  return std::nullopt;
}

Recorded record_lockstep(Engine& engine, const CaseInput& input, const ReferenceChain& chain,
                         const std::set<int>& layers, bool outside_layers, int last_step, Poison poison,
                         const PartDone& done) {
  Recorded recorded;
  const auto session = engine.open(session_options(input, poison));
  for (const Step& step : first_steps(input, last_step)) {
    trace::RecordingSink sink(recorded.tensors, step.index);
    const std::vector<Tensor>& residual = chain.residual[static_cast<std::size_t>(step.index)];
    if (outside_layers) {
      session->run_embedding(step, &sink);
      finish_part(sink, step.index, recorded, done);
    }
    for (int layer : layers) {
      session->run_layer(layer, step, residual[static_cast<std::size_t>(layer)].view(), &sink);
      finish_part(sink, step.index, recorded, done);
    }
    if (outside_layers) {
      session->run_head(step, residual.back().view(), &sink);
      finish_part(sink, step.index, recorded, done);
    }
  }
  return recorded;
}

std::vector<ReferenceChain> run_reference(Engine& reference, const std::vector<const CaseInput*>& inputs,
                                          const std::vector<int>& last_steps, DType activations,
                                          const ModelConfig& config, int end_layer, const ProgressReport& progress) {
  std::vector<ReferenceChain> chains(inputs.size());
  std::vector<std::unique_ptr<Session>> sessions;
  const std::int64_t total = static_cast<std::int64_t>(end_layer) + 2;
  auto report = [&](std::int64_t done) {
    if (progress) progress("reference", done, total);
  };
  auto for_each_step = [&](auto&& body) {
    for (std::size_t c = 0; c < inputs.size(); ++c) {
      for (const Step& step : first_steps(*inputs[c], last_steps[c])) {
        body(c, step, chains[c].residual[static_cast<std::size_t>(step.index)]);
      }
    }
  };

  for (std::size_t c = 0; c < inputs.size(); ++c) {
    sessions.push_back(reference.open(session_options(*inputs[c], Poison::kNaN)));
    chains[c].residual.resize(static_cast<std::size_t>(last_steps[c]) + 1);
    chains[c].logits.resize(static_cast<std::size_t>(last_steps[c]) + 1);
  }
  report(0);
  for_each_step([&](std::size_t c, const Step& step, std::vector<Tensor>& residual) {
    residual.push_back(rounded_copy(sessions[c]->run_embedding(step, nullptr), activations));
  });
  for (int layer = 0; layer < end_layer; ++layer) {
    report(layer + 1);
    for_each_step([&](std::size_t c, const Step& step, std::vector<Tensor>& residual) {
      const Tensor wide = rounded_copy(residual.back().view(), DType::kF64);  // widening: exact
      residual.push_back(rounded_copy(sessions[c]->run_layer(layer, step, wide.view(), nullptr), activations));
    });
  }
  if (end_layer == config.num_layers) {
    report(end_layer + 1);
    for_each_step([&](std::size_t c, const Step& step, std::vector<Tensor>& residual) {
      const Tensor wide = rounded_copy(residual.back().view(), DType::kF64);
      // float32 is ample for what logits serve here, and halves the largest tensors of the run.
      chains[c].logits[static_cast<std::size_t>(step.index)] =
          rounded_copy(sessions[c]->run_head(step, wide.view(), nullptr), DType::kF32);
    });
  }
  report(total);
  return chains;
}

const Tensor* LockstepInputs::forced(const TensorKey& key) const {
  std::size_t entering = 0;
  if (key.id.op == Op::kOutput) {
    entering = static_cast<std::size_t>(key.id.layer) + 1;
  } else if (key.id.op != Op::kEmbedTokens) {
    return nullptr;
  }
  const auto& residual = chain_.residual.at(static_cast<std::size_t>(key.step));
  return entering < residual.size() ? &residual[entering] : nullptr;
}

bool LockstepInputs::has(const TensorKey& key) const { return forced(key) != nullptr || candidate_.has(key); }

TensorView LockstepInputs::get(const TensorKey& key) const {
  const Tensor* tensor = forced(key);
  return tensor != nullptr ? tensor->view() : candidate_.get(key);
}

}  // namespace qdiff::diagnose
