#include "harness/trace/manifest.h"

#include <algorithm>
#include <cstdio>
#include <limits>
#include <set>
#include <span>
#include <stdexcept>

#include "harness/contract/error.h"
#include "harness/formats/input_file.h"
#include "harness/formats/strict_json.h"
#include "harness/formats/suggest.h"

namespace qdiff::trace {
namespace {

using formats::Json;

constexpr std::int64_t kMaxInt = std::numeric_limits<std::int32_t>::max();
constexpr const char* kCacheScalesKey = "kv_cache_scales";
constexpr std::size_t kMaxRepeats = 1000;
constexpr std::int64_t kMaxSlots = std::int64_t{1} << 24;  // of one row, over all steps
constexpr std::size_t kMaxRows = 65536;                    // of a batch

// ---- Reading: engine, compute, model -------------------------------------------------------------------------------

[[noreturn]] void refuse(const std::string& where, const std::string& what) { throw InputError(where + ": " + what); }

const Json& member(const Json& object, const char* key, const std::string& where) {
  const auto found = object.find(key);
  if (found == object.end()) refuse(where, '"' + std::string(key) + "\" is missing; a trace of this version needs it");
  return *found;
}

const Json& array_of(const Json& value, const std::string& what, std::size_t smallest, std::size_t largest,
                     const std::string& where) {
  if (!value.is_array() || value.size() < smallest || value.size() > largest) {
    refuse(where, '"' + what + "\" is " +
                      (value.is_array() ? "an array of " + std::to_string(value.size()) : formats::show(value)) +
                      ", but must be an array of " + std::to_string(smallest) +
                      (smallest == largest ? "" : " to " + std::to_string(largest)));
  }
  return value;
}

// `also`: names of what is no type and may stand there.
DType dtype_of(const Json& value, const std::string& what, const std::string& where,
               std::span<const std::string_view> also = {}) {
  const auto dtype = value.is_string() ? parse_dtype(value.get_ref<const std::string&>()) : std::nullopt;
  if (!dtype) {
    std::vector<std::string> names = {"float32", "float16", "bfloat16", "float64"};
    names.insert(names.end(), also.begin(), also.end());
    std::string list;
    for (const std::string& each : names) {
      list += (list.empty() ? "\"" : &each == &names.back() ? " or \"" : ", \"") + each + '"';
    }
    refuse(where, '"' + what + "\" is " + formats::show(value) + ", but must be " + list +
                      (value.is_string() ? formats::suggestion(value.get_ref<const std::string&>(), names) : ""));
  }
  return *dtype;
}

EngineInfo engine_of(const Json& engine, const std::string& where) {
  return {.name = formats::require_string(engine, "name", where),
          .version = formats::optional_string(engine, "version", where).value_or(""),
          .device = formats::optional_string(engine, "device", where).value_or("")};
}

// A tensor of the table without its layer: "self_attn.o_proj", "model.norm".
std::optional<Op> parse_operation(std::string_view text) {
  for (const OperationRow& r : kOperationTable) {
    if (r.name == text) return r.op;
  }
  return std::nullopt;
}

std::vector<std::string> known_points() {
  std::vector<std::string> names(kRoundingPointNames.begin(), kRoundingPointNames.end());
  names.emplace_back(kQuantizedInputsPoint);
  for (const OperationRow& r : kOperationTable) names.emplace_back(r.name);
  return names;
}

QuantizedInputs quantized_inputs_of(const Json& value, const std::string& key, const std::string& where) {
  for (QuantizedInputs quantized : {QuantizedInputs::kQ8_0, QuantizedInputs::kQ8_K, QuantizedInputs::kGgml}) {
    if (value == name(quantized)) return quantized;
  }
  refuse(where, '"' + key + "\" is " + formats::show(value) + ", but must be \"q8_0\", \"q8_k\" or \"ggml\"");
}

std::optional<QuantizedCache> quantized_cache_of(const Json& value) {
  for (QuantizedCache cache : {QuantizedCache::kInt8, QuantizedCache::kE4M3, QuantizedCache::kE5M2}) {
    if (value == name(cache)) return cache;
  }
  return std::nullopt;
}

void read_points(const Json& points, const std::string& where, Manifest& manifest) {
  for (const auto& [key, value] : points.items()) {
    const auto quantized = key == name(RoundingPoint::kKvCache) ? quantized_cache_of(value) : std::nullopt;
    if (quantized) {
      manifest.precision.cache = *quantized;
    } else if (const auto point = parse_rounding_point(key)) {
      const std::size_t not_none = point == RoundingPoint::kKvCache ? 1 : kQuantizedCacheNames.size();
      manifest.precision.points[*point] =
          dtype_of(value, key, where, std::span(kQuantizedCacheNames).subspan(not_none));
    } else if (const auto op = parse_operation(key)) {
      manifest.precision.taken_as[*op] = dtype_of(value, key, where);
    } else if (key == kQuantizedInputsPoint) {
      manifest.precision.quantized = quantized_inputs_of(value, key, where);
    } else {
      manifest.notes.push_back("compute.points names \"" + formats::printable(key) +
                               "\", which is no rounding point that this version knows" +
                               formats::suggestion(key, known_points()));
    }
  }
}

// Of each cache: a number, or one for each head.
void read_cache_scales(const Json& all, const std::string& where, Manifest& manifest) {
  if (float8_of(manifest.precision.cache) == nullptr) {
    refuse(where, "is for a cache of a float8 type, but \"points\" declares none: give it \"kv_cache\": \"" +
                      std::string(name(QuantizedCache::kE4M3)) + "\" or \"" + std::string(name(QuantizedCache::kE5M2)) +
                      '"');
  }
  for (const auto& [key, value] : all.items()) {
    const std::optional<TensorId> id = parse_tensor_name(key);
    if (!id || arithmetic_of(id->op) != Arithmetic::kAppend) {
      refuse(where, '"' + formats::printable(key) + "\" is no cache; give \"" + tensor_name({Op::kKCache, 0}) +
                        "\" or that of another layer, or of values");
    }
    std::vector<double>& scales = manifest.precision.cache_scales[manifest.precision.cache][*id];
    const Json list = value.is_array() ? value : Json::array({value});
    for (const Json& scale : array_of(list, key, 1, kMaxRows, where)) {
      constexpr double kLeast = std::numeric_limits<float>::denorm_min(), kMost = std::numeric_limits<float>::max();
      if (!scale.is_number() || !(scale.get<double>() >= kLeast) || !(scale.get<double>() <= kMost)) {
        refuse(where, '"' + key + "\" holds " + formats::show(scale) + ", but a scale must be a positive number");
      }
      scales.push_back(scale.get<double>());
    }
  }
}

void read_compute(const Json& compute, const std::string& where, Manifest& manifest) {
  manifest.precision.weights = dtype_of(member(compute, "weights", where), "weights", where);
  manifest.precision.activations = dtype_of(member(compute, "activations", where), "activations", where);
  manifest.precision.accumulate = dtype_of(member(compute, "accumulate", where), "accumulate", where);
  if (compute.contains("points")) {
    read_points(formats::require_object(compute, "points", where), where + ".points", manifest);
  }
  if (compute.contains(kCacheScalesKey)) {
    read_cache_scales(formats::require_object(compute, kCacheScalesKey, where), where + '.' + kCacheScalesKey,
                      manifest);
  }
}

// transformers writes null for a key that has no value. It also writes rope_theta and torch_dtype in version 4 where
// version 5 has rope_parameters.rope_theta and dtype.
Json without_nulls(Json object) {
  for (auto entry = object.begin(); entry != object.end();) {
    entry = entry->is_null() ? object.erase(entry) : std::next(entry);
  }
  return object;
}

DeclaredConfig config_of(const Json& raw, const std::string& where) {
  const Json config = without_nulls(raw);
  constexpr double kSmallest = std::numeric_limits<double>::denorm_min(), kLargest = std::numeric_limits<double>::max();
  DeclaredConfig declared;
  for (const DeclaredNumber& number : kDeclaredNumbers) {
    declared.*number.declared = formats::optional_int(config, number.key, 1, kMaxInt, where);
  }
  declared.rms_norm_eps = formats::optional_number(config, "rms_norm_eps", 0.0, kLargest, where);
  if (config.contains("rope_parameters")) {
    const Json rope = without_nulls(formats::require_object(config, "rope_parameters", where));
    declared.rope_theta = formats::optional_number(rope, "rope_theta", kSmallest, kLargest, where + ".rope_parameters");
  }
  if (!declared.rope_theta) {
    declared.rope_theta = formats::optional_number(config, "rope_theta", kSmallest, kLargest, where);
  }
  declared.tie_word_embeddings = formats::optional_bool(config, "tie_word_embeddings", where);
  auto dtype = formats::optional_string(config, "dtype", where);
  if (!dtype) dtype = formats::optional_string(config, "torch_dtype", where);
  if (dtype) declared.dtype = parse_dtype(*dtype);  // one of another kind, as "int8", is not ours to judge
  if (!declared.head_dim && declared.hidden && declared.num_q_heads && *declared.hidden % *declared.num_q_heads == 0) {
    declared.head_dim = *declared.hidden / *declared.num_q_heads;  // upstream's own default for an absent head_dim
  }
  return declared;
}

void read_model(const Json& model, const std::string& where, Manifest& manifest) {
  const std::string text = formats::require_string(model, "architecture", where);
  const std::optional<Architecture> architecture = parse_architecture(text);
  if (!architecture) {
    refuse(where, "\"architecture\" is \"" + formats::printable(text) + "\", but qdiff judges " +
                      known_architectures() + " alone");
  }
  manifest.config = config_of(formats::require_object(model, "config", where), where + ".config");
  manifest.config.architecture = *architecture;
  if (!model.contains("weights_sha256")) return;
  const Json& digests = formats::require_object(model, "weights_sha256", where);
  for (const auto& [tensor, digest] : digests.items()) {
    const std::string hex = digest.is_string() ? digest.get<std::string>() : std::string();
    if (hex.size() != 64 || hex.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos) {
      refuse(where + ".weights_sha256", '"' + formats::printable(tensor) + "\" is " + formats::show(digest) +
                                            ", but must be 64 hexadecimal digits");
    }
    manifest.weights_sha256[tensor] = hex;
  }
}

// ---- Reading: steps ------------------------------------------------------------------------------------------------

// A manifest comes from anywhere, so the name must stay a name on every system that may unpack the trace.
std::string file_of(const Json& step, const std::string& where) {
  const std::string file = formats::require_string(step, "file", where);
  const bool has_control = std::ranges::any_of(file, [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return byte < 0x20 || byte == 0x7F;
  });
  if (file.empty() || file.size() > kMaxFileNameBytes || file.find_first_of("/\\:") != std::string::npos ||
      has_control || file.front() == '.' || file.back() == '.' || file.back() == ' ' || file == kManifestName) {
    refuse(where, "\"file\" is \"" + formats::printable(file) +
                      "\", but must be the plain name of a file in the trace's own folder, as "
                      "\"step-0000.safetensors\"");
  }
  return file;
}

template <typename T>
std::vector<std::vector<T>> rows_of(const Json& step, const char* key, std::int64_t smallest, std::int64_t largest,
                                    const std::string& where) {
  std::vector<std::vector<T>> rows;
  for (const Json& row : array_of(member(step, key, where), key, 1, kMaxRows, where)) {
    const std::string what = key + ('[' + std::to_string(rows.size())) + ']';
    std::vector<T>& values = rows.emplace_back();
    for (const Json& value : array_of(row, what, 1, kMaxSlots, where)) {
      const std::string place = what + '[' + std::to_string(values.size()) + ']';
      values.push_back(static_cast<T>(formats::as_int(value, place, smallest, largest, where)));
    }
    if (values.size() != rows.front().size()) {
      refuse(where, '"' + what + "\" differs in length from the first row; pad rows on the left");
    }
  }
  return rows;
}

Step step_of(const Json& fields, std::size_t index, const DeclaredConfig& config, const std::string& where) {
  Step step;
  const auto expected = static_cast<std::int64_t>(index);  // steps are listed in order
  step.index = static_cast<int>(formats::require_int(fields, "index", expected, expected, where));
  const std::string phase = formats::require_string(fields, "phase", where);
  if (phase != "prefill" && phase != "decode") {
    refuse(where, "\"phase\" is \"" + formats::printable(phase) + "\", but must be \"prefill\" or \"decode\"");
  }
  step.phase = phase == "prefill" ? Phase::kPrefill : Phase::kDecode;
  step.tokens = rows_of<std::int32_t>(fields, "tokens", 0, config.vocab.value_or(kMaxInt) - 1, where);
  step.past_length = formats::require_int(fields, "past_length", 0, kMaxSlots, where);
  return step;
}

// May stand in any step and holds for all.
std::vector<std::int64_t> padding_of(const Json& steps, std::size_t batch, const std::string& source) {
  std::optional<std::vector<std::int64_t>> padding;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const std::string where = source + ": steps[" + std::to_string(i) + ']';
    if (!steps[i].contains("left_padding")) continue;
    std::vector<std::int64_t> values;
    for (const Json& value : array_of(steps[i].at("left_padding"), "left_padding", batch, batch, where)) {
      const std::string what = "left_padding[" + std::to_string(values.size()) + ']';
      values.push_back(formats::as_int(value, what, 0, kMaxSlots, where));
    }
    if (padding && *padding != values) refuse(where, "\"left_padding\" differs from that of an earlier step");
    padding = values;
  }
  return padding.value_or(std::vector<std::int64_t>(batch, 0));
}

// What stands in "positions"; those of pads count for nothing and become 0. Empty: nothing is said.
std::vector<std::vector<std::int64_t>> positions_of(const Json& fields, const DeclaredConfig& config,
                                                    const std::string& where, const Step& step) {
  if (!fields.contains("positions")) return {};
  auto rows = rows_of<std::int64_t>(fields, "positions", std::numeric_limits<std::int32_t>::min(), kMaxInt, where);
  if (rows.size() != step.tokens.size() || rows.front().size() != step.tokens.front().size()) {
    refuse(where, "\"positions\" has other rows and columns than \"tokens\"");
  }
  const std::int64_t end = config.max_position_embeddings.value_or(kMaxInt);
  for (std::size_t b = 0; b < rows.size(); ++b) {
    for (std::size_t t = 0; t < rows[b].size(); ++t) {
      if (step.is_pad(static_cast<std::int64_t>(b), static_cast<std::int64_t>(t))) {
        rows[b][t] = 0;
        continue;
      }
      if (rows[b][t] >= 0 && rows[b][t] < end) continue;
      const std::string place = "positions[" + std::to_string(b) + "][" + std::to_string(t) + ']';
      refuse(where,
             '"' + place + "\" is " + std::to_string(rows[b][t]) + ", but must be in [0, " + std::to_string(end) + ')');
    }
  }
  return rows;
}

// How the positions of all steps lie to those that follow from their slots and the padding.
struct PositionShift {
  std::optional<std::int64_t> first = {};  // of the first token
  bool constant = true;                    // the same for all tokens
  std::string example = {};                // the first that differs

