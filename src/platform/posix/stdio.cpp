#include <stdio.h>
#include <stdio_ext.h>

#include <iostream>

#include "../contract.hpp"

namespace pynisher::platform {

namespace {

bool has_read_ahead(FILE* stream) {
#if defined(__GLIBC__)
  return stream->_IO_read_ptr != stream->_IO_read_end;
#else
  (void)stream;
  return true;
#endif
}

/// Lets one look at a stream's buffer, which is cheaper than flushing it.
struct buffer_view : std::streambuf {
  static bool has_output(std::streambuf* buffer) {
    return buffer != nullptr && (buffer->*&buffer_view::pptr)() != (buffer->*&buffer_view::pbase)();
  }
};

}  // namespace

void flush_iostreams() {
  for (std::ostream* stream : {&std::cout, &std::clog}) {
    if (buffer_view::has_output(stream->rdbuf())) stream->flush();
  }
}

void flush_stdio() {
  flush_iostreams();
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
  // Only where there is something: writing to a stream's state costs a copied page.
  if (::__fpending(stdout) != 0) ::__fpurge(stdout);
  if (::__fpending(stderr) != 0) ::__fpurge(stderr);
  if (has_read_ahead(stdin)) ::__fpurge(stdin);
}

}  // namespace pynisher::platform
