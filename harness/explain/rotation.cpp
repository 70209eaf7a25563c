// A rotation by other angles. For each token t and pair i the wrong elements of all heads are equations for the
// candidate's cosine and sine: ya = a c - b s, yb = b c + a s. What is right says nothing, for the mistake may be one
// of some heads or columns. A position is a whole number p with (c, s) = (cos p f_i, sin p f_i) in every pair; a law
// for the wrong tokens follows from those. Where no position turns so, each of the two tables may have been read at
// other entries: cosine or sine of p + shift, or a constant.
#include "harness/explain/rotation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <complex>

#include "harness/explain/mechanisms.h"
#include "harness/explain/rows.h"

namespace qdiff::explain {

bool is_rotation(const Scene& scene) {
  const Instance& first = scene.instances().front();
  return first.span.size() == 1 && arithmetic_of(scene.op()) == Arithmetic::kRotate;
}

double frequency(const ModelConfig& config, std::int64_t pair) {
  return std::pow(config.rope_theta, -2.0 * static_cast<double>(pair) / static_cast<double>(config.head_dim));
}

std::vector<Turned> solve_turns(Scene& scene) {
  const std::int64_t d = scene.config().head_dim, half = d / 2;
  std::vector<Turned> turned;
  for (const SampledRow& sampled : sample_wrong_rows(scene, 48)) {
    const Instance& instance = *sampled.instance;
    const auto x = scene.recorded(instance, input_keys(instance.key, scene.config()).front());
    if (!x) return {};
    const std::vector<double>& y = scene.actual(instance);
    const Expectation& right = scene.right(instance);
    const compare::Layout& layout = scene.layout(instance);
    const std::int64_t width = layout.num_columns();
    Turned of{&instance, layout.batch_of(sampled.row), layout.position_of(sampled.row), 0,
              std::vector<Equations>(static_cast<std::size_t>(half))};
    of.position = instance.step().positions[static_cast<std::size_t>(of.batch)][static_cast<std::size_t>(of.token)];
    for (std::int64_t c = 0; c < width; ++c) {
      const auto element = static_cast<std::size_t>(sampled.row * width + c);
      if (!std::isfinite(y[element]) || !scene.is_wrong(instance, element)) continue;
      const std::int64_t i = c % d % half;
      const auto lower = static_cast<std::size_t>(sampled.row * width + c / d * d + i);
      const double a = (*x)[lower], b = (*x)[lower + static_cast<std::size_t>(half)];
      const double deviation = spacing(instance.actual.dtype, std::hypot(a, b)) + right.sigma_independent[element];
      if (!(deviation > 0.0)) continue;
      const double weight = 1.0 / (deviation * deviation);
      Equations& of_pair = of.by[static_cast<std::size_t>(i)];
      element == lower ? of_pair.add(a, -b, y[element], weight) : of_pair.add(b, a, y[element], weight);
    }
    turned.push_back(std::move(of));
  }
  return turned;
}

Candidate turning(
    Scene& scene, Candidate candidate,
    const std::function<Complex(const Instance&, std::int64_t b, std::int64_t t, std::int64_t pair)>& by) {
  candidate.theory.hypothesis = "H03";
  candidate.predict = [&scene, by](const Instance& instance) -> std::optional<Expectation> {
    const auto x = scene.recorded(instance, input_keys(instance.key, scene.config()).front());
    if (!x) return std::nullopt;
    Expectation theory = scene.right(instance);
    const std::int64_t d = scene.config().head_dim, half = d / 2;
    const compare::Layout& layout = scene.layout(instance);
    const std::int64_t width = layout.num_columns();
    for (std::int64_t r = 0; r < layout.num_rows(); ++r) {
      for (std::int64_t i = 0; i < half; ++i) {
        const Complex turn = by(instance, layout.batch_of(r), layout.position_of(r), i);
        for (std::int64_t h = 0; h < width / d; ++h) {
          const auto lower = static_cast<std::size_t>(r * width + h * d + i);
          const auto upper = lower + static_cast<std::size_t>(half);
          const double a = (*x)[lower], b = (*x)[upper];
          theory.value[lower] = a * turn.real() - b * turn.imag();
          theory.value[upper] = b * turn.real() + a * turn.imag();
          // The rounding of a pair's products is that of its length, however the angle shares it out.
          for (std::vector<float>* sigma : {&theory.sigma_independent, &theory.sigma_shared}) {
            (*sigma)[lower] = (*sigma)[upper] = std::hypot((*sigma)[lower], (*sigma)[upper]);
          }
        }
      }
    }
    return theory;
  };
  return candidate;
}

namespace {

double turn_misfit(const ModelConfig& config, const Turned& of, double position) {
  double sum = 0.0;
  for (std::size_t i = 0; i < of.by.size(); ++i) {
    const double angle = position * frequency(config, static_cast<std::int64_t>(i));
    sum += of.by[i].error(std::cos(angle), std::sin(angle));
  }
  return sum;
}

std::int64_t nearest_position(const ModelConfig& config, const Turned& of, std::int64_t largest) {
  std::int64_t best = of.position;
  double least = HUGE_VAL;
  for (std::int64_t p = -largest; p <= largest; ++p) {
    const double here = turn_misfit(config, of, static_cast<double>(p));
    if (!(here < least)) continue;
    least = here;
    best = p;
  }
  return best;
}

struct PositionLaw {
  std::string words;
  double bits;
  std::function<std::int64_t(const Instance&, std::int64_t b, std::int64_t t)> position;
};

// Laws that all solved positions follow, the shortest first.
std::vector<PositionLaw> position_laws(const std::vector<Turned>& turned, const std::vector<std::int64_t>& solved) {
  std::vector<PositionLaw> laws;
  const auto asked = [](const Instance& instance, std::int64_t b, std::int64_t t) {
    return instance.step().positions[static_cast<std::size_t>(b)][static_cast<std::size_t>(t)];
  };
  const Turned& first = turned.front();
  const std::int64_t constant = solved.front(), shift = solved.front() - first.position;
  laws.push_back({"position " + std::to_string(constant), constant == 0 ? 2.0 : bits_of_digits(3),
                  [constant](const Instance&, std::int64_t, std::int64_t) { return constant; }});
  laws.push_back({std::string("its position ") + (shift < 0 ? "- " : "+ ") + std::to_string(std::abs(shift)),
                  2.0 + std::log2(1.0 + std::fabs(static_cast<double>(shift))) + 1.0,
                  [asked, shift](const Instance& instance, std::int64_t b, std::int64_t t) {
                    return asked(instance, b, t) + shift;
                  }});
  laws.push_back({"its place in the step", 3.0, [](const Instance&, std::int64_t, std::int64_t t) { return t; }});
  laws.push_back({"its cache slot", 3.0, [](const Instance& instance, std::int64_t, std::int64_t t) {
                    return instance.step().past_length + t;
                  }});
  laws.push_back({"the position of batch row 0", 3.0,
                  [asked](const Instance& instance, std::int64_t, std::int64_t t) { return asked(instance, 0, t); }});
  for (std::int64_t factor : {-1, 2, 4}) {
    laws.push_back({std::to_string(factor) + " times its position", 4.0,
                    [asked, factor](const Instance& instance, std::int64_t b, std::int64_t t) {
                      return factor * asked(instance, b, t);
                    }});
  }
  std::erase_if(laws, [&](const PositionLaw& law) {
    const bool is_right = std::ranges::all_of(
        turned, [&](const Turned& of) { return law.position(*of.instance, of.batch, of.token) == of.position; });
    if (is_right) return true;
    std::size_t fits = 0;
    for (std::size_t i = 0; i < turned.size(); ++i) {
      fits += law.position(*turned[i].instance, turned[i].batch, turned[i].token) == solved[i];
    }
    return fits * 2 < turned.size();  // the law of most; the judge decides on all
  });
  return laws;
}

void add_positions(Scene& scene, const std::vector<Turned>& turned, std::int64_t largest,
                   std::vector<Candidate>& candidates) {
  std::vector<std::int64_t> solved;
  for (const Turned& of : turned) solved.push_back(nearest_position(scene.config(), of, largest));
  for (const PositionLaw& law : position_laws(turned, solved)) {
    Candidate candidate =
        candidate_of(scene, "rotation.position", law.bits, " is turned by the angles of " + law.words);
    candidate.theory.parameters = {{"position", law.words}};
    candidates.push_back(turning(
        scene, std::move(candidate),
        [&scene, law](const Instance& instance, std::int64_t b, std::int64_t t, std::int64_t i) {
          return std::polar(1.0, static_cast<double>(law.position(instance, b, t)) * frequency(scene.config(), i));
        }));
  }
}

// What a table may have held in the place of cosines, or of sines: an entry of either at p + shift, or 0 or 1.
struct Entry {
  enum class Kind : std::uint8_t { kCosine, kSine, kZero, kOne } kind;
  std::int64_t shift = 0;

