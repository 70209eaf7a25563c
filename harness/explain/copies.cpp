// Data that stands where it should not. Three looks: the whole tensor (or part of it) holds zeros or another recorded
// tensor of its size, element by element; vectors of it (a token's row, a head of it) stand at another place of a
// recorded tensor, found by a hash of their stored bits, or of those in the columns that are wrong; the law that most
// of them follow is
//   vector (b, p, h) = source (b, p + shift, head table [h]).
#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>

#include "harness/contract/number_text.h"
#include "harness/explain/mechanisms.h"
#include "harness/explain/rows.h"
#include "harness/explain/vector_law.h"

namespace qdiff::explain {
namespace {

// Every layer's tensors are asked for where that is no more than so many elements: beyond, the neighbours alone.
constexpr std::int64_t kMostElements = std::int64_t{1} << 24;

std::vector<int> layers_to_ask(const Scene& scene) {
  const auto layers = static_cast<int>(scene.config().num_layers);
  const std::int64_t size = num_elements(scene.instances().front().actual.shape);
  std::vector<int> asked;
  for (int layer = 0; layer < layers; ++layer) {
    const bool near = std::abs(layer - scene.layer()) <= 1 || layer == 0;
    if (near || size * layers <= kMostElements) asked.push_back(layer);
  }
  return asked;
}

// Tensors of a step that a copy may come from: what was made before the wrong one. What follows from it holds its
// values by right.
std::vector<TensorId> other_tensors(const Scene& scene) {
  std::vector<TensorId> ids;
  const auto add = [&](const TensorId& id) {
    if (runs_before(id, scene.instances().front().key.id)) ids.push_back(id);
  };
  for (const OperationRow& other : kOperationTable) {
    if (other.scope != qdiff::Scope::kLayer) {
      add({other.op, kNoLayer});
      continue;
    }
    for (int layer : layers_to_ask(scene)) add({other.op, layer});
  }
  return ids;
}

Expectation exactly(const Expectation& right) {
  Expectation theory;
  theory.shape = right.shape;
  theory.value.resize(right.value.size());
  theory.exact = true;
  return theory;
}

Candidate zeros(Scene& scene) {
  Candidate candidate = candidate_of(scene, "copy.zeros", 0.0, " holds zeros");
  candidate.predict = [&scene](const Instance& instance) -> std::optional<Expectation> {
    return exactly(scene.right(instance));
  };
  return candidate;
}

// Stored values of another tensor of the same step, of as many elements.
void add_tensors(Scene& scene, std::vector<Candidate>& candidates) {
  std::vector<TensorId> ids = other_tensors(scene);
  // Of tensors that hold the same, one that is a cache or none as the wrong one is has its size in every step.
  std::stable_partition(ids.begin(), ids.end(),
                        [&](const TensorId& id) { return is_cache(id.op) == is_cache(scene.op()); });
  const std::vector<SampledRow> rows = sample_wrong_rows(scene, 4);
  for (const TensorId& id : ids) {
    // Where no element of the wrong rows is the other tensor's, nothing was copied.
    bool some = false;
    for (const SampledRow& sampled : rows) {
      const auto values = scene.recorded(*sampled.instance, {sampled.instance->key.step, id});
      const std::vector<double>& actual = scene.actual(*sampled.instance);
      if (!values || values->size() != actual.size()) continue;
      const Expectation& right = scene.right(*sampled.instance);
      const std::int64_t width = scene.layout(*sampled.instance).num_columns();
      std::int64_t same = 0;
      for (std::int64_t c = 0; c < width; ++c) {
        const auto i = static_cast<std::size_t>(sampled.row * width + c);
        same += actual[i] == round_to(sampled.instance->actual.dtype, (*values)[i]) && actual[i] != 0.0 &&
                actual[i] != right.value[i];
      }
      some |= same > 1;
    }
    if (!some) continue;
    const std::string name = short_name(id, scene.layer());
    Candidate candidate = candidate_of(scene, "copy.tensor", bits_of_choice(ids.size()), " holds " + name);
    candidate.theory.parameters = {{"source", name}};
    if (id.layer != scene.layer() && id.layer != kNoLayer && scene.layer() != kNoLayer) {
      candidate.theory.parameters.emplace_back("layers before", static_cast<double>(scene.layer() - id.layer));
    }
    candidate.predict = [&scene, id](const Instance& instance) -> std::optional<Expectation> {
      auto values = scene.recorded(instance, {instance.key.step, id});
      Expectation theory = exactly(scene.right(instance));
      if (!values || values->size() != theory.value.size()) return std::nullopt;
      theory.value = std::move(*values);
      return theory;
    };
    candidates.push_back(std::move(candidate));
  }
}

// ---- Vectors at another place --------------------------------------------------------------------------------------

struct Place {
  std::size_t source;  // index of the tensor
  std::int64_t batch, position, head;
};

// Vectors of a row or of a head, in the order (batch, position, head).
struct Grid {
  std::int64_t batch, positions, heads, width;
  std::int64_t first_position;  // of the case's slots

