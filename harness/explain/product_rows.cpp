// Columns of a product that were made with other rows of the weights: of the same matrix, or of another that reads the
// same input. For each column of the candidate all library columns that agree with it in every sampled row are found;
// then the columns are covered by as few runs of neighbouring rows as possible, or by a permutation that is the same in
// each block.
#include <algorithm>
#include <cmath>

#include "harness/explain/column_runs.h"
#include "harness/explain/mechanisms.h"
#include "harness/explain/product.h"

namespace qdiff::explain {
namespace {

// A column of the library agrees where its error is no more than this many deviations RMS; honest ones lie near 1.
constexpr double kAgrees = 3.0;

// Rows of other weights on the same input: which operations to evaluate for them.
struct Source {
  TensorId id;
  std::vector<TensorKey> operations;  // at step 0; the step is filled in
};

std::vector<Source> sources_of(const Scene& scene) {
  const Instance& first = scene.instances().front();
  const TensorId input = product_input(scene, first).id;
  std::vector<Source> sources = {{first.key.id, first.span}};
  for (const OperationRow& other : kOperationTable) {
    if (other.scope != row(scene.op()).scope || other.op == scene.op() ||
        other.arithmetic != row(scene.op()).arithmetic) {
      continue;
    }
    const TensorId id{other.op, scene.layer()};
    std::vector<TensorKey> operations = {{first.key.step, id}};
    if (first.span.size() == 2) {
      const std::vector<TensorKey> before = input_keys(operations[0], scene.config());
      if (before.size() != 1) continue;
      operations.insert(operations.begin(), before[0]);
    }
    const Op product = operations.front().id.op;
    const std::vector<TensorKey> inputs = input_keys(operations.front(), scene.config());
    const bool same_input =
        inputs.size() == 1 && inputs[0].id == input && arithmetic_of(product) == Arithmetic::kProduct;
    if (same_input) sources.push_back({id, operations});
  }
  return sources;
}

std::vector<Expectation> evaluate_sources(Scene& scene, const Instance& instance, const std::vector<Source>& sources) {
  std::vector<Expectation> values;
  for (const Source& source : sources) {
    if (source.id == instance.key.id) {
      values.push_back(scene.right(instance));
      continue;
    }
    std::vector<TensorKey> operations = source.operations;
    for (TensorKey& key : operations) key.step = instance.key.step;
    values.push_back(scene.evaluate(instance, *instance.recorded, operations));
  }
  return values;
}

// What one source makes of a sampled row, and 1 / variance of each column's error.
struct LibraryRow {
  std::vector<double> value, weight;
};

LibraryRow library_row(const Expectation& of, const SampledRow& sampled) {
  LibraryRow library;
  const auto columns = static_cast<std::size_t>(of.shape.back());
  for (std::size_t j = 0; j < columns; ++j) {
    const std::size_t i = static_cast<std::size_t>(sampled.row) * columns + j;
    const double deviation =
        std::hypot(of.sigma_independent[i], of.sigma_shared[i], spacing(sampled.instance->actual.dtype, of.value[i]));
    library.value.push_back(of.value[i]);
    library.weight.push_back(1.0 / (deviation * deviation));
  }
  return library;
}

// For each column all origins that agree with it.
std::vector<std::vector<Origin>> agreeing(Scene& scene, const std::vector<SampledRow>& rows,
                                          const std::map<const Instance*, std::vector<Expectation>>& library,
                                          std::int64_t width) {
  std::vector<std::vector<Origin>> found(static_cast<std::size_t>(width));
  const double most = kAgrees * kAgrees * static_cast<double>(rows.size());
  for (std::size_t s = 0; s < library.begin()->second.size(); ++s) {
    std::vector<LibraryRow> made;
    for (const SampledRow& sampled : rows) made.push_back(library_row(library.at(sampled.instance)[s], sampled));
    for (std::int64_t c = 0; c < width; ++c) {
      std::vector<double> actual;
      for (const SampledRow& sampled : rows) {
        actual.push_back(scene.actual(*sampled.instance)[static_cast<std::size_t>(sampled.row * width + c)]);
      }
      for (std::size_t j = 0; j < made[0].value.size(); ++j) {
        double sum = 0.0;
        for (std::size_t r = 0; r < rows.size() && sum <= most; ++r) {
          const double error = actual[r] - made[r].value[j];
          sum += error * error * made[r].weight[j];
        }
        if (sum <= most) found[static_cast<std::size_t>(c)].push_back({s, static_cast<std::int64_t>(j)});
      }
    }
  }
  return found;
}

}  // namespace

std::vector<Candidate> recover_product_rows(Scene& scene) {
  std::vector<Candidate> candidates;
  if (!is_product(scene)) return candidates;
  const std::vector<SampledRow> rows = sample_wrong_rows(scene, 12);
  if (rows.size() < 2) return candidates;  // one number a column agrees with many
  const std::vector<Source> sources = sources_of(scene);
  std::map<const Instance*, std::vector<Expectation>> library;
  for (const SampledRow& sampled : rows) {
    if (!library.contains(sampled.instance)) {
      library[sampled.instance] = evaluate_sources(scene, *sampled.instance, sources);
    }
  }
  const compare::Layout& layout = scene.layout(scene.instances().front());
  const std::int64_t width = layout.num_columns();
  const std::vector<Run> runs = runs_of(agreeing(scene, rows, library, width));
  if (runs.empty()) return candidates;
  double all_columns = 0.0;
  for (const Expectation& of : library.begin()->second) all_columns += static_cast<double>(of.shape.back());

  Candidate candidate;
  const std::int64_t block = permuted_block(runs, width);
  if (block > 0 && block<width&& static_cast<std::int64_t>(runs.size())> width / block) {
    std::string permutation;
    for (const Run& run : runs) {
      for (std::int64_t c = run.first; c <= run.last && c < block; ++c) {
        permutation += (c == 0 ? "" : " ") + std::to_string(run.origin.column + c - run.first);
      }
    }
    const std::string blocks = block == layout.head_columns() ? "heads" : "blocks of " + std::to_string(block);
    candidate = candidate_of(scene, "product.rows", static_cast<double>(block) * std::log2(static_cast<double>(block)),
                             "'s rows are permuted within " + blocks + ": dimensions 0.." + std::to_string(block - 1) +
                                 " hold " + permutation);
    candidate.theory.parameters = {{"block", static_cast<double>(block)}, {"rows", permutation}};
  } else {
    const double bits_of_run = std::log2(static_cast<double>(width)) + std::log2(all_columns);
    std::vector<std::string> names;
    for (const Source& source : sources) names.push_back(short_name(source.id, scene.layer()));
    candidate =
        candidate_of(scene, "product.rows", static_cast<double>(runs.size()) * bits_of_run,
                     " was made with other rows of the weights: " + summarise_runs(runs, names, layout.head_columns()));
    candidate.theory.parameters = {{"rows", describe_runs(runs, names, layout.head_columns())}};
  }
  candidate.theory.hypothesis = "H07";
  candidate.predict = [&scene, sources, runs](const Instance& instance) -> std::optional<Expectation> {
    const std::vector<Expectation> from = evaluate_sources(scene, instance, sources);
    const Expectation& right = scene.right(instance);
    Expectation theory = blank(right);
    const std::int64_t n = right.shape.back();
    const auto num_rows = static_cast<std::int64_t>(right.value.size()) / n;
    for (const Run& run : runs) {
      const Expectation& of = from[run.origin.source];
      for (std::int64_t r = 0; r < num_rows; ++r) {
        for (std::int64_t c = run.first; c <= run.last; ++c) {
          const auto to = static_cast<std::size_t>(r * n + c);
          const auto i = static_cast<std::size_t>(r * of.shape.back() + run.origin.column + c - run.first);
          set_moved(theory, to, of, i);
        }
      }
    }
    return theory;
  };
  candidates.push_back(std::move(candidate));
  return candidates;
}

}  // namespace qdiff::explain
