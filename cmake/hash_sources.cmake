# Run at build time: writes HEADER, in which kDecidingSources is a SHA-256 of FILES (separated by '|') and their names.
cmake_minimum_required(VERSION 3.25)

set(sums "")
string(REPLACE "|" ";" FILES "${FILES}")
foreach(path IN LISTS FILES)
  file(SHA256 "${path}" sum)
  file(RELATIVE_PATH name "${ROOT}" "${path}")
  string(APPEND sums "${name} ${sum}\n")
endforeach()
string(SHA256 sum "${sums}")
file(CONFIGURE OUTPUT "${HEADER}" CONTENT "#pragma once

namespace qdiff::embedded {
inline constexpr char kDecidingSources[] = \"${sum}\";
}  // namespace qdiff::embedded
")
