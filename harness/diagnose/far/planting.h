// The search among whole forward passes: right code in float64, right code that rounds as declared, and the reference
// with each bug of the catalogue planted, all fed with the same tokens.
//
// The yardstick is rounding itself: the reference that rounds, beside gold. Right code that comes no nearer than a few
// times that is no explanation; a bug that does is one.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "harness/contract/engine.h"
#include "harness/contract/oracle.h"
#include "harness/diagnose/far/passes.h"
#include "harness/diagnose/far/rows.h"
#include "harness/diagnose/far/target.h"
#include "harness/diagnose/thresholds.h"

namespace qdiff::diagnose {

// The reference as an engine of this precision, which computes with every bug of the catalogue that is planted in it.
using ReferenceMaker = std::function<std::unique_ptr<Engine>(const Precision& precision)>;

struct FreeRankingQuery {
  const TensorStore& trace;
  const Subject& subject;              // its case
  const std::set<TensorKey>& targets;  // recorded, and to be compared
  const Precision& precision;          // declared
  const ModelConfig& config;
  const std::vector<VariantFacts>& catalogue;
  const ReferenceMaker& make_reference;
  const ProgressReport& progress;
  bool probing = true;  // plant every bug even where right code explains the targets
};

class Planting {
 public:
  explicit Planting(const FreeRankingQuery& query);
  void run();

  const std::map<TensorKey, Target>& targets() const { return targets_; }
  const std::vector<TensorKey>& unbounded() const { return unbounded_; }  // were targets: right code overflows before
  const Pass& right() const { return right_; }
  const std::vector<Pass>& planted() const { return planted_; }  // the nearest first
  const std::vector<Pass>& pairs() const { return pairs_; }      // of two bugs, the nearest first
  double explained() const { return explained_; }
  const Precision& precision() const { return query_.precision; }
  double rounding_of(const TensorKey& key) const { return rounding_.at(key); }
  double times_rounding(const Pass& pass, const TensorKey& key) const {
    return pass.distance.at(key) / rounding_.at(key);
  }
  // How rows and elements of the candidate lie beside gold; of `candidate` in its place.
  RowFigures rows_of(const Target& target, std::span<const double> candidate) const {
    return row_rounding_.at(target.key().id).figures(target, candidate, {target.gold(), target.right(), 1.0});
  }
  const RowFigures& rows_of(const TensorKey& key) const { return rows_.at(key); }
  double rounding_of_row(const Target& target, std::int64_t row) const {
    return row_rounding_.at(target.key().id).of_row(target.key(), row);
  }
  // The worst over all targets; infinite where nothing is compared. Of a pass that was settled, over those that it came
  // to: it is as far away as that at least.
  double times_rounding(const Pass& pass) const;
  bool reproduces(const Pass& pass) const;
  // Whether these inputs tell the bug from right code.
  bool shows(const Pass& pass) const;
  // Whether the catalogue does not list the value.
  bool searched(const Variant& variant) const;
  std::int64_t rows_with_nan() const { return rows_with_nan_; }

 private:
  using Use = std::function<void(Pass& pass, Target& target, const TensorView& whole)>;
  void walk_targets(Engine& engine, std::vector<Pass>& passes, const std::string& what, const Use& use,
                    const IsSettled& is_settled = {});
  static void measure(Pass& pass, const Target& target, std::span<const double> values);
  void measure_rounding();
  void drop_unbounded(const std::map<TensorKey, double>& mean_square);
  void pool_rounding(const std::map<TensorKey, double>& mean_square);
  void measure_rows();
  bool explains(const Pass& pass) const { return times_rounding(pass) <= explained_ && pass.worst_row <= 1.0; }
  bool right_code_explains() const { return explains(right_); }
  void plant(const std::vector<Variant>& variants, const std::string& what);
  std::vector<Pass> walk_planted(std::vector<Pass> passes, const std::string& what, const IsSettled& is_settled);
  void sort_planted();
  std::vector<Pass> leading_settled() const;
  void complete_leading(const std::string& what);
  void plant_all();
  void plant_pairs();
  void plant_around(double width);
  const VariantFacts& facts_of(const Variant& variant) const { return *find_variant(query_.catalogue, variant.id); }

  const FreeRankingQuery& query_;
  const double explained_ = explained_by_rounding(query_.precision);
  Course course_;
  std::map<TensorKey, Target> targets_;
  std::unique_ptr<Engine> engine_;
  Pass right_;
  std::vector<TensorKey> unbounded_;
  std::vector<Pass> planted_, pairs_;
  std::size_t next_order_ = 0;            // Pass::order of the next one
  std::map<TensorKey, double> rounding_;  // what rounding alone does to each target
  std::map<TensorId, RowRounding> row_rounding_;
  std::map<TensorKey, RowFigures> rows_;
  std::int64_t rows_compared_ = 0;  // of all targets
  std::int64_t rows_with_nan_ = 0;
};

}  // namespace qdiff::diagnose
