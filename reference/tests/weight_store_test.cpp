// The memory of weights that had to go, which those that come take over.
#include "reference/weight_store.h"

#include <set>

#include "cmake/catch2.h"
#include "harness/contract/operation_table.h"
#include "harness/contract/tests/small_model.h"

namespace qdiff::reference {
namespace {

constexpr WeightForm kInDouble = {DType::kF32, at::kDouble, false};

// Each element of a layer's weights is the number of the layer. The matrices take 8 MiB in fp64, so that 32 of them
// fill what a store keeps.
class Numbered : public WeightSource {
 public:
  Numbered() : config_(testing::small_config(4, 2, 128, 512, 2048, false, 32)) {
    config_.dtype = DType::kF32;
    config_.num_layers = 48;
    for (const ModelWeight& weight : weights_of(config_)) {
      names_.push_back({weight.name, DType::kF32, weight.shape});
      layers_.push_back(static_cast<float>(weight.id.layer));
    }
  }

  const ModelConfig& config() const override { return config_; }
  const std::string& description() const override { return description_; }
  const std::vector<WeightInfo>& weights() const override { return names_; }
  void read(const WeightInfo& info, std::int64_t, std::int64_t count, std::span<std::byte> destination) const override {
    const auto found = std::ranges::find(names_, info.name, &WeightInfo::name);
    auto* to = reinterpret_cast<float*>(destination.data());
    std::fill_n(to, count, layers_[static_cast<std::size_t>(found - names_.begin())]);
  }

  at::Tensor gate(WeightStore& store, int layer) const {
    return store.get(weight_name({Op::kGateProj, layer}, 0, config_), kInDouble);
  }

 private:
  ModelConfig config_;
  std::string description_ = "numbered layers";
  std::vector<WeightInfo> names_;
  std::vector<float> layers_;
};

bool is_all(const at::Tensor& values, double number) { return values.eq(number).all().item<bool>(); }

TEST_CASE("a weight takes over the memory of one that had to go, and has its own values", "[weights]") {
  const Numbered model;
  WeightStore store(model);
  std::set<const void*> places;
  for (int layer = 0; layer < 48; ++layer) {
    const at::Tensor gate = model.gate(store, layer);
    CHECK(is_all(gate, layer));
    places.insert(gate.const_data_ptr());
  }
  CHECK(places.size() <= 32);
  CHECK(is_all(model.gate(store, 0), 0));
}

TEST_CASE("the memory of a weight that somebody holds is not taken over", "[weights]") {
  const Numbered model;
  WeightStore store(model);
  const at::Tensor held = model.gate(store, 1);
  const at::Tensor part = model.gate(store, 2).narrow(0, 3, 2);
  for (int layer = 3; layer < 48; ++layer) (void)model.gate(store, layer);
  CHECK(is_all(held, 1));
  CHECK(is_all(part, 2));
}

}  // namespace
}  // namespace qdiff::reference