  // `turn` is exp(i (p + shift) f).
  double of(const Complex& turn) const {
    switch (kind) {
      case Kind::kCosine:
        return turn.real();
      case Kind::kSine:
        return turn.imag();
      case Kind::kOne:
        return 1.0;
      case Kind::kZero:
        break;
    }
    return 0.0;
  }
  std::string words() const {
    if (kind == Kind::kZero) return "0";
    if (kind == Kind::kOne) return "1";
    const std::string of = kind == Kind::kCosine ? "cosine" : "sine";
    if (shift == 0) return of + " of p";
    return of + " of p " + (shift < 0 ? "- " : "+ ") + std::to_string(std::abs(shift));
  }
};

// Of the two tables: what they held.
struct Tables {
  Entry cosine{Entry::Kind::kCosine}, sine{Entry::Kind::kSine};
};

// Searches the entries of the smallest error over all wrong elements.
class TableSearch {
 public:
  TableSearch(const ModelConfig& config, const std::vector<Turned>& turned, std::int64_t largest)
      : turned_(turned), largest_(largest), half_(static_cast<std::size_t>(config.head_dim / 2)) {
    const auto [least, most] = std::ranges::minmax(turned, {}, &Turned::position);
    first_ = least.position - largest;
    for (std::int64_t p = first_; p <= most.position + largest; ++p) {
      for (std::int64_t i = 0; i < static_cast<std::int64_t>(half_); ++i) {
        turns_.push_back(std::polar(1.0, static_cast<double>(p) * frequency(config, i)));
      }
    }
  }

