#include "harness/diagnose/trace_checks.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <unordered_set>

#include "harness/contract/error.h"
#include "harness/formats/suggest.h"
#include "harness/trace/unknown_tensors.h"

namespace qdiff::diagnose {
namespace {

constexpr std::int64_t kBlockElements = std::int64_t{1} << 20;

std::string manifest_name(const trace::Trace& trace) {
  return formats::printable((trace.directory() / trace::kManifestName).string(), 400);
}

void check_config(const trace::Trace& trace, const ModelConfig& config, std::vector<std::string>& notes) {
  const trace::ConfigDifferences differences = trace::differences(trace.manifest().config, config);
  if (!differences.shapes.empty()) {
    throw InputError(manifest_name(trace) + ": the trace is of another model: " + differences.shapes.front() +
                     "; give --model the one that the engine ran");
  }
  for (const std::string& difference : differences.others) {
    notes.push_back(difference +
                    "; the model's counts, and an engine that took the other is found wrong by its tensors");
  }
}

// Scales of a cache: of a layer that there is, and one for each head or one for all.
void check_cache_scales(const trace::Trace& trace, const ModelConfig& config) {
  for (const auto& [cache, scales] : trace.manifest().precision.cache_scales) {
    for (const auto& [id, of_heads] : scales) {
      const auto count = static_cast<std::int64_t>(of_heads.size());
      if (id.layer < config.num_layers && (count == 1 || count == config.num_kv_heads)) continue;
      throw InputError(manifest_name(trace) + ": compute.kv_cache_scales gives " + tensor_name(id) + " " +
                       std::to_string(count) + " scales, but the model has layers 0 to " +
                       std::to_string(config.num_layers - 1) + ", each with " + std::to_string(config.num_kv_heads) +
                       " key/value heads; give one scale, or one for each of them");
    }
  }
}

// The rows of the model's embedding table as a tensor of `stored` would hold them.
class EmbeddingTable {
 public:
  EmbeddingTable(const WeightSource& model, DType rounded_to)
      : model_(model),
        info_(model.find(std::string(row(Op::kEmbedTokens).weights[0].name))),
        rounded_to_(rounded_to),
        width_(info_.shape[1]) {}

  std::int64_t size() const { return info_.shape[0]; }

  // Rows [first, first + count), rounded to the declared weights' type and then to `stored`.
  Tensor rows(std::int64_t first, std::int64_t count, DType stored) const {
    Tensor raw(info_.dtype, {count, width_});
    model_.read(info_, first * width_, count * width_, raw.bytes());
    const std::vector<double> values = to_doubles(raw.view());
    const Tensor weights = Tensor::rounded(rounded_to_, {count, width_}, values);
    return Tensor::rounded(stored, {count, width_}, to_doubles(weights.view()));
  }

  // What an engine finds for a token that takes the table for its transpose: every size()-th element.
  std::vector<double> transposed_row(std::int64_t token) const {
    std::vector<double> values;
    Tensor raw(info_.dtype, {1});
    for (std::int64_t c = 0; c < width_; ++c) {
      model_.read(info_, c * size() + token, 1, raw.bytes());
      values.push_back(round_to(rounded_to_, raw.at(0)));
    }
    return values;
  }

