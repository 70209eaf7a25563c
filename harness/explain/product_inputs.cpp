// A product whose input was taken in another order, or not all of it: the permutation that writes each block of g
// elements as a matrix [a, g/a] and reads it by columns (nibbles of a byte, interleaved pairs, a packed order), a block
// that is read backwards; and coefficients of blocks of the input, found by least squares on the partial products and
// refined to the element where one is neither 0 nor 1 nor 2.
#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <utility>

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

Candidate reading(Scene& scene, Candidate candidate,
                  const std::function<std::vector<double>(const std::vector<double>&)>& change) {
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
  Candidate candidate = candidate_of(scene, "product.input_order", bits_of_choice(orders.size()),
                                     " takes its inputs permuted within " + best->words);
  candidate.theory.parameters = {{"block", static_cast<double>(best->order.size())}, {"order", best->words}};
  candidates.push_back(reading(scene, std::move(candidate),
                               [order = *best](const std::vector<double>& values) { return permuted(values, order); }));
}

struct Block {
  std::int64_t first, end;
  double coefficient = 1.0;
};

// What a solver looks at of one tensor.
struct Elements {
  const Instance* instance;
  std::vector<std::size_t> of;
};

// The wrong rows in columns where some of them is wrong: what is right in every row has coefficients of 1, for the
// mistake may be one of some heads or columns. Of the tensors with the most wrong rows, which determine most.
std::vector<Elements> elements_of_wrong_columns(Scene& scene) {
  constexpr std::size_t kMostElements = std::size_t{1} << 14;  // far more than there are coefficients to solve for
  std::vector<const Instance*> wrong;
  for (const Instance& instance : scene.instances()) {
    if (instance.wrong && !scene.wrong_rows(instance).empty()) wrong.push_back(&instance);
  }
  std::ranges::stable_sort(wrong, std::ranges::greater{},
                           [&](const Instance* instance) { return scene.wrong_rows(*instance).size(); });
  if (wrong.empty()) return {};
  const auto columns = static_cast<std::size_t>(scene.layout(*wrong.front()).num_columns());
  std::vector<Elements> elements;
  std::vector<bool> is_wrong(columns);
  std::size_t count = 0;
  for (const Instance* instance : wrong) {
    const std::vector<double>& actual = scene.actual(*instance);
    if (count >= kMostElements) break;
    Elements all{instance, {}};
    for (std::int64_t r : scene.wrong_rows(*instance)) {
      if (count + all.of.size() >= kMostElements && !all.of.empty()) break;
      for (std::size_t c = 0; c < columns; ++c) {
        const std::size_t i = static_cast<std::size_t>(r) * columns + c;
        if (!std::isfinite(actual[i])) continue;
        all.of.push_back(i);
        if (scene.is_wrong(*instance, i)) is_wrong[c] = true;
      }
    }
    count += all.of.size();
    elements.push_back(std::move(all));
  }
  for (Elements& all : elements) std::erase_if(all.of, [&](std::size_t i) { return !is_wrong[i % columns]; });
  return elements;
}

// The part that a range of inputs has in a product: linear, without its bias.
class ProductParts {
 public:
  ProductParts(Scene& scene, std::vector<Elements> elements) : scene_(scene), elements_(std::move(elements)) {
    for (const Elements& all : elements_) inputs_.push_back(to_doubles(input_of(*all.instance)));
    constant_ = values_of(0, 0);
  }

  std::int64_t width() const { return input_of(*elements_.front().instance).shape.back(); }
  // Remembered, for a search asks for most blocks again.
  const std::vector<double>& of(std::int64_t first, std::int64_t end) {
    const auto [found, is_new] = known_.try_emplace({first, end});
    if (is_new) found->second = evaluate(first, end);
    return found->second;
  }
  std::vector<double> of_column(std::int64_t column) const { return evaluate(column, column + 1); }

 private:
  TensorView input_of(const Instance& instance) const {
    return instance.recorded->get(product_input(scene_, instance));
  }
  std::vector<double> evaluate(std::int64_t first, std::int64_t end) const {
    std::vector<double> part = values_of(first, end);
    for (std::size_t i = 0; i < part.size(); ++i) part[i] -= constant_[i];
    return part;
  }

  std::vector<double> values_of(std::int64_t first, std::int64_t end) const {
    std::vector<double> values;
    for (std::size_t e = 0; e < elements_.size(); ++e) {
      const Instance& instance = *elements_[e].instance;
      const TensorView view = input_of(instance);
      const auto width = static_cast<std::size_t>(view.shape.back());
      std::vector<double> inputs(inputs_[e].size());
      for (std::size_t row = 0; row < inputs.size(); row += width) {
        for (auto k = static_cast<std::size_t>(first); k < static_cast<std::size_t>(end); ++k) {
          inputs[row + k] = inputs_[e][row + k];
        }
      }
      Overlay overlay(*instance.recorded);
      overlay.replace(product_input(scene_, instance), with_rows(view, inputs));
      const std::vector<double> whole = scene_.value(instance, overlay, instance.span);
      for (std::size_t element : elements_[e].of) values.push_back(whole[element]);
    }
    return values;
  }

