// A product whose input was taken in another order, or not all of it: the permutation that writes each block of g
// elements as a matrix [a, g/a] and reads it by columns (nibbles of a byte, interleaved pairs, a packed order), a block
// that is read backwards; and coefficients of blocks of the input, found by least squares on the partial products and
// refined to the element where one is neither 0 nor 1 nor 2.
#include <algorithm>
#include <cmath>

#include "harness/explain/least_squares.h"
#include "harness/explain/mechanisms.h"
#include "harness/explain/product.h"

namespace qdiff::explain {
namespace {

Tensor with_rows(const TensorView& view, const std::vector<double>& values) {
  return Tensor::rounded(DType::kF64, view.shape, values);
}

// Element i of a block of the input the product sees is element order[i] of it.
struct Order {
  std::vector<std::int64_t> order;
  std::string words;
};

std::vector<Order> orders_of(std::int64_t width) {
  std::vector<Order> orders;
  for (std::int64_t g = 2; g <= width; ++g) {
    if (width % g != 0) continue;
    for (std::int64_t a = 2; a < g; ++a) {
      if (g % a != 0) continue;
      Order order{std::vector<std::int64_t>(static_cast<std::size_t>(g)), ""};
      for (std::int64_t i = 0; i < g; ++i) order.order[static_cast<std::size_t>(i)] = i % a * (g / a) + i / a;
      order.words = "blocks of " + std::to_string(g) + ", where elements " + std::to_string(g / a) +
                    " apart were taken as neighbours";
      orders.push_back(std::move(order));
    }
    Order back{std::vector<std::int64_t>(static_cast<std::size_t>(g)),
               "blocks of " + std::to_string(g) + ", backwards"};
    for (std::int64_t i = 0; i < g; ++i) back.order[static_cast<std::size_t>(i)] = g - 1 - i;
    orders.push_back(std::move(back));
  }
  return orders;
}

std::vector<double> permuted(const std::vector<double>& values, const Order& order) {
  const std::size_t g = order.order.size();
  std::vector<double> result(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    result[i] = values[i / g * g + static_cast<std::size_t>(order.order[i % g])];
  }
  return result;
}

Candidate reading(Scene& scene, const std::function<std::vector<double>(const std::vector<double>&)>& change) {
  Candidate candidate;
  candidate.theory.hypothesis = "H07";
  candidate.predict = [&scene, change](const Instance& instance) -> std::optional<Expectation> {
    const TensorKey input = product_input(scene, instance);
    const auto x = scene.recorded(instance, input);
    if (!x) return std::nullopt;
    Overlay overlay(*instance.recorded);
    overlay.replace(input, with_rows(instance.recorded->get(input), change(*x)));
    return scene.evaluate(instance, overlay);
  };
  return candidate;
}

// The instance of the fewest rows is the cheapest to try many orders on.
const Instance* smallest_wrong(Scene& scene) {
  const Instance* smallest = nullptr;
  for (const Instance& instance : scene.instances()) {
    if (!instance.wrong || scene.wrong_rows(instance).empty()) continue;
    if (smallest == nullptr || num_elements(instance.actual.shape) < num_elements(smallest->actual.shape)) {
      smallest = &instance;
    }
  }
  return smallest;
}

void add_orders(Scene& scene, const Instance& instance, std::vector<Candidate>& candidates) {
  const TensorKey input = product_input(scene, instance);
  const auto x = scene.recorded(instance, input);
  const TensorView view = instance.recorded->get(input);
  std::vector<SampledRow> rows;
  for (std::int64_t r : scene.wrong_rows(instance)) rows.push_back({&instance, r});
  const std::vector<Order> orders = orders_of(view.shape.back());
  double nearest = distance(scene, rows, instance, scene.right(instance).value);
  const Order* best = nullptr;
  for (const Order& order : orders) {
    Overlay overlay(*instance.recorded);
    overlay.replace(input, with_rows(view, permuted(*x, order)));
    const double reached = distance(scene, rows, instance, scene.value(instance, overlay, instance.span));
    if (!(reached < nearest)) continue;
    nearest = reached;
    best = &order;
  }
  if (best == nullptr) return;
  Candidate candidate =
      reading(scene, [order = *best](const std::vector<double>& values) { return permuted(values, order); });
  candidate.theory.mechanism = "product.input_order";
  candidate.theory.bits = kMechanismBits + bits_of_choice(orders.size());
  candidate.theory.parameters = {{"block", static_cast<double>(best->order.size())}, {"order", best->words}};
  candidate.theory.sentence = std::string(row(scene.op()).name) + " takes its inputs permuted within " + best->words;
  candidates.push_back(std::move(candidate));
}

struct Block {
  std::int64_t first, end;
  double coefficient = 1.0;
};

bool is_plain(double c) { return std::fabs(c - std::round(c)) < 0.05; }

// Coefficients of the blocks, those that are no whole number cut in two until they are single columns.
std::vector<Block> solve_blocks(Scene& scene, const Instance& instance) {
  const TensorKey input = product_input(scene, instance);
  const auto x = scene.recorded(instance, input);
  const TensorView view = instance.recorded->get(input);
  const std::int64_t width = view.shape.back();
  constexpr std::int64_t kBlocks = 16;
  constexpr std::size_t kMostBlocks = 64;
  std::vector<Block> blocks;
  const std::int64_t size = (width + kBlocks - 1) / kBlocks;
  for (std::int64_t first = 0; first < width; first += size) blocks.push_back({first, std::min(width, first + size)});
  const std::vector<std::int64_t> rows = scene.wrong_rows(instance);
  const Expectation& right = scene.right(instance);
  const std::vector<double>& actual = scene.actual(instance);
  const std::int64_t n = scene.layout(instance).num_columns();
  while (true) {
    std::vector<double> a, b;
    std::vector<std::vector<double>> partial;
    std::vector<double> none(x->size(), 0.0);
    Overlay zeros(*instance.recorded);
    zeros.replace(input, with_rows(view, none));
    const std::vector<double> constant = scene.value(instance, zeros, instance.span);  // the bias, where there is one
    for (const Block& block : blocks) {
      std::vector<double> part(x->size(), 0.0);
      for (std::size_t i = 0; i < part.size(); ++i) {
        const std::int64_t k = static_cast<std::int64_t>(i) % width;
        if (k >= block.first && k < block.end) part[i] = (*x)[i];
      }
      Overlay overlay(*instance.recorded);
      overlay.replace(input, with_rows(view, part));
      partial.push_back(scene.value(instance, overlay, instance.span));
    }
    for (std::int64_t r : rows) {
      for (std::int64_t c = 0; c < n; ++c) {
        const auto i = static_cast<std::size_t>(r * n + c);
        if (!std::isfinite(actual[i])) continue;
        const double weight = 1.0 / std::hypot(right.sigma_independent[i], right.sigma_shared[i],
                                               spacing(instance.actual.dtype, right.value[i]));
        for (const std::vector<double>& part : partial) a.push_back((part[i] - constant[i]) * weight);
        b.push_back((actual[i] - constant[i]) * weight);
      }
    }
    const std::size_t count = b.size();
    const auto solved = least_squares(std::move(a), std::move(b), count, blocks.size());
    if (!solved) return {};
    std::vector<Block> finer;
    bool cut = false;
    for (std::size_t k = 0; k < blocks.size(); ++k) {
      Block block = blocks[k];
      block.coefficient = (*solved)[k];
      if (is_plain(block.coefficient) || block.end - block.first == 1) {
        finer.push_back(block);
        continue;
      }
      const std::int64_t middle = (block.first + block.end) / 2;
      finer.push_back({block.first, middle});
      finer.push_back({middle, block.end});
      cut = true;
    }
    if (!cut || finer.size() > kMostBlocks) return blocks.size() == finer.size() ? finer : std::vector<Block>{};
    blocks = std::move(finer);
  }
}

void add_coefficients(Scene& scene, const Instance& instance, std::vector<Candidate>& candidates) {
  const std::vector<Block> solved = solve_blocks(scene, instance);
  std::vector<Block> joined;
  for (Block block : solved) {
    block.coefficient = std::round(block.coefficient);
    if (!joined.empty() && joined.back().coefficient == block.coefficient) {
      joined.back().end = block.end;
    } else {
      joined.push_back(block);
    }
  }
  if (joined.empty() || (joined.size() == 1 && joined[0].coefficient == 1.0)) return;
  Candidate candidate = reading(scene, [joined](const std::vector<double>& values) {
    std::vector<double> result = values;
    const std::int64_t width = joined.back().end;
    for (std::size_t i = 0; i < result.size(); ++i) {
      const std::int64_t k = static_cast<std::int64_t>(i) % width;
      for (const Block& block : joined) {
        if (k >= block.first && k < block.end) result[i] *= block.coefficient;
      }
    }
    return result;
  });
  candidate.theory.mechanism = "product.coefficients";
  candidate.least_tokens = 2;
  const double edge = std::log2(static_cast<double>(joined.back().end));
  candidate.theory.bits = kMechanismBits + static_cast<double>(joined.size()) * (edge + 2.0);
  std::string words;
  for (const Block& block : joined) {
    if (block.coefficient == 1.0) continue;
    const std::string where = "inputs " + std::to_string(block.first) + ".." + std::to_string(block.end - 1);
    const std::string how = block.coefficient == 0.0
                                ? "leaves out " + where
                                : "counts " + where + " " + number_text(block.coefficient) + " times";
    candidate.theory.parameters.emplace_back(where, block.coefficient);
    words += (words.empty() ? "" : ", ") + how;
  }
  candidate.theory.sentence = std::string(row(scene.op()).name) + " " + words;
  candidates.push_back(std::move(candidate));
}

}  // namespace

std::vector<Candidate> recover_product_inputs(Scene& scene) {
  std::vector<Candidate> candidates;
  if (!is_product(scene)) return candidates;
  const Instance* instance = smallest_wrong(scene);
  if (instance == nullptr || scene.right(*instance).sigma_independent.empty()) return candidates;
  add_orders(scene, *instance, candidates);
  add_coefficients(scene, *instance, candidates);
  return candidates;
}

}  // namespace qdiff::explain
