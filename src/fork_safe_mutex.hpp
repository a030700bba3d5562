#pragma once

#include <pthread.h>

#include <atomic>
#include <mutex>

namespace pynisher::detail {

/// A mutex that no fork catches locked by another thread: every fork of the program, the application's own too, waits
/// for it. A thread that forks while it holds one keeps it, on both sides of the fork.
class fork_safe_mutex {
 public:
  void lock() {
    mutex_.lock();
    owner_.store(::pthread_self(), std::memory_order_relaxed);
  }
  void unlock() {
    owner_.store(pthread_t{}, std::memory_order_relaxed);
    mutex_.unlock();
  }
  [[nodiscard]] bool is_mine() const {
    return ::pthread_equal(owner_.load(std::memory_order_relaxed), ::pthread_self()) != 0;
  }

 private:
  std::mutex mutex_;
  std::atomic<pthread_t> owner_{};
};

/// Guards what the library keeps for the whole program: warning sink, SIGINT handler, death watch, texts that are kept.
/// Never held while calling the application.
extern fork_safe_mutex library_mutex;

/// Held while a call's child is forked. `library_mutex` may be locked while it is held, not the other way round.
extern fork_safe_mutex fork_mutex;

}  // namespace pynisher::detail
