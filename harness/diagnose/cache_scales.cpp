#include "harness/diagnose/cache_scales.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

namespace qdiff::diagnose {
namespace {

// What a head of a cache holds, and what was to be stored there where that was recorded (else NaN), slot by slot.
struct Head {
  DType dtype;
  std::vector<double> held, given;
};

// Scales of which all that was held is a number of the type; its powers of two too, from and up to.
struct Scales {
  double low = 0.0, high = 0.0;
  int least_power = 0, most_power = 0;

  double middle() const { return 0.5 * (low + high); }
};

// The nearest number of as many digits as the type has, whatever its exponent.
double in_digits(const Float8Facts& type, double x) {
  const double step = std::ldexp(1.0, std::ilogb(x) - type.significant_bits + 1);
  return std::nearbyint(x / step) * step;
}

// The power of two of a number's lowest digit.
int lowest_digit(const Float8Facts& type, double x) {
  int power = std::ilogb(x) - type.significant_bits + 1;
  while (std::fmod(x, std::ldexp(1.0, power + 1)) == 0.0) ++power;
  return power;
}

// The scales with which the first value that is not 0 is `digits` times a power of two. Each other value narrows them;
// one that no scale allows is left out, as long as few do.
std::optional<Scales> scales_of_first(const Float8Facts& type, const Head& head, double digits) {
  constexpr std::size_t kFirst = 32;  // of values that say nothing of each other, one in 16 fits in bfloat16
  constexpr double kMostMisfits = 0.5;
  Scales scales;
  double largest = 0.0;
  int finest = std::numeric_limits<int>::max();  // power of two of the lowest digit of any
  std::size_t fitting = 0, misfits = 0;
  for (const double held : head.held) {
    const double y = std::fabs(held);
    if (!(y > 0.0) || !std::isfinite(y)) continue;
    // The product is rounded to float32 before it is rounded to the type in which it was recorded.
    const double half = 0.5 * spacing(head.dtype, y) + spacing(DType::kF32, y);
    const double code = fitting == 0 ? digits : in_digits(type, y / scales.middle());
    const double low = (y - half) / code, high = (y + half) / code;
    if (fitting > 0 && (high < scales.low || low > scales.high)) {
      if (++misfits; fitting + misfits <= kFirst) return std::nullopt;
      continue;
    }
    scales.low = fitting == 0 ? low : std::max(scales.low, low);
    scales.high = fitting == 0 ? high : std::min(scales.high, high);
    ++fitting;
    largest = std::max(largest, code);
    finest = std::min(finest, lowest_digit(type, code));
  }
  if (fitting == 0 || static_cast<double>(misfits) > kMostMisfits * static_cast<double>(fitting)) return std::nullopt;
  // A scale of 2^p times as much makes the largest code 2^-p as large, and the lowest digit too.
  scales.least_power = static_cast<int>(std::ceil(std::log2(largest / type.largest)));
  scales.most_power = finest - (type.min_exponent - type.significant_bits + 1);
  if (scales.least_power > scales.most_power) return std::nullopt;
  return scales;
}

// The share of what was to be stored that is there, under a scale. Of what lies in the middle between two numbers
// either may be, which says half as much.
double share_stored(const Float8Facts& type, const Head& head, double scale) {
  // As a quotient is rounded, and a scale that was read errs.
  const double middle = head.dtype == DType::kF32 ? 0x1p-20 : 0x1p-7;
  double stored = 0.0, all = 0.0;
  for (std::size_t i = 0; i < head.held.size(); ++i) {
    if (!std::isfinite(head.given[i]) || !std::isfinite(head.held[i])) continue;
    const double quotient = head.given[i] / scale, code = round_to(type, quotient);
    const double of_held = round_to(type, head.held[i] / scale), step = spacing(type, code);
    const bool is_middle = std::fabs(std::fabs(quotient - code) - 0.5 * step) <= middle * std::fabs(quotient);
    all += 1.0;
    if (is_middle) {
      stored += std::fabs(code - of_held) <= step ? 0.5 : 0.0;
    } else {
      stored += code == of_held ? 1.0 : 0.0;
    }
  }
  return all > 0.0 ? stored / all : 1.0;
}

// A scale that a head may have, from and up to.
struct Option {
  double low, high, share;

