#include "harness/model/describe.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <vector>

#include "harness/formats/suggest.h"
#include "harness/model/noted_source.h"

namespace qdiff::model {
namespace {

std::string grouped(std::uint64_t number) {
  const std::string digits = std::to_string(number);
  std::string text;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

std::string general(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.10g", value);
  return text;
}

constexpr std::size_t kLabelWidth = 34;

void line(std::string& out, const std::string& label, const std::string& value) {
  out += label + std::string(label.size() < kLabelWidth ? kLabelWidth - label.size() : 1, ' ') + value + '\n';
}

// Weights that differ in their layer only.
struct Kind {
  std::string name;  // "model.layers.*.mlp.up_proj.weight"
  Shape shape;
  DType dtype = DType::kBF16;
  std::size_t count = 0;
};

std::string without_layer(const std::string& name) {
  constexpr std::string_view kLayers = "model.layers.";
  if (!name.starts_with(kLayers)) return name;
  return std::string(kLayers) + '*' + name.substr(name.find('.', kLayers.size()));
}

std::vector<Kind> kinds_of(const std::vector<WeightInfo>& weights) {
  std::vector<Kind> kinds;
  for (const WeightInfo& info : weights) {
    const std::string name = without_layer(info.name);
    const auto same = std::find_if(kinds.begin(), kinds.end(), [&](const Kind& kind) {
      return kind.name == name && kind.dtype == info.dtype && kind.shape == info.shape;
    });
    if (same == kinds.end()) {
      kinds.push_back({name, info.shape, info.dtype, 1});
    } else {
      ++same->count;
    }
  }
  return kinds;
}

void warn_of_unusual_values(std::string& out, const ModelConfig& c) {
  const auto warn = [&](const std::string& text) { out += "warning: " + text + '\n'; };
  if (c.rms_norm_eps != 1e-6) {
    warn("rms_norm_eps is " + general(c.rms_norm_eps) + "; most Qwen2.5 checkpoints have 1e-06");
  }
  if (c.rope_theta != 1e6) {
    warn("rope theta is " + general(c.rope_theta) + "; Qwen2.5 has 1e+06, some models made from it do not");
  }
  if (c.head_dim != 64 && c.head_dim != 128) {
    warn("the head dimension is " + std::to_string(c.head_dim) + "; Qwen2.5 has 64 or 128");
  }
  if (c.q_width() != c.hidden) {
    warn("heads times head dimension is " + std::to_string(c.q_width()) + ", not the hidden size; in Qwen2.5 it is");
  }
}

void scan(std::string& out, const WeightSource& source) {
  constexpr std::int64_t kPiece = std::int64_t{1} << 20;
  std::vector<std::byte> bytes;
  std::uint64_t bad_weights = 0;
  for (const WeightInfo& info : source.weights()) {
    std::uint64_t nans = 0, infinities = 0;
    const std::int64_t size = num_elements(info.shape);
    for (std::int64_t first = 0; first < size; first += kPiece) {
      const std::int64_t count = std::min(kPiece, size - first);
      bytes.resize(static_cast<std::size_t>(count) * size_of(info.dtype));
      source.read(info, first, count, bytes);
      for (std::int64_t i = 0; i < count; ++i) {
        const double value = load_element(bytes.data(), info.dtype, static_cast<std::size_t>(i));
        nans += std::isnan(value) ? 1 : 0;
        infinities += std::isinf(value) ? 1 : 0;
      }
    }
    if (nans + infinities == 0) continue;
    ++bad_weights;
    out += "warning: " + info.name + " holds " + grouped(nans) + " NaN and " + grouped(infinities) +
           " infinite values of " + grouped(static_cast<std::uint64_t>(size)) + '\n';
  }
  if (bad_weights == 0) out += "values: all finite\n";
}

}  // namespace

std::string describe(const WeightSource& source, const DescribeOptions& options) {
  const ModelConfig& c = source.config();
  const auto* noted = dynamic_cast<const NotedSource*>(&source);
  std::string out;
  line(out, "model", formats::printable(source.description(), 400));
  if (noted != nullptr) line(out, "storage", noted->storage());
  line(out, "architecture", c.architecture);
  line(out, "hidden size (D)", std::to_string(c.hidden));
  line(out, "layers (L)", std::to_string(c.num_layers));
  line(out, "query heads (H)", std::to_string(c.num_q_heads));
  line(out, "key/value heads (K)",
       std::to_string(c.num_kv_heads) + ", " + std::to_string(c.group_size()) +
           (c.group_size() == 1 ? " query head" : " query heads") + " each");
  line(out, "head dimension (d)", std::to_string(c.head_dim));
  line(out, "intermediate size (I)", std::to_string(c.intermediate));
  line(out, "vocabulary (V)", std::to_string(c.vocab));
  line(out, "rms_norm_eps", general(c.rms_norm_eps));
  line(out, "rope theta", general(c.rope_theta));
  line(out, "max positions", std::to_string(c.max_position_embeddings));
  line(out, "embeddings", c.tie_word_embeddings ? "tied: lm_head is the embedding" : "untied");
  line(out, "dtype", std::string(name(c.dtype)));

  std::uint64_t parameters = 0, bytes = 0;
  for (const WeightInfo& info : source.weights()) {
    const auto size = static_cast<std::uint64_t>(num_elements(info.shape));
    parameters += size;
    bytes += size * size_of(info.dtype);
  }
  line(out, "parameters", grouped(parameters) + " in " + std::to_string(source.weights().size()) + " weights");
  line(out, "bytes", grouped(bytes));
  out += "weights:\n";
  for (const Kind& kind : kinds_of(source.weights())) {
    line(out, "  " + std::to_string(kind.count) + " x " + to_string(kind.shape) + ' ' + std::string(name(kind.dtype)),
         "  " + kind.name);
  }
  if (noted != nullptr) {
    for (const std::string& note : noted->notes()) out += "note: " + note + '\n';
  }
  warn_of_unusual_values(out, c);
  if (options.scan_values) scan(out, source);
  return out;
}

}  // namespace qdiff::model
