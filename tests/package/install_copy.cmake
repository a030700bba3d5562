# Installs a built library, moves the copy, and looks for traces of where and how it was built:
#   cmake -DBINARY= -DCONFIG= -DPREFIX= -DSOURCE= -DOF_BOOST=<what of Boost nobody is to know> -P install_copy.cmake

file(REMOVE_RECURSE "${PREFIX}" "${PREFIX}.first")
execute_process(
  COMMAND "${CMAKE_COMMAND}" --install "${BINARY}" --prefix "${PREFIX}.first" --config "${CONFIG}"
  RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "install: ${result}\n${output}")
endif()
file(RENAME "${PREFIX}.first" "${PREFIX}")

file(GLOB_RECURSE package_files "${PREFIX}/*.cmake")
if(NOT package_files)
  message(FATAL_ERROR "no package was installed")
endif()
foreach(file IN LISTS package_files)
  file(READ "${file}" text)
  foreach(trace "${SOURCE}/" "${BINARY}/" "${PREFIX}" "pynisher_warnings" "${OF_BOOST}" "GTest" "benchmark" "-fsanitize")
    string(FIND "${text}" "${trace}" place)
    if(NOT place EQUAL -1)
      message(SEND_ERROR "${file} speaks of ${trace}")
    endif()
  endforeach()
endforeach()

file(GLOB_RECURSE headers RELATIVE "${SOURCE}/include" "${SOURCE}/include/*.hpp")
file(GLOB_RECURSE installed RELATIVE "${PREFIX}/include" "${PREFIX}/include/*")
if(NOT headers OR NOT headers STREQUAL installed)
  message(SEND_ERROR "installed headers: ${installed}\nheaders: ${headers}")
endif()
