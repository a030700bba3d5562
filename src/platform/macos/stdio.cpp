#include <stdio.h>

#include <iostream>

#include "../contract.hpp"

namespace pynisher::platform {

namespace {

/// Written, and still in the stream's buffer. BSD's stdio keeps it between these two.
bool has_output(const FILE* stream) { return (stream->_flags & __SWR) != 0 && stream->_p > stream->_bf._base; }

// A stream that another thread had locked when this process was forked, as one does that waits for input, is locked
// here for good: no fork of this system unlocks it. By this flag, which says so, whoever goes over all streams passes
// it by: fflush(nullptr), `exit` and `abort`.
void give_up(FILE* stream) { stream->_flags = static_cast<short>(stream->_flags | __SIGN); }
bool is_given_up(const FILE* stream) { return (stream->_flags & __SIGN) != 0; }

bool is_locked_for_good(FILE* stream) {
  if (::ftrylockfile(stream) != 0) return true;
  ::funlockfile(stream);
  return false;
}

}  // namespace

void flush_iostreams() {
  if (!is_given_up(stdout)) {
    std::cout.flush();
    std::wcout.flush();
  }
  if (!is_given_up(stderr)) {
    std::clog.flush();
    std::wclog.flush();
  }
}

void flush_stdio() {
  flush_iostreams();
  // All streams at once would mean waiting for the lock that a thread holds while it waits for input.
  for (FILE* const stream : {stdout, stderr}) {
    if (!is_given_up(stream)) ::fflush(stream);
  }
}

void flush_all_stdio() { ::fflush(nullptr); }

void forget_stdio() noexcept {
  // What other threads have printed since the flush is theirs, and what was read ahead is the parent's.
  for (FILE* const stream : {stdout, stderr, stdin}) {
    if (is_locked_for_good(stream)) {
      give_up(stream);
    } else if (stream == stdin || has_output(stream)) {
      ::fpurge(stream);
    }
  }
}

}  // namespace pynisher::platform