  // Each table in turn beside the other, from several beginnings.
  Tables nearest() const {
    constexpr std::array kBeginnings = {Entry::Kind::kSine, Entry::Kind::kCosine, Entry::Kind::kZero};
    Tables best;
    double least = HUGE_VAL;
    for (const Entry::Kind beginning : kBeginnings) {
      Tables tables;
      tables.sine = {beginning};
      double now = error_of(tables);
      for (bool nearer = true; nearer;) {
        nearer = false;
        for (Entry Tables::*const table : {&Tables::cosine, &Tables::sine}) {
          for (const Entry& entry : entries()) {
            Tables tried = tables;
            tried.*table = entry;
            const double error = error_of(tried);
            if (!(error < now)) continue;
            now = error;
            tables = tried;
            nearer = true;
          }
        }
      }
      if (!(now < least)) continue;
      least = now;
      best = tables;
    }
    return best;
  }

 private:
  std::vector<Entry> entries() const {
    std::vector<Entry> entries = {{Entry::Kind::kZero}, {Entry::Kind::kOne}};
    for (std::int64_t shift = -largest_; shift <= largest_; ++shift) {
      entries.push_back({Entry::Kind::kCosine, shift});
      entries.push_back({Entry::Kind::kSine, shift});
    }
    return entries;
  }
  const Complex& turn(std::int64_t position, std::size_t pair) const {
    return turns_[static_cast<std::size_t>(position - first_) * half_ + pair];
  }
  double error_of(const Tables& tables) const {
    double sum = 0.0;
    for (const Turned& of : turned_) {
      for (std::size_t i = 0; i < half_; ++i) {
        if (of.by[i].yy == 0.0) continue;
        sum += of.by[i].error(tables.cosine.of(turn(of.position + tables.cosine.shift, i)),
                              tables.sine.of(turn(of.position + tables.sine.shift, i)));
      }
    }
    return sum;
  }

