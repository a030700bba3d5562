# What most of the library's files read, compiled once: half of what a cross build would take.
#   cmake -DCMAKE_PROJECT_pynisher_INCLUDE=.../precompile.cmake
function(pynisher_precompile)
  target_precompile_headers(pynisher PRIVATE <fmt/format.h> <cereal/cereal.hpp> <map> <mutex> <optional> <thread>
    "${PROJECT_SOURCE_DIR}/src/platform/contract.hpp" <pynisher/detail/wire/types.hpp>)
endfunction()
cmake_language(DEFER CALL pynisher_precompile)
