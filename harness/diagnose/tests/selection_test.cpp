// Which layers and steps are judged, and numbers as somebody would type them.
#include "harness/diagnose/selection.h"

#include <string>

#include "cmake/catch2.h"
#include "harness/contract/error.h"
#include "harness/contract/number_text.h"
#include "harness/diagnose/value_search.h"

namespace qdiff::diagnose {
namespace {

ModelConfig config_of_three_layers() {
  ModelConfig config;
  config.num_layers = 3;
  return config;
}

std::string refusal_of(const std::set<int>& layers) {
  try {
    select_layers(layers, config_of_three_layers());
  } catch (const InputError& error) {
    return error.what();
  }
  return "";
}

TEST_CASE("without a filter all layers are judged and what lies outside, with one only the wanted layers",
          "[selection]") {
  const Extent all = select_layers(std::nullopt, config_of_three_layers());
  CHECK(all.layers == std::set<int>{0, 1, 2});
  CHECK(all.has({Op::kLmHead}));
  CHECK(all.has({Op::kOutput, 2}));
  CHECK_FALSE(all.has({Op::kOutput, 3}));
  const Extent one = select_layers(std::set<int>{1}, config_of_three_layers());
  CHECK(one.layers == std::set<int>{1});
  CHECK_FALSE(one.has({Op::kLmHead}));
  CHECK_FALSE(one.has({Op::kOutput, 2}));
}

TEST_CASE("a layer that the model lacks is refused, and so is an empty list", "[selection]") {
  CHECK(refusal_of({0, 3}) == "--layers: the model has no layer 3; its layers are 0 to 2");
  CHECK(refusal_of({-2}) == "--layers: the model has no layer -2; its layers are 0 to 2");
  CHECK(refusal_of({}) == "--layers: the list is empty");
}

TEST_CASE("of the wanted steps those with a real token are judged", "[selection]") {
  std::vector<Step> steps(3);
  for (int i = 0; i < 3; ++i) {
    steps[static_cast<std::size_t>(i)] = {
        .index = i, .tokens = {{1, 1}}, .past_length = 2 * i, .positions = {}, .left_padding = {2}};
  }
  CHECK(select_steps(std::nullopt, steps) == std::set<int>{1, 2});
  CHECK(select_steps(std::set<int>{0, 2, 7}, steps) == std::set<int>{2});
}

TEST_CASE("a finding is repeated by the options that select its tensor", "[selection]") {
  CHECK(options_selecting({4, {Op::kOutput, 2}}) == " --layers 2 --steps 4");
  CHECK(options_selecting({0, {Op::kLmHead}}) == " --steps 0");
}

TEST_CASE("a short number is the double that its digits mean", "[value_search]") {
  CHECK(to_digits(999999.7, 2) == 1e6);  // 10 / 1e-5 is 999999.9999999999
  CHECK(to_digits(1.2345678e-6, 3) == 1.23e-6);
  CHECK(to_digits(0.0999, 2) == 0.1);
  CHECK(to_digits(123456.0, 4) == 123500.0);
}

}  // namespace
}  // namespace qdiff::diagnose
