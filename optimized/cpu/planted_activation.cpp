// The activation gone wrong (docs/faults.md, outside the ten).
#include "optimized/cpu/projection.h"

namespace qdiff::optimized::cpu {

void planted_activate(const LayerContext& s) {
  const Planting<true> planting(s.fault, s.layer);
  const std::int64_t intermediate = s.config.intermediate;
  for_each_token(s, [&](std::int64_t token) {
    std::vector<float> gate(static_cast<std::size_t>(intermediate));
    std::vector<float> up(gate.size());
    const std::int64_t element = token * intermediate;
    s.kernels.widen(s.storage, at(s.arena.tensor(Op::kGateProj), s.storage, element), gate.data(), intermediate);
    s.kernels.widen(s.storage, at(s.arena.tensor(Op::kUpProj), s.storage, element), up.data(), intermediate);
    if (planting.is(FaultId::kGateUpSwapped)) gate.swap(up);
    if (planting.is(FaultId::kNoSilu)) {
      for (std::size_t i = 0; i < gate.size(); ++i) gate[i] *= up[i];
    } else {
      s.kernels.silu_mul(gate.data(), up.data(), intermediate);
    }
    s.kernels.narrow(s.storage, gate.data(), at(s.arena.tensor(Op::kAct), s.storage, element), intermediate);
  });
  if (planting.is_any({FaultId::kGateUpSwapped, FaultId::kNoSilu})) planting.count(s.num_real_tokens());
}

}  // namespace qdiff::optimized::cpu
