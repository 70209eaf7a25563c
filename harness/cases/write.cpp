#include <string>

#include "harness/cases/case.h"
#include "harness/formats/strict_json.h"

namespace qdiff::cases {
namespace {

// One field on a line, as the cases of the tree are written.
class Object {
 public:
  template <typename Value>
  void add(const char* key, const Value& value) {
    text_ += (text_.empty() ? "{\n" : ",\n") + std::string("  \"") + key + "\": " + formats::Json(value).dump();
  }
  void add_steps(const std::vector<CaseStep>& steps) {
    text_ += ",\n  \"steps\": [";
    for (const CaseStep& step : steps) {
      text_ += std::string(&step == &steps.front() ? "" : ",") + "\n    {\"phase\": \"" +
               std::string(name(step.phase)) + "\", \"tokens\": " +
               (step.tokens.empty() ? std::to_string(step.num_tokens) : formats::Json(step.tokens).dump());
      if (!step.positions.empty()) text_ += ", \"positions\": " + formats::Json(step.positions).dump();
      text_ += '}';
    }
    text_ += "\n  ]";
  }
  std::string take() { return text_ + "\n}\n"; }

 private:
  std::string text_;
};

}  // namespace

std::string to_json(const Case& test_case) {
  Object object;
  object.add("format", "qdiff-case");
  object.add("version", 1);
  object.add("id", test_case.id);
  object.add("title", test_case.title);
  object.add("hypothesis", test_case.hypothesis ? formats::Json(*test_case.hypothesis) : formats::Json(nullptr));
  object.add("stresses", test_case.stresses);
  if (!test_case.model.empty()) object.add("model", test_case.model);
  if (!test_case.layers.empty()) object.add("layers", test_case.layers);
  object.add("batch", test_case.batch);
  object.add("left_padding", test_case.left_padding);
  object.add("capacity", test_case.capacity);
  object.add("seed", test_case.seed);
  if (test_case.special_tokens) {
    object.add("special_tokens", formats::Json{{"every", test_case.special_tokens->every},
                                               {"last_ids", test_case.special_tokens->last_ids}});
  }
  object.add("logits", "all");
  object.add_steps(test_case.steps);
  return object.take();
}

}  // namespace qdiff::cases