  bool any() const { return !example.empty(); }

  void add(const Step& step, const std::vector<std::vector<std::int64_t>>& rows) {
    for (std::size_t b = 0; b < rows.size(); ++b) {
      for (std::size_t t = 0; t < rows[b].size(); ++t) {
        if (step.is_pad(static_cast<std::int64_t>(b), static_cast<std::int64_t>(t))) continue;
        const std::int64_t shift = rows[b][t] - step.positions[b][t];
        if (!first) first = shift;
        constant &= shift == *first;
        if (shift == 0 || any()) continue;
        example = "step " + std::to_string(step.index) + " asks for positions[" + std::to_string(b) + "][" +
                  std::to_string(t) + "] = " + std::to_string(rows[b][t]) + ", where its slot and the padding give " +
                  std::to_string(step.positions[b][t]);
      }
    }
  }
};

// Positions are judged against what follows from slots and padding, for a manifest may repeat those that its engine got
// wrong; unless it says that the caller chose them.
void read_positions(const Json& document, const Json& steps, const std::string& source, Manifest& manifest) {
  if (document.contains("positions_are")) {
    const std::string are = formats::require_string(document, "positions_are", source);
    if (are != "requested") {
      refuse(source, "\"positions_are\" is \"" + formats::printable(are) +
                         "\", but must be \"requested\", or left out where nobody chose them");
    }
    manifest.positions_requested = true;
  }
  PositionShift shift;
  for (std::size_t i = 0; i < manifest.steps.size(); ++i) {
    Step& step = manifest.steps[i];
    set_default_positions(step);
    auto rows = positions_of(steps[i], manifest.config, source + ": steps[" + std::to_string(i) + ']', step);
    shift.add(step, rows.empty() ? step.positions : rows);
    if (manifest.positions_requested && !rows.empty()) step.positions = std::move(rows);
  }
  if (!shift.any()) return;
  if (!manifest.positions_requested) {
    manifest.notes.push_back(shift.example +
                             "; if the caller chose it, give the manifest \"positions_are\": "
                             "\"requested\"");
    manifest.conditions.emplace_back(
        "judged with the positions that slots and padding give, which are not those of the manifest");
    return;
  }
  manifest.notes.push_back(shift.example);
  manifest.conditions.push_back("judged with the positions that the manifest requests, which are " +
                                (shift.constant ? "all " + std::to_string(std::abs(*shift.first)) +
                                                      (*shift.first > 0 ? " above" : " below") +
                                                      " those that slots and padding give"
                                                : std::string("not those that slots and padding give")));
}

void read_steps(const Json& document, const std::string& source, Manifest& manifest) {
  const Json& steps = array_of(member(document, "steps", source), "steps", 1, kMaxSteps, source);
  const auto where = [&](std::size_t i) { return source + ": steps[" + std::to_string(i) + ']'; };
  std::set<std::string> files;
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if (!steps[i].is_object()) refuse(where(i), "is " + formats::show(steps[i]) + ", but must be an object");
    manifest.steps.push_back(step_of(steps[i], i, manifest.config, where(i)));
    manifest.files.push_back(file_of(steps[i], where(i)));
    if (!files.insert(manifest.files.back()).second) {
      refuse(where(i), "\"file\" is \"" + manifest.files.back() + "\", which an earlier step has already");
    }
  }
  const std::vector<std::int64_t> padding = padding_of(steps, manifest.steps.front().tokens.size(), source);
  for (std::size_t i = 0; i < steps.size(); ++i) {
    Step& step = manifest.steps[i];
    if (step.tokens.size() != padding.size()) {
      refuse(where(i), "\"tokens\" has " + std::to_string(step.tokens.size()) + " rows, but step 0 has " +
                           std::to_string(padding.size()));
    }
    step.left_padding = padding;
  }
  read_positions(document, steps, source, manifest);
  try {
    validate_steps(manifest.steps, manifest.config.vocab.value_or(kMaxInt),
                   manifest.config.max_position_embeddings.value_or(kMaxInt));
  } catch (const std::invalid_argument& error) {
    refuse(source, error.what());
  }
}

