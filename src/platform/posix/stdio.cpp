#include <stdio.h>
#include <stdio_ext.h>

#include <iostream>

#if __has_include(<sys/single_threaded.h>)
#include <sys/single_threaded.h>
#endif

#include "../contract.hpp"

// Exported by glibc, declared by none of its headers any more.
extern "C" {
[[gnu::weak]] extern FILE* _IO_list_all;
[[gnu::weak]] void _IO_list_lock();
[[gnu::weak]] void _IO_list_unlock();
}

namespace pynisher::platform {

namespace {

bool has_output(FILE* stream) {
#if defined(__GLIBC__)
  // What __fpending does, without the page that it is on; wide streams are asked.
  if (stream->_mode <= 0) return stream->_IO_write_ptr != stream->_IO_write_base;
#endif
  return ::__fpending(stream) != 0;
}

bool can_walk_streams() {
#if defined(__GLIBC__)
  return &_IO_list_all != nullptr && _IO_list_lock != nullptr && _IO_list_unlock != nullptr;
#else
  return false;
#endif
}

/// Not by the functions that glibc has for it, which are on a page that nothing else in a fresh child needs.
template <class Predicate>
bool any_stream([[maybe_unused]] Predicate predicate) {
#if defined(__GLIBC__)
  for (FILE* stream = _IO_list_all; stream != nullptr; stream = stream->_chain) {
    if (predicate(stream)) return true;
  }
#endif
  return false;
}

bool has_one_thread() {
#if __has_include(<sys/single_threaded.h>)
  return __libc_single_threaded != 0;
#else
  return false;
#endif
}

bool has_read_ahead(FILE* stream) {
#if defined(__GLIBC__)
  return stream->_IO_read_ptr != stream->_IO_read_end;
#else
  (void)stream;
  return true;
#endif
}

/// Lets one look at a stream's buffer, which is cheaper than flushing it.
template <class Char>
struct buffer_view : std::basic_streambuf<Char> {
  static bool has_output(std::basic_streambuf<Char>* buffer) {
    return buffer != nullptr && (buffer->*&buffer_view::pptr)() != (buffer->*&buffer_view::pbase)();
  }
};

}  // namespace

[[gnu::hot]] void flush_iostreams() {
  for (std::ostream* stream : {&std::cout, &std::clog}) {
    if (buffer_view<char>::has_output(stream->rdbuf())) stream->flush();
  }
  for (std::wostream* stream : {&std::wcout, &std::wclog}) {
    if (buffer_view<wchar_t>::has_output(stream->rdbuf())) stream->flush();
  }
}

void flush_stdio() {
  flush_iostreams();
  // fflush(nullptr) waits for every stream's lock, and a thread that waits for input holds one. glibc lets one walk
  // over the streams; what another thread is using right now is that thread's to flush.
  if (!can_walk_streams()) {
    ::fflush(stdout);
    ::fflush(stderr);
    return;
  }
  const bool others_may_close = !has_one_thread();
  if (others_may_close) _IO_list_lock();
  any_stream([](FILE* stream) {
    if (!has_output(stream) || ::ftrylockfile(stream) != 0) return false;
    ::fflush(stream);
    ::funlockfile(stream);
    return false;
  });
  if (others_may_close) _IO_list_unlock();
}

[[gnu::hot]] void flush_all_stdio() {
  // In a fresh child fflush(nullptr) is dear for doing nothing: it writes to the locks of all streams.
  if (has_one_thread() && can_walk_streams() && !any_stream([](FILE* s) { return has_output(s); })) return;
  ::fflush(nullptr);
}

[[gnu::hot]] void forget_stdio() noexcept {
  // What other threads have printed since the flush is theirs, and what was read ahead is the parent's.
  // Only where there is something: writing to a stream's state costs a copied page.
  if (has_output(stdout)) ::__fpurge(stdout);
  if (has_output(stderr)) ::__fpurge(stderr);
  if (!has_one_thread() && can_walk_streams()) {
    any_stream([](FILE* stream) {
      if (has_output(stream)) ::__fpurge(stream);
      return false;
    });
  }
  if (has_read_ahead(stdin)) ::__fpurge(stdin);
}

}  // namespace pynisher::platform
