# Runs inspect_files on its own files and looks whether each nasty one met the end that is meant for it.
#   cmake -D inspector=PROGRAM -D scratch=DIRECTORY -P check.cmake

file(REMOVE_RECURSE "${scratch}")
file(MAKE_DIRECTORY "${scratch}")
set(ENV{TMPDIR} "${scratch}")
# Less to fill than by default, and more time to do it in: a busy machine must not bring the wall limit forward.
execute_process(COMMAND "${inspector}" --memory=48 --wall=10 RESULT_VARIABLE code OUTPUT_VARIABLE table ERROR_VARIABLE chatter)

set(faults "")
function(expect file verdict sentence)
  if(NOT table MATCHES "/${file} +(${verdict}) [^\n]*(${sentence})")
    set(faults "${faults}\n  ${file}: not '${verdict}' with '${sentence}'" PARENT_SCOPE)
  endif()
endfunction()

if(table MATCHES "No memory limit: ")
  set(without_limit "|cpu_timeout|wall_timeout")  # in a build with sanitizers
else()
  set(without_limit "")
endif()
expect(os-release "returned" "text: [0-9]+ lines")
expect(gzip_bomb\\.gz "memory_limit${without_limit}" "limit of")
expect(billion_laughs\\.xml "memory_limit${without_limit}" "limit of")
if(NOT without_limit)
  expect(lying\\.png "memory_limit" "memory limit of 48 MiB")
  expect(one_long_line\\.conf "signalled" "SIGSEGV [^\n]*stack")
endif()
expect(truncated\\.png "raised" "libpng: Read Error")
# On a very busy machine ten seconds may pass before it gets its one second of CPU time.
expect(unclosed_quote\\.conf "cpu_timeout|wall_timeout" "limit of")
expect(silent_pipe\\.conf "wall_timeout" "wall time limit of 10 s")

if(NOT code STREQUAL "0")
  string(APPEND faults "\n  it ended with ${code}")
endif()
if(NOT chatter STREQUAL "" AND NOT without_limit)
  string(APPEND faults "\n  something was printed beside the table: ${chatter}")
endif()
file(GLOB left "${scratch}/*")
if(left)
  string(APPEND faults "\n  it left ${left}")
endif()
if(faults)
  message(FATAL_ERROR "inspect_files:${faults}\n\n${table}")
endif()
message("${table}")