// ---- Writing -------------------------------------------------------------------------------------------------------

Json compute_json(const Manifest& manifest) {
  Json compute = {{"weights", name(manifest.precision.weights)},
                  {"activations", name(manifest.precision.activations)},
                  {"accumulate", name(manifest.precision.accumulate)}};
  const std::map<std::string, std::string> points = declared_points(manifest.precision);
  if (!points.empty()) compute["points"] = points;
  const auto scales = manifest.precision.cache_scales.find(manifest.precision.cache);
  if (scales != manifest.precision.cache_scales.end()) {
    for (const auto& [id, of_heads] : scales->second) compute[kCacheScalesKey][tensor_name(id)] = of_heads;
  }
  return compute;
}

template <typename T>
void put(Json& object, const char* key, const std::optional<T>& value) {
  if (value) object[key] = *value;
}

Json config_json(const DeclaredConfig& config) {
  Json object = Json::object();
  object["model_type"] = name(config.architecture);
  for (const DeclaredNumber& number : kDeclaredNumbers) put(object, number.key, config.*number.declared);
  put(object, "rms_norm_eps", config.rms_norm_eps);
  put(object, "rope_theta", config.rope_theta);
  put(object, "tie_word_embeddings", config.tie_word_embeddings);
  if (config.dtype) object["dtype"] = name(*config.dtype);
  return object;
}

