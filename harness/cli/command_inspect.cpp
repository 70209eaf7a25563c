#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <span>

#include "harness/cases/case.h"
#include "harness/cli/case_model.h"
#include "harness/cli/commands.h"
#include "harness/cli/text.h"
#include "harness/contract/number_text.h"
#include "harness/contract/wording.h"
#include "harness/formats/input_file.h"
#include "harness/model/describe.h"
#include "harness/model/gguf_model.h"
#include "harness/model/model.h"
#include "harness/trace/trace_reader.h"
#include "harness/trace/unknown_tensors.h"

namespace qdiff::cli {
namespace {

namespace fs = std::filesystem;

// Everything that is printed here comes from files, so every line goes through one_line().
void print(const std::string& text) { std::printf("%s\n", one_line(text).c_str()); }
void print(const char* label, const std::string& text) { std::printf("  %-12s %s\n", label, one_line(text).c_str()); }

std::string step_text(const Step& step) {
  return std::string(name(step.phase)) + ", " + std::to_string(step.batch()) + " x " +
         counted(step.num_tokens(), "token") + " after " + std::to_string(step.past_length);
}

void inspect_model(const std::string& spec) { std::fputs(model::describe(*model::open_model(spec)).c_str(), stdout); }

void inspect_case(const cases::Case& test_case) {
  if (!test_case.model.empty()) open_model_for(test_case, {});  // there must be such a model
  print("case " + test_case.id + ": " + test_case.title);
  print("hypothesis", test_case.hypothesis.value_or("none: an end-to-end case"));
  print("stresses", test_case.stresses);
  print("model",
        test_case.model.empty() ? "none: --model names it" : test_case.model + " (unless --model names another)");
  if (!test_case.layers.empty()) print("layers", joined(test_case.layers, ", ") + " of it alone");
  print("batch", counted(test_case.batch, "row") + ", left padding " + joined(test_case.left_padding, ", "));
  print("cache", std::to_string(test_case.capacity) + " slots, " + std::to_string(test_case.length()) + " used");
  print("seed", std::to_string(test_case.seed));
  for (std::size_t i = 0; i < test_case.steps.size(); ++i) {
    const cases::CaseStep& step = test_case.steps[i];
    print(("step " + std::to_string(i)).c_str(), std::string(name(step.phase)) + ", " +
                                                     counted(step.num_tokens, "token") + " a row" +
                                                     (step.tokens.empty() ? " from the seed" : ", given") +
                                                     (step.positions.empty() ? "" : ", positions given"));
  }
}

std::string precision_text(const trace::Manifest& manifest) {
  const Precision& precision = manifest.precision;
  std::string text = "weights " + std::string(name(precision.weights)) + ", activations " +
                     std::string(name(precision.activations)) + ", accumulate " +
                     std::string(name(precision.accumulate));
  for (const auto& [point, dtype] : precision.points) {
    text += ", " + std::string(name(point)) + ' ' + std::string(name(dtype));
  }
  for (const auto& [op, dtype] : precision.taken_as) {
    text += ", " + std::string(row(op).name) + " taken as " + std::string(name(dtype));
  }
  if (precision.quantized != QuantizedInputs::kNone) {
    text += ", inputs of GEMMs quantized as " + std::string(name(precision.quantized));
  }
  if (precision.cache != QuantizedCache::kNone) text += ", kv_cache " + std::string(name(precision.cache));
  return text;
}

std::string config_text(const trace::DeclaredConfig& config) {
  std::string text;
  const auto add = [&](const char* key, const std::optional<std::int64_t>& value) {
    text += std::string(text.empty() ? "" : " ") + key + '=' + (value ? std::to_string(*value) : "?");
  };
  const auto add_number = [&](const char* key, const std::optional<double>& value) {
    text += std::string(" ") + key + '=' + (value ? digits(*value, 6) : "?");
  };
  add("D", config.hidden);
  add("L", config.num_layers);
  add("H", config.num_q_heads);
  add("K", config.num_kv_heads);
  add("d", config.head_dim);
  add("I", config.intermediate);
  add("V", config.vocab);
  add_number("eps", config.rms_norm_eps);
  add_number("theta", config.rope_theta);
  return std::string(name(config.architecture)) + ' ' + text;
}

void inspect_trace(const fs::path& path) {
  const auto trace = trace::read_trace(path);
  const trace::Manifest& manifest = trace->manifest();
  trace::check_shapes(*trace, manifest.config);
  std::vector<std::int64_t> tensors(manifest.steps.size());
  for (const TensorKey& key : trace->keys()) ++tensors[static_cast<std::size_t>(key.step)];
  print("trace " + path.string());
  print("engine", manifest.engine.name + ' ' + manifest.engine.version + " on " + manifest.engine.device);
  print("compute", precision_text(manifest));
  print("config", config_text(manifest.config));
  print("padding", joined(manifest.steps.front().left_padding, ", "));
  for (std::size_t i = 0; i < manifest.steps.size(); ++i) {
    print(("step " + std::to_string(i)).c_str(),
          step_text(manifest.steps[i]) + ", " + counted(tensors[i], "tensor") + " in " + manifest.files[i]);
  }
  print("in all", counted(std::ssize(trace->keys()), "tensor") + ", " + bytes_text(trace->bytes()));
  for (const std::string& note : manifest.notes) print("note", note);
  for (const std::string& note : trace::notes_on_unknown(*trace)) print("note", note);
}

void inspect_directory(const std::string& path) {
  if (formats::path_exists(fs::path(path) / trace::kManifestName)) return inspect_trace(path);
  if (formats::path_exists(fs::path(path) / "config.json")) return inspect_model(path);
  throw InputError(path + ": neither a trace (no manifest.json) nor a model (no config.json) is in that folder");
}

// One of the files that a folder consists of, which say little without the others.
bool is_part_of_a_folder(const fs::path& path) {
  const std::string name = path.filename().string();
  return path.extension() == ".safetensors" || name == trace::kManifestName || name == "config.json";
}

// A file that is none is not read as a case, of which the first wrong sign would be all that is said.
bool may_be_a_case(const std::string& path) {
  if (path.ends_with(".json") || !formats::path_exists(path)) return true;  // or the name of one that is built in
  const formats::InputFile file(path);
  std::string start(std::min<std::uint64_t>(file.size(), 4096), '\0');
  file.read(0, std::as_writable_bytes(std::span(start)));
  return start.find("\"qdiff-case\"") != std::string::npos;
}

}  // namespace

ExitStatus inspect_command(const InspectArguments& arguments) {
  const std::string& path = arguments.path;
  std::error_code ignored;
  if (path.starts_with("synthetic:") || model::is_gguf(path)) {
    inspect_model(path);
  } else if (fs::is_directory(path, ignored)) {
    inspect_directory(path);
  } else if (is_part_of_a_folder(path)) {
    throw InputError(path + ": give the folder that holds this file, with its config.json or manifest.json");
  } else if (!may_be_a_case(path)) {
    throw InputError(path +
                     ": nothing that can be described: that are models (a folder with config.json, or a .gguf file), "
                     "traces (a folder with manifest.json) and cases (JSON with \"format\": \"qdiff-case\")");
  } else {
    inspect_case(cases::load_case(path));
  }
  return ExitStatus::kMatch;
}

}  // namespace qdiff::cli