  double middle() const { return 0.5 * (low + high); }
};

std::vector<Option> options_of(const Float8Facts& type, const Head& head) {
  constexpr double kLeastShare = 0.7;  // a bug may spoil the others; of the other type's numbers some 0.6 are the same
  std::vector<Option> options;
  const double unit = std::ldexp(1.0, -type.significant_bits);
  for (double digits = 0.5; digits < 1.0; digits += unit) {
    const std::optional<Scales> scales = scales_of_first(type, head, digits);
    if (!scales) continue;
    for (int power = scales->least_power; power <= scales->most_power; ++power) {
      Option option{std::ldexp(scales->low, power), std::ldexp(scales->high, power), 0.0};
      if (option.low <= 1.0 && 1.0 <= option.high) option.low = option.high = 1.0;
      option.share = share_stored(type, head, option.middle());
      if (option.share >= kLeastShare) options.push_back(option);
    }
  }
  return options;
}

// 1 comes first among equals.
bool is_better(const Option& option, const Option& than) {
  return option.share > than.share || (option.share == than.share && option.low == 1.0 && option.high == 1.0);
}

// One scale for all heads that have some, if one allows it; of all such the best.
std::optional<Option> common_scale(const std::vector<std::vector<Option>>& heads) {
  std::optional<Option> best;
  for (const std::vector<Option>& of_first : heads) {
    for (const Option& first : of_first) {
      Option common{first.low, first.high, 0.0};
      bool all = true;
      for (const std::vector<Option>& options : heads) {
        const auto overlaps = [&](const Option& option) {
          return option.low <= common.high && common.low <= option.high;
        };
        const auto found = std::ranges::find_if(options, overlaps);
        all &= options.empty() || found != options.end();
        if (found == options.end()) continue;
        common = {std::max(common.low, found->low), std::min(common.high, found->high), common.share + found->share};
      }
      if (all && (!best || is_better(common, *best))) best = common;
    }
  }
  return best;
}

// One scale where that fits, for those heads too that have none; else each its own.
std::vector<double> together(const std::vector<std::vector<Option>>& heads) {
  const auto found = std::ranges::count_if(heads, [](const auto& options) { return !options.empty(); });
  if (found == 0 || 2 * found < std::ssize(heads)) return {};
  if (const std::optional<Option> common = common_scale(heads)) return {common->middle()};
  std::vector<double> each;
  for (const std::vector<Option>& options : heads) {
    const auto best = std::ranges::max_element(options, [](const auto& a, const auto& b) { return is_better(b, a); });
    each.push_back(best == options.end() ? 1.0 : best->middle());
  }
  return each;
}

std::vector<Head> heads_of(const TensorStore& recorded, const std::vector<Step>& steps, const TensorKey& key,
                           const ModelConfig& config) {
  const Step& last = steps[static_cast<std::size_t>(key.step)];
  const TensorView cache = recorded.get(key);
  const std::int64_t slots = last.valid_length(), width = config.head_dim, heads = config.num_kv_heads;
  std::vector<Head> all(static_cast<std::size_t>(heads), {cache.dtype, {}, {}});
  if (num_elements(cache.shape) != last.batch() * slots * heads * width) return {};
  const std::vector<double> held = to_doubles(cache);
  std::vector<double> given(held.size(), std::nan(""));
  for (int s = 0; s <= key.step; ++s) {
    const TensorKey written{s, resolve(row(key.id.op).inputs[1], key.id, config)};
    const Step& step = steps[static_cast<std::size_t>(s)];
    if (!recorded.has(written)) continue;
    const std::vector<double> values = to_doubles(recorded.get(written));
    const std::int64_t of_row = step.num_tokens() * heads * width;
    if (static_cast<std::int64_t>(values.size()) != step.batch() * of_row) continue;
    for (std::int64_t b = 0; b < step.batch(); ++b) {
      std::copy_n(values.begin() + b * of_row, of_row, given.begin() + (b * slots + step.past_length) * heads * width);
    }
  }
  for (std::int64_t slot = 0; slot < slots; ++slot) {
    for (std::int64_t b = 0; b < last.batch(); ++b) {
      if (slot < last.left_padding[static_cast<std::size_t>(b)]) continue;
      for (std::int64_t i = 0; i < heads * width; ++i) {
        const auto at = static_cast<std::size_t>((b * slots + slot) * heads * width + i);
        Head& head = all[static_cast<std::size_t>(i / width)];
        head.held.push_back(held[at]);
        head.given.push_back(given[at]);
      }
    }
  }
  return all;
}

}  // namespace

std::map<QuantizedCache, CacheScales> read_cache_scales(const TensorStore& recorded, const std::vector<Step>& steps,
                                                        const ModelConfig& config, const Precision& declared,
                                                        const std::function<void()>& forget) {
  std::map<QuantizedCache, CacheScales> scales = declared.cache_scales;
  for (int layer = 0; layer < config.num_layers; ++layer) {
    for (const OperationRow& r : kOperationTable) {
      if (r.arithmetic != Arithmetic::kAppend) continue;
      const TensorId id{r.op, layer};
      const auto last = std::find_if(steps.rbegin(), steps.rend(), [&](const Step& step) {
        return recorded.has({step.index, id});
      });
      if (last == steps.rend()) continue;
      const std::vector<Head> heads = heads_of(recorded, steps, {last->index, id}, config);
      for (const QuantizedCache kind : {QuantizedCache::kE4M3, QuantizedCache::kE5M2}) {
        if (scales[kind].contains(id)) continue;
        std::vector<std::vector<Option>> options;
        for (const Head& head : heads) options.push_back(options_of(*float8_of(kind), head));
        const std::vector<double> factors = together(options);
        if (std::ranges::any_of(factors, [](double factor) { return factor != 1.0; })) scales[kind][id] = factors;
      }
    }
    forget();
  }
  std::erase_if(scales, [](const auto& of_type) { return of_type.second.empty(); });
  return scales;
}

}  // namespace qdiff::diagnose
