#include "fork_safe_mutex.hpp"

#include <pthread.h>

#include "platform/forked_page.hpp"

namespace pynisher::platform {

constinit forked_page on_forked_page;

}  // namespace pynisher::platform

namespace pynisher::detail {

constinit fork_safe_mutex& library_mutex = platform::on_forked_page.library_mutex;
constinit fork_safe_mutex& fork_mutex = platform::on_forked_page.fork_mutex;

void wait_while(std::atomic<int>& word, int is) noexcept { word.wait(is); }
void wake_one(std::atomic<int>& word) noexcept { word.notify_one(); }

namespace {

/// Whoever forks inside of the library holds the fork mutex already; whoever forks in a signal handler may hold either.
thread_local bool held_fork_mutex = false;
thread_local bool held_library_mutex = false;

void before_fork() {
  held_fork_mutex = fork_mutex.is_mine();
  held_library_mutex = library_mutex.is_mine();
  if (!held_fork_mutex) fork_mutex.lock();
  if (!held_library_mutex) library_mutex.lock();
}

[[gnu::hot]] void after_fork() {
  if (!held_library_mutex) library_mutex.unlock();
  if (!held_fork_mutex) fork_mutex.unlock();
}

[[maybe_unused]] const int registered = ::pthread_atfork(before_fork, after_fork, after_fork);

}  // namespace

}  // namespace pynisher::detail
