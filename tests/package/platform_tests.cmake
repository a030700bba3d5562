# The build chooses the operating system; code asks for it only where this says so:
#   cmake -DROOT=<source tree> -P platform_tests.cmake

set(allowed "^src/platform/")

# Macros that tell operating systems apart.
set(systems "__linux__|__linux|__gnu_linux__|__ANDROID__|__APPLE__|__MACH__|TARGET_OS_[A-Z]+|_WIN32|_WIN64|WIN32|__MINGW32__|__MINGW64__|__CYGWIN__|__unix__|__unix|__FreeBSD__|__NetBSD__|__OpenBSD__|__DragonFly__|__sun|_POSIX_VERSION|BOOST_OS_[A-Z]+|__GLIBC__")

cmake_policy(VERSION 3.25)

file(GLOB_RECURSE files RELATIVE "${ROOT}"
  "${ROOT}/include/*.hpp" "${ROOT}/src/*.hpp" "${ROOT}/src/*.cpp" "${ROOT}/examples/*.cpp" "${ROOT}/examples/*.hpp")
if(NOT files)
  message(FATAL_ERROR "no sources in ${ROOT}")
endif()
foreach(file IN LISTS files)
  if(file MATCHES "${allowed}")
    continue()
  endif()
  file(STRINGS "${ROOT}/${file}" lines REGEX "^[ \t]*#[ \t]*(if|ifdef|ifndef|elif|elifdef|elifndef)[ \t(!]")
  foreach(line IN LISTS lines)
    if(line MATCHES "(^|[^A-Za-z0-9_])(${systems})([^A-Za-z0-9_]|$)")
      message(SEND_ERROR "${file} asks for the operating system: ${line}")
    endif()
  endforeach()
endforeach()
