#!/bin/sh
# As quickstart.sh, then everything else is built and all tests are run.    sh cmake/test.sh

. "$(dirname -- "$0")/setup.sh"

need $needed_to_build $needed_to_test
configure -DPYNISHER_BUILD_EXAMPLES=ON -DPYNISHER_BUILD_TESTING=ON -DPYNISHER_BUILD_BENCHMARKS=ON
build "the library and inspect_files" --target pynisher inspect_files
inspect_files
build "the other examples, tests and benchmarks"
say "running the tests"
ctest --test-dir build --output-on-failure --parallel 2 --no-tests=error
