# Turns CUDA on where nvcc is found and works (QDIFF_HAVE_CUDA); without it the build says so and goes on.
#
# qdiff_cuda_library(NAME SOURCES file... LINKS target...)   kernels, C++20
# qdiff_cuda_test(NAME SOURCES file...)                      a program that ends with 0, 1, or 77: skipped, no GPU here
set(QDIFF_HAVE_CUDA OFF)
if(QDIFF_CUDA)
  find_program(QDIFF_NVCC nvcc HINTS "$ENV{CUDA_HOME}/bin" "$ENV{CUDA_PATH}/bin" /usr/local/cuda/bin)
  mark_as_advanced(QDIFF_NVCC)
  if(QDIFF_NVCC)
    if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
      # Machine code for Hopper with its own instructions; PTX for everything from Ampere on. Each entry costs a
      # whole pass of nvcc.
      set(CMAKE_CUDA_ARCHITECTURES "90a-real;80-virtual")
    endif()
    if(NOT DEFINED CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
      set(ENV{CUDACXX} "${QDIFF_NVCC}")
    endif()
    include(CheckLanguage)
    check_language(CUDA)   # tries nvcc with this host compiler; a pair that does not fit is no reason to stop
    if(CMAKE_CUDA_COMPILER)
      enable_language(CUDA)
      set(QDIFF_HAVE_CUDA ON)
    endif()
  endif()
  if(QDIFF_HAVE_CUDA)
    message(STATUS "qdiff: CUDA ${CMAKE_CUDA_COMPILER_VERSION} for ${CMAKE_CUDA_ARCHITECTURES}")
  else()
    message(STATUS "qdiff: no usable nvcc, so the CUDA code is left out")
  endif()
endif()

function(qdiff_cuda_settings target)
  target_link_libraries(${target} PUBLIC qdiff_base)
  # The plain option, because CMake 3.25 does not know that nvcc has C++20 (CUDA_STANDARD 20 is refused).
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20;-Xcompiler=-Wall,-Wextra>
    $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${QDIFF_WARNINGS_AS_ERRORS}>>:--Werror=all-warnings>)
endfunction()

function(qdiff_cuda_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINKS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  qdiff_cuda_settings(${name})
  target_link_libraries(${name} PUBLIC ${ARG_LINKS})
endfunction()

function(qdiff_cuda_test name)
  if(NOT BUILD_TESTING)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "SOURCES;LINKS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  qdiff_cuda_settings(${name})
  target_link_libraries(${name} PRIVATE ${ARG_LINKS})
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES SKIP_RETURN_CODE 77 LABELS gpu)
endfunction()
