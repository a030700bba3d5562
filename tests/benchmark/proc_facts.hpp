#pragma once

// What /proc tells of this process.

#include <cstdint>

namespace pynisher_benchmark {

std::uint64_t mapped_bytes();
std::uint64_t resident_bytes();
/// Open descriptors, children dead or alive, and threads besides this one.
int open_descriptors();
int children();
int other_threads();

}  // namespace pynisher_benchmark
