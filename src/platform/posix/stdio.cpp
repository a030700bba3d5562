#include <stdio.h>
#include <stdio_ext.h>

#include <iostream>

#include "../contract.hpp"

namespace pynisher::platform {

void flush_stdio() {
  std::cout.flush();
  std::clog.flush();
  // Flushing everything waits for every stream's lock, and a thread that waits for input holds the one of stdin.
  if (::ftrylockfile(stdin) == 0) {
    ::fflush(nullptr);
    ::funlockfile(stdin);
  } else {
    ::fflush(stdout);
    ::fflush(stderr);
  }
}

void forget_stdio() noexcept {
  // What other threads have printed since the flush is theirs, and what was read ahead is the parent's.
  ::__fpurge(stdout);
  ::__fpurge(stderr);
  ::__fpurge(stdin);
}

}  // namespace pynisher::platform
