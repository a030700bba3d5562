#include "fork_safe_mutex.hpp"

#include <pthread.h>

namespace pynisher::detail {

struct fork_safe_mutexes {
  static inline constinit fork_safe_mutex* first = nullptr;

  static void lock_all() {
    for (auto* m = first; m != nullptr; m = m->next_) m->lock();
  }
  static void unlock_all() {
    for (auto* m = first; m != nullptr; m = m->next_) m->unlock();
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
