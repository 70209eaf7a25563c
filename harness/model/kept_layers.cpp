#include "harness/model/kept_layers.h"

#include <string>
#include <unordered_map>
#include <utility>

#include "harness/contract/error.h"
#include "harness/contract/operation_table.h"
#include "harness/contract/wording.h"

namespace qdiff::model {
namespace {

class KeptLayers final : public WeightSource {
 public:
  KeptLayers(std::shared_ptr<const WeightSource> whole, const std::vector<int>& layers)
      : whole_(std::move(whole)), config_(whole_->config()), description_(whole_->description()) {
    config_.num_layers = static_cast<std::int64_t>(layers.size());
    description_ += (layers.size() == 1 ? ", layer " : ", layers ") + joined(layers, ", ") + " alone";
    for (const ModelWeight& weight : weights_of(config_)) {
      TensorId id = weight.id;
      if (id.layer != kNoLayer) id.layer = layers[static_cast<std::size_t>(id.layer)];
      const WeightInfo& of_whole = whole_->find(weight_name(id, weight.index, whole_->config()));
      weights_.push_back(of_whole);
      weights_.back().name = weight.name;
      of_whole_.emplace(weight.name, &of_whole);
    }
  }

  const ModelConfig& config() const override { return config_; }
  const std::string& description() const override { return description_; }
  const std::vector<WeightInfo>& weights() const override { return weights_; }

  void read(const WeightInfo& info, std::int64_t first, std::int64_t count,
            std::span<std::byte> destination) const override {
    const auto found = of_whole_.find(info.name);
    if (found == of_whole_.end()) throw InputError(description_ + ": the model has no weight \"" + info.name + "\"");
    whole_->read(*found->second, first, count, destination);
  }

 private:
  std::shared_ptr<const WeightSource> whole_;
  ModelConfig config_;
  std::string description_;
  std::vector<WeightInfo> weights_;
  std::unordered_map<std::string, const WeightInfo*> of_whole_;  // by the name that it has here
};

}  // namespace

std::unique_ptr<WeightSource> keep_layers(std::shared_ptr<const WeightSource> whole, const std::vector<int>& layers) {
  const std::int64_t num_layers = whole->config().num_layers;
  if (layers.back() >= num_layers) {
    throw InputError(whole->description() + ": there is no layer " + std::to_string(layers.back()) +
                     "; the model's layers are 0 to " + std::to_string(num_layers - 1));
  }
  return std::make_unique<KeptLayers>(std::move(whole), layers);
}

}  // namespace qdiff::model
