#include <pthread.h>
#include <signal.h>

#include "../words.hpp"

namespace pynisher::platform {

signal_mask blocked_signals() noexcept {
  sigset_t now;
  pthread_sigmask(SIG_SETMASK, nullptr, &now);
  return now;
}

void block_signals(const signal_mask& these) noexcept { pthread_sigmask(SIG_SETMASK, &these, nullptr); }

signal_mask block_all_signals() noexcept {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  return before;
}

}  // namespace pynisher::platform
