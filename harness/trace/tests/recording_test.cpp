#include "harness/trace/recording.h"

#include <cmath>
#include <limits>
#include <vector>

#include "cmake/catch2.h"

namespace qdiff::trace {
namespace {

TensorView view_of(const std::vector<float>& values) {
  return {values.data(), DType::kF32, {1, static_cast<std::int64_t>(values.size())}, {}, nullptr};
}

TEST_CASE("a recording holds what a tensor was when it was handed out") {
  Recording recording;
  RecordingSink sink(recording, 2);
  std::vector<float> buffer = {1.0F, 2.0F};
  sink.take({Op::kOProj, 3}, view_of(buffer));
  buffer[1] = 5.0F;

  const TensorKey key{2, {Op::kOProj, 3}};
  REQUIRE(recording.has(key));
  CHECK(to_doubles(recording.get(key)) == std::vector<double>{1.0, 2.0});
  CHECK(recording.bytes() == 8);
  CHECK_FALSE(recording.has({1, {Op::kOProj, 3}}));
  CHECK_THROWS_AS(recording.get({1, {Op::kOProj, 3}}), std::out_of_range);
}

TEST_CASE("a write to a tensor after it was handed out is named") {
  Recording recording;
  RecordingSink sink(recording, 0);
  std::vector<float> q = {1.0F}, k = {2.0F};
  sink.take({Op::kQProj, 0}, view_of(q));
  sink.take({Op::kKProj, 0}, view_of(k));
  k[0] = std::nextafterf(2.0F, 3.0F);
  CHECK(sink.verify_unchanged() == std::vector<std::string>{"model.layers.0.self_attn.k_proj"});

  // The next part may use the same buffers again.
  q[0] = 9.0F;
  CHECK(sink.verify_unchanged().empty());
}

TEST_CASE("an unchanged NaN is unchanged, and a changed sign of zero is a change") {
  Recording recording;
  RecordingSink sink(recording, 0);
  std::vector<float> values = {std::numeric_limits<float>::quiet_NaN(), 0.0F};
  sink.take({Op::kAct, 1}, view_of(values));
  CHECK(sink.verify_unchanged().empty());

  sink.take({Op::kDownProj, 1}, view_of(values));
  values[1] = -0.0F;
  CHECK(sink.verify_unchanged() == std::vector<std::string>{"model.layers.1.mlp.down_proj"});
}

TEST_CASE("a sink refuses the same tensor twice, device memory and missing data") {
  Recording recording;
  RecordingSink sink(recording, 0);
  const std::vector<float> values = {1.0F};
  sink.take({Op::kNorm, kNoLayer}, view_of(values));
  CHECK_THROWS_AS(sink.take({Op::kNorm, kNoLayer}, view_of(values)), std::logic_error);

  TensorView on_device = view_of(values);
  on_device.device = {DeviceKind::kCuda, 0};
  CHECK_THROWS_AS(sink.take({Op::kLmHead, kNoLayer}, on_device), std::logic_error);
  TensorView without_data = view_of(values);
  without_data.data = nullptr;
  CHECK_THROWS_AS(sink.take({Op::kLmHead, kNoLayer}, without_data), std::logic_error);
  CHECK(recording.size() == 1);
}

TEST_CASE("tensors can be dropped one at a time") {
  Recording recording;
  for (int step : {1, 0}) {
    recording.put({step, {Op::kEmbedTokens, kNoLayer}}, Tensor(DType::kF32, {2}));
    recording.put({step, {Op::kOutput, 1}}, Tensor(DType::kBF16, {4}));
    recording.put({step, {Op::kOutput, 0}}, Tensor(DType::kBF16, {4}));
  }
  for (int step : {0, 1}) recording.erase({step, {Op::kOutput, 0}});
  CHECK(recording.keys() == std::vector<TensorKey>{{0, {Op::kEmbedTokens, kNoLayer}},
                                                   {0, {Op::kOutput, 1}},
                                                   {1, {Op::kEmbedTokens, kNoLayer}},
                                                   {1, {Op::kOutput, 1}}});
  recording.erase({0, {Op::kOutput, 1}});
  CHECK(recording.bytes() == 8 + 8 + 8);
}

}  // namespace
}  // namespace qdiff::trace
