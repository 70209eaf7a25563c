// What the judge must do, as named assertions that can be run against the real judge and against its mutants.
#pragma once

#include <string>
#include <vector>

namespace qdiff::compare {

struct Check {
  std::string name;
  bool (*holds)();
};

const std::vector<Check>& judge_checks();

}  // namespace qdiff::compare
