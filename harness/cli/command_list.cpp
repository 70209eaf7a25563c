// What there is by name, out of the tables that everything else reads.
#include <array>
#include <cstdio>
#include <string>
#include <vector>

#include "harness/cases/case.h"
#include "harness/cli/commands.h"
#include "harness/contract/fault_table.h"
#include "harness/contract/mistake.h"
#include "harness/contract/number_text.h"
#include "harness/model/synthetic.h"
#include "harness/report/json.h"

namespace qdiff::cli {
namespace {

using report::Document;

Document names_of(const std::vector<Op>& ops) {
  return report::list(ops, [](Op op) { return row(op).name; });
}

Document mechanisms() {
  Document list = Document::array();
  for (std::size_t i = 0; i < kNumMistakeKinds; ++i) {
    const MistakeFacts& of = facts(static_cast<MistakeKind>(i));
    std::vector<Op> ops;
    for (const OperationRow& operation : kOperationTable) {
      if (has_mechanism(operation.op, of.kind)) ops.push_back(operation.op);
    }
    Document parameters = Document::object();
    for (const MistakeParameter& parameter : of.parameters) parameters[std::string(parameter.name)] = parameter.form;
    list.push_back({{"name", of.name},
                    {"what", of.what},
                    {"hypothesis", report::or_null(std::string(of.hypothesis))},
                    {"parameters", parameters},
                    {"tensors", names_of(ops)}});
  }
  return list;
}

Document faults() {
  return report::list(fault_table(), [](const VariantFacts& of) -> Document {
    return {{"name", name(of.id)},
            {"what", of.what},
            {"shows_when", of.shows_when},
            {"values", report::document_of(of.values)},
            {"tensors", names_of(of.ops)}};
  });
}

Document cases_list() {
  return report::list(cases::embedded_suite(), [](const cases::Case& of) -> Document {
    return {{"name", of.id},
            {"what", of.stresses},
            {"hypothesis", report::document_of(of.hypothesis)},
            {"model", of.model}};
  });
}

Document models() {
  return report::list(model::kSyntheticShapes, [](const model::SyntheticShape& of) -> Document {
    const std::string spec = "synthetic:" + std::string(of.name);
    return {{"name", spec}, {"what", to_string(model::synthetic_config({.shape = std::string(of.name)}))}};
  });
}

Document tensors() {
  constexpr std::array<const char*, 11> kDims = {"B", "T", "S", "D", "H", "K", "d", "H*d", "K*d", "I", "V"};
  return report::list(kOperationTable, [&](const OperationRow& of) -> Document {
    std::string shape;
    for (Dim dim : of.shape) shape += (shape.empty() ? "[" : ",") + std::string(kDims[static_cast<std::size_t>(dim)]);
    return {{"name", of.name},
            {"what", std::string(facts(of.arithmetic).name) + ", " + shape + "]"},
            {"in_layers", of.scope == Scope::kLayer},
            {"optional", of.optional}};
  });
}

Document list_of(Listed what) {
  switch (what) {
    case Listed::kMechanisms:
      return mechanisms();
    case Listed::kFaults:
      return faults();
    case Listed::kCases:
      return cases_list();
    case Listed::kModels:
      return models();
    case Listed::kTensors:
      break;
  }
  return tensors();
}

// Names in one column, what they are in the next; what else there is of an entry on lines of its own.
void print_text(const Document& list) {
  for (const Document& entry : list) {
    std::printf("%-26s %s\n", entry["name"].get<std::string>().c_str(), entry["what"].get<std::string>().c_str());
    for (const char* key : {"parameters", "shows_when", "values", "tensors"}) {
      if (!entry.contains(key) || entry[key].empty() || entry[key] == "") continue;
      const Document& value = entry[key];
      if (value.is_object()) {
        for (const auto& [name, form] : value.items()) {
          std::printf("%-26s   %s = %s\n", "", name.c_str(), form.get<std::string>().c_str());
        }
        continue;
      }
      std::string text;
      for (const Document& item : value.is_array() ? value : Document::array({value})) {
        text += (text.empty() ? "" : ", ") + (item.is_string() ? item.get<std::string>() : item.dump());
      }
      const std::string label = key == std::string("shows_when") ? "shows when"
                                : key == std::string("tensors")  ? "at"
                                                                 : key;
      std::printf("%-26s   %s: %s\n", "", label.c_str(), text.c_str());
    }
  }
}

}  // namespace

ExitStatus list_command(const ListArguments& arguments) {
  const Document list = list_of(arguments.listed);
  if (arguments.json) {
    std::fputs(report::to_text(list).c_str(), stdout);
  } else {
    print_text(list);
  }
  return ExitStatus::kMatch;
}

}  // namespace qdiff::cli
