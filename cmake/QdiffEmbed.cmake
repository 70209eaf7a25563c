# qdiff_embed(TARGET IDENTIFIER FILES file...): compiles text files into TARGET.
#
# TARGET and whatever links it may then include "embedded/IDENTIFIER.h", which declares
#   namespace qdiff::embedded { std::span<const File> IDENTIFIER(); }
# The table is in the order of the paths, so it does not depend on how the caller listed them; a change of a file
# rebuilds it. The files must be text (no NUL byte). cmake/embedded.h describes File.
function(qdiff_embed target identifier)
  cmake_parse_arguments(ARG "" "" "FILES" ${ARGN})
  if(NOT identifier MATCHES "^[a-z][a-z0-9_]*$")
    message(FATAL_ERROR "qdiff_embed: '${identifier}' must be a C++ identifier in snake_case")
  endif()
  if(NOT ARG_FILES)
    message(FATAL_ERROR "qdiff_embed(${target} ${identifier}): no files given")
  endif()
  set(paths "")
  foreach(file IN LISTS ARG_FILES)
    get_filename_component(path "${file}" ABSOLUTE BASE_DIR "${CMAKE_CURRENT_SOURCE_DIR}")
    list(APPEND paths "${path}")
  endforeach()
  list(REMOVE_DUPLICATES paths)
  list(SORT paths)

  set(folder "${CMAKE_CURRENT_BINARY_DIR}/embed")
  set(header "${folder}/embedded/${identifier}.h")
  set(source "${folder}/embedded/${identifier}.cpp")
  string(REPLACE ";" "|" joined "${paths}")
  add_custom_command(
    OUTPUT "${header}" "${source}"
    COMMAND "${CMAKE_COMMAND}" "-DIDENTIFIER=${identifier}" "-DROOT=${PROJECT_SOURCE_DIR}" "-DFILES=${joined}"
            "-DHEADER=${header}" "-DSOURCE=${source}" -P "${PROJECT_SOURCE_DIR}/cmake/embed_files.cmake"
    DEPENDS ${paths} "${PROJECT_SOURCE_DIR}/cmake/embed_files.cmake"
    COMMENT "Embedding ${identifier}"
    VERBATIM)
  set_source_files_properties("${source}" PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)   # they name their parts alike
  target_sources(${target} PRIVATE "${source}" "${header}")
  target_include_directories(${target} PUBLIC "${folder}")
endfunction()
