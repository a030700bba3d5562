#pragma once

// How two processes of a test wait for each other, instead of sleeping and hoping.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <new>
#include <type_traits>
#include <utility>

#include "support/posix_functions.hpp"

namespace support {

/// A `T` that this process shares with those it forks from now on.
template <class T>
class shared {
  static_assert(std::is_trivially_destructible_v<T>);

 public:
  template <class... A>
  explicit shared(A&&... arguments) {
    void* memory = ::mmap(nullptr, sizeof(T), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    value_ = new (memory) T(std::forward<A>(arguments)...);
  }
  shared(const shared&) = delete;
  shared& operator=(const shared&) = delete;
  ~shared() { ::munmap(value_, sizeof(T)); }

  T& operator*() const { return *value_; }
  T* operator->() const { return value_; }
  /// Plain, so that a lambda may capture it by value; valid as long as this object.
  [[nodiscard]] T* get() const { return value_; }

 private:
  T* value_;
};

using shared_flag = shared<std::atomic<bool>>;
using shared_counter = shared<std::atomic<long>>;

inline void await_flag(const std::atomic<bool>& flag) {
  await([&flag] { return flag.load(); });
}

/// A pipe. `signal` in one process ends `wait` in another; so does the end of all that could signal.
class handshake {
 public:
  handshake() { make_pipe(ends_); }
  handshake(const handshake&) = delete;
  handshake& operator=(const handshake&) = delete;
  ~handshake() {
    close_reading();
    close_writing();
  }

  /// Async-signal-safe.
  void signal(char value = 1) const {
    while (::write(ends_[1], &value, 1) < 0 && errno == EINTR) {
    }
  }
  /// The value signalled, or -1: nobody is left who could.
  int wait() {
    close_writing();
    return wait_while_writing();
  }
  /// The same by somebody who goes on holding the writing end.
  [[nodiscard]] int wait_while_writing() const {
    char value = 0;
    for (;;) {
      const ssize_t got = ::read(ends_[0], &value, 1);
      if (got == 1) return value;
      if (got == 0 || errno != EINTR) return -1;
    }
  }
  [[nodiscard]] int reading_end() const { return ends_[0]; }
  [[nodiscard]] int writing_end() const { return ends_[1]; }
  void close_reading() { close_end(0); }
  void close_writing() { close_end(1); }

 private:
  void close_end(int end) {
    if (ends_[end] >= 0) ::close(std::exchange(ends_[end], -1));
  }
  int ends_[2] = {-1, -1};
};

}  // namespace support
