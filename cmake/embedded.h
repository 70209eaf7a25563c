// Data files compiled into a program (see qdiff_embed() in cmake/QdiffEmbed.cmake), so that it needs none at run time.
//
//   qdiff_embed(qdiff_cases suite FILES ${files})       in CMake, then in C++:
//   #include "embedded/suite.h"
//   for (const qdiff::embedded::File& file : qdiff::embedded::suite()) ...
#pragma once

#include <span>
#include <string_view>

namespace qdiff::embedded {

struct File {
  std::string_view name;  // path from the root of the source tree, with '/': "cases/H05-gqa.json"
  std::string_view text;  // the file's bytes, unchanged
};

}  // namespace qdiff::embedded
