# Run by qdiff_embed() at build time: writes HEADER and SOURCE, which hold FILES (separated by '|') as string literals.
cmake_minimum_required(VERSION 3.25)

file(WRITE "${HEADER}" "#pragma once\n#include \"cmake/embedded.h\"\n
namespace qdiff::embedded {\nstd::span<const File> ${IDENTIFIER}();\n}\n")

set(rows "")
string(REPLACE "|" ";" FILES "${FILES}")
foreach(path IN LISTS FILES)
  file(READ "${path}" text)
  file(SIZE "${path}" size)
  string(LENGTH "${text}" length)   # in bytes
  if(NOT length EQUAL size)
    message(FATAL_ERROR "qdiff_embed: '${path}' is not plain text: ${length} of its ${size} bytes could be read")
  endif()
  if(text MATCHES "\\)qdiff\"|\r")
    message(FATAL_ERROR "qdiff_embed: '${path}' holds a carriage return or the delimiter )qdiff\", which no raw string "
                        "literal can keep")
  endif()
  file(RELATIVE_PATH name "${ROOT}" "${path}")
  string(APPEND rows "    {\"${name}\", view(R\"qdiff(${text})qdiff\")},\n")
endforeach()

file(WRITE "${SOURCE}" "#include \"embedded/${IDENTIFIER}.h\"

#include <cstddef>

namespace qdiff::embedded {

namespace {
template <std::size_t kSize>
constexpr std::string_view view(const char (&text)[kSize]) {
  return {text, kSize - 1};  // without the literal's terminator
}

constexpr File kFiles[] = {
${rows}};
}  // namespace

std::span<const File> ${IDENTIFIER}() { return kFiles; }

}  // namespace qdiff::embedded
")
