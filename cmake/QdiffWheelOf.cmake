# A wheel of a program that is built already: `pip wheel . -C cmake.define.QDIFF_WHEEL_OF=BUILD_FOLDER`.
get_filename_component(folder "${QDIFF_WHEEL_OF}" ABSOLUTE BASE_DIR "${CMAKE_CURRENT_SOURCE_DIR}")
if(NOT EXISTS "${folder}/CMakeCache.txt")
  message(FATAL_ERROR "qdiff: QDIFF_WHEEL_OF='${QDIFF_WHEEL_OF}' is no build folder of qdiff; give one, or leave it out and "
                      "the program is compiled.")
endif()
add_custom_target(qdiff_in_wheel COMMAND "${CMAKE_COMMAND}" --build "${folder}" --target qdiff_in_wheel VERBATIM)
install(CODE "execute_process(COMMAND \"${CMAKE_COMMAND}\" --install \"${folder}\" --component wheel
                              --prefix \"\${CMAKE_INSTALL_PREFIX}\" COMMAND_ERROR_IS_FATAL ANY)" COMPONENT wheel)
