#pragma once

#include <pthread.h>

#include <atomic>
#include <mutex>

namespace pynisher::detail {

/// A mutex at namespace scope that no fork catches locked by another thread: every fork of the program, the
/// application's own too, waits for it. Not to be held while calling the application, and never two at a time.
class fork_safe_mutex {
 public:
  fork_safe_mutex();
  fork_safe_mutex(const fork_safe_mutex&) = delete;
  fork_safe_mutex& operator=(const fork_safe_mutex&) = delete;
  ~fork_safe_mutex() = default;

  void lock() {
    mutex_.lock();
    owner_.store(::pthread_self(), std::memory_order_relaxed);
  }
  void unlock() {
    owner_.store(pthread_t{}, std::memory_order_relaxed);
    mutex_.unlock();
  }

 private:
  friend struct fork_safe_mutexes;
  std::mutex mutex_;
  std::atomic<pthread_t> owner_{};
  fork_safe_mutex* next_;
};

}  // namespace pynisher::detail
