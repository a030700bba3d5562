#include "interrupts.hpp"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <mutex>

#include "../../fork_safe_mutex.hpp"

namespace pynisher::platform {

// Slots are never freed, so that a handler may walk over them at any time.
struct interruptible_call::slot {
  std::atomic<int> bell{-1};
  std::atomic<bool> came{false};
  std::atomic<bool> child_has_it{false};
  std::atomic<bool> taken{false};
};

struct interrupt_state {
  using slot = interruptible_call::slot;
  static constexpr std::size_t block_size = 64;
  struct block {
    slot slots[block_size];
    std::atomic<block*> next{nullptr};
  };

  static block& first() {
    static block blocks;
    return blocks;
  }

  template <class Visit>
  static void for_each(Visit visit) {
    for (block* b = &first(); b != nullptr; b = b->next.load(std::memory_order_acquire)) {
      for (slot& s : b->slots) {
        if (visit(s)) return;
      }
    }
  }

  static slot* take() {
    slot* found = nullptr;
    while (found == nullptr) {
      block* last = nullptr;
      for (block* b = &first(); b != nullptr && found == nullptr; b = b->next.load(std::memory_order_acquire)) {
        last = b;
        for (slot& s : b->slots) {
          bool expected = false;
          if (s.taken.compare_exchange_strong(expected, true)) {
            found = &s;
            break;
          }
        }
      }
      if (found == nullptr) {
        auto* fresh = new block;
        block* expected = nullptr;
        if (!last->next.compare_exchange_strong(expected, fresh)) delete fresh;
      }
    }
    return found;
  }
};

namespace {

int calls_that_need_it = 0;
bool installed = false;
struct sigaction previous {};
std::atomic<int> handlers_running{0};
std::atomic<bool> default_action_pending{false};

bool has_handler(const struct sigaction& action) {
  return (action.sa_flags & SA_SIGINFO) != 0 || (action.sa_handler != SIG_DFL && action.sa_handler != SIG_IGN);
}

void on_interrupt(int signal, siginfo_t* info, void* context) {
  const int last_error = errno;
  handlers_running.fetch_add(1);
  interrupt_state::for_each([&](interrupt_state::slot& s) {
    const int bell = s.bell.load();
    if (bell >= 0) {
      // A terminal sends to the whole foreground group, in which the children are.
      if (info->si_code > 0) s.child_has_it.store(true);
      s.came.store(true);
      doorbell::raise(bell);
    }
    return false;
  });
  handlers_running.fetch_sub(1);
  errno = last_error;
  if (!has_handler(previous)) {
    if (previous.sa_handler == SIG_DFL) default_action_pending.store(true);
  } else if ((previous.sa_flags & SA_SIGINFO) != 0) {
    previous.sa_sigaction(signal, info, context);
  } else {
    previous.sa_handler(signal);
  }
}

bool is_ours(const struct sigaction& action) {
  return (action.sa_flags & SA_SIGINFO) != 0 && action.sa_sigaction == on_interrupt;
}

/// Under the mutex.
void install(const struct sigaction& now) {
  previous = now;
  struct sigaction action {};
  action.sa_sigaction = on_interrupt;
  action.sa_flags = SA_SIGINFO | (now.sa_flags & (SA_ONSTACK | SA_RESTART));
  action.sa_mask = now.sa_mask;
  ::sigaction(SIGINT, &action, nullptr);
  installed = true;
}

}  // namespace

interruptible_call::interruptible_call(const doorbell& bell, bool forceful) {
  struct sigaction now {};
  ::sigaction(SIGINT, nullptr, &now);
  const bool ignored = !has_handler(now) && now.sa_handler == SIG_IGN;
  const bool ends_program = !has_handler(now) && now.sa_handler == SIG_DFL;
  // Ignored: nothing to do. Default: the program ends, and with it the call, unless the call wants to wait.
  if (ignored || (ends_program && forceful)) return;

  slot_ = interrupt_state::take();
  slot_->came.store(false);
  slot_->child_has_it.store(false);
  slot_->bell.store(bell.descriptor());
  const std::lock_guard lock(detail::library_mutex);
  counted_ = true;
  ++calls_that_need_it;
  ::sigaction(SIGINT, nullptr, &now);
  if (!is_ours(now)) install(now);
}

interruptible_call::~interruptible_call() {
  if (slot_ == nullptr) return;
  {
    const std::lock_guard lock(detail::library_mutex);
    if (counted_ && --calls_that_need_it == 0 && installed) {
      struct sigaction now {};
      ::sigaction(SIGINT, nullptr, &now);
      // What the application has set meanwhile stays.
      if (is_ours(now)) ::sigaction(SIGINT, &previous, nullptr);
      installed = false;
    }
  }
  slot_->bell.store(-1);
  // A handler on another thread may still hold the bell's number.
  while (handlers_running.load() != 0) {
  }
  slot_->taken.store(false);
}

interruptible_call::news interruptible_call::take_news() noexcept {
  if (slot_ == nullptr || !slot_->came.exchange(false)) return {};
  return {true, slot_->child_has_it.exchange(false)};
}

void take_pending_default_action() {
  if (!default_action_pending.load()) return;
  {
    const std::lock_guard lock(detail::library_mutex);
    if (calls_that_need_it != 0) return;
  }
  if (default_action_pending.exchange(false)) ::raise(SIGINT);
}

[[gnu::hot]] void forget_calls_in_flight() noexcept {
  interrupt_state::for_each([](interrupt_state::slot& s) {
    // Written to only where there is something: it costs a copied page.
    if (s.taken.load()) {
      s.bell.store(-1);
      s.taken.store(false);
    }
    return false;
  });
  if (installed) {
    struct sigaction now {};
    ::sigaction(SIGINT, nullptr, &now);
    if (is_ours(now)) ::sigaction(SIGINT, &previous, nullptr);
    installed = false;
  }
  if (calls_that_need_it != 0) calls_that_need_it = 0;
  if (handlers_running.load() != 0) handlers_running.store(0);
  if (default_action_pending.load()) default_action_pending.store(false);
}

}  // namespace pynisher::platform
