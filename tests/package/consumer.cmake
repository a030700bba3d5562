# Configures, builds and runs a consumer, or builds one target of any project:
#   cmake -DSOURCE= -DBINARY= -DGENERATOR= -DSETTINGS=<initial cache> -DCONFIG= [-DTARGET=] [-DEXPECTED_OUTPUT=]
#         -P consumer.cmake -- <arguments of the configure step>

foreach(index RANGE ${CMAKE_ARGC})
  if("${CMAKE_ARGV${index}}" STREQUAL "--")
    set(rest TRUE)
  elseif(rest AND NOT "${CMAKE_ARGV${index}}" STREQUAL "")
    list(APPEND arguments "${CMAKE_ARGV${index}}")
  endif()
endforeach()

function(run what)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    message("${output}")
    message(FATAL_ERROR "${what}: ${result}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

# Fresh settings; objects may stay, so that a second run is quick.
run("configure" "${CMAKE_COMMAND}" --fresh -S "${SOURCE}" -B "${BINARY}" -G "${GENERATOR}" -C "${SETTINGS}" ${arguments})
if(output MATCHES "CMake (Deprecation )?Warning")
  message("${output}")
  message(FATAL_ERROR "configuring was not silent")
endif()
if(TARGET)
  set(target --target "${TARGET}")
endif()
run("build" "${CMAKE_COMMAND}" --build "${BINARY}" --config "${CONFIG}" --parallel 2 ${target})

if(EXPECTED_OUTPUT)
  find_program(program consumer PATHS "${BINARY}" "${BINARY}/${CONFIG}" NO_DEFAULT_PATH REQUIRED)
  run("run" "${program}")
  string(STRIP "${output}" output)
  if(NOT output STREQUAL EXPECTED_OUTPUT)
    message(FATAL_ERROR "the program wrote '${output}' instead of '${EXPECTED_OUTPUT}'")
  endif()
endif()
