#pragma once

// What the bare system calls cost: the floors that the library is measured against.

#include <cstdint>

namespace pynisher_benchmark {

/// fork, pipe, 8 bytes, waitpid: F.
std::uint64_t bare_fork_call();

/// Seconds from killpg on a group of `count` idle processes until all are reaped.
double bare_killpg(int count);

}  // namespace pynisher_benchmark
