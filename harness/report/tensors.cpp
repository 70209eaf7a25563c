// tensors.jsonl: one line a judged tensor, right or wrong (schema/tensor.schema.json).
#include "harness/report/tensors.h"

#include "harness/report/json.h"

namespace qdiff::report {
namespace {

std::string_view outcome_name(compare::Outcome outcome) {
  switch (outcome) {
    case compare::Outcome::kMatch:
      return "match";
    case compare::Outcome::kDiverged:
      return "diverged";
    case compare::Outcome::kInconclusive:
      return "inconclusive";
    case compare::Outcome::kUnjudged:
      break;
  }
  return "unjudged";
}

}  // namespace

void write_tensors(const findings::RunResult& result, const std::function<void(std::string_view line)>& write) {
  for (const findings::JudgedTensor& tensor : result.judged) {
    const compare::Judgement& judgement = tensor.judgement;
    const Document line = {{"case", tensor.case_id},
                           {"mode", tensor.mode},
                           {"step", tensor.step},
                           {"phase", name(tensor.phase)},
                           {"layer", layer_document(tensor.id.layer)},
                           {"tensor", tensor_name(tensor.id)},
                           {"outcome", outcome_name(judgement.outcome)},
                           {"decisive_statistic", judgement.decisive_statistic},
                           {"ratio_to_bound", number(judgement.ratio_to_bound)},
                           {"statistics", document_of(judgement.statistics)}};
    write(scalar_text(line) + '\n');
  }
}

std::string tensors_jsonl(const findings::RunResult& result) {
  std::string text;
  write_tensors(result, [&](std::string_view line) { text += line; });
  return text;
}

}  // namespace qdiff::report
