# Compiles SOURCE with COMPILER and compares what comes of it with what the source's first lines expect. PRECOMPILED: a
# directory for what all of them include; without a SOURCE it is filled.

if(SKIP)
  message(STATUS "skipped: ${SKIP}")
  return()
endif()

string(REPLACE "|" ";" INCLUDES "${INCLUDES}")
list(TRANSFORM INCLUDES PREPEND "-I")
set(all "${PRECOMPILED}/all.hpp")

if(NOT SOURCE)
  file(MAKE_DIRECTORY "${PRECOMPILED}")
  file(WRITE "${all}" "#include <pynisher/pynisher.hpp>\n")
  execute_process(COMMAND ${COMPILER} -std=c++20 ${INCLUDES} -x c++-header "${all}" -o "${all}.gch"
    COMMAND_ERROR_IS_FATAL ANY)
  return()
endif()

execute_process(
  COMMAND ${COMPILER} -std=c++20 -fsyntax-only ${INCLUDES} -include "${all}" ${SOURCE}
  RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE errors)
string(APPEND output "${errors}")

file(STRINGS ${SOURCE} expectations REGEX "^// EXPECT: ")

if(NOT expectations)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "This must compile, and does not:\n${output}")
  endif()
  return()
endif()

if(result EQUAL 0)
  message(FATAL_ERROR "This compiled, and must not.")
endif()
if(output MATCHES "fatal error")
  message(FATAL_ERROR "This failed before it came to the point:\n${output}")
endif()
# Compilers break no line, but a text that a reader sees may stand in a line with much else.
foreach(expectation IN LISTS expectations)
  string(REGEX REPLACE "^// EXPECT: " "" expectation "${expectation}")
  if(NOT output MATCHES "${expectation}")
    message(FATAL_ERROR "The output does not match \"${expectation}\":\n${output}")
  endif()
endforeach()
