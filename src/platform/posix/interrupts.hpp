#pragma once

// SIGINT while calls run. A handler is there only while a call needs one: where the default action would end the
// program anyway, and the call's processes with it, none is installed.

#include <cstdint>

#include "../contract.hpp"

namespace pynisher::platform {

/// A call in flight, as the handler sees it. Registered for its lifetime.
class interruptible_call {
 public:
  /// `bell` is rung when a SIGINT has come; must outlive this. Blocks no signal.
  interruptible_call(const doorbell& bell, bool forceful);
  ~interruptible_call();
  interruptible_call(const interruptible_call&) = delete;
  interruptible_call& operator=(const interruptible_call&) = delete;

  /// SIGINTs that have come since the last question, and whether the terminal sent one to the child as well.
  struct news {
    bool came = false;
    bool child_has_it = false;
  };
  [[nodiscard]] news take_news() noexcept;

 private:
  struct slot;
  friend struct interrupt_state;
  slot* slot_ = nullptr;
  bool counted_ = false;
};

/// To be called without any `interruptible_call` on this thread, after one that saw a SIGINT: where the default
/// action is what awaits the signal, takes it.
void take_pending_default_action();

/// In the child: no call is in flight here, and SIGINT is the application's again.
void forget_calls_in_flight() noexcept;

}  // namespace pynisher::platform
