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

// The one of the most wrong rows determines coefficients best.
const Instance* largest_wrong(Scene& scene) {
  constexpr std::int64_t kMostElements = std::int64_t{1} << 17;  // of which a few dozen partial products are kept
  const Instance* largest = nullptr;
  std::size_t most = 0;
  for (const Instance& instance : scene.instances()) {
    if (!instance.wrong || num_elements(instance.actual.shape) > kMostElements) continue;
    const std::size_t rows = scene.wrong_rows(instance).size();
    if (rows <= most) continue;
    most = rows;
    largest = &instance;
  }
  return largest;
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

// The part that a range of inputs has in a product: linear, without its bias.
class Parts {
 public:
  // `elements` of the product are asked for.
  Parts(Scene& scene, const Instance& instance, std::vector<std::size_t> elements)
      : scene_(scene),
        instance_(instance),
        input_(product_input(scene, instance)),
        view_(instance.recorded->get(input_)),
        x_(to_doubles(view_)),
        elements_(std::move(elements)),
        constant_(values_of(0, 0)) {}

  std::int64_t width() const { return view_.shape.back(); }
  std::vector<double> of(std::int64_t first, std::int64_t end) const {
    std::vector<double> part = values_of(first, end);
    for (std::size_t i = 0; i < part.size(); ++i) part[i] -= constant_[i];
    return part;
  }

 private:
  std::vector<double> values_of(std::int64_t first, std::int64_t end) const {
    std::vector<double> inputs(x_.size(), 0.0);
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const std::int64_t k = static_cast<std::int64_t>(i) % width();
      if (k >= first && k < end) inputs[i] = x_[i];
    }
    Overlay overlay(*instance_.recorded);
    overlay.replace(input_, with_rows(view_, inputs));
    const std::vector<double> whole = scene_.value(instance_, overlay, instance_.span);
    std::vector<double> values;
    for (std::size_t element : elements_) values.push_back(whole[element]);
    return values;
  }

  Scene& scene_;
  const Instance& instance_;
  TensorKey input_;
  TensorView view_;
  std::vector<double> x_;
  std::vector<std::size_t> elements_;
  std::vector<double> constant_;  // the bias, where there is one
};

// The elements of the wrong rows in columns where some row is wrong: what is right in every row has coefficients of 1,
// for the mistake may be one of some heads or columns.
std::vector<std::size_t> elements_of_wrong_columns(Scene& scene, const Instance& instance) {
  constexpr double kWrong = 4.0;  // deviations: beyond what rounding does to an element
  const Expectation& right = scene.right(instance);
  const std::vector<double>& actual = scene.actual(instance);
  const std::vector<std::int64_t> rows = scene.wrong_rows(instance);
  const std::int64_t columns = scene.layout(instance).num_columns();
  std::vector<std::size_t> elements;
  for (std::int64_t c = 0; c < columns; ++c) {
    const auto element = [&](std::int64_t r) { return static_cast<std::size_t>(r * columns + c); };
    const bool wrong = std::ranges::any_of(
        rows, [&](std::int64_t r) { return scene.deviations(instance, right, element(r)) > kWrong; });
    if (!wrong) continue;
    for (std::int64_t r : rows) {
      if (std::isfinite(actual[element(r)])) elements.push_back(element(r));
    }
  }
  return elements;
}

// A whole number, as nearly as the equations tell.
bool is_plain(double coefficient, double error) {
  constexpr double kBeyondError = 4.0;  // standard errors
  return std::fabs(coefficient - std::round(coefficient)) < std::max(0.05, kBeyondError * error);
}

std::vector<Block> joined(const std::vector<Block>& blocks) {
  std::vector<Block> result;
  for (const Block& block : blocks) {
    if (!result.empty() && result.back().coefficient == block.coefficient) {
      result.back().end = block.end;
    } else {
      result.push_back(block);
    }
  }
  return result;
}

// Whole coefficients of blocks of the input: blocks of which the coefficient is no whole number are cut in two until
// they are single columns, and the edges that are left go where the error is smallest.
class BlockSearch {
 public:
  BlockSearch(Scene& scene, const Instance& instance)
      : BlockSearch(scene, instance, elements_of_wrong_columns(scene, instance)) {}

  // Nothing where no few blocks say it.
  std::vector<Block> solve() const {
    constexpr std::int64_t kBlocks = 16;
    constexpr std::size_t kMostBlocks = 64;
    const std::int64_t width = parts_.width(), size = (width + kBlocks - 1) / kBlocks;
    std::vector<Block> blocks;
    for (std::int64_t first = 0; first < width; first += size) blocks.push_back({first, std::min(width, first + size)});
    while (true) {
      std::vector<double> a(error_.size() * blocks.size()), errors;
      for (std::size_t k = 0; k < blocks.size(); ++k) {
        const std::vector<double> part = weighted(blocks[k].first, blocks[k].end);
        double squares = 0.0;
        for (std::size_t i = 0; i < part.size(); ++i) {
          a[i * blocks.size() + k] = part[i];
          squares += part[i] * part[i];
        }
        errors.push_back(squares > 0.0 ? 1.0 / std::sqrt(squares) : 0.0);
      }
      const auto solved = least_squares(a, error_, error_.size(), blocks.size());
      if (!solved) return {};
      const double left = left_by(a, *solved);
      std::vector<Block> finer;
      for (std::size_t k = 0; k < blocks.size(); ++k) {
        Block block = blocks[k];
        block.coefficient = 1.0 + (*solved)[k];
        if (is_plain(block.coefficient, left * errors[k]) || block.end - block.first == 1) {
          block.coefficient = std::round(block.coefficient);
          finer.push_back(block);
          continue;
        }
        const std::int64_t middle = (block.first + block.end) / 2;
        finer.push_back({block.first, middle});
        finer.push_back({middle, block.end});
      }
      if (finer.size() > kMostBlocks) return {};
      const bool cut = finer.size() > blocks.size();
      blocks = std::move(finer);
      if (!cut) return with_best_edges(joined(blocks), size);
    }
  }

