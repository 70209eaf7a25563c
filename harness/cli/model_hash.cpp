#include "harness/cli/model_hash.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "harness/cli/unit_plan.h"
#include "harness/formats/content_hash.h"

namespace qdiff::cli {

std::string model_hash(const WeightSource& model) {
  formats::ContentHash hash;
  const ModelConfig& config = model.config();
  hash.add(to_string(config)).add(std::bit_cast<std::uint64_t>(config.rms_norm_eps));
  hash.add(std::bit_cast<std::uint64_t>(config.rope_theta));
  if (is_synthetic(model.description())) return hash.add(model.description()).text();
  constexpr std::int64_t kAtOnce = std::int64_t{1} << 22;
  std::vector<std::byte> bytes;
  for (const WeightInfo& info : model.weights()) {
    hash.add(info.name).add(name(info.dtype)).add(to_string(info.shape)).add(info.stored_as);
    const std::int64_t size = num_elements(info.shape);
    for (std::int64_t first = 0; first < size; first += kAtOnce) {
      const std::int64_t count = std::min(kAtOnce, size - first);
      bytes.resize(static_cast<std::size_t>(count) * size_of(info.dtype));
      model.read(info, first, count, bytes);
      hash.add(bytes);
    }
  }
  return hash.text();
}

}  // namespace qdiff::cli
