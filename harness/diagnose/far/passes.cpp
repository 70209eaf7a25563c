#include "harness/diagnose/far/passes.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "harness/contract/error.h"
#include "harness/contract/splitmix64.h"
#include "harness/diagnose/thresholds.h"

namespace qdiff::diagnose {
namespace {

class StepSink final : public TensorSink {
 public:
  StepSink(Pass& pass, int step, const TakeTensor& take) : pass_(pass), step_(step), take_(take) {}
  void take(const TensorId& id, const TensorView& view) override { take_(pass_, {step_, id}, view); }

 private:
  Pass& pass_;
  int step_;
  const TakeTensor& take_;
};

std::uint64_t mix(std::uint64_t a, std::uint64_t b) { return splitmix64(a * kGoldenGamma + b + 1); }

// Moves each element by a spacing, up or down or not at all: the rounding of an engine that sums in another order.
void nudge(Tensor& tensor, std::uint64_t seed) {
  for (std::int64_t i = 0; i < tensor.size(); ++i) {
    const std::uint64_t bits = mix(seed, static_cast<std::uint64_t>(i)) >> 62;
    if (bits > 1) continue;
    const double value = tensor.at(i);
    // Between 0.6 and 1.2 spacings, wherever the value lies between two powers of two.
    tensor.set(i, value * (1.0 + (bits == 0 ? 1.2 : -1.2) * unit_roundoff(tensor.dtype())));
  }
}

struct Running {
  Pass* pass;
  std::unique_ptr<Session> session;
  std::vector<Tensor> residual = {};  // [step]
};

std::vector<Running> open_all(Engine& engine, std::span<Pass> passes, const CaseInput& input) {
  const Step& first = input.steps.front();
  const SessionOptions options{.batch = first.batch(),
                               .capacity = input.capacity > 0 ? input.capacity : input.steps.back().valid_length(),
                               .left_padding = first.left_padding,
                               .poison = Poison::kNaN};
  std::vector<Running> running;
  for (Pass& pass : passes) {
    try {
      if (pass.variant) engine.plant({pass.variant->id, pass.variant->value, std::nullopt});
      if (pass.beside) engine.plant_beside(*pass.beside);
      running.push_back({&pass, engine.open(options)});
    } catch (const InputError&) {
      pass.ran = false;
    }
  }
  return running;
}

// A stretch of a case's steps.
struct Stretch {
  int first_step = 0;
  int last_step = 0;
};

// Where passes that are settled leave.
std::vector<Stretch> stretches_of(const Course& course, bool may_settle) {
  if (!may_settle || course.first_target_step >= course.last_step) return {{0, course.last_step}};
  return {{0, course.first_target_step}, {course.first_target_step + 1, course.last_step}};
}

// Steps within layers, passes within steps. `ends` says of a pass behind the head whether it goes no further.
template <typename Ends, typename Report>
void walk_stretch(std::vector<Running>& running, const Course& course, const Stretch& stretch, const TakeTensor& take,
                  Ends ends, Report report) {
  const auto each_step = [&](const auto& part) {
    for (Running& r : running) {
      try {
        for (int s = stretch.first_step; r.pass->ran && s <= stretch.last_step; ++s) {
          StepSink sink(*r.pass, s, take);
          part(r, course.input.steps[static_cast<std::size_t>(s)], sink);
        }
      } catch (const InputError&) {  // it needs what a walk layer by layer does not have
        r.pass->ran = false;
      }
    }
  };
  each_step([](Running& r, const Step& step, TensorSink& sink) {
    r.residual.push_back(Tensor::copy_of(r.session->run_embedding(step, &sink)));
  });
  for (int layer = 0; layer < course.end_layer; ++layer) {
    report(layer);
    each_step([&](Running& r, const Step& step, TensorSink& sink) {
      Tensor& residual = r.residual[static_cast<std::size_t>(step.index)];
      residual = Tensor::copy_of(r.session->run_layer(layer, step, residual.view(), &sink));
      if (r.pass->nudge == 0) return;
      nudge(residual,
            mix(r.pass->nudge, static_cast<std::uint64_t>(layer) * static_cast<std::uint64_t>(course.last_step + 1) +
                                   static_cast<std::uint64_t>(step.index)));
    });
  }
  report(course.end_layer);
  if (!course.needs_head) return;
  each_step([&](Running& r, const Step& step, TensorSink& sink) {
    r.session->run_head(step, r.residual[static_cast<std::size_t>(step.index)].view(), &sink);
    // A session keeps what it handed out: logits, of each pass.
    if (step.index == stretch.last_step && ends(*r.pass)) r.session.reset();
  });
}

}  // namespace

void walk(Engine& engine, std::span<Pass> passes, const Course& course, const TakeTensor& take,
          const ProgressReport& progress, const std::string& what, const IsSettled& is_settled) {
  const std::vector<Stretch> stretches = stretches_of(course, static_cast<bool>(is_settled));
  const auto num_stretches = static_cast<std::int64_t>(stretches.size());
  const auto layers = static_cast<std::int64_t>(course.end_layer) + 1;
  const auto groups = static_cast<std::int64_t>((passes.size() + kPassesAtOnce - 1) / kPassesAtOnce);
  std::int64_t walked = 0;  // stretches of groups
  for (std::int64_t group = 0; group < groups; ++group) {
    const std::size_t first = static_cast<std::size_t>(group) * kPassesAtOnce;
    std::vector<Running> running =
        open_all(engine, passes.subspan(first, std::min(kPassesAtOnce, passes.size() - first)), course.input);
    for (const Stretch& stretch : stretches) {
      const auto ends = [&](const Pass& pass) { return &stretch == &stretches.back() || is_settled(pass); };
      walk_stretch(running, course, stretch, take, ends, [&](int layer) {
        if (progress) progress(what, walked * layers + layer, groups * num_stretches * layers);
      });
      ++walked;
      if (&stretch == &stretches.back()) break;
      for (Running& r : running) r.pass->settled = r.pass->ran && is_settled(*r.pass);
      std::erase_if(running, [](const Running& r) { return r.pass->settled || !r.pass->ran; });
    }
  }
}

}  // namespace qdiff::diagnose
