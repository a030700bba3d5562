# Boost, cereal, fmt and GoogleTest for another platform, from what this machine has of them: headers are the same
# everywhere, and GoogleTest is built from its sources.
#   cmake -DINCLUDE=/usr/include -DGOOGLETEST=/usr/src/googletest -DTO=<folder> -P header_packages.cmake
#
# /usr/include itself must not be searched in a cross build: it holds this machine's C library.

cmake_policy(VERSION 3.25)

foreach(library boost cereal fmt)
  if(NOT IS_DIRECTORY "${INCLUDE}/${library}")
    message(FATAL_ERROR "there is no ${INCLUDE}/${library}")
  endif()
  file(MAKE_DIRECTORY "${TO}/include")
  file(CREATE_LINK "${INCLUDE}/${library}" "${TO}/include/${library}" SYMBOLIC)
endforeach()
# A name that Boost.Process spells as Windows programs do; only Windows' file systems take both.
file(CONFIGURE OUTPUT "${TO}/windows/Windows.h" CONTENT "#include <windows.h>\n")

file(STRINGS "${INCLUDE}/boost/version.hpp" version REGEX "#define BOOST_VERSION ")
string(REGEX REPLACE "[^0-9]" "" version "${version}")
math(EXPR major "${version} / 100000")
math(EXPR minor "${version} / 100 % 1000")
if("${major}.${minor}" VERSION_GREATER_EQUAL 1.86)
  message(FATAL_ERROR "Boost ${major}.${minor} is not all headers: its Process would have to be built for the other platform, "
    "and be told to CMake by Boost_DIR. An older Boost's headers do.")
endif()

function(package name version targets)
  set(folder "${TO}/lib/cmake/${name}")
  file(CONFIGURE OUTPUT "${folder}/${name}Config.cmake" @ONLY CONTENT
"get_filename_component(include \"\${CMAKE_CURRENT_LIST_DIR}/../../../include\" ABSOLUTE)
${targets}
")
  file(CONFIGURE OUTPUT "${folder}/${name}ConfigVersion.cmake" @ONLY CONTENT
"set(PACKAGE_VERSION ${version})
if(NOT PACKAGE_FIND_VERSION VERSION_GREATER PACKAGE_VERSION)
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
endif()
")
endfunction()

function(header_package name version target)
  package(${name} ${version}
"if(NOT TARGET ${target})
  add_library(${target} INTERFACE IMPORTED)
  set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES \"\${include}\" ${ARGN})
endif()")
endfunction()

header_package(Boost "${major}.${minor}" Boost::headers)
header_package(cereal 1.3 cereal::cereal)
header_package(fmt 9.1 fmt::fmt INTERFACE_COMPILE_DEFINITIONS FMT_HEADER_ONLY)
package(GTest 1.12
"if(NOT TARGET gmock)
  set(INSTALL_GTEST OFF)
  set(gtest_force_shared_crt ON)
  add_subdirectory(\"${GOOGLETEST}\" \"\${CMAKE_BINARY_DIR}/googletest\" EXCLUDE_FROM_ALL SYSTEM)
endif()")
