// The command line as a description of itself: what --help, the man page and the shells' completions are made of.
#pragma once

#include <string>
#include <vector>

namespace qdiff::cli {

struct OptionFacts {
  std::string name;                       // "--model"; of an argument by its place, "CASE"
  std::string value;                      // what stands behind it: "DIR", "cpu|cuda"; empty for a flag
  std::vector<std::string> choices = {};  // the words that it may be, where that is a fixed list
  std::string description;
  bool required = false;
  bool many = false;  // of an argument by its place: several may stand there
};

struct CommandFacts {
  std::string name;  // empty: the program itself
  std::string description;
  std::vector<OptionFacts> options;
  std::vector<OptionFacts> places;
  std::string footer;  // examples and exit statuses
};

// The program itself, then each command in the order of --help.
std::vector<CommandFacts> describe_commands();

}  // namespace qdiff::cli
