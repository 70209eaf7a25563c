#include "harness/acceptance/waivers.h"

#include <cstdio>

#include "harness/contract/error.h"
#include "harness/contract/fault_table.h"
#include "harness/contract/wording.h"
#include "harness/formats/strict_json.h"
#include "harness/formats/suggest.h"

namespace qdiff::acceptance {
namespace {

using formats::Json;

constexpr std::string_view kEveryLayer = "model.layers.*.";

[[noreturn]] void refuse(const std::string& where, std::string_view key, const std::string& value,
                         const std::string& rule) {
  throw InputError(where + ": \"" + std::string(key) + "\" is \"" + formats::printable(value) + "\", but must be " +
                   rule);
}

FaultId variant_of(const std::string& text, const std::string& where) {
  if (const std::optional<FaultId> id = parse_fault_id(text)) return *id;
  const auto names = texts_of(fault_table(), [](const VariantFacts& facts) { return name(facts.id); });
  refuse(where, "variant", text, "the name of a known bug, as H05.modulo" + formats::suggestion(text, names));
}

TensorPattern tensor_of(const std::string& text, const std::string& where) {
  const bool every = text.starts_with(kEveryLayer);
  const std::string one = every ? "model.layers.0." + text.substr(kEveryLayer.size()) : text;
  if (const std::optional<TensorId> id = parse_tensor_name(one)) {
    TensorPattern pattern{text, id->op, std::nullopt};
    if (!every && id->layer != kNoLayer) pattern.layer = id->layer;
    return pattern;
  }
  std::vector<std::string> names;
  for (const OperationRow& operation : kOperationTable) {
    names.push_back((operation.scope == Scope::kLayer ? std::string(kEveryLayer) : std::string()) +
                    std::string(operation.scope == Scope::kLayer
                                    ? operation.name
                                    : std::string_view(tensor_name({operation.op, kNoLayer}))));
  }
  refuse(where, "tensor", text,
         "a tensor's name, as model.layers.3.mlp.act or, of every layer, model.layers.*.mlp.act" +
             formats::suggestion(text, names));
}

Date date_of(const std::string& text, const std::string& where) {
  const auto digit = [&](std::size_t i) { return text[i] >= '0' && text[i] <= '9'; };
  const bool well_formed = text.size() == 10 && text[4] == '-' && text[7] == '-' && digit(0) && digit(1) && digit(2) &&
                           digit(3) && digit(5) && digit(6) && digit(8) && digit(9);
  if (well_formed) {
    const Date date{std::chrono::year(std::stoi(text.substr(0, 4))),
                    std::chrono::month(static_cast<unsigned>(std::stoi(text.substr(5, 2)))),
                    std::chrono::day(static_cast<unsigned>(std::stoi(text.substr(8, 2))))};
    if (date.ok()) return date;
  }
  refuse(where, "expires", text, "a day of the calendar, as 2027-03-31");
}

std::string text_of(const Json& object, std::string_view key, const std::string& where) {
  const std::string text = formats::require_string(object, key, where);
  if (text.find_first_not_of(" \t\r\n") == std::string::npos) refuse(where, key, text, "a text that is not empty");
  return text;
}

std::string link_of(const Json& object, const std::string& where) {
  const std::string link = text_of(object, "link", where);
  for (const std::string_view scheme : {"https://", "http://", "mailto:"}) {
    if (link.starts_with(scheme) && link.size() > scheme.size()) return link;
  }
  refuse(where, "link", link, "where its owner keeps track of it: https://…, http://… or mailto:…");
}

Waiver waiver_of(const Json& object, const std::string& where) {
  if (!object.is_object()) throw InputError(where + " is " + formats::show(object) + ", but must be an object");
  formats::refuse_unknown_keys(object, {"variant", "mechanism", "tensor", "case", "reason", "link", "expires"}, where);
  Waiver waiver;
  const auto given = [&](std::string_view key) { return object.contains(std::string(key)); };
  if (!given("variant") && !given("mechanism") && !given("tensor")) {
    throw InputError(where +
                     " names no \"variant\", no \"mechanism\" and no \"tensor\", and so would excuse everything");
  }
  if (given("variant")) waiver.variant = variant_of(text_of(object, "variant", where), where);
  if (given("mechanism")) waiver.mechanism = text_of(object, "mechanism", where);
  if (given("tensor")) waiver.tensor = tensor_of(text_of(object, "tensor", where), where);
  if (given("case")) waiver.case_id = text_of(object, "case", where);
  waiver.reason = text_of(object, "reason", where);
  waiver.link = link_of(object, where);
  waiver.expires = date_of(text_of(object, "expires", where), where);
  return waiver;
}

std::vector<Waiver> waivers_of(const Json& document, const std::string& source) {
  formats::require_format(document, "qdiff-waivers", 1, "", source);
  formats::refuse_unknown_keys(document, {"format", "version", "waivers"}, source);
  std::vector<Waiver> waivers;
  const Json& list = formats::require_array(document, "waivers", source);
  for (std::size_t i = 0; i < list.size(); ++i) {
    waivers.push_back(waiver_of(list[i], source + ": waivers[" + std::to_string(i) + ']'));
  }
  return waivers;
}

}  // namespace

bool Waiver::fits(const findings::Finding& finding) const {
  if (variant && finding.explanation.variant != variant) return false;
  if (mechanism && finding.explanation.mechanism != mechanism) return false;
  if (tensor && !tensor->fits(finding.tensor)) return false;
  return !case_id || finding.case_id == *case_id;
}

std::string Waiver::what() const {
  std::string text;
  if (variant) text = name(*variant);
  if (mechanism) text += (text.empty() ? "" : " and ") + *mechanism;
  if (tensor) text += (text.empty() ? "" : " at ") + tensor->text;
  return case_id ? text + " in case " + *case_id : text;
}

std::vector<Waiver> parse_waivers(std::string_view text, const std::string& source) {
  return waivers_of(formats::parse_json(text, source), source);
}

std::vector<Waiver> read_waivers(const std::filesystem::path& file) {
  return waivers_of(formats::read_json_file(file), formats::printable(file.string()));
}

std::string to_text(const Date& date) {
  char text[16];
  std::snprintf(text, sizeof text, "%04d-%02u-%02u", static_cast<int>(date.year()), static_cast<unsigned>(date.month()),
                static_cast<unsigned>(date.day()));
  return text;
}

}  // namespace qdiff::acceptance
