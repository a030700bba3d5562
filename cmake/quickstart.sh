#!/bin/sh
# From a bare machine to a guarded call: installs what is missing (Debian and its children), builds the library and the
# program that inspects files, and runs it.    sh cmake/quickstart.sh

. "$(dirname -- "$0")/setup.sh"

need $needed_to_build
configure -DPYNISHER_BUILD_EXAMPLES=ON -DPYNISHER_BUILD_TESTING=OFF -DPYNISHER_BUILD_BENCHMARKS=OFF
build "the library and inspect_files" --target pynisher inspect_files
inspect_files
