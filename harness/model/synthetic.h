// Synthetic models: weights made from a seed, in the real shapes of Qwen2.5 or in small ones for tests.
//
//   synthetic:NAME[,seed=N][,profile=plain|qwen|loud|quiet][,dtype=bfloat16|float16|float32][,layers=N][,vocab=N]
//                 [,hidden=N][,q_heads=N][,kv_heads=N][,head_dim=N][,intermediate=N][,tied=true|false][,eps=X][,theta=X]
//
// NAME is a row of kSyntheticShapes. The same text gives the same bits on every machine (generator.h); `layers` keeps
// the first N layers of the shape, each of the others takes another value than the shape's. Defaults: seed 0, profile
// plain, dtype bfloat16.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "harness/contract/weights.h"

namespace qdiff::model {

enum class Profile : std::uint8_t { kPlain, kQwen, kLoud, kQuiet };  // synthetic_profile.h describes them
inline constexpr std::array<std::string_view, 4> kProfileNames = {"plain", "qwen", "loud", "quiet"};
constexpr std::string_view name(Profile profile) { return kProfileNames[static_cast<std::size_t>(profile)]; }

struct SyntheticShape {
  std::string_view name;
  std::int64_t hidden, num_layers, num_q_heads, num_kv_heads, head_dim, intermediate, vocab;
  bool tied;
};

// Shapes of the published models: config.json of Qwen/Qwen2.5-{0.5B,1.5B,3B,7B,14B,32B,72B}-Instruct on the Hugging
// Face hub, each with max_position_embeddings 32768, rms_norm_eps 1e-6 and rope_theta 1e6; see also the table of
// arXiv:2412.15115. The small shapes share those three values, and each is there for a reason:
// clang-format off
inline constexpr std::array<SyntheticShape, 13> kSyntheticShapes = {{
    //  name          D     L   H   K   d    I      V       tied
    {"qwen2.5-0.5b",  896,  24, 14, 2,  64,  4864,  151936, true},
    {"qwen2.5-1.5b",  1536, 28, 12, 2,  128, 8960,  151936, true},
    {"qwen2.5-3b",    2048, 36, 16, 2,  128, 11008, 151936, true},
    {"qwen2.5-7b",    3584, 28, 28, 4,  128, 18944, 152064, false},
    {"qwen2.5-14b",   5120, 48, 40, 8,  128, 13824, 152064, false},
    {"qwen2.5-32b",   5120, 64, 40, 8,  128, 27648, 152064, false},
    {"qwen2.5-72b",   8192, 80, 64, 8,  128, 29568, 152064, false},
    // d 32; one kv head; odd G = 7; H*d = D, so that q_proj and o_proj are square as in every Qwen2.5; tied.
    {"toy-d32",       224,  4,  7,  1,  32,  616,   777,    true},
    // d 64; K = 3 and G = 2, so that h / G, h % K and h / K all differ; H*d = 384 is not D; untied.
    {"toy-d64",       192,  3,  6,  3,  64,  328,   1000,   false},
    // d 128; odd G = 3; H*d = 768 is not D; untied, two layers.
    {"toy-d128",      320,  2,  6,  2,  128, 520,   1531,   false},
    // The head counts of the 0.5B, 14/2 with G = 7, at half its head dimension; tied.
    {"toy-14x2",      448,  3,  14, 2,  32,  1216,  2000,   true},
    // Odd G = 3 with K = 5; H*d = 480 is not D; untied.
    {"toy-15x5",      272,  3,  15, 5,  32,  440,   911,    false},
    // G = 1: plain multi-head attention, where no head map can be wrong; H*d = 128 is less than D; tied.
    {"toy-mha",       160,  2,  4,  4,  32,  416,   512,    true},
}};
// clang-format on

struct SyntheticSpec {
  std::string shape;
  std::uint64_t seed = 0;
  Profile profile = Profile::kPlain;
  DType dtype = DType::kBF16;
  // What differs from the shape; 0, or none: nothing does.
  std::int64_t layers = 0, vocab = 0, hidden = 0, q_heads = 0, kv_heads = 0, head_dim = 0, intermediate = 0;
  std::optional<bool> tied = {};
  std::optional<double> eps = {}, theta = {};
};

// Parses what follows "synthetic:". Throws qdiff::InputError, for a name that is not known with the list of those that
// are and the nearest.
SyntheticSpec parse_synthetic_spec(std::string_view text);
// The full spec, with its prefix: "synthetic:toy-d64,seed=0,profile=plain".
std::string to_string(const SyntheticSpec& spec);
ModelConfig synthetic_config(const SyntheticSpec& spec);
std::unique_ptr<WeightSource> make_synthetic(const SyntheticSpec& spec);
// The same in a shape of the caller's. Throws std::invalid_argument where the config does not validate.
std::unique_ptr<WeightSource> make_synthetic(const ModelConfig& config, std::uint64_t seed, Profile profile);

}  // namespace qdiff::model
