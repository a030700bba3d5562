#pragma once

#include <pthread.h>

#include <csignal>

namespace pynisher::detail {

/// Blocks all signals in this thread, and gives back what it had. Threads and processes that are begun meanwhile begin
/// like that.
class without_signals {
 public:
  without_signals() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~without_signals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  without_signals(const without_signals&) = delete;
  without_signals& operator=(const without_signals&) = delete;
  [[nodiscard]] const sigset_t& before() const { return before_; }

 private:
  sigset_t before_;
};

}  // namespace pynisher::detail