  std::size_t start(std::int64_t b, std::int64_t p, std::int64_t h) const {
    return static_cast<std::size_t>(((b * positions + p) * heads + h) * width);
  }
};

std::optional<Grid> grid_of(const Scene& scene, const TensorKey& key, const Step& step, const Shape& shape) {
  const compare::Layout layout(key.id.op, shape, step, scene.config());
  if (layout.is_scores()) return std::nullopt;
  const std::int64_t heads = std::max<std::int64_t>(1, layout.num_heads());
  return Grid{layout.batch(), layout.num_positions(), heads, layout.num_columns() / heads,
              first_slot(layout, key.id.op, step)};
}

using Columns = std::vector<std::size_t>;  // of a vector, ascending

// Tensors whose vectors are as wide and which exist when the wrong one is written: of this step and of those before.
class Library {
 public:
  Library(Scene& scene, const Instance& instance) : scene_(scene), instance_(instance) {
    const auto own = grid_of(scene, instance.key, instance.step(), instance.actual.shape);
    width_ = own->width;
    std::vector<TensorId> ids = other_tensors(scene);
    ids.push_back(instance.key.id);
    std::sort(ids.begin(), ids.end());
    for (const TensorId& id : ids) {
      if (id.layer != scene.layer() && id.op != scene.op()) continue;
      add(id);
    }
  }

  std::size_t num_sources() const { return ids_.size(); }
  const TensorId& id(std::size_t source) const { return ids_[source]; }
  // Where a vector stands, as far as some columns of it go.
  std::vector<Place> find(const double* vector, const Columns& columns) {
    const std::vector<double> values = in_columns(vector, columns);
    const auto& places = places_by(columns);
    const auto found = places.find(hash(values));
    if (found == places.end()) return {};
    std::vector<Place> same;
    for (const Place& place : found->second) {
      const double* there = vector_at(place.source, place.batch, place.position, place.head);
      if (there != nullptr && in_columns(there, columns) == values) same.push_back(place);
    }
    return same;
  }
  // nullptr where nothing was recorded.
  const double* vector_at(std::size_t source, std::int64_t b, std::int64_t p, std::int64_t h) const {
    const auto found = values_.find({source, b, p, h});
    return found == values_.end() ? nullptr : found->second.data();
  }

 private:
  using Places = std::unordered_map<std::size_t, std::vector<Place>>;

  static std::vector<double> in_columns(const double* vector, const Columns& columns) {
    std::vector<double> values;
    for (std::size_t c : columns) values.push_back(vector[c]);
    return values;
  }
  static std::size_t hash(const std::vector<double>& values) {
    return std::hash<std::string_view>{}(
        {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(double)});
  }

  // Vectors that are constant there stand everywhere.
  const Places& places_by(const Columns& columns) {
    const auto [found, is_new] = places_.try_emplace(columns);
    if (!is_new) return found->second;
    for (const auto& [at, vector] : values_) {
      const std::vector<double> values = in_columns(vector.data(), columns);
      if (std::ranges::count(values, values.front()) == std::ssize(values)) continue;
      const auto& [source, batch, position, head] = at;
      found->second[hash(values)].push_back({source, batch, position, head});
    }
    return found->second;
  }

  void add(const TensorId& id) {
    const std::size_t source = ids_.size();
    bool any = false;
    for (int step = 0; step <= instance_.key.step; ++step) {
      const TensorKey key{step, id};
      // The tensor that is judged holds at this step what is to be explained.
      if (key == instance_.key || !scene_.is_recorded(instance_, key)) continue;
      const TensorView view = instance_.recorded->get(key);
      const Step& at = (*instance_.steps)[static_cast<std::size_t>(step)];
      const auto grid = grid_of(scene_, key, at, view.shape);
      if (!grid || grid->width != width_) continue;
      const std::vector<double> values = to_doubles(view);
      // Padding too: what moves memory does not know of it.
      for (std::int64_t b = 0; b < grid->batch; ++b) {
        for (std::int64_t p = 0; p < grid->positions; ++p) {
          for (std::int64_t h = 0; h < grid->heads; ++h) {
            keep(source, b, p + grid->first_position, h, values.data() + grid->start(b, p, h));
            any = true;
          }
        }
      }
    }
    if (any) ids_.push_back(id);
  }

