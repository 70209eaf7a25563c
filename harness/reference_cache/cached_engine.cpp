#include <map>
#include <string>
#include <utility>
#include <vector>

#include "harness/contract/session_checks.h"
#include "harness/reference_cache/cache.h"
#include "harness/reference_cache/kept_values.h"
#include "harness/reference_cache/query_key.h"

namespace qdiff::reference_cache {
namespace {

constexpr const char* kResult = "result";

class CachedSession final : public Session {
 public:
  // `session` is a hash of the engine and of the options.
  CachedSession(std::unique_ptr<Session> inner, const Cache& cache, const ModelConfig& config, SessionOptions options,
                formats::ContentHash session)
      : inner_(std::move(inner)), cache_(cache), config_(config), options_(std::move(options)), session_(session) {}

  TensorView run_embedding(const Step& step, TensorSink* sink) override {
    formats::ContentHash asked = asked_of("embedding", step);
    if (sink == nullptr && find(asked)) return held_.view();
    return computed(asked, inner_->run_embedding(step, sink), sink);
  }

  TensorView run_layer(int layer, const Step& step, const TensorView& input, TensorSink* sink) override {
    Layer& of = layers_[layer];
    // What a layer computes follows from all steps that it has seen.
    of.seen.add(asked_of("layer", step).text()).add(static_cast<std::uint64_t>(layer)).add(Digests().of(input));
    if (sink == nullptr && find(of.seen)) {
      of.behind.emplace_back(step, Tensor::copy_of(input));
      return held_.view();
    }
    catch_up(layer);
    return computed(of.seen, inner_->run_layer(layer, step, input, sink), sink);
  }

  TensorView run_head(const Step& step, const TensorView& input, TensorSink* sink) override {
    formats::ContentHash asked = asked_of("head", step);
    asked.add(Digests().of(input));
    if (sink == nullptr && find(asked)) return held_.view();
    return computed(asked, inner_->run_head(step, input, sink), sink);
  }

  TensorView run_step(const Step& step, TensorSink* sink) override {
    Tensor residual = Tensor::copy_of(run_embedding(step, sink));
    for (int layer = 0; layer < config_.num_layers; ++layer) {
      residual = Tensor::copy_of(run_layer(layer, step, residual.view(), sink));
    }
    return run_head(step, residual.view(), sink);
  }

 private:
  struct Layer {
    formats::ContentHash seen;
    std::vector<std::pair<Step, Tensor>> behind;  // steps and inputs that were read, and that `inner_` has not run
  };

  formats::ContentHash asked_of(const char* part, const Step& step) const {
    check_step(step, options_, config_, "the reference");
    formats::ContentHash asked = session_;
    asked.add(part);
    add_to(asked, step);
    return asked;
  }

  bool find(const formats::ContentHash& asked) {
    const bool found = cache_.store.find(asked.text(), [&](const Found& in) {
      held_ = tensor_in(in, kResult);
      return true;
    });
    if (found) ++cache_.values.from_cache;
    return found;
  }

  void catch_up(int layer) {
    Layer& of = layers_[layer];
    for (const auto& [step, input] : of.behind) {
      inner_->run_layer(layer, step, input.view(), nullptr);
      ++cache_.values.computed;
    }
    of.behind.clear();
  }

  TensorView computed(const formats::ContentHash& asked, const TensorView& result, const TensorSink* sink) {
    ++cache_.values.computed;
    if (sink != nullptr) return result;
    Parts parts;
    parts.add(kResult, result);
    cache_.store.keep(asked.text(), parts.words, parts.parts);
    return result;
  }

  std::unique_ptr<Session> inner_;
  Cache cache_;
  const ModelConfig& config_;
  SessionOptions options_;
  formats::ContentHash session_;
  std::map<int, Layer> layers_;
  Tensor held_;  // what was handed out last, where it was read
};

// Of an engine with something planted: what it computes is counted.
class CountedSession final : public Session {
 public:
  CountedSession(std::unique_ptr<Session> inner, const Cache& cache) : inner_(std::move(inner)), cache_(cache) {}

  TensorView run_embedding(const Step& step, TensorSink* sink) override {
    ++cache_.values.computed;
    return inner_->run_embedding(step, sink);
  }
  TensorView run_layer(int layer, const Step& step, const TensorView& input, TensorSink* sink) override {
    ++cache_.values.computed;
    return inner_->run_layer(layer, step, input, sink);
  }
  TensorView run_head(const Step& step, const TensorView& input, TensorSink* sink) override {
    ++cache_.values.computed;
    return inner_->run_head(step, input, sink);
  }
  TensorView run_step(const Step& step, TensorSink* sink) override {
    ++cache_.values.computed;
    return inner_->run_step(step, sink);
  }

 private:
  std::unique_ptr<Session> inner_;
  Cache cache_;
};

class CachedEngine final : public Engine {
 public:
  CachedEngine(std::unique_ptr<Engine> inner, const Cache& cache, const ModelConfig& config)
      : inner_(std::move(inner)), cache_(cache), config_(config) {}

  std::string name() const override { return inner_->name(); }
  Device device() const override { return inner_->device(); }
  const Precision& precision() const override { return inner_->precision(); }
  double poison_value(Poison poison) const override { return inner_->poison_value(poison); }
  std::vector<GemmFacts> gemms() override { return inner_->gemms(); }
  std::vector<FaultId> plantable_faults() const override { return inner_->plantable_faults(); }
  std::int64_t planted_executions() const override { return inner_->planted_executions(); }

  void plant(const Fault& fault) override {
    inner_->plant(fault);
    is_planted_ = true;
  }
  void plant_beside(const Variant& variant) override {
    inner_->plant_beside(variant);
    is_planted_ = true;
  }

  std::unique_ptr<Session> open(const SessionOptions& options) override {
    std::unique_ptr<Session> inner = inner_->open(options);
    if (is_planted_) return std::make_unique<CountedSession>(std::move(inner), cache_);
    SessionOptions checked = checked_session(options, name());
    formats::ContentHash session;
    session.add(cache_.reference).add("session").add(static_cast<std::uint64_t>(checked.batch));
    session.add(static_cast<std::uint64_t>(checked.capacity));
    for (const std::int64_t padding : checked.left_padding) session.add(static_cast<std::uint64_t>(padding));
    add_to(session, precision());
    return std::make_unique<CachedSession>(std::move(inner), cache_, config_, std::move(checked), session);
  }

 private:
  std::unique_ptr<Engine> inner_;
  Cache cache_;
  ModelConfig config_;
  bool is_planted_ = false;
};

}  // namespace

std::unique_ptr<Engine> make_cached_engine(std::unique_ptr<Engine> inner, const Cache& cache,
                                           const ModelConfig& config) {
  return std::make_unique<CachedEngine>(std::move(inner), cache, config);
}

}  // namespace qdiff::reference_cache
