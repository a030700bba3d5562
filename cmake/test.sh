#!/bin/sh
# As quickstart.sh, then everything else is built and all tests are run.    sh cmake/test.sh

. "$(dirname -- "$0")/setup.sh"

need $needed_to_build $needed_to_test
configure -DPYNISHER_BUILD_EXAMPLES=ON -DPYNISHER_BUILD_TESTING=ON -DPYNISHER_BUILD_BENCHMARKS=ON
build "the library and inspect_files" --target pynisher inspect_files
inspect_files
build "the other examples, tests and benchmarks"
say "running the tests"
if ctest --test-dir build --output-on-failure --parallel 2 --no-tests=error; then
  exit 0
fi

# A fault fails again when nothing else runs. What does not is a race, in a test or in the library: named, to be found.
failed=build/Testing/Temporary/LastTestsFailed.log
[ -s "$failed" ] || exit 1
once=$(sed 's/^[0-9]*:/  /' "$failed")
say "running those that failed again, by themselves"
ctest --test-dir build --output-on-failure --rerun-failed || exit 1
say "failed beside other tests and passed alone; each of these is a bug to be found:"
printf '%s\n' "$once"