std::vector<std::string> repeats_of(const Json& value, const std::string& source) {
  std::vector<std::string> folders;
  for (const Json& folder : array_of(value, "repeats", 0, kMaxRepeats, source)) {
    if (!folder.is_string()) refuse(source, "\"repeats\" holds " + formats::show(folder) + ", but must hold folders");
    folders.push_back(folder.get<std::string>());
  }
  return folders;
}

}  // namespace

std::string step_file_name(std::size_t index) {
  char name[40];
  std::snprintf(name, sizeof name, "step-%04zu.safetensors", index);
  return name;
}

Manifest parse_manifest(std::string_view text, const std::string& source) {
  const Json document = formats::parse_json(text, source, kManifestLimits);
  formats::require_format(document, "qdiff-trace", 1, "", source);
  Manifest manifest;
  manifest.engine = engine_of(formats::require_object(document, "engine", source), source + ": engine");
  read_compute(formats::require_object(document, "compute", source), source + ": compute", manifest);
  read_model(formats::require_object(document, "model", source), source + ": model", manifest);
  read_steps(document, source, manifest);
  const std::int64_t used = manifest.steps.back().valid_length();
  manifest.cache_capacity = formats::optional_int(document, "cache_capacity", used, kMaxSlots, source);
  if (document.contains("repeats")) manifest.repeats = repeats_of(document.at("repeats"), source);
  return manifest;
}

