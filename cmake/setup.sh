# What quickstart.sh and test.sh share: finding and installing packages, configuring, building. To be sourced, by sh.
#
# Where everything is there already nothing is installed, and no root is needed. CXX chooses the compiler. With
# CMAKE_TOOLCHAIN_FILE in the environment (vcpkg's, say) the libraries are that file's business.

set -eu
cd "$(dirname -- "$0")/.."
mkdir -p build
log=build/setup.log

say() { printf '%s\n' "pynisher: $*"; }

# quietly WHAT COMMAND...: says what it does, and shows the command's output only if it fails.
quietly() {
  say "$1"
  shift
  if ! "$@" >"$log" 2>&1 </dev/null; then
    cat "$log" >&2
    say "failed: $*" >&2
    exit 1
  fi
}

# --- what is there ------------------------------------------------------------------------------------------

compiler() {
  if [ -n "${CXX:-}" ]; then set -- "$CXX"; else set -- c++ g++ clang++; fi
  for candidate in "$@"; do
    # CXX may hold arguments.
    if command -v "${candidate%% *}" >/dev/null 2>&1; then
      echo "$candidate"
      return
    fi
  done
}

# Asked of the preprocessor, which looks where the compiler will.
probe() {
  cat <<'END'
#if __cplusplus < 202002L
missing compiler
#endif
#if __has_include(<boost/version.hpp>)
#include <boost/version.hpp>
#endif
#if !defined(BOOST_VERSION) || BOOST_VERSION < 108100
missing boost
#elif BOOST_VERSION >= 108600
linked boost
#endif
#if !__has_include(<cereal/cereal.hpp>)
missing cereal
#endif
#if !__has_include(<fmt/format.h>)
missing fmt
#endif
#if !__has_include(<zlib.h>)
missing zlib
#endif
#if !__has_include(<libxml/parser.h>) && !__has_include(<libxml2/libxml/parser.h>)
missing libxml2
#endif
#if !__has_include(<png.h>)
missing libpng
#endif
#if !__has_include(<gtest/gtest.h>)
missing gtest
#endif
#if !__has_include(<gmock/gmock.h>)
missing gmock
#endif
#if !__has_include(<benchmark/benchmark.h>)
missing benchmark
#endif
END
}

# Those of the names given that are not there.
missing_of() {
  wanted=" $* "
  {
    cxx=$(compiler)
    if [ -z "$cxx" ]; then
      echo compiler
    elif [ -z "${CMAKE_TOOLCHAIN_FILE:-}" ]; then
      answers=$(probe | $cxx -std=c++20 -E -P -x c++ - 2>/dev/null) || true
      echo "$answers" | sed -n 's/^missing //p'
      case $answers in
        *'linked boost'*) echo 'int main() {}' | $cxx -x c++ - -o build/probe -lboost_process >/dev/null 2>&1 || echo boost ;;
      esac
    fi
    cmake --version 2>/dev/null | awk '
      NR == 1 { split($3, v, "."); new = v[1] > 3 || (v[1] == 3 && v[2] >= 25) }
      END { if (!new) print "cmake" }'
    command -v ninja >/dev/null 2>&1 || echo ninja
  } | while read -r name; do
    case $wanted in *" $name "*) echo "$name" ;; esac
  done
}

# --- what is not --------------------------------------------------------------------------------------------

debian_package() {
  case $1 in
    compiler) echo g++ ;;
    cmake) echo cmake ;;
    ninja) echo ninja-build ;;
    # Debian 12 has two; its default is too old. Later releases have a default that is new enough, first without and then
    # with a library of Boost.Process.
    boost)
      for package in libboost1.81-dev libboost-process-dev libboost-dev; do
        LC_ALL=C apt-cache policy $package 2>/dev/null | grep -q 'Candidate: [0-9]' && break
      done
      echo $package
      ;;
    cereal) echo libcereal-dev ;;
    fmt) echo libfmt-dev ;;
    zlib) echo zlib1g-dev ;;
    libxml2) echo libxml2-dev ;;
    libpng) echo libpng-dev ;;
    gtest) echo libgtest-dev ;;
    gmock) echo libgmock-dev ;;
    benchmark) echo libbenchmark-dev ;;
  esac
}

