#include "harness/model/synthetic.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <stdexcept>
#include <unordered_map>
#include <vector>

#include "harness/contract/error.h"
#include "harness/contract/number_text.h"
#include "harness/contract/operation_table.h"
#include "harness/contract/wording.h"
#include "harness/formats/suggest.h"
#include "harness/model/noted_source.h"
#include "harness/model/synthetic_profile.h"
#include "harness/model/weight_table.h"

namespace qdiff::model {
namespace {

constexpr std::string_view kPrefix = "synthetic:";
constexpr double kUsualEps = 1e-6, kUsualTheta = 1e6;

const SyntheticShape& find_shape(std::string_view name) {
  const auto found =
      std::ranges::find_if(kSyntheticShapes, [&](const SyntheticShape& shape) { return shape.name == name; });
  if (found == kSyntheticShapes.end()) {
    const auto names = texts_of(kSyntheticShapes, &SyntheticShape::name);
    throw InputError("no synthetic model is called \"" + formats::printable(name) + "\"" +
                     formats::suggestion(name, names) + " (known: " + joined(names, ", ") + ")");
  }
  return *found;
}

std::uint64_t parse_number(std::string_view option, std::string_view value, std::uint64_t smallest,
                           std::uint64_t largest) {
  const auto number = number_in<std::uint64_t>(value);
  if (!number || *number < smallest || *number > largest) {
    throw InputError("synthetic model: " + std::string(option) + " is \"" + formats::printable(value) +
                     "\", but must be a whole number from " + std::to_string(smallest) + " to " +
                     std::to_string(largest));
  }
  return *number;
}

// The sizes that a spec may have instead of the shape's: how each is called, and the largest that makes sense.
struct SizeOption {
  std::string_view name;
  std::uint64_t largest;
  std::int64_t SyntheticSpec::*value;
  std::int64_t SyntheticShape::*of_shape;
  std::int64_t ModelConfig::*of_model;
};
constexpr std::array<SizeOption, 7> kSizes = {{
    {"layers", 256, &SyntheticSpec::layers, &SyntheticShape::num_layers,
     &ModelConfig::num_layers},  // each follows from the seed and its number
    {"vocab", 1 << 20, &SyntheticSpec::vocab, &SyntheticShape::vocab, &ModelConfig::vocab},
    {"hidden", 1 << 16, &SyntheticSpec::hidden, &SyntheticShape::hidden, &ModelConfig::hidden},
    {"q_heads", 1 << 10, &SyntheticSpec::q_heads, &SyntheticShape::num_q_heads, &ModelConfig::num_q_heads},
    {"kv_heads", 1 << 10, &SyntheticSpec::kv_heads, &SyntheticShape::num_kv_heads, &ModelConfig::num_kv_heads},
    {"head_dim", 1 << 10, &SyntheticSpec::head_dim, &SyntheticShape::head_dim, &ModelConfig::head_dim},
    {"intermediate", 1 << 18, &SyntheticSpec::intermediate, &SyntheticShape::intermediate, &ModelConfig::intermediate},
}};

[[noreturn]] void refuse_option(std::string_view option) {
  std::vector<std::string> options = {"seed", "profile", "dtype", "tied", "eps", "theta"};
  for (const SizeOption& size : kSizes) options.emplace_back(size.name);
  throw InputError("synthetic model: there is no option \"" + formats::printable(option) + "\"" +
                   formats::suggestion(option, options) + " (options: " + joined(options, ", ") + ")");
}

double parse_constant(std::string_view option, std::string_view value) {
  const auto number = number_in<double>(value);
  if (!number || !(*number >= 0.0) || !std::isfinite(*number)) {
    throw InputError("synthetic model: " + std::string(option) + " is \"" + formats::printable(value) +
                     "\", but must be a number that is not negative");
  }
  return *number;
}

bool apply_size(SyntheticSpec& spec, const SyntheticShape& shape, std::string_view option, std::string_view value) {
  const auto size = std::ranges::find(kSizes, option, &SizeOption::name);
  if (size == kSizes.end()) return false;
  const auto number = static_cast<std::int64_t>(parse_number(option, value, 1, size->largest));
  spec.*size->value = number == shape.*size->of_shape ? 0 : number;
  return true;
}

void apply_option(SyntheticSpec& spec, const SyntheticShape& shape, std::string_view option, std::string_view value) {
  if (apply_size(spec, shape, option, value)) return;
  if (option == "seed") {
    spec.seed = parse_number(option, value, 0, UINT64_MAX);
  } else if (option == "tied") {
    if (value != "true" && value != "false") {
      throw InputError("synthetic model: tied is \"" + formats::printable(value) + "\", but must be true or false");
    }
    spec.tied = value == "true";
    if (*spec.tied == shape.tied) spec.tied.reset();
  } else if (option == "eps") {
    spec.eps = parse_constant(option, value);
    if (*spec.eps == kUsualEps) spec.eps.reset();
  } else if (option == "theta") {
    spec.theta = parse_constant(option, value);
    if (*spec.theta == kUsualTheta) spec.theta.reset();
  } else if (option == "profile") {
    const auto found = std::ranges::find(kProfileNames, value);
    if (found == kProfileNames.end()) {
      throw InputError("synthetic model: profile is \"" + formats::printable(value) +
                       "\", but must be plain, qwen, loud or quiet");
    }
    spec.profile = static_cast<Profile>(found - kProfileNames.begin());
  } else if (option == "dtype") {
    const std::optional<DType> dtype = parse_dtype(value);
    if (!dtype || *dtype == DType::kF64) {
      throw InputError("synthetic model: dtype is \"" + formats::printable(value) +
                       "\", but must be bfloat16, float16 or float32");
    }
    spec.dtype = *dtype;
  } else {
    refuse_option(option);
  }
}

class SyntheticSource : public NotedSource {
 public:
  SyntheticSource(const ModelConfig& config, std::uint64_t seed, Profile profile, std::string description) {
    config_ = config;
    description_ = std::move(description);
    storage_ = "synthetic: made from the seed, stored nowhere";
    weights_ = expected_weights(config_);
    if (profile == Profile::kQwen) note_plants(seed);
    if (profile == Profile::kLoud) {
      notes_.push_back("q and k biases lift the scores of kv heads 0, 1, 2 (and so on in turn) to about " +
                       loud_list());
    }
    if (profile == Profile::kQuiet) notes_.push_back("the residual stream stays at a level that eps decides");
    for (const ModelWeight& weight : weights_of(config_)) {
      plans_.try_emplace(weight.name, plan_weight(config_, profile, seed, weight.id, weight.index));
    }
  }

