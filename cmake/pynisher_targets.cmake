# How this project builds: its warnings, and the shapes of its programs.

add_library(pynisher_warnings INTERFACE)
if(MSVC)  # and clang-cl, which takes the same options: -Wall would be all that clang has
  target_compile_options(pynisher_warnings INTERFACE
    /W4 /permissive- /EHsc /utf-8 /bigobj /Zc:__cplusplus
    /wd4324  # padding that was asked for
    # MSVC does not know [[gnu::hot]]; and counts each of the many atomics that a constant holds.
    "$<$<CXX_COMPILER_ID:MSVC>:/Zc:preprocessor;/wd5030;/constexpr:steps10000000>"
    "$<$<CXX_COMPILER_ID:Clang>:-Wconversion;-Wshadow;-Wnon-virtual-dtor;-Wold-style-cast;-Woverloaded-virtual;-Wcast-qual>")
  # Names that the C library has called deprecated, the standard's among them.
  target_compile_definitions(pynisher_warnings INTERFACE _CRT_SECURE_NO_WARNINGS _CRT_NONSTDC_NO_WARNINGS)
elseif(CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
  target_compile_options(pynisher_warnings INTERFACE
    -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wnon-virtual-dtor -Wold-style-cast -Woverloaded-virtual
    -Wcast-qual -Wimplicit-fallthrough
    $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>)  # false alarms of g++ 12 about std::string
endif()
if(PYNISHER_WARNINGS_AS_ERRORS)
  target_compile_options(pynisher_warnings INTERFACE $<IF:$<BOOL:${MSVC}>,/WX,-Werror>)
endif()

# A program of this project's own.
function(pynisher_program name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "SOURCES;LIBRARIES")
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE pynisher::pynisher pynisher_warnings ${arg_LIBRARIES})
endfunction()
