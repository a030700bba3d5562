#include "fork_safe_mutex.hpp"

namespace pynisher::detail {

struct fork_safe_mutexes {
  static inline constinit fork_safe_mutex* first = nullptr;

  // A thread that forks while it holds one keeps it, on both sides of the fork.
  static inline thread_local fork_safe_mutex* held = nullptr;

  static void lock_all() {
    held = nullptr;
    for (auto* m = first; m != nullptr; m = m->next_) {
      if (::pthread_equal(m->owner_.load(std::memory_order_relaxed), ::pthread_self()) != 0) {
        held = m;
      } else {
        m->lock();
      }
    }
  }
  static void unlock_all() {
    for (auto* m = first; m != nullptr; m = m->next_) {
      if (m != held) m->unlock();
    }
  }
};

// Constructed with the program's statics, before there are threads.
fork_safe_mutex::fork_safe_mutex() : next_(fork_safe_mutexes::first) {
  if (fork_safe_mutexes::first == nullptr) {
    pthread_atfork(fork_safe_mutexes::lock_all, fork_safe_mutexes::unlock_all, fork_safe_mutexes::unlock_all);
  }
  fork_safe_mutexes::first = this;
}

}  // namespace pynisher::detail
