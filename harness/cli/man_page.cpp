#include "harness/cli/man_page.h"

#include <span>
#include <sstream>
#include <string_view>

namespace qdiff::cli {
namespace {

// Text as man(7) prints it: a backslash, a hyphen that is copied, and a line that begins with a sign of its own.
std::string troff(std::string_view text) {
  std::string result;
  bool at_start = true;
  for (const char c : text) {
    if (at_start && (c == '.' || c == '\'')) result += "\\&";
    if (c == '\\') {
      result += "\\e";
    } else if (c == '-') {
      result += "\\-";
    } else {
      result += c;
    }
    at_start = c == '\n';
  }
  return result;
}

std::string option_entry(const OptionFacts& option) {
  std::string text = ".TP\n\\fB" + troff(option.name) + "\\fR";
  if (!option.value.empty() && option.name.starts_with('-')) text += " \\fI" + troff(option.value) + "\\fR";
  return text + '\n' + troff(option.description) + (option.required ? " (required)" : "") + '\n';
}

// "Examples:" and "Exit status:" are paragraphs whose lines are kept.
std::string footer_text(const std::string& footer) {
  std::string text;
  std::istringstream lines(footer);
  bool verbatim = false;
  for (std::string line; std::getline(lines, line);) {
    const bool indented = line.starts_with("  ");
    if (indented != verbatim) text += indented ? ".PP\n.nf\n.RS\n" : ".RE\n.fi\n";
    verbatim = indented;
    if (line.empty()) continue;
    text += indented ? troff(std::string_view(line).substr(2)) + '\n' : ".PP\n\\fI" + troff(line) + "\\fR\n";
  }
  return verbatim ? text + ".RE\n.fi\n" : text;
}

std::string synopsis_of(const CommandFacts& command) {
  std::string text = ".B qdiff" + (command.name.empty() ? "" : ' ' + command.name) + '\n';
  for (const OptionFacts& option : command.options) {
    if (option.required) text += troff(option.name) + " \\fI" + troff(option.value) + "\\fR\n";
  }
  if (!command.options.empty()) text += "[\\fIOPTIONS\\fR]\n";
  for (const OptionFacts& place : command.places) {
    const std::string name = "\\fI" + troff(place.name) + "\\fR" + (place.many ? " ..." : "");
    text += (place.required ? name : '[' + name + ']') + '\n';
  }
  return text;
}

}  // namespace

std::string man_page(const std::vector<CommandFacts>& commands, const std::string& version) {
  const CommandFacts& program = commands.front();
  std::string text =
      ".\\\" Made by `qdiff man`.\n.TH QDIFF 1 \"\" \"qdiff " + version +
      "\" \"User Commands\"\n"
      ".SH NAME\nqdiff \\- finds the first wrong tensor of a language model's forward pass\n.SH SYNOPSIS\n"
      ".B qdiff\n\\fICOMMAND\\fR [\\fIOPTIONS\\fR]\n.SH DESCRIPTION\n" +
      troff(program.description) + "\n.SH OPTIONS\n";
  for (const OptionFacts& option : program.options) text += option_entry(option);
  text += ".SH COMMANDS\n";
  for (const CommandFacts& command : std::span(commands).subspan(1)) {
    text += ".SS " + troff(command.name) + '\n' + troff(command.description) + ".\n.PP\n" + synopsis_of(command);
    for (const OptionFacts& place : command.places) text += option_entry(place);
    for (const OptionFacts& option : command.options) text += option_entry(option);
    text += footer_text(command.footer);
  }
  return text + ".SH EXAMPLES AND EXIT STATUS\n" + footer_text(program.footer);
}

}  // namespace qdiff::cli
