# Everything the library needs, found and never fetched.

# A message with the command that helps, instead of a search path.
function(pynisher_need found what)
  if(NOT found)
    message(FATAL_ERROR
      "pynisher needs ${what}. One of these installs all that it needs:\n"
      "  apt install  libboost1.81-dev libcereal-dev libfmt-dev\n"
      "               # Debian 13: libboost-dev; where there is libboost-process-dev: that\n"
      "  dnf install  boost-devel cereal-devel fmt-devel\n"
      "  brew install boost cereal fmt\n"
      "  vcpkg install boost-interprocess boost-process cereal fmt")
  endif()
endfunction()

find_package(Threads REQUIRED)

# What libc++ keeps behind a switch before its version 20, that of Xcode 16 among them; what is older has none of it.
if(APPLE)
  include(CheckCXXSourceCompiles)
  block()
    set(CMAKE_CXX_STANDARD 20)
    set(source "#include <stop_token>\nint main() { return std::stop_token().stop_requested() ? 1 : 0; }")
    check_cxx_source_compiles("${source}" PYNISHER_HAS_STOP_TOKEN)
    if(NOT PYNISHER_HAS_STOP_TOKEN)
      set(CMAKE_REQUIRED_DEFINITIONS -D_LIBCPP_ENABLE_EXPERIMENTAL)
      check_cxx_source_compiles("${source}" PYNISHER_HAS_EXPERIMENTAL_STOP_TOKEN)
      if(NOT PYNISHER_HAS_EXPERIMENTAL_STOP_TOKEN)
        message(FATAL_ERROR "pynisher needs std::stop_token: Xcode 16 or later, or the clang of Homebrew's llvm")
      endif()
    endif()
  endblock()
endif()

# Boost's own package file, where CMake no longer brings one.
if(POLICY CMP0167)
  cmake_policy(SET CMP0167 NEW)
endif()
find_package(Boost 1.81 QUIET)
pynisher_need("${Boost_FOUND}" "Boost 1.81 or later")

# Boost.Process: headers, if asked to be; and since 1.86 a library, which is linked and says for itself what its paths are.
# On Windows those of the headers are the standard's, as Boost's own would have to be linked.
if(Boost_VERSION VERSION_LESS 1.86)
  set(pynisher_boost_process_library "")
  set(pynisher_boost_process_definitions BOOST_PROCESS_V2_HEADER_ONLY=1
    $<$<PLATFORM_ID:Windows>:BOOST_PROCESS_USE_STD_FS=1>)
else()
  find_package(Boost ${Boost_VERSION} EXACT QUIET CONFIG OPTIONAL_COMPONENTS process)
  pynisher_need("${Boost_process_FOUND}"
    "the library of Boost.Process, which Boost ${Boost_VERSION} in ${Boost_INCLUDE_DIRS} is without")
  set(pynisher_boost_process_library Boost::process)
  set(pynisher_boost_process_definitions "")
endif()

find_package(fmt QUIET)
pynisher_need("${fmt_FOUND}" "fmt")

find_package(cereal QUIET)
pynisher_need("${cereal_FOUND}" "cereal")
# Older copies have the target without the namespace.
if(TARGET cereal AND NOT TARGET cereal::cereal)
  add_library(cereal::cereal INTERFACE IMPORTED)
  set_target_properties(cereal::cereal PROPERTIES INTERFACE_LINK_LIBRARIES cereal)
endif()

function(pynisher_need_for_tests found what apt dnf brew vcpkg)
  if(NOT found)
    message(FATAL_ERROR
      "pynisher's tests and benchmarks need ${what}: apt install ${apt}, dnf install ${dnf}, brew install ${brew} or "
      "vcpkg install ${vcpkg}. Or leave them out: -DPYNISHER_BUILD_TESTING=OFF -DPYNISHER_BUILD_BENCHMARKS=OFF")
  endif()
endfunction()
