#pragma once

// What the bare system calls cost: the floors that the library is measured against.

#include <cstdint>

namespace pynisher_benchmark {

/// fork, pipe, 8 bytes, waitpid: F.
std::uint64_t bare_fork_call();

/// A process that sends back what it gets through pipes: R is one round trip of 8 bytes.
class pipe_echo {
 public:
  pipe_echo();
  ~pipe_echo();
  pipe_echo(const pipe_echo&) = delete;
  pipe_echo& operator=(const pipe_echo&) = delete;
  std::uint64_t round_trip(std::uint64_t value) const;

 private:
  int pid_ = -1, to_ = -1, from_ = -1;
};

/// Seconds from killpg on a group of `count` idle processes until all are reaped.
double bare_killpg(int count);

}  // namespace pynisher_benchmark