  const std::vector<Turned>& turned_;
  std::int64_t largest_, first_;
  std::size_t half_;
  std::vector<Complex> turns_;  // [positions, pairs]
};

void add_table(Scene& scene, const std::vector<Turned>& turned, std::int64_t largest,
               std::vector<Candidate>& candidates) {
  const auto [cosine, sine] = TableSearch(scene.config(), turned, largest).nearest();
  Candidate candidate = candidate_of(
      scene, "rotation.table", 4.0 + 2.0 * std::log2(2.0 * static_cast<double>(largest) + 1.0),
      " at position p is turned with " + cosine.words() + " for the cosine and " + sine.words() + " for the sine");
  candidate.theory.parameters = {{"cosine", cosine.words()}, {"sine", sine.words()}};
  candidates.push_back(turning(
      scene, std::move(candidate),
      [&scene, cosine = cosine, sine = sine](const Instance& instance, std::int64_t b, std::int64_t t, std::int64_t i) {
        const std::int64_t p = instance.step().positions[static_cast<std::size_t>(b)][static_cast<std::size_t>(t)];
        const double f = frequency(scene.config(), i);
        const auto at = [p, f](std::int64_t shift) { return std::polar(1.0, static_cast<double>(p + shift) * f); };
        return Complex(cosine.of(at(cosine.shift)), sine.of(at(sine.shift)));
      }));
}

// The row of the table that rotates keys: its output has the heads of a cache.
std::optional<TensorId> rotation_of_keys(const Scene& scene) {
  for (const OperationRow& other : kOperationTable) {
    if (other.arithmetic == Arithmetic::kRotate && other.shape[2] == Dim::kKvHeads)
      return TensorId{other.op, scene.layer()};
  }
  return std::nullopt;
}

// A cache whose new slots hold what should not have been rotated, or was rotated before.
void add_rotated_caches(Scene& scene, std::vector<Candidate>& candidates) {
  const auto rotation = rotation_of_keys(scene);
  if (!rotation || !is_cache(scene.op())) return;
  const TensorId written = input_keys(scene.instances().front().key, scene.config()).back().id;
  const std::string name = short_name(written, scene.layer());
  Candidate candidate =
      candidate_of(scene, "rotation.cache", 1.0, " holds " + name + " after a rotation by its position");
  candidate.theory.hypothesis = "H03";
  candidate.theory.parameters = {{"rotated", name}};
  candidate.predict = [&scene, rotation, written](const Instance& instance) -> std::optional<Expectation> {
    const TensorKey from{instance.key.step, written}, key{instance.key.step, *rotation};
    if (!scene.is_recorded(instance, from)) return std::nullopt;
    const TensorKey input = input_keys(key, scene.config()).front();
    const Step& step = instance.step();
    Overlay overlay(*instance.recorded);
    const TensorView values = instance.recorded->get(from);
    const Shape shape = output_shape(input.id.op, scene.config(), step.batch(), step.num_tokens(), step.valid_length());
    overlay.replace(input, Tensor::rounded(values.dtype, shape, to_doubles(values)));
    const Expectation rotated = scene.evaluate(instance, overlay, std::span(&key, 1));
    Expectation theory = blank(scene.right(instance));
    theory.unknown.assign(theory.value.size(), 1);
    const std::int64_t width = scene.config().kv_width(), tokens = step.num_tokens(), slots = step.valid_length();
    for (std::int64_t i = 0; i < step.batch() * tokens * width; ++i) {
      const std::int64_t b = i / (tokens * width), inside = i % (tokens * width);
      const auto to = static_cast<std::size_t>((b * slots + step.past_length) * width + inside);
      set_moved(theory, to, rotated, static_cast<std::size_t>(i));
      theory.unknown[to] = 0;
    }
    return theory;
  };
  candidates.push_back(std::move(candidate));
}

}  // namespace

std::vector<Candidate> recover_rotation(Scene& scene) {
  std::vector<Candidate> candidates;
  add_rotated_caches(scene, candidates);
  if (!is_rotation(scene)) return candidates;
  const std::vector<Turned> turned = solve_turns(scene);
  if (turned.empty() || scene.right(*turned[0].instance).sigma_independent.empty()) return candidates;
  std::int64_t largest = 64;  // beyond the case's own positions: a shift or a multiple of some tokens
  for (const Turned& of : turned) largest = std::max(largest, 4 * of.position + 64);
  add_positions(scene, turned, largest, candidates);
  add_table(scene, turned, largest, candidates);
  return candidates;
}

}  // namespace qdiff::explain
