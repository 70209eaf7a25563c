# What every target of the tree shares, as INTERFACE targets and two functions. C++ options are given to C++ sources
# only, so that nvcc does not meet them.

find_program(QDIFF_CCACHE ccache)
mark_as_advanced(QDIFF_CCACHE)
if(QDIFF_CCACHE)
  foreach(language CXX CUDA)
    if(NOT DEFINED CMAKE_${language}_COMPILER_LAUNCHER)
      # Without this sloppiness ccache passes over everything that uses a precompiled header.
      set(CMAKE_${language}_COMPILER_LAUNCHER
          "${CMAKE_COMMAND};-E;env;CCACHE_SLOPPINESS=pch_defines,time_macros;${QDIFF_CCACHE}")
    endif()
  endforeach()
endif()

if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

add_library(qdiff_warnings INTERFACE)
target_compile_options(qdiff_warnings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wpedantic;-Wshadow>
                       $<$<COMPILE_LANGUAGE:CXX>:-Wnon-virtual-dtor;-Woverloaded-virtual>
                       $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<BOOL:${QDIFF_WARNINGS_AS_ERRORS}>>:-Werror>)

# g++ 12 warns of its own std::string (https://gcc.gnu.org/bugzilla/show_bug.cgi?id=105651, mended in 13).
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  target_compile_options(qdiff_warnings INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-restrict>)
endif()
# g++ 13 takes any function that returns a reference and is given a temporary for one that returns the temporary
# (https://gcc.gnu.org/bugzilla/show_bug.cgi?id=107532, narrowed in 14), and sees index -1 in an inlined std::vector::insert.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 13
   AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 14)
  target_compile_options(qdiff_warnings INTERFACE
                         $<$<COMPILE_LANGUAGE:CXX>:-Wno-dangling-reference;-Wno-array-bounds>)
endif()

# No contraction into fused multiply-add and no reassociation wherever a verdict is computed, whatever CXXFLAGS asks for:
# -fno-fast-math takes back a -ffast-math that stands there.
add_library(qdiff_strict_floating_point INTERFACE)
target_compile_options(qdiff_strict_floating_point INTERFACE
                       $<$<COMPILE_LANGUAGE:CXX>:-ffp-contract=off;-fno-fast-math>)

add_library(qdiff_base INTERFACE)
target_compile_features(qdiff_base INTERFACE cxx_std_20)
target_include_directories(qdiff_base INTERFACE "${PROJECT_SOURCE_DIR}")
target_link_libraries(qdiff_base INTERFACE qdiff_warnings)
if(QDIFF_SANITIZE)
  target_compile_options(qdiff_base INTERFACE -fsanitize=${QDIFF_SANITIZE} -fno-sanitize-recover=all
                         -fno-omit-frame-pointer)
  target_link_options(qdiff_base INTERFACE -fsanitize=${QDIFF_SANITIZE})
  # Under a sanitizer g++ takes right code for uninitialized, std::regex for one
  # (https://gcc.gnu.org/bugzilla/show_bug.cgi?id=105562).
  target_compile_options(qdiff_base INTERFACE $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
endif()

if(QDIFF_FUZZ)
  target_compile_options(qdiff_base INTERFACE -fsanitize=fuzzer-no-link)
endif()

# Tests are compiled more often than they are run.
add_library(qdiff_test_options INTERFACE)
target_link_libraries(qdiff_test_options INTERFACE qdiff_strict_floating_point)
target_compile_options(qdiff_test_options INTERFACE $<$<AND:$<COMPILE_LANGUAGE:CXX>,$<CONFIG:Release>>:-O1>)

# qdiff_compile_together(NAME): with QDIFF_UNITY the target's sources are compiled some at a time, so that the headers which
# they share are read once. So no two sources of a room may give an unnamed namespace the same name.
function(qdiff_compile_together name)
  set_target_properties(${name} PROPERTIES UNITY_BUILD ${QDIFF_UNITY} UNITY_BUILD_BATCH_SIZE 8)
endfunction()

# qdiff_library(NAME SOURCES file... LINKS target...): a static library with the shared settings.
function(qdiff_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINKS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  qdiff_compile_together(${name})
  target_link_libraries(${name} PUBLIC qdiff_base ${ARG_LINKS})
endfunction()

if(BUILD_TESTING OR NOT DEFINED BUILD_TESTING)
  find_package(Catch2 REQUIRED)   # 2.13 (Debian 12) or 3.x (Ubuntu 24.04)
  include(Catch)
  if(Catch2_VERSION VERSION_GREATER_EQUAL 3)
    set(QDIFF_CATCH_MAIN Catch2::Catch2WithMain)
  else()
    add_library(qdiff_catch_main STATIC "${PROJECT_SOURCE_DIR}/cmake/catch2_main.cpp")
    target_link_libraries(qdiff_catch_main PUBLIC Catch2::Catch2)
    set(QDIFF_CATCH_MAIN qdiff_catch_main)
  endif()
  # Catch2's header is half of what a test costs to compile. A program carries it precompiled for all tests, since a
  # library would be compiled with other options.
  add_executable(qdiff_test_headers EXCLUDE_FROM_ALL "${PROJECT_SOURCE_DIR}/cmake/catch2_headers.cpp")
  target_link_libraries(qdiff_test_headers PRIVATE qdiff_base qdiff_test_options Catch2::Catch2)
  target_precompile_headers(qdiff_test_headers PRIVATE "${PROJECT_SOURCE_DIR}/cmake/catch2.h")
endif()

# All programs whose tests have the label `threads`: those that ThreadSanitizer has something to say of.
add_custom_target(qdiff_thread_tests)

# qdiff_test(NAME SOURCES file... LINKS target... [LABELS label...]): a Catch2 program, each test case a ctest.
# Test sources include "cmake/catch2.h", which fits both versions of Catch2.
function(qdiff_test name)
  if(NOT BUILD_TESTING)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "SOURCES;LINKS;LABELS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  qdiff_compile_together(${name})
  target_link_libraries(${name} PRIVATE qdiff_base qdiff_test_options ${ARG_LINKS} ${QDIFF_CATCH_MAIN})
  target_precompile_headers(${name} REUSE_FROM qdiff_test_headers)
  target_compile_definitions(${name} PRIVATE QDIFF_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  if("threads" IN_LIST ARG_LABELS)
    add_dependencies(qdiff_thread_tests ${name})
  endif()
  if(ARG_LABELS)
    catch_discover_tests(${name} PROPERTIES LABELS "${ARG_LABELS}")
  else()
    catch_discover_tests(${name})
  endif()
endfunction()
