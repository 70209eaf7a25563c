#include <cstdio>

#include "harness/cases/case.h"
#include "harness/cli/commands.h"
#include "harness/cli/completion.h"
#include "harness/contract/fault_table.h"
#include "harness/model/synthetic.h"

namespace qdiff::cli {

ExitStatus completion_command(const CompletionArguments& arguments) {
  CompletionWords words;
  for (const cases::Case& test_case : cases::embedded_suite()) words.cases.push_back(test_case.id);
  for (const model::SyntheticShape& shape : model::kSyntheticShapes) {
    words.models.push_back("synthetic:" + std::string(shape.name));
  }
  for (const VariantFacts& facts : fault_table()) words.faults.emplace_back(name(facts.id));
  std::fputs(completion_script(arguments.shell, describe_commands(), words).c_str(), stdout);
  return ExitStatus::kMatch;
}

}  // namespace qdiff::cli
