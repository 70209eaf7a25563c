# `cmake --install` and CPack: the program, its manual page and the shells' completions.
#
# The program runs on the LibTorch that it was linked with, wherever that is. With QDIFF_BUNDLE_LIBTORCH the libraries that
# it needs beside the system's own are installed with it, so that it runs on another machine: that is what a package is for.
option(QDIFF_BUNDLE_LIBTORCH "Install LibTorch's libraries beside the program" OFF)

include(GNUInstallDirs)

function(qdiff_install_program program)
  get_property(torch_folders GLOBAL PROPERTY QDIFF_LIBTORCH_FOLDERS)
  list(REMOVE_DUPLICATES torch_folders)
  set_target_properties(${program} PROPERTIES QDIFF_IS_INSTALLED ON BUILD_RPATH "${torch_folders}")
  if(QDIFF_BUNDLE_LIBTORCH)
    install(TARGETS ${program} RUNTIME_DEPENDENCY_SET qdiff_libraries RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}"
            COMPONENT program)
    install(RUNTIME_DEPENDENCY_SET qdiff_libraries
            DIRECTORIES ${torch_folders}
            PRE_EXCLUDE_REGEXES "^lib(c|m|dl|rt|pthread|gcc_s|stdc\\+\\+)\\.so" "^ld-linux"
            POST_EXCLUDE_REGEXES "^/lib" "^/usr/lib/"
            LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}/qdiff" COMPONENT program)
    set_target_properties(${program} PROPERTIES INSTALL_RPATH "$ORIGIN/../${CMAKE_INSTALL_LIBDIR}/qdiff")
  else()
    install(TARGETS ${program} RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}"
            COMPONENT program)
    set_target_properties(${program} PROPERTIES INSTALL_RPATH "${torch_folders}")
  endif()

  # By the program that was just built, which describes itself.
  install(CODE "
    function(write_output_of file)
      set(path \"\$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/\${file}\")
      get_filename_component(folder \"\${path}\" DIRECTORY)
      file(MAKE_DIRECTORY \"\${folder}\")
      execute_process(COMMAND \"$<TARGET_FILE:${program}>\" \${ARGN} OUTPUT_FILE \"\${path}\" COMMAND_ERROR_IS_FATAL ANY)
      message(STATUS \"Installing: \${path}\")
    endfunction()
    write_output_of(\"${CMAKE_INSTALL_MANDIR}/man1/qdiff.1\" man)
    write_output_of(\"${CMAKE_INSTALL_DATADIR}/bash-completion/completions/qdiff\" completion bash)
    write_output_of(\"${CMAKE_INSTALL_DATADIR}/zsh/vendor-completions/_qdiff\" completion zsh)
    write_output_of(\"${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d/qdiff.fish\" completion fish)" COMPONENT program)
  install(FILES "${PROJECT_SOURCE_DIR}/README.md" "${PROJECT_SOURCE_DIR}/CHANGELOG.md"
          DESTINATION "${CMAKE_INSTALL_DOCDIR}" COMPONENT program)
endfunction()

# The program as a Python wheel has it (pyproject.toml): the same objects, linked to look for LibTorch in the package
# `torch` beside it, and so in need of nothing else.
function(qdiff_install_in_wheel program)
  set(target ${program}_in_wheel)
  add_executable(${target} EXCLUDE_FROM_ALL $<TARGET_OBJECTS:${program}>)
  get_target_property(libraries ${program} LINK_LIBRARIES)
  target_link_libraries(${target} PRIVATE ${libraries})
  get_property(torch_folders GLOBAL PROPERTY QDIFF_LIBTORCH_FOLDERS)
  set(site_packages "$ORIGIN/../..")
  set_target_properties(${target} PROPERTIES OUTPUT_NAME ${program} LINKER_LANGUAGE CXX
                        RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/in_wheel"
                        QDIFF_IS_INSTALLED ON BUILD_RPATH "${torch_folders}"
                        INSTALL_RPATH "${site_packages}/torch/lib;${site_packages}/nvidia/cu13/lib")
  install(TARGETS ${target} RUNTIME DESTINATION ${program}/bin COMPONENT wheel OPTIONAL EXCLUDE_FROM_ALL)
endfunction()

set(CPACK_PACKAGE_NAME qdiff)
set(CPACK_PACKAGE_VENDOR "the qdiff project")
set(CPACK_PACKAGE_CONTACT "the qdiff project")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "Finds the first wrong tensor of a language model's forward pass")
set(CPACK_PACKAGE_DESCRIPTION_FILE "${PROJECT_SOURCE_DIR}/README.md")
set(CPACK_GENERATOR DEB)
set(CPACK_INSTALL_CMAKE_PROJECTS "${PROJECT_BINARY_DIR};qdiff;program;/")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION devel)
set(CPACK_DEBIAN_PACKAGE_DEPENDS "libc6 (>= 2.36), libstdc++6 (>= 12), libgcc-s1, libgomp1")
set(CPACK_DEBIAN_COMPRESSION_TYPE zstd)
include(CPack)
