#include "harness/diagnose/far/logit_mistakes.h"

#include <cmath>

#include "harness/diagnose/far/bounds.h"

namespace qdiff::diagnose {

std::vector<double> with_mistake(LogitMistake mistake, double dose, const Planting& passes, const Target& target) {
  std::vector<double> values(target.candidate().begin(), target.candidate().end());
  const std::int64_t last = target.num_rows() - 1;
  if (mistake == LogitMistake::kOneLogit) {
    const auto element = static_cast<std::size_t>(last * target.width() + target.width() / 2);
    values[element] = target.gold()[element] + dose * passes.rounding_of_row(target, last);
  } else {
    const std::int64_t first = mistake == LogitMistake::kOneRow ? last : 0;
    for (auto i = static_cast<std::size_t>(first * target.width()); i < values.size(); ++i) values[i] *= 1.0 + dose;
  }
  for (double& value : values) value = round_to(target.recorded().dtype, value);
  return values;
}

bool is_found(const std::vector<double>& logits, const Planting& passes, const Target& target) {
  return verdict_of(passes.rows_of(target, logits), passes.precision()).ratio_to_bound > 1.0;
}

std::optional<double> smallest_dose(double least, double most, int halvings,
                                    const std::function<bool(double dose)>& finds) {
  if (!finds(most)) return std::nullopt;
  double low = std::log(least), high = std::log(most);
  for (int i = 0; i < halvings; ++i) {
    const double middle = (low + high) / 2;
    (finds(std::exp(middle)) ? high : low) = middle;
  }
  return std::exp(high);
}

}  // namespace qdiff::diagnose
