#pragma once

#include <atomic>

#include "platform/this_thread.hpp"

namespace pynisher::detail {

// No static of a function in this library is made on its first use but under such a mutex: a program that forks while one
// of its threads makes it would have a child in which it is never finished.

/// Comes back when `word` is no longer that, or for no reason.
void wait_while(std::atomic<int>& word, int is) noexcept;
void wake_one(std::atomic<int>& word) noexcept;

/// A mutex that no fork catches locked by another thread: every fork of the program, the application's own too, waits
/// for it. A thread that forks while it holds one keeps it, on both sides of the fork. Nothing of the C library is in
/// it: a page of that costs a fresh child more than all of its locking.
class fork_safe_mutex {
 public:
  void lock() {
    int free = 0;
    if (!state_.compare_exchange_strong(free, locked)) {
      while (state_.exchange(waited_for) != 0) wait_while(state_, waited_for);
    }
    owner_.store(platform::this_thread(), std::memory_order_relaxed);
  }
  void unlock() {
    owner_.store(platform::thread_word{}, std::memory_order_relaxed);
    if (state_.exchange(0) == waited_for) wake_one(state_);
  }
  [[nodiscard]] bool is_mine() const {
    return platform::is_this_thread(owner_.load(std::memory_order_relaxed));
  }

 private:
  static constexpr int locked = 1, waited_for = 2;
  std::atomic<int> state_{0};
  std::atomic<platform::thread_word> owner_{};
};

/// Guards what the library keeps for the whole program: warning sink, SIGINT handler, death watch, texts that are kept.
/// Never held while calling the application.
extern fork_safe_mutex& library_mutex;

/// Held while a call's child is forked. `library_mutex` may be locked while it is held, not the other way round.
extern fork_safe_mutex& fork_mutex;

}  // namespace pynisher::detail