 private:
  const WeightSource& model_;
  const WeightInfo& info_;
  DType rounded_to_;
  std::int64_t width_;
};

std::string_view row_bytes(const void* data, std::int64_t row, std::size_t bytes) {
  return {static_cast<const char*>(data) + static_cast<std::size_t>(row) * bytes, bytes};
}

// Rows of one element type, as bytes, that are still looked for.
struct WantedRows {
  DType stored;
  std::size_t bytes;
  std::unordered_set<std::string> rows;
};

// Whether a row is a constant times the table's, each element rounded to its type: an engine that scales its embeddings
// has the right weights. Two roundings lie between the two, one of the table's row and one of the product.
bool is_multiple(const TensorView& view, std::int64_t row, const std::vector<double>& own) {
  double product = 0.0, square = 0.0;
  const auto actual = [&](std::size_t c) {
    return load_element(view.data, view.dtype, static_cast<std::size_t>(row) * own.size() + c);
  };
  for (std::size_t c = 0; c < own.size(); ++c) {
    product += actual(c) * own[c];
    square += own[c] * own[c];
  }
  const double factor = product / square;
  if (!std::isfinite(factor) || factor == 0.0) return false;
  for (std::size_t c = 0; c < own.size(); ++c) {
    const double expected = factor * own[c];
    if (!(std::fabs(actual(c) - expected) <= spacing(view.dtype, expected))) return false;
  }
  return true;
}

// Whether some recorded row is that of its own token, which is what an honest trace answers at once. Otherwise the rows
// are collected.
bool own_token_found(const trace::Trace& trace, const EmbeddingTable& table, std::vector<WantedRows>& wanted) {
  for (const TensorKey& key : trace.keys()) {
    if (key.id.op != Op::kEmbedTokens) continue;
    const Step& step = trace.manifest().steps[static_cast<std::size_t>(key.step)];
    const TensorView view = trace.get(key);
    const std::size_t bytes = static_cast<std::size_t>(view.shape.back()) * size_of(view.dtype);
    auto list = std::find_if(wanted.begin(), wanted.end(), [&](const auto& rows) { return rows.stored == view.dtype; });
    if (list == wanted.end()) list = wanted.insert(wanted.end(), {view.dtype, bytes, {}});
    for (std::int64_t b = 0; b < step.batch(); ++b) {
      for (std::int64_t t = 0; t < step.num_tokens(); ++t) {
        if (step.is_pad(b, t)) continue;
        const std::string_view actual = row_bytes(view.data, b * step.num_tokens() + t, bytes);
        const std::int32_t token = step.tokens[static_cast<std::size_t>(b)][static_cast<std::size_t>(t)];
        const Tensor own = table.rows(token, 1, view.dtype);
        if (actual == row_bytes(own.bytes().data(), 0, bytes)) return true;
        const std::int64_t row = b * step.num_tokens() + t;
        if (is_multiple(view, row, to_doubles(own.view()))) return true;
        if (list->rows.empty() && is_multiple(view, row, table.transposed_row(token))) return true;
        list->rows.emplace(actual);
      }
    }
  }
  return false;
}

bool any_row_found(const EmbeddingTable& table, std::int64_t width, const std::vector<WantedRows>& wanted) {
  const std::int64_t block = std::max<std::int64_t>(1, kBlockElements / width);
  for (std::int64_t first = 0; first < table.size(); first += block) {
    const std::int64_t count = std::min(block, table.size() - first);
    for (const WantedRows& list : wanted) {
      const Tensor rows = table.rows(first, count, list.stored);
      for (std::int64_t r = 0; r < count; ++r) {
        if (list.rows.contains(std::string(row_bytes(rows.bytes().data(), r, list.bytes)))) return true;
      }
    }
  }
  return false;
}

}  // namespace

std::vector<std::string> check_trace(const trace::Trace& trace, const WeightSource& model) {
  const trace::Manifest& manifest = trace.manifest();
  const ModelConfig& config = model.config();
  std::vector<std::string> notes = manifest.notes;
  check_config(trace, config, notes);
  check_cache_scales(trace, config);
  try {
    validate_steps(manifest.steps, config.vocab, config.max_position_embeddings);
  } catch (const std::invalid_argument& error) {
    throw InputError(manifest_name(trace) + ": " + error.what());
  }
  trace::check_shapes(trace, trace::declare(config));
  for (std::string& note : trace::notes_on_unknown(trace)) notes.push_back(std::move(note));
  trace.forget();
  return notes;
}

bool embedding_follows_from_table(const trace::Trace& trace, const WeightSource& model) {
  const EmbeddingTable table(model, trace.manifest().precision.weights);
  std::vector<WantedRows> wanted;
  const bool found = own_token_found(trace, table, wanted) ||
                     std::ranges::all_of(wanted, [](const WantedRows& list) { return list.rows.empty(); }) ||
                     any_row_found(table, model.config().hidden, wanted);
  trace.forget();
  return found;
}

}  // namespace qdiff::diagnose