give_up() {
  say "missing: $*"
  cat <<'END'

C++20, CMake 3.25, ninja, Boost 1.81 (or later) and some libraries are needed. One of these installs them all:

  apt-get install g++ cmake ninja-build libboost1.81-dev libcereal-dev libfmt-dev zlib1g-dev libxml2-dev libpng-dev \
      libgtest-dev libgmock-dev libbenchmark-dev
      # where there is no libboost1.81-dev: libboost-process-dev; where there is none of that either: libboost-dev
  dnf install gcc-c++ cmake ninja-build boost-devel cereal-devel fmt-devel zlib-devel libxml2-devel libpng-devel \
      gtest-devel gmock-devel google-benchmark-devel
  brew install cmake ninja boost cereal fmt zlib libxml2 libpng googletest google-benchmark
  vcpkg install boost-interprocess boost-process cereal fmt zlib libxml2 libpng gtest benchmark
      # vcpkg has the libraries only, and is told to CMake by CMAKE_TOOLCHAIN_FILE=<vcpkg>/scripts/buildsystems/vcpkg.cmake

(as root or by sudo, but for brew and vcpkg), then start this again.
END
  exit 1
} >&2

# need NAME...: installs what is missing of them, where this is a Debian and we may.
need() {
  # The second time: the libraries can be looked for only when there is a compiler.
  for attempt in 1 2; do
    lacking=$(missing_of "$@")
    [ -n "$lacking" ] || return 0
    as_root=
    if [ "$(id -u)" != 0 ]; then
      as_root='sudo -n'
      $as_root true >/dev/null 2>&1 || give_up $lacking
    fi
    command -v apt-get >/dev/null 2>&1 || give_up $lacking
    # It may fail for one repository of many; what matters is whether the packages come.
    $as_root apt-get update -qq >"$log" 2>&1 </dev/null || true
    packages=$(for name in $lacking; do debian_package "$name"; done)
    # An older Boost gives way to the new one, and what depends on it goes with it: not behind the user's back.
    removed=$($as_root env LC_ALL=C apt-get install -s --no-install-recommends $packages 2>/dev/null </dev/null |
      sed -n 's/^Remv \([^ ]*\).*/\1/p')
    [ -z "$removed" ] || confirm "apt-get removes, as it installs" $packages: $removed
    quietly "installing $(echo $packages)" \
      $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $packages
  done
  lacking=$(missing_of "$@")
  [ -z "$lacking" ] || give_up $lacking
}

# Says it, and asks where there is somebody to ask.
confirm() {
  say "$*"
  if [ -t 0 ]; then
    printf 'Go on? [y/N] '
    read -r answer
    case $answer in [yY]*) ;; *) exit 1 ;; esac
  fi
}

needed_to_build='compiler cmake ninja boost cereal fmt zlib libxml2 libpng'
needed_to_test='gtest gmock benchmark'

# --- building -----------------------------------------------------------------------------------------------

# configure ARGUMENT...
configure() {
  # A build directory keeps the generator that it began with.
  [ -e build/CMakeCache.txt ] || set -- -G Ninja "$@"
  cxx=$(compiler)
  # CMake looks for c++ by itself, and for little else.
  if [ -z "${CXX:-}" ]; then
    export CXX="$cxx"
  fi
  quietly "configuring build/ for $cxx" cmake -S . -B build "-DCMAKE_BUILD_TYPE=Release" "$@"
}

# build WHAT ARGUMENT...
build() {
  what=$1
  shift
  if [ -t 1 ]; then
    say "building $what"
    cmake --build build "$@"
  else
    quietly "building $what" cmake --build build "$@"
  fi
}

# The program that shows what the library is for.
inspect_files() {
  say "inspecting files, each in a call under limits: build/examples/inspect_files/inspect_files"
  build/examples/inspect_files/inspect_files
}