  Scene& scene_;
  std::vector<Elements> elements_;
  std::vector<std::vector<double>> inputs_;  // [tensor]
  std::vector<double> constant_;             // the bias, where there is one
  std::map<std::pair<std::int64_t, std::int64_t>, std::vector<double>> known_;
};

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
  // `elements`: of one tensor at least.
  BlockSearch(Scene& scene, const std::vector<Elements>& elements) : parts_(scene, elements) {
    for (const Elements& all : elements) {
      const Expectation& right = scene.right(*all.instance);
      const std::vector<double>& actual = scene.actual(*all.instance);
      for (std::size_t i : all.of) {
        error_.push_back(actual[i] - right.value[i]);
        const double size = std::max(std::fabs(actual[i]), std::fabs(right.value[i]));
        const double deviation =
            std::hypot(right.sigma_independent[i], right.sigma_shared[i], spacing(all.instance->actual.dtype, size));
        variance_ += deviation * deviation;
      }
    }
    variance_ /= static_cast<double>(error_.size());
  }

  // Nothing where no few blocks say it.
  std::vector<Block> solve() {
    constexpr std::size_t kBlocks = 16, kMostBlocks = 64;
    const std::int64_t width = parts_.width(), size = (width + std::int64_t{kBlocks} - 1) / std::int64_t{kBlocks};
    std::vector<Block> blocks;
    for (std::int64_t first = 0; first < width; first += size) blocks.push_back({first, std::min(width, first + size)});
    while (true) {
      const std::optional<Solution> solved = solve_for(blocks);
      if (!solved) return {};
      for (std::size_t k = 0; k < blocks.size(); ++k) blocks[k].coefficient = 1.0 + solved->change[k];
      const std::vector<bool> cut = to_be_cut(blocks, *solved);
      std::vector<Block> finer;
      for (std::size_t k = 0; k < blocks.size(); ++k) {
        if (!cut[k]) {
          finer.push_back({blocks[k].first, blocks[k].end, std::round(blocks[k].coefficient) + 0.0});  // -0.0 is 0.0
          continue;
        }
        const std::int64_t middle = (blocks[k].first + blocks[k].end) / 2;
        finer.push_back({blocks[k].first, middle});
        finer.push_back({middle, blocks[k].end});
      }
      // Where no half of a block is whole either, no few edges make the error.
      const bool all_cut = finer.size() == 2 * blocks.size();
      if (finer.size() > kMostBlocks || (all_cut && blocks.size() > kBlocks)) return {};
      const bool settled = finer.size() == blocks.size();
      blocks = std::move(finer);
      if (settled) return with_best_edges(joined(blocks), size);
    }
  }

 private:
  // How the coefficients differ from 1, their standard errors beside a misfit of 1 where the parts are independent, and
  // what is left of the error for each degree of freedom: where a block holds several coefficients, that misfit is
  // shared out among all.
  struct Solution {
    std::vector<double> change, errors;
    double misfit = 0.0;
  };

  // By the normal equations, refined once. Their products are kept, for one cut leaves most blocks as they were.
  std::optional<Solution> solve_for(const std::vector<Block>& blocks) {
    const std::size_t n = blocks.size(), m = error_.size();
    if (m < n) return std::nullopt;
    std::vector<const std::vector<double>*> parts;
    for (const Block& block : blocks) parts.push_back(&parts_.of(block.first, block.end));
    std::vector<double> squares(n * n);
    Solution solution;
    for (std::size_t k = 0; k < n; ++k) {
      for (std::size_t j = 0; j <= k; ++j) squares[k * n + j] = kept_product(*parts[k], *parts[j]);
      solution.change.push_back(kept_product(*parts[k], error_));
      solution.errors.push_back(1.0 / std::sqrt(squares[k * n + k]));
    }
    const auto lower = factored(std::move(squares), n);
    if (!lower) return std::nullopt;
    substitute(*lower, solution.change, n);
    std::vector<double> left = left_beside(parts, solution.change), correction;
    for (const std::vector<double>* part : parts) correction.push_back(product(*part, left));
    substitute(*lower, correction, n);
    for (std::size_t k = 0; k < n; ++k) solution.change[k] += correction[k];
    left = left_beside(parts, solution.change);
    solution.misfit = m > n ? std::sqrt(product(left, left) / static_cast<double>(m - n)) : 0.0;
    return solution;
  }

  std::vector<double> left_beside(const std::vector<const std::vector<double>*>& parts,
                                  const std::vector<double>& change) const {
    std::vector<double> left = error_;
    for (std::size_t k = 0; k < parts.size(); ++k) {
      for (std::size_t i = 0; i < left.size(); ++i) left[i] -= (*parts[k])[i] * change[k];
    }
    return left;
  }

  static double product(const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0.0;
    for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
    return sum;
  }
  // Of vectors that stay where they are.
  double kept_product(const std::vector<double>& a, const std::vector<double>& b) {
    const auto [found, is_new] = products_.try_emplace({&a, &b});
    if (is_new) found->second = product(a, b);
    return found->second;
  }

  // Those whose coefficient is no whole number; where there are none and a misfit is left, which may hide what it comes
  // from, the one that is least so.
  std::vector<bool> to_be_cut(const std::vector<Block>& blocks, const Solution& solved) const {
    constexpr double kFits = 4.0;  // times the variance of rounding
    std::vector<bool> cut(blocks.size());
    std::size_t least_plain = blocks.size();
    double farthest = 0.0;
    for (std::size_t k = 0; k < blocks.size(); ++k) {
      if (blocks[k].end - blocks[k].first == 1) continue;
      cut[k] = !is_plain(blocks[k].coefficient, solved.misfit * solved.errors[k]);
      const double off = std::fabs(blocks[k].coefficient - std::round(blocks[k].coefficient)) / solved.errors[k];
      if (off <= farthest) continue;
      farthest = off;
      least_plain = k;
    }
    const bool hides = solved.misfit * solved.misfit > kFits * variance_;
    if (std::ranges::none_of(cut, std::identity{}) && hides && least_plain < blocks.size()) cut[least_plain] = true;
    return cut;
  }

  // What is left of the error beside the blocks.
  std::vector<double> left_by(const std::vector<Block>& blocks) {
    std::vector<double> left = error_;
    for (const Block& block : blocks) {
      if (block.coefficient == 1.0) continue;
      const std::vector<double>& part = parts_.of(block.first, block.end);
      for (std::size_t i = 0; i < left.size(); ++i) left[i] -= (block.coefficient - 1.0) * part[i];
    }
    return left;
  }

  // Each edge in turn, column by column to either side, no further than `reach`.
  std::vector<Block> with_best_edges(std::vector<Block> blocks, std::int64_t reach) {
    std::vector<double> settled = left_by(blocks);
    for (std::size_t k = 0; k + 1 < blocks.size(); ++k) {
      const std::int64_t edge = blocks[k].end;
      std::int64_t best = edge;
      double least = product(settled, settled);
      std::vector<double> best_left = settled;
      for (const int direction : {-1, 1}) {
        std::vector<double> moved = settled;
        for (std::int64_t step = 1; step <= reach; ++step) {
          const std::int64_t to = edge + direction * step;
          if (to <= blocks[k].first || to >= blocks[k + 1].end) break;
          const std::int64_t column = direction < 0 ? to : to - 1;  // it changes sides
          const std::vector<double> part = parts_.of_column(column);
          const double change = direction * (blocks[k].coefficient - blocks[k + 1].coefficient);
          for (std::size_t i = 0; i < moved.size(); ++i) moved[i] -= change * part[i];
          if (const double now = product(moved, moved); now < least) {
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

  ProductParts parts_;
  std::map<std::pair<const std::vector<double>*, const std::vector<double>*>, double> products_;
  std::vector<double> error_;  // by element, of right code. Not weighted: a misfit is as large everywhere
  double variance_ = 0.0;      // mean of what rounding makes of it
};

void add_coefficients(Scene& scene, std::vector<Candidate>& candidates) {
  const std::vector<Elements> elements = elements_of_wrong_columns(scene);
  if (elements.empty()) return;
  const std::vector<Block> blocks = BlockSearch(scene, elements).solve();
  if (blocks.empty() || (blocks.size() == 1 && blocks[0].coefficient == 1.0)) return;
  std::string words;
  Facts parameters;
  for (const Block& block : blocks) {
    if (block.coefficient == 1.0) continue;
    const std::string where = "inputs " + std::to_string(block.first) + ".." + std::to_string(block.end - 1);
    const std::string how = block.coefficient == 0.0
                                ? "leaves out " + where
                                : "counts " + where + " " + number_text(block.coefficient) + " times";
    parameters.emplace_back(where, block.coefficient);
    words += (words.empty() ? " " : ", ") + how;
  }
  const double edge = std::log2(static_cast<double>(blocks.back().end));
  Candidate candidate =
      candidate_of(scene, "product.coefficients", static_cast<double>(blocks.size()) * (edge + 2.0), words);
  candidate.theory.parameters = std::move(parameters);
  candidate.least_tokens = 2;
  candidates.push_back(reading(scene, std::move(candidate), [blocks](const std::vector<double>& values) {
    std::vector<double> result = values;
    const std::int64_t width = blocks.back().end;
    for (std::size_t i = 0; i < result.size(); ++i) {
      const std::int64_t k = static_cast<std::int64_t>(i) % width;
      for (const Block& block : blocks) {
        if (k >= block.first && k < block.end) result[i] *= block.coefficient;
      }
    }
    return result;
  }));
}

}  // namespace

std::vector<Candidate> recover_product_inputs(Scene& scene) {
  std::vector<Candidate> candidates;
  if (!is_product(scene)) return candidates;
  const Instance* instance = smallest_wrong(scene);
  if (instance == nullptr || scene.right(*instance).sigma_independent.empty()) return candidates;
  add_orders(scene, *instance, candidates);
  add_coefficients(scene, candidates);
  return candidates;
}

}  // namespace qdiff::explain