 private:
  BlockSearch(Scene& scene, const Instance& instance, const std::vector<std::size_t>& elements)
      : parts_(scene, instance, elements) {
    const Expectation& right = scene.right(instance);
    for (std::size_t i : elements) {
      weights_.push_back(1.0 / std::hypot(right.sigma_independent[i], right.sigma_shared[i],
                                          spacing(instance.actual.dtype, right.value[i])));
      error_.push_back((scene.actual(instance)[i] - right.value[i]) * weights_.back());
    }
  }

  std::vector<double> weighted(std::int64_t first, std::int64_t end) const {
    std::vector<double> part = parts_.of(first, end);
    for (std::size_t i = 0; i < part.size(); ++i) part[i] *= weights_[i];
    return part;
  }

  // What is left of the error beside the parts [elements, parts] that were solved for, for each degree of freedom: where
  // a block holds several coefficients, that misfit is shared out among all.
  double left_by(const std::vector<double>& parts, const std::vector<double>& solved) const {
    double sum = 0.0;
    for (std::size_t i = 0; i < error_.size(); ++i) {
      double left = error_[i];
      for (std::size_t k = 0; k < solved.size(); ++k) left -= parts[i * solved.size() + k] * solved[k];
      sum += left * left;
    }
    return error_.size() > solved.size() ? std::sqrt(sum / static_cast<double>(error_.size() - solved.size())) : 0.0;
  }
  // What is left of the error beside the blocks.
  std::vector<double> left_by(const std::vector<Block>& blocks) const {
    std::vector<double> left = error_;
    for (const Block& block : blocks) {
      if (block.coefficient == 1.0) continue;
      const std::vector<double> part = weighted(block.first, block.end);
      for (std::size_t i = 0; i < left.size(); ++i) left[i] -= (block.coefficient - 1.0) * part[i];
    }
    return left;
  }

  // Each edge in turn, column by column to either side, no further than `reach`.
  std::vector<Block> with_best_edges(std::vector<Block> blocks, std::int64_t reach) const {
    const auto squares = [](const std::vector<double>& values) {
      double sum = 0.0;
      for (double value : values) sum += value * value;
      return sum;
    };
    std::vector<double> settled = left_by(blocks);
    for (std::size_t k = 0; k + 1 < blocks.size(); ++k) {
      const std::int64_t edge = blocks[k].end;
      std::int64_t best = edge;
      double least = squares(settled);
      std::vector<double> best_left = settled;
      for (const int direction : {-1, 1}) {
        std::vector<double> moved = settled;
        for (std::int64_t step = 1; step <= reach; ++step) {
          const std::int64_t to = edge + direction * step;
          if (to <= blocks[k].first || to >= blocks[k + 1].end) break;
          const std::int64_t column = direction < 0 ? to : to - 1;  // it changes sides
          const std::vector<double> part = weighted(column, column + 1);
          const double change = direction * (blocks[k].coefficient - blocks[k + 1].coefficient);
          for (std::size_t i = 0; i < moved.size(); ++i) moved[i] -= change * part[i];
          if (const double now = squares(moved); now < least) {
            least = now;
            best = to;
            best_left = moved;
          }
        }
      }
      blocks[k].end = blocks[k + 1].first = best;
      settled = std::move(best_left);
    }
    return blocks;
  }

  Parts parts_;
  std::vector<double> weights_, error_;  // by element; the error of right code in units of its deviation
};

void add_coefficients(Scene& scene, const Instance& instance, std::vector<Candidate>& candidates) {
  const std::vector<Block> blocks = BlockSearch(scene, instance).solve();
  if (blocks.empty() || (blocks.size() == 1 && blocks[0].coefficient == 1.0)) return;
  Candidate candidate = reading(scene, [blocks](const std::vector<double>& values) {
    std::vector<double> result = values;
    const std::int64_t width = blocks.back().end;
    for (std::size_t i = 0; i < result.size(); ++i) {
      const std::int64_t k = static_cast<std::int64_t>(i) % width;
      for (const Block& block : blocks) {
        if (k >= block.first && k < block.end) result[i] *= block.coefficient;
      }
    }
    return result;
  });
  candidate.theory.mechanism = "product.coefficients";
  candidate.least_tokens = 2;
  const double edge = std::log2(static_cast<double>(blocks.back().end));
  candidate.theory.bits = kMechanismBits + static_cast<double>(blocks.size()) * (edge + 2.0);
  std::string words;
  for (const Block& block : blocks) {
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
  if (const Instance* largest = largest_wrong(scene)) add_coefficients(scene, *largest, candidates);
  return candidates;
}

}  // namespace qdiff::explain
