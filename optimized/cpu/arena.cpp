#include "optimized/cpu/arena.h"

#include <algorithm>
#include <limits>

namespace qdiff::optimized::cpu {
namespace {

constexpr std::size_t kSecondOutput = kNumOps;
constexpr std::int64_t kAlignment = 64;  // bytes

std::int64_t aligned(std::int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Rows that are not materialised, and the logits, which are large and belong to the session, have none.
bool has_place(const OperationRow& row) { return !row.optional && !may_be_last_row_alone(row.op); }

}  // namespace

std::int64_t token_block(std::int64_t k) {
  constexpr std::int64_t kCacheBytes = 512 << 10;  // half of a core's second-level cache of 1 MiB
  constexpr std::int64_t kTokenTile = 6;
  const std::int64_t fitting = kCacheBytes / (static_cast<std::int64_t>(sizeof(float)) * k);
  return std::clamp<std::int64_t>(fitting / kTokenTile * kTokenTile, 24, 384);
}

void fill(Storage storage, float value, std::byte* data, std::int64_t elements) {
  if (storage == Storage::kF32) {
    std::fill_n(reinterpret_cast<float*>(data), elements, value);
    return;
  }
  const std::uint16_t bits = storage == Storage::kBF16 ? float_to_bf16(value) : float_to_f16(value);
  std::fill_n(reinterpret_cast<std::uint16_t*>(data), elements, bits);
}

void fill_poison(Storage storage, Poison poison, std::byte* data, std::int64_t elements) {
  constexpr float large = 3e4F;  // in every storage type; its products stay finite in fp32, so it is seen as a value
  fill(storage, poison == Poison::kNaN ? std::numeric_limits<float>::quiet_NaN() : large, data, elements);
}

Arena::Arena(const ModelConfig& config, Storage storage, Poison poison, int num_threads)
    : config_(config), storage_(storage), poison_(poison), num_threads_(num_threads) {
  for (const OperationRow& row : kOperationTable) {
    if (!has_place(row)) continue;
    widths_[static_cast<std::size_t>(row.op)] = qdiff::num_elements(output_shape(row.op, config, 1, 1, 1));
  }
  widths_[kSecondOutput] = config.hidden;
  wide_width_ = round_up_to_lanes(std::max({config.hidden, config.q_width(), config.intermediate}));
}

void Arena::fit(std::int64_t num_tokens) {
  if (num_tokens <= fits_) return;
  const std::int64_t group = config_.group_size();
  const std::int64_t width = round_up_to_lanes(config_.head_dim);
  const std::int64_t narrowest_k = std::min({config_.hidden, config_.q_width(), config_.intermediate});
  const std::int64_t query_rows = std::min(num_tokens, kQueryBlock) * group;

  std::int64_t bytes = 0;
  std::array<std::int64_t, kNumPlaces> offsets{};
  for (std::size_t i = 0; i < kNumPlaces; ++i) {
    offsets[i] = bytes;
    bytes += aligned(num_tokens * widths_[i] * storage_bytes(storage_));
  }
  const std::int64_t wide_offset = bytes;
  bytes += aligned(num_tokens * wide_width_ * 4);
  const std::array<std::int64_t, 9> thread_sizes = {
      kPanelRows * wide_width_,
      std::min(num_tokens, token_block(narrowest_k)) * 2 * kRowUnit,
      query_rows * width,
      query_rows * width,
      kKeyTile * width,
      kKeyTile * width,
      group * kKeyTile,
      query_rows,
      query_rows,
  };
  thread_floats_ = 0;
  for (std::int64_t size : thread_sizes) thread_floats_ += aligned(size * 4) / 4;
  const std::int64_t threads_offset = bytes;
  bytes += num_threads_ * thread_floats_ * 4;

  memory_ = {};  // before the larger one is allocated
  memory_ = AlignedBuffer(bytes);
  fits_ = num_tokens;
  for (std::size_t i = 0; i < kNumPlaces; ++i) {
    places_[i] = widths_[i] == 0 ? nullptr : memory_.data() + offsets[i];
  }
  wide_ = reinterpret_cast<float*>(memory_.data() + wide_offset);
  threads_.clear();
  for (int t = 0; t < num_threads_; ++t) {
    auto* next = reinterpret_cast<float*>(memory_.data() + threads_offset) + t * thread_floats_;
    ThreadScratch scratch;
    float** const members[] = {&scratch.panel, &scratch.c,      &scratch.q,       &scratch.out, &scratch.k,
                               &scratch.v,     &scratch.scores, &scratch.maximum, &scratch.sum};
    for (std::size_t i = 0; i < thread_sizes.size(); ++i) {
      *members[i] = next;
      next += aligned(thread_sizes[i] * 4) / 4;
    }
    threads_.push_back(scratch);
  }
}

std::byte* Arena::tensor(Op op) const { return places_[static_cast<std::size_t>(op)]; }

std::byte* Arena::output(const void* other_than) const {
  std::byte* first = tensor(Op::kOutput);
  return first == other_than ? places_[kSecondOutput] : first;
}

void Arena::poison(std::int64_t num_tokens, const void* keep) {
  for (std::size_t i = 0; i < kNumPlaces; ++i) {
    if (places_[i] == nullptr || places_[i] == keep) continue;
    fill_poison(storage_, poison_, places_[i], num_tokens * widths_[i]);
  }
  auto* scratch = reinterpret_cast<std::byte*>(wide_);
  fill_poison(Storage::kF32, poison_, scratch, num_tokens * wide_width_);
  auto* threads = reinterpret_cast<std::byte*>(threads_.front().panel);
  fill_poison(Storage::kF32, poison_, threads, num_threads_ * thread_floats_);
}

}  // namespace qdiff::optimized::cpu