  void read(const WeightInfo& info, std::int64_t first, std::int64_t count,
            std::span<std::byte> destination) const override {
    const auto found = plans_.find(info.name);
    if (found == plans_.end()) throw InputError(description_ + ": the model has no weight \"" + info.name + "\"");
    check_read_range(info, first, count, destination);
    const WeightPlan& plan = found->second;
    generate(plan.law, plan.key, first, count, config_.dtype, destination.data());
    for (const Patch& patch : plan.patches) apply(patch, plan.columns, first, count, destination);
  }

 private:
  static std::string loud_list() {
    return joined(kLoudScores, ", ", [](double score) { return std::to_string(static_cast<std::int64_t>(score)); });
  }

  void note_plants(std::uint64_t seed) {
    notes_.push_back("massive residual channels " + joined(massive_channels(config_, seed), ", ") + " from layer " +
                     std::to_string(massive_layer(config_)) + " on, in some of the tokens");
    notes_.push_back("large k biases in the first and the last layer; token ids " +
                     std::to_string(std::max<std::int64_t>(0, config_.vocab - kNumSpecialTokens)) + " to " +
                     std::to_string(config_.vocab - 1) + " have embedding rows of tiny norm");
  }

  // Generates the part of the patch that lies in elements [first, first + count), row by row.
  void apply(const Patch& patch, std::int64_t columns, std::int64_t first, std::int64_t count,
             std::span<std::byte> destination) const {
    if (count == 0) return;
    const std::int64_t width = patch.column_end - patch.column_begin;
    const std::int64_t row_end = std::min(patch.row_end, (first + count - 1) / columns + 1);
    for (std::int64_t r = std::max(patch.row_begin, first / columns); r < row_end; ++r) {
      const std::int64_t begin = std::max(first, r * columns + patch.column_begin);
      const std::int64_t end = std::min(first + count, r * columns + patch.column_end);
      if (begin >= end) continue;
      const std::int64_t element = (r - patch.row_begin) * width + (begin - r * columns - patch.column_begin);
      generate(patch.law, patch.key, element, end - begin, config_.dtype,
               destination.data() + static_cast<std::size_t>(begin - first) * size_of(config_.dtype));
    }
  }

