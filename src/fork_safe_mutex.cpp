#include "fork_safe_mutex.hpp"

namespace pynisher::detail {

constinit fork_safe_mutex library_mutex;
constinit fork_safe_mutex fork_mutex;

namespace {

/// Whoever forks inside of the library holds the fork mutex already, and never the other one.
thread_local bool held_before = false;

void before_fork() {
  held_before = fork_mutex.is_mine();
  if (!held_before) fork_mutex.lock();
  library_mutex.lock();
}

[[gnu::hot]] void after_fork() {
  library_mutex.unlock();
  if (!held_before) fork_mutex.unlock();
}

[[maybe_unused]] const int registered = ::pthread_atfork(before_fork, after_fork, after_fork);

}  // namespace

}  // namespace pynisher::detail
