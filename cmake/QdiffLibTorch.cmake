# qdiff_libtorch: ATen's headers, libtorch_cpu.so and libc10.so of a PyTorch wheel, as one imported target.
#
# find_package(Torch) is not used: the wheel's own package file demands a CUDA toolkit, switches CMAKE_CUDA_ARCHITECTURES
# off and appends to CMAKE_CUDA_FLAGS, all of which belongs to our kernels alone.
#
# The folder (…/site-packages/torch) is taken from the first of: -DQDIFF_TORCH_DIR, the environment's QDIFF_TORCH_DIR,
# the virtual environment that scripts/setup.sh makes in the cache folder, and python3's own torch.
# Programs linked here carry an RPATH to the libraries, so they start from any folder with no environment variable.

set(QDIFF_TORCH_DIR "" CACHE PATH "The folder …/site-packages/torch of PyTorch 2.11; empty: look for it")
set(QDIFF_TORCH_VERSION_WANTED "2.11")

function(qdiff_find_torch_dir result)
  if(QDIFF_TORCH_DIR)
    set(${result} "${QDIFF_TORCH_DIR}" PARENT_SCOPE)
    return()
  endif()
  if(DEFINED ENV{QDIFF_TORCH_DIR})
    set(${result} "$ENV{QDIFF_TORCH_DIR}" PARENT_SCOPE)
    return()
  endif()
  if(DEFINED ENV{QDIFF_CACHE})
    set(cache "$ENV{QDIFF_CACHE}")
  elseif(DEFINED ENV{XDG_CACHE_HOME})
    set(cache "$ENV{XDG_CACHE_HOME}/qdiff")
  else()
    set(cache "$ENV{HOME}/.cache/qdiff")
  endif()
  file(GLOB candidates "${cache}/libtorch-${QDIFF_TORCH_VERSION_WANTED}*/lib/python3*/site-packages/torch/version.py")
  if(candidates)
    list(GET candidates 0 version_file)
    get_filename_component(found "${version_file}" DIRECTORY)
    set(${result} "${found}" PARENT_SCOPE)
    return()
  endif()
  # A wheel is built for the Python that builds it. pip hides that one's packages from what builds a wheel, so its folder is
  # asked for where find_spec, which does not import torch and so takes no seconds, finds nothing.
  set(python python3)
  if(SKBUILD AND Python3_EXECUTABLE)
    set(python "${Python3_EXECUTABLE}")
  endif()
  execute_process(
    COMMAND ${python} -c "import importlib.util as u, sysconfig; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else sysconfig.get_path('purelib') + '/torch')"
    OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
  set(${result} "${found}" PARENT_SCOPE)
endfunction()

qdiff_find_torch_dir(torch_dir)
if(NOT EXISTS "${torch_dir}/include/ATen/ATen.h" OR NOT EXISTS "${torch_dir}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "qdiff: no LibTorch in '${torch_dir}'. Run scripts/setup.sh, or give the folder of a PyTorch "
                      "${QDIFF_TORCH_VERSION_WANTED} wheel as -DQDIFF_TORCH_DIR=…/site-packages/torch, or build without the "
                      "reference: -DQDIFF_REFERENCE=OFF.")
endif()
file(STRINGS "${torch_dir}/version.py" torch_version REGEX "^__version__ *=")
string(REGEX REPLACE ".*'([^']*)'.*" "\\1" torch_version "${torch_version}")
file(STRINGS "${torch_dir}/version.py" torch_cuda REGEX "^cuda[ :=].*'[0-9.]+'")
if(NOT torch_version MATCHES "^2\\.11\\.")
  message(FATAL_ERROR "qdiff: '${torch_dir}' is PyTorch ${torch_version}; qdiff is built and checked with "
                      "${QDIFF_TORCH_VERSION_WANTED}.")
endif()
message(STATUS "qdiff: LibTorch ${torch_version} in ${torch_dir}")

add_library(qdiff_libtorch_c10 SHARED IMPORTED GLOBAL)
set_target_properties(qdiff_libtorch_c10 PROPERTIES IMPORTED_LOCATION "${torch_dir}/lib/libc10.so")
add_library(qdiff_libtorch SHARED IMPORTED GLOBAL)
set_target_properties(qdiff_libtorch PROPERTIES IMPORTED_LOCATION "${torch_dir}/lib/libtorch_cpu.so")
target_include_directories(qdiff_libtorch SYSTEM INTERFACE "${torch_dir}/include")
target_link_libraries(qdiff_libtorch INTERFACE qdiff_libtorch_c10)
# RPATH rather than RUNPATH: it also serves the libraries' own libraries, and a foreign LD_LIBRARY_PATH does not win.
target_link_options(qdiff_libtorch INTERFACE -Wl,--disable-new-dtags)
# A program that is installed (QdiffInstall) has its RPATH by CMake's properties, which installing can change.
function(qdiff_libtorch_folder folder)
  set_property(GLOBAL APPEND PROPERTY QDIFF_LIBTORCH_FOLDERS "${folder}")
  set(stays "$<NOT:$<BOOL:$<TARGET_PROPERTY:QDIFF_IS_INSTALLED>>>")
  target_link_options(qdiff_libtorch INTERFACE "$<${stays}:-Wl,-rpath,${folder}>" "-Wl,-rpath-link,${folder}")
endfunction()
qdiff_libtorch_folder("${torch_dir}/lib")

# qdiff_libtorch_openmp: the OpenMP runtime that LibTorch itself uses, for sources that are compiled with GCC's -fopenmp.
# There has to be one: at::set_num_threads sets the threads of that runtime alone.
if(EXISTS "${torch_dir}/lib/libgomp.so.1" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  add_library(qdiff_libtorch_openmp SHARED IMPORTED GLOBAL)
  set_target_properties(qdiff_libtorch_openmp PROPERTIES IMPORTED_LOCATION "${torch_dir}/lib/libgomp.so.1")
endif()

# A wheel built for CUDA needs the CUDA runtime and CUPTI even on a machine without a GPU: from the wheels beside it, or
# from a CUDA toolkit.
if(torch_cuda)
  foreach(library libcudart.so.13 libcupti.so.13)
    string(MAKE_C_IDENTIFIER "${library}" slug)
    find_path(QDIFF_DIR_OF_${slug} "${library}" NO_DEFAULT_PATH
              PATHS "${torch_dir}/../nvidia/cu13/lib" /usr/local/cuda/lib64 /usr/local/cuda-13.0/lib64
                    /usr/local/cuda/extras/CUPTI/lib64 /usr/local/cuda-13.0/extras/CUPTI/lib64)
    mark_as_advanced(QDIFF_DIR_OF_${slug})
    if(NOT QDIFF_DIR_OF_${slug})
      message(FATAL_ERROR "qdiff: LibTorch in '${torch_dir}' needs ${library}. Run scripts/setup.sh, or install the PyPI "
                          "packages nvidia-cuda-runtime and nvidia-cuda-cupti 13.0 beside it.")
    endif()
    get_filename_component(directory "${QDIFF_DIR_OF_${slug}}" REALPATH)
    qdiff_libtorch_folder("${directory}")
  endforeach()
endif()