  void keep(std::size_t source, std::int64_t b, std::int64_t p, std::int64_t h, const double* vector) {
    std::vector<double> stored(vector, vector + width_);
    for (double& x : stored) x = round_to(instance_.actual.dtype, x) + 0.0;  // -0.0 is 0.0
    values_[{source, b, p, h}] = std::move(stored);                          // of a cache: as the latest step holds it
  }

  Scene& scene_;
  const Instance& instance_;
  std::int64_t width_ = 0;
  std::vector<TensorId> ids_;
  std::map<Columns, Places> places_;  // by the columns that are looked at
  std::map<std::tuple<std::size_t, std::int64_t, std::int64_t, std::int64_t>, std::vector<double>> values_;
};

struct Cell {
  std::int64_t batch, position, head;
  std::vector<Place> found;

  bool follows(const Law& law, const Library& library) const {
    return std::ranges::any_of(found, [&](const Place& place) {
      return library.id(place.source) == law.source && place.position - position == law.shift &&
             place.batch - batch == law.batch_shift && place.head == law.heads[static_cast<std::size_t>(head)];
    });
  }
};

// The laws that the most cells follow, of the sources of the fewest surprises.
std::vector<Law> most_followed(const std::vector<Cell>& cells, const Library& library, std::int64_t heads,
                               const TensorId& own, const std::vector<Law>& before) {
  std::map<std::tuple<std::size_t, std::int64_t, std::int64_t>, std::set<std::size_t>> followers;
  std::map<std::tuple<std::size_t, std::int64_t, std::int64_t>, std::map<std::pair<std::int64_t, std::int64_t>, int>>
      votes;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    for (const Place& place : cells[i].found) {
      const std::tuple law{place.source, place.position - cells[i].position, place.batch - cells[i].batch};
      followers[law].insert(i);
      ++votes[law][{cells[i].head, place.head}];
    }
  }
  std::vector<Law> best;
  std::tuple<std::size_t, std::int64_t> best_rank;
  for (const auto& [law, follow] : followers) {
    const auto& [source, shift, batch_shift] = law;
    Law whole{library.id(source), shift, {}, batch_shift};
    for (std::int64_t h = 0; h < heads; ++h) {
      std::int64_t from = h;
      int most = 0;
      for (const auto& [pair, count] : votes[law]) {
        if (pair.first == h && count > most) {
          most = count;
          from = pair.second;
        }
      }
      whole.heads.push_back(from);
    }
    const bool new_source = !before.empty() && before.front().source != whole.source;
    const std::int64_t surprise = (whole.source.layer == own.layer ? 0 : 2) + (shift == 0 ? 0 : 1) +
                                  (batch_shift == 0 ? 0 : 1) + (new_source ? 1 : 0);
    const std::tuple rank{follow.size(), -surprise};
    if (best.empty() || rank > best_rank) {
      best = {whole};
      best_rank = rank;
    } else if (rank == best_rank) {
      best.push_back(whole);
    }
  }
  return best;
}

// The wrong vectors of a tensor.
struct Found {
  std::vector<Cell> cells;             // those that stand elsewhere
  std::vector<std::size_t> unwritten;  // where those begin that hold one value: memory that nobody wrote
  std::size_t wrong = 0;               // without the unwritten ones
};

// `cleared`: the value of memory that nobody wrote, once a vector of it was found.
Found find_vectors(Scene& scene, const Instance& instance, const Grid& grid, Library& library,
                   std::optional<double>& cleared) {
  const std::vector<double>& actual = scene.actual(instance);
  Columns all(static_cast<std::size_t>(grid.width));
  std::iota(all.begin(), all.end(), std::size_t{0});
  Found result;
  const auto look = [&](std::int64_t b, std::int64_t p, std::int64_t h, const Columns& columns) {
    std::vector<double> vector;
    for (std::size_t c : all) vector.push_back(actual[grid.start(b, p, h) + c] + 0.0);  // -0.0 is 0.0
    std::vector<Place> found = library.find(vector.data(), columns);
    // Right code gives equal tokens equal vectors, wherever nothing depends on the position: those of another token
    // with the same id are the token's own.
    const std::int64_t slot = p + grid.first_position;
    std::erase_if(found, [&](const Place& place) {
      const bool own_place = place.batch == b && place.position == slot;
      const bool own_tensor = library.id(place.source) == instance.key.id;
      return (own_tensor || !own_place) &&
             token_at(instance, place.batch, place.position) == token_at(instance, b, slot);
    });
    if (found.empty()) return false;
    result.cells.push_back({b, slot, h, std::move(found)});
    return true;
  };
  // By head: the vectors that stand nowhere as a whole, and the columns that are wrong in some of them.
  struct Partly {
    std::vector<std::pair<std::int64_t, std::int64_t>> at;
    std::set<std::size_t> columns;
  };
  std::map<std::int64_t, Partly> partly;
  for (std::int64_t r : scene.real_rows(instance)) {
    for (std::int64_t h = 0; h < grid.heads; ++h) {
      const std::int64_t b = r / grid.positions, p = r % grid.positions;
      const std::size_t start = grid.start(b, p, h);
      const auto is_wrong = [&](std::size_t c) { return scene.is_wrong(instance, start + c); };
      if (std::ranges::none_of(all, is_wrong)) continue;
      const double held = cleared.value_or(actual[start]);
      if (std::ranges::all_of(all, [&](std::size_t c) { return actual[start + c] == held; })) {
        cleared = held;
        result.unwritten.push_back(start);
        continue;
      }
      ++result.wrong;
      if (look(b, p, h, all)) continue;
      partly[h].at.emplace_back(b, p);
      std::ranges::copy_if(all, std::inserter(partly[h].columns, partly[h].columns.end()), is_wrong);
    }
  }
  constexpr std::size_t kLeastColumns = 4;  // fewer stand elsewhere by chance
  std::set<Columns> looked_at;
  constexpr std::size_t kMostColumnSets = 4;  // each asks for a look at all that was recorded
  for (const auto& [h, wrong] : partly) {
    const Columns columns(wrong.columns.begin(), wrong.columns.end());
    if (columns.size() < kLeastColumns || columns.size() == all.size()) continue;
    if (looked_at.size() == kMostColumnSets && !looked_at.contains(columns)) continue;
    looked_at.insert(columns);
    for (const auto& [b, p] : wrong.at) look(b, p, h, columns);
  }
  return result;
}

void add_vectors(Scene& scene, std::vector<Candidate>& candidates) {
  std::map<const Instance*, std::shared_ptr<Library>> libraries;
  std::map<const Instance*, std::vector<Cell>> cells;
  std::map<const Instance*, std::vector<std::size_t>> unwritten;
  std::optional<double> cleared;
  std::int64_t heads = 0;
  std::size_t num_cells = 0, num_unwritten = 0;
  for (const Instance& instance : scene.instances()) {
    const auto grid = grid_of(scene, instance.key, instance.step(), instance.actual.shape);
    if (!grid || num_elements(instance.actual.shape) > kMostElements || grid->width < 2) return;
    heads = grid->heads;
    if (!instance.wrong) continue;
    auto library = std::make_shared<Library>(scene, instance);
    Found found = find_vectors(scene, instance, *grid, *library, cleared);
    num_cells += found.wrong;
    num_unwritten += found.unwritten.size();
    if (!found.cells.empty()) cells[&instance] = std::move(found.cells);
    if (!found.unwritten.empty()) unwritten[&instance] = std::move(found.unwritten);
    libraries[&instance] = std::move(library);
  }
  if (cells.empty()) return;
  // What one law leaves is given to the next: a transfer may wrap around at the first slot.
  constexpr int kMostLaws = 3;
  std::vector<Law> laws;
  std::map<Law, std::int64_t> followers;
  std::map<const Instance*, std::vector<Cell>> left = cells;
  for (int i = 0; i < kMostLaws; ++i) {
    std::set<Law> proposed;
    for (const auto& [instance, of] : left) {
      const std::vector<Law> of_this = most_followed(of, *libraries[instance], heads, instance->key.id, laws);
      proposed.insert(of_this.begin(), of_this.end());
    }
    if (proposed.empty()) break;
    // What one tensor proposes has to hold in the others: of a single token many laws say the same.
    const auto count = [&](const Law& law) {
      std::int64_t sum = 0;
      for (const auto& [instance, of] : left) {
        const Library& library = *libraries[instance];
        sum += std::ranges::count_if(of, [&](const Cell& cell) { return cell.follows(law, library); });
      }
      return sum;
    };
    const Law law = *std::ranges::max_element(proposed, {}, count);
    laws.push_back(law);
    followers[law] = count(law);
    for (auto& [instance, of] : left) {
      const Library& library = *libraries[instance];
      std::erase_if(of, [&](const Cell& cell) { return cell.follows(law, library); });
    }
    std::erase_if(left, [](const auto& entry) { return entry.second.empty(); });
    if (left.empty()) break;
  }
  for (std::size_t used = 1; used <= laws.size(); ++used) {
    const std::vector<Law> some(laws.begin(), laws.begin() + static_cast<std::ptrdiff_t>(used));
    double bits = 0.0;
    Facts parameters;
    std::string words;
    for (const Law& law : some) {
      const std::string text = describe(law, scene.layer(), heads == 1);
      bits += bits_of(law) + (heads > 1 ? static_cast<double>(heads) : 0.0);
      parameters.emplace_back(words.empty() ? "source" : "then", text);
      // Which vectors follow a further law is read from the candidate itself.
      if (!words.empty()) bits += static_cast<double>(followers[law]) * bits_of_choice(num_cells);
      words += (words.empty() ? "" : "; where that is not it, ") + text;
    }
    if (num_unwritten > 0) {
      bits += static_cast<double>(num_unwritten) * bits_of_choice(num_cells + num_unwritten);
      if (*cleared != 0.0) bits += bits_of_digits(5);
      words += "; " + (*cleared == 0.0 ? "zeros" : number_text(*cleared)) + " where nobody wrote";
    }
    Candidate candidate = candidate_of(scene, "copy.vectors", bits, " holds " + words);
    if (is_cache(scene.op())) candidate.theory.hypothesis = "H01";
    candidate.theory.parameters = std::move(parameters);
    candidate.predict = [&scene, some, libraries, cells, unwritten,
                         cleared](const Instance& instance) mutable -> std::optional<Expectation> {
      const Expectation& right = scene.right(instance);
      const auto grid = grid_of(scene, instance.key, instance.step(), instance.actual.shape);
      if (!libraries.contains(&instance)) libraries[&instance] = std::make_shared<Library>(scene, instance);
      const Library& library = *libraries[&instance];
      Expectation theory = exactly(right);
      theory.unknown.assign(right.value.size(), 1);
      const auto fill = [&](const Law& law, std::int64_t b, std::int64_t p, std::int64_t h) {
        for (std::size_t source = 0; source < library.num_sources(); ++source) {
          if (library.id(source) != law.source) continue;
          const double* vector =
              library.vector_at(source, b + law.batch_shift, p + law.shift, law.heads[static_cast<std::size_t>(h)]);
          if (vector == nullptr) return;
          const std::size_t start = grid->start(b, p - grid->first_position, h);
          std::copy_n(vector, grid->width, theory.value.begin() + static_cast<std::ptrdiff_t>(start));
          std::fill_n(theory.unknown.begin() + static_cast<std::ptrdiff_t>(start), grid->width, std::uint8_t{0});
        }
      };
      for (std::int64_t b = 0; b < grid->batch; ++b) {
        for (std::int64_t p = 0; p < grid->positions; ++p) {
          for (std::int64_t h = 0; h < grid->heads; ++h) fill(some.front(), b, p + grid->first_position, h);
        }
      }
      // Further laws stand where a wrong vector was found to follow them and not the first.
      for (const Cell& cell : cells[&instance]) {
        for (const Law& law : some) {
          if (!cell.follows(law, library)) continue;
          fill(law, cell.batch, cell.position, cell.head);
          break;
        }
      }
      for (std::size_t start : unwritten[&instance]) {
        std::fill_n(theory.value.begin() + static_cast<std::ptrdiff_t>(start), grid->width, *cleared);
        std::fill_n(theory.unknown.begin() + static_cast<std::ptrdiff_t>(start), grid->width, std::uint8_t{0});
      }
      return theory;
    };
    candidates.push_back(std::move(candidate));
  }
}

}  // namespace

std::vector<Candidate> recover_copies(Scene& scene) {
  std::vector<Candidate> candidates;
  candidates.push_back(zeros(scene));
  add_tensors(scene, candidates);
  add_vectors(scene, candidates);
  return candidates;
}

}  // namespace qdiff::explain