  std::unordered_map<std::string, WeightPlan> plans_;
};

}  // namespace

SyntheticSpec parse_synthetic_spec(std::string_view text) {
  SyntheticSpec spec;
  const std::size_t comma = text.find(',');
  const SyntheticShape& shape = find_shape(text.substr(0, comma));
  spec.shape = shape.name;
  std::vector<std::string_view> given;
  std::size_t at = comma;
  while (at != std::string_view::npos) {
    const std::size_t next = text.find(',', at + 1);
    const std::string_view option = text.substr(at + 1, next == std::string_view::npos ? next : next - at - 1);
    const std::size_t equals = option.find('=');
    if (equals == std::string_view::npos) {
      throw InputError("synthetic model: \"" + formats::printable(option) +
                       "\" is no option; write option=value, as in seed=1");
    }
    const std::string_view key = option.substr(0, equals);
    if (std::ranges::find(given, key) != given.end()) {
      throw InputError("synthetic model: option \"" + formats::printable(key) + "\" is given twice");
    }
    given.push_back(key);
    apply_option(spec, shape, key, option.substr(equals + 1));
    at = next;
  }
  try {
    synthetic_config(spec);
  } catch (const std::invalid_argument& error) {
    throw InputError(std::string("synthetic model: ") + error.what());
  }
  return spec;
}

std::string to_string(const SyntheticSpec& spec) {
  std::string text = std::string(kPrefix) + spec.shape + ",seed=" + std::to_string(spec.seed) +
                     ",profile=" + std::string(name(spec.profile));
  if (spec.dtype != DType::kBF16) text += ",dtype=" + std::string(name(spec.dtype));
  for (const SizeOption& size : kSizes) {
    if (spec.*size.value != 0) text += ',' + std::string(size.name) + '=' + std::to_string(spec.*size.value);
  }
  if (spec.tied) text += std::string(",tied=") + (*spec.tied ? "true" : "false");
  if (spec.eps) text += ",eps=" + shortest(*spec.eps);
  if (spec.theta) text += ",theta=" + shortest(*spec.theta);
  return text;
}

ModelConfig synthetic_config(const SyntheticSpec& spec) {
  const SyntheticShape& shape = find_shape(spec.shape);
  ModelConfig config;
  for (const SizeOption& size : kSizes) {
    config.*size.of_model = spec.*size.value == 0 ? shape.*size.of_shape : spec.*size.value;
  }
  config.rms_norm_eps = spec.eps.value_or(kUsualEps);
  config.rope_theta = spec.theta.value_or(kUsualTheta);
  config.tie_word_embeddings = spec.tied.value_or(shape.tied);
  config.max_position_embeddings = 32768;
  config.dtype = spec.dtype;
  config.validate();
  return config;
}

std::unique_ptr<WeightSource> make_synthetic(const SyntheticSpec& spec) {
  return std::make_unique<SyntheticSource>(synthetic_config(spec), spec.seed, spec.profile, to_string(spec));
}

std::unique_ptr<WeightSource> make_synthetic(const ModelConfig& config, std::uint64_t seed, Profile profile) {
  config.validate();
  return std::make_unique<SyntheticSource>(config, seed, profile,
                                           "synthetic weights in the shape " + to_string(config));
}

}  // namespace qdiff::model
