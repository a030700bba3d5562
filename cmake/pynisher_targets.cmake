# How this project builds: its warnings, and the shapes of its programs.

add_library(pynisher_warnings INTERFACE)
if(CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
  target_compile_options(pynisher_warnings INTERFACE
    -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wnon-virtual-dtor -Wold-style-cast -Woverloaded-virtual
    -Wcast-qual -Wimplicit-fallthrough
    $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)  # false alarms of g++ 12 about std::string
endif()
if(PYNISHER_WARNINGS_AS_ERRORS)
  target_compile_options(pynisher_warnings INTERFACE -Werror)
endif()

# A program of this project's own.
function(pynisher_program name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LIBRARIES")
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE pynisher::pynisher pynisher_warnings ${arg_LIBRARIES})
endfunction()
