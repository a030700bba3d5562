#include <stdio.h>
#include <stdio_ext.h>

#include <iostream>

#if __has_include(<sys/single_threaded.h>)
#include <sys/single_threaded.h>
#endif

#include "../contract.hpp"

// Exported by glibc, declared by none of its headers any more.
extern "C" {
[[gnu::weak]] void* _IO_iter_begin();
[[gnu::weak]] void* _IO_iter_end();
[[gnu::weak]] void* _IO_iter_next(void*);
[[gnu::weak]] FILE* _IO_iter_file(void*);
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
  return _IO_iter_begin != nullptr && _IO_iter_end != nullptr && _IO_iter_next != nullptr &&
         _IO_iter_file != nullptr && _IO_list_lock != nullptr && _IO_list_unlock != nullptr;
}

template <class Predicate>
bool any_stream(Predicate predicate) {
  for (void* at = _IO_iter_begin(); at != _IO_iter_end(); at = _IO_iter_next(at)) {
    if (predicate(_IO_iter_file(at))) return true;
  }
  return false;
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

void flush_iostreams() {
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
  _IO_list_lock();
  any_stream([](FILE* stream) {
    if (!has_output(stream) || ::ftrylockfile(stream) != 0) return false;
    ::fflush(stream);
    ::funlockfile(stream);
    return false;
  });
  _IO_list_unlock();
}

void flush_all_stdio() {
#if __has_include(<sys/single_threaded.h>)
  // In a fresh child fflush(nullptr) is dear for doing nothing: it writes to the locks of all streams.
  if (__libc_single_threaded != 0 && can_walk_streams() && !any_stream([](FILE* s) { return has_output(s); })) return;
#endif
  ::fflush(nullptr);
}

void forget_stdio() noexcept {
  // What other threads have printed since the flush is theirs, and what was read ahead is the parent's.
  // Only where there is something: writing to a stream's state costs a copied page.
  if (has_output(stdout)) ::__fpurge(stdout);
  if (has_output(stderr)) ::__fpurge(stderr);
#if __has_include(<sys/single_threaded.h>)
  if (__libc_single_threaded == 0 && can_walk_streams()) {
    any_stream([](FILE* stream) {
      if (has_output(stream)) ::__fpurge(stream);
      return false;
    });
  }
#endif
  if (has_read_ahead(stdin)) ::__fpurge(stdin);
}

}  // namespace pynisher::platform
