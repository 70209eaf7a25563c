#include "harness/trace/unknown_tensors.h"

#include <map>

#include "harness/formats/suggest.h"

namespace qdiff::trace {
namespace {

// "model.layers.*.mlp.gate" of all layers.
std::string without_numbers(const std::string& name) {
  std::string text;
  for (char c : name) {
    const bool digit = c >= '0' && c <= '9';
    if (!digit) {
      text += c;
    } else if (text.empty() || text.back() != '*') {
      text += '*';
    }
  }
  return text;
}

}  // namespace

std::vector<std::string> notes_on_unknown(const Trace& trace) {
  std::map<std::string, std::vector<const Trace::Unknown*>> kinds;
  for (const Trace::Unknown& unknown : trace.unknown()) kinds[without_numbers(unknown.name)].push_back(&unknown);
  std::vector<std::string> notes;
  for (const auto& [kind, tensors] : kinds) {
    const Trace::Unknown& first = *tensors.front();
    const bool one = tensors.size() == 1;
    const std::string others = one ? "" : " and " + std::to_string(tensors.size() - 1) + " like it";
    notes.push_back("step " + std::to_string(first.step) + " holds " + formats::printable(first.name) + others +
                    ", which " + (one ? "is no tensor of the table and is" : "are no tensors of the table and are") +
                    " not compared");
  }
  return notes;
}

}  // namespace qdiff::trace