Manifest read_manifest(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / kManifestName;
  const std::string folder = formats::printable(directory.string(), 400);
  if (!formats::path_exists(directory)) throw InputError(folder + ": there is no such folder");
  std::error_code ignored;
  if (!std::filesystem::is_directory(directory, ignored)) {
    throw InputError(folder + ": is a file; a trace is a folder, with manifest.json and the files of its steps");
  }
  if (!formats::path_exists(path)) {
    const bool is_model = formats::path_exists(directory / "config.json");
    throw InputError(folder + ": is no trace, for it holds no " + std::string(kManifestName) +
                     (is_model ? "; its config.json says that it is a model, for --model" : ""));
  }
  return parse_manifest(formats::read_text_file(path, kManifestLimits.bytes), formats::printable(path.string(), 400));
}

// One line for each part and each step: a person can read it, and a difference of two traces shows where they differ.
std::string to_json(const Manifest& manifest) {
  const Json engine = {
      {"name", manifest.engine.name}, {"version", manifest.engine.version}, {"device", manifest.engine.device}};
  Json model = {{"architecture", name(manifest.config.architecture)}, {"config", config_json(manifest.config)}};
  if (!manifest.weights_sha256.empty()) model["weights_sha256"] = manifest.weights_sha256;
  std::string text = "{\n\"format\": \"qdiff-trace\",\n\"version\": 1,\n\"engine\": " + engine.dump() +
                     ",\n\"compute\": " + compute_json(manifest).dump() + ",\n\"model\": " + model.dump();
  if (manifest.cache_capacity) text += ",\n\"cache_capacity\": " + std::to_string(*manifest.cache_capacity);
  if (!manifest.repeats.empty()) text += ",\n\"repeats\": " + Json(manifest.repeats).dump();
  if (manifest.positions_requested) text += ",\n\"positions_are\": \"requested\"";
  text += ",\n\"steps\": [\n";
  for (std::size_t i = 0; i < manifest.steps.size(); ++i) {
    const Step& step = manifest.steps[i];
    const Json line = {{"index", step.index},
                       {"phase", name(step.phase)},
                       {"file", manifest.files[i]},
                       {"tokens", step.tokens},
                       {"past_length", step.past_length},
                       {"positions", step.positions},
                       {"left_padding", step.left_padding}};
    text += line.dump() + (i + 1 < manifest.steps.size() ? ",\n" : "\n");
  }
  return text + "]\n}\n";
}

}  // namespace qdiff::trace
