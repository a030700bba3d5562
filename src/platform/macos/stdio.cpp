#include <stdio.h>

#include <iostream>

#include "../contract.hpp"

namespace pynisher::platform {

namespace {

/// Written, and still in the stream's buffer. BSD's stdio keeps it between these two.
bool has_output(const FILE* stream) { return (stream->_flags & __SWR) != 0 && stream->_p > stream->_bf._base; }

}  // namespace

void flush_iostreams() {
  for (std::ostream* stream : {&std::cout, &std::clog}) stream->flush();
  for (std::wostream* stream : {&std::wcout, &std::wclog}) stream->flush();
}

void flush_stdio() {
  flush_iostreams();
  // All streams at once would mean waiting for the lock that a thread holds while it waits for input.
  ::fflush(stdout);
  ::fflush(stderr);
}

void flush_all_stdio() { ::fflush(nullptr); }

void forget_stdio() noexcept {
  // What other threads have printed since the flush is theirs, and what was read ahead is the parent's.
  if (has_output(stdout)) ::fpurge(stdout);
  if (has_output(stderr)) ::fpurge(stderr);
  ::fpurge(stdin);
}

}  // namespace pynisher::platform
