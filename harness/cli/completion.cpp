#include "harness/cli/completion.h"

#include <algorithm>
#include <span>

#include "harness/cli/values.h"
#include "harness/contract/wording.h"

namespace qdiff::cli {
namespace {

// What a shell offers for one value: fixed words, files of any kind, or both.
struct Offer {
  std::vector<std::string> words;
  bool files = false;
  bool folders = false;
};

Offer offer_for(const OptionFacts& option, const CompletionWords& words) {
  if (!option.choices.empty()) return {option.choices};
  if (option.value == "DIR") return {.words = {}, .files = false, .folders = true};
  if (option.value == "FAULT") return {words.faults};
  if (option.value == "CASE") return {words.cases, true};
  if (option.value == "MODEL") return {words.models, true};
  if (option.value == "PATH") return {words.cases, true};
  if (option.value == "FILE" || option.value == "TRACE") return {{}, true};
  return {};
}

// In single quotes, as every shell here reads them.
std::string in_quotes(std::string_view text) {
  std::string result = "'";
  for (const char c : text) result += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return result + "'";
}

// Up to the first colon or parenthesis: a menu has one line for each.
std::string in_short(const std::string& description) {
  const std::size_t end = std::min(description.find(" ("), description.find("; "));
  return description.substr(0, end);
}

// Without the program itself, which stands first.
std::span<const CommandFacts> commands_of(const std::vector<CommandFacts>& all) { return std::span(all).subspan(1); }

std::string names_of(const std::vector<OptionFacts>& options) { return joined(options, " ", &OptionFacts::name); }

// ---- bash ----

std::string bash_offer(const Offer& offer) {
  std::string text;
  std::vector<std::string> words = offer.words;
  std::erase_if(words, [](const std::string& word) { return word.find(':') != std::string::npos; });  // breaks a word
  if (!words.empty()) text += "COMPREPLY=($(compgen -W " + in_quotes(joined(words, " ")) + " -- \"$word\"))";
  if (offer.files || offer.folders) {
    text += (text.empty() ? "" : "; ") + std::string("compopt -o filenames; COMPREPLY+=($(compgen ") +
            (offer.folders ? "-d" : "-f") + " -- \"$word\"))";
  }
  return text.empty() ? "COMPREPLY=()" : text;
}

std::string bash_script(const std::vector<CommandFacts>& commands, const CompletionWords& words) {
  std::string text =
      "# bash completion of qdiff: source this file, or put it into /usr/share/bash-completion/completions/qdiff\n"
      "_qdiff() {\n"
      "  local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} command=${COMP_WORDS[1]}\n"
      "  # readline takes '=' for a word of its own: \"--model=x\" is three words here\n"
      "  if [[ $word == '=' ]]; then word=''; elif [[ $before == '=' ]]; then before=${COMP_WORDS[COMP_CWORD-2]}; fi\n"
      "  COMPREPLY=()\n"
      "  if ((COMP_CWORD == 1)); then\n"
      "    COMPREPLY=($(compgen -W " +
      in_quotes(joined(commands_of(commands), " ", &CommandFacts::name) + ' ' + names_of(commands.front().options)) +
      " -- \"$word\"))\n"
      "    return\n"
      "  fi\n"
      "  case $command in\n";
  for (const CommandFacts& command : commands_of(commands)) {
    text += "    " + command.name + ")\n      case $before in\n";
    for (const OptionFacts& option : command.options) {
      if (option.value.empty()) continue;
      text += "        " + option.name + ") " + bash_offer(offer_for(option, words)) + "; return ;;\n";
    }
    text +=
        "      esac\n      if [[ $word == -* ]]; then\n        COMPREPLY=($(compgen -W " +
        in_quotes(names_of(command.options)) + " -- \"$word\"))\n      else\n        " +
        (command.places.empty() ? std::string("COMPREPLY=()") : bash_offer(offer_for(command.places.front(), words))) +
        "\n      fi ;;\n";
  }
  return text + "  esac\n}\ncomplete -F _qdiff qdiff\n";
}

// ---- zsh ----

// What _arguments reads as its own signs.
std::string zsh_text(std::string_view text) {
  std::string result;
  for (const char c : text) {
    if (c == '[' || c == ']' || c == ':' || c == '\\') result += '\\';
    result += c;
  }
  return result;
}

std::string zsh_action(const Offer& offer) {
  if (offer.folders) return "_files -/";
  if (offer.files && offer.words.empty()) return "_files";
  const std::string words = zsh_text(joined(offer.words, " "));
  if (offer.files) return "{compadd -- " + words + "; _files}";
  return offer.words.empty() ? " " : '(' + words + ')';
}

std::string zsh_script(const std::vector<CommandFacts>& commands, const CompletionWords& words) {
  std::string text =
      "#compdef qdiff\n# zsh completion of qdiff: put this file into a folder of $fpath as _qdiff\n"
      "_qdiff() {\n  local -a commands=(\n";
  for (const CommandFacts& command : commands_of(commands)) {
    text += "    " + in_quotes(command.name + ':' + zsh_text(in_short(command.description))) + '\n';
  }
  text += "  )\n  if ((CURRENT == 2)); then\n    _describe command commands\n    _arguments " + std::string("\\\n");
  for (const OptionFacts& option : commands.front().options) {
    text += "      " + in_quotes(option.name + '[' + zsh_text(in_short(option.description)) + ']') + " \\\n";
  }
  text +=
      "      '*: : '\n    return\n  fi\n  local command=$words[2]\n  shift words; ((CURRENT--))\n  case $command in\n";
  for (const CommandFacts& command : commands_of(commands)) {
    text += "    " + command.name + ")\n      _arguments \\\n";
    for (const OptionFacts& option : command.options) {
      std::string spec = option.name;
      if (!option.value.empty()) spec += '=';
      spec += '[' + zsh_text(in_short(option.description)) + ']';
      if (!option.value.empty()) spec += ':' + zsh_text(option.value) + ':' + zsh_action(offer_for(option, words));
      text += "        " + in_quotes(spec) + " \\\n";
    }
    for (const OptionFacts& place : command.places) {
      text += "        " +
              in_quotes((place.many ? "*:" : ":") + zsh_text(place.name) + ':' + zsh_action(offer_for(place, words))) +
              " \\\n";
    }
    text += "        && return ;;\n";
  }
  return text + "  esac\n}\n_qdiff \"$@\"\n";
}

// ---- fish ----

std::string fish_script(const std::vector<CommandFacts>& commands, const CompletionWords& words) {
  std::string text =
      "# fish completion of qdiff: put this file into ~/.config/fish/completions/qdiff.fish\n"
      "complete -c qdiff -f\n";
  for (const OptionFacts& option : commands.front().options) {
    text += "complete -c qdiff -n __fish_use_subcommand -l " + option.name.substr(2) + " -d " +
            in_quotes(in_short(option.description)) + '\n';
  }
  const auto arguments_of = [](const Offer& offer) {
    std::string arguments;
    if (!offer.words.empty()) arguments += " -a " + in_quotes(joined(offer.words, " "));
    if (offer.folders) arguments += " -a '(__fish_complete_directories)'";
    if (offer.files) arguments += " -F";
    return arguments;
  };
  for (const CommandFacts& command : commands_of(commands)) {
    text += "complete -c qdiff -n __fish_use_subcommand -a " + command.name + " -d " +
            in_quotes(in_short(command.description)) + '\n';
    const std::string here = "complete -c qdiff -n '__fish_seen_subcommand_from " + command.name + "'";
    for (const OptionFacts& option : command.options) {
      const Offer offer = offer_for(option, words);
      text += here + " -l " + option.name.substr(2) +
              (option.value.empty() ? ""
               : offer.files        ? " -r"
                                    : " -x") +
              arguments_of(offer) + " -d " + in_quotes(in_short(option.description)) + '\n';
    }
    for (const OptionFacts& place : command.places) {
      const std::string arguments = arguments_of(offer_for(place, words));
      if (!arguments.empty()) text += here + arguments + '\n';
    }
  }
  return text;
}

}  // namespace

std::string completion_script(std::string_view shell, const std::vector<CommandFacts>& commands,
                              const CompletionWords& words) {
  if (shell == "bash") return bash_script(commands, words);
  if (shell == "zsh") return zsh_script(commands, words);
  if (shell == "fish") return fish_script(commands, words);
  refuse_choice("SHELL", std::string(shell), {"bash", "zsh", "fish"});
}

}  // namespace qdiff::cli
