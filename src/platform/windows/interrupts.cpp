// Ctrl-C and Ctrl-Break while calls run. The system tells of them on a thread of its own, and tells all processes of
// the console, the children too.

#include "../posix/interrupts.hpp"

#include <windows.h>

#include <atomic>
#include <csignal>
#include <mutex>
#include <new>
#include <set>
#include <utility>

#include "../../fork_safe_mutex.hpp"
#include "console_events.hpp"

namespace pynisher::platform {

struct interruptible_call::slot {
  int bell = -1;
  bool forceful = true;
  std::atomic<bool> came{false};
};

struct interrupt_state {
  std::set<interruptible_call::slot*> calls;
  bool installed = false;
  std::atomic<bool> default_action_pending{false};
};

namespace {

/// Under the mutex. Never destroyed.
interrupt_state& state() {
  static auto* const only = new interrupt_state;
  return *only;
}

BOOL WINAPI on_interrupt(DWORD what) { return tell_of_console_event(what) ? TRUE : FALSE; }

}  // namespace

bool tell_of_console_event(unsigned long what) noexcept {
  if (what != CTRL_C_EVENT && what != CTRL_BREAK_EVENT) return false;
  const std::lock_guard lock(detail::library_mutex);
  bool somebody_waits = false;
  for (auto* const call : state().calls) {
    call->came.store(true);
    doorbell::raise(call->bell);
    somebody_waits = somebody_waits || !call->forceful;
  }
  // The program's end would end a call that is to be waited for; it comes after that.
  if (somebody_waits) state().default_action_pending.store(true);
  return somebody_waits;
}

interruptible_call::interruptible_call(const doorbell& bell, bool forceful) {
  slot_ = new slot;
  slot_->bell = bell.descriptor();
  slot_->forceful = forceful;
  const bool first = [this] {
    const std::lock_guard lock(detail::library_mutex);
    counted_ = true;
    state().calls.insert(slot_);
    return !std::exchange(state().installed, true);
  }();
  // Not under the mutex, here and below: the system may be waiting for the handler, and the handler for the mutex. It
  // counts how often it has got one.
  if (first && ::SetConsoleCtrlHandler(on_interrupt, TRUE) == 0) {
    const std::lock_guard lock(detail::library_mutex);
    state().installed = false;
  }
}

interruptible_call::~interruptible_call() {
  {
    const std::lock_guard lock(detail::library_mutex);
    state().calls.erase(slot_);
  }
  delete slot_;
  const bool last = [] {
    const std::lock_guard lock(detail::library_mutex);
    return state().calls.empty() && std::exchange(state().installed, false);
  }();
  if (last) ::SetConsoleCtrlHandler(on_interrupt, FALSE);
}

interruptible_call::news interruptible_call::take_news() noexcept { return {slot_->came.exchange(false), true}; }

void take_pending_default_action() {
  {
    const std::lock_guard lock(detail::library_mutex);
    if (!state().calls.empty()) return;
  }
  if (state().default_action_pending.exchange(false)) std::raise(SIGINT);
}

void forget_calls_in_flight() noexcept {}

}  // namespace pynisher::platform
