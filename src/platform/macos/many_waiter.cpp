#include <sys/event.h>

#include <algorithm>
#include <array>

#include "../contract.hpp"

namespace pynisher::platform {

namespace {

// Which of a child's two descriptors it was stands in the low bits of what comes with the event.
constexpr std::uintptr_t is_end = 0, is_bell = 1, which = 3;

bool change(int set, int descriptor, std::uint16_t action, std::uintptr_t tag) {
  struct kevent wanted {};
  EV_SET(&wanted, static_cast<std::uintptr_t>(descriptor), EVFILT_READ, action, 0, 0, reinterpret_cast<void*>(tag));
  return ::kevent(set, &wanted, 1, nullptr, 0, nullptr) == 0;
}

}  // namespace

many_waiter::many_waiter() : set_(::kqueue()) {
  if (set_ && wake_ && !change(set_.get(), wake_.waitable(), EV_ADD, is_bell)) set_ = call_fd();
}

bool many_waiter::add(const child_process& child, const doorbell& bell, void* whose) {
  if (!child.pidfd_) {
    ended_at_once_.push_back(whose);
    return true;
  }
  const auto tag = reinterpret_cast<std::uintptr_t>(whose);
  // A queue is readable while it has an event: a child's has its end.
  if (change(set_.get(), child.pidfd_.get(), EV_ADD, tag | is_end) &&
      change(set_.get(), bell.waitable(), EV_ADD, tag | is_bell)) {
    return true;
  }
  remove(child, bell);
  return false;
}

void many_waiter::remove(const child_process& child, const doorbell& bell) {
  if (child.pidfd_) change(set_.get(), child.pidfd_.get(), EV_DELETE, 0);
  change(set_.get(), bell.waitable(), EV_DELETE, 0);
}

void many_waiter::wait(std::optional<clock::time_point> until, std::vector<event>& events) {
  events.clear();
  for (void* whose : ended_at_once_) events.push_back({whose, child_process::woken_by::end});
  ended_at_once_.clear();
  if (!events.empty()) return;

  timespec timeout{};
  if (until) {
    const auto left = std::max(std::chrono::nanoseconds(0), std::chrono::nanoseconds(*until - clock::now()));
    timeout.tv_sec = static_cast<time_t>(left.count() / 1'000'000'000);
    timeout.tv_nsec = static_cast<long>(left.count() % 1'000'000'000);
  }
  std::array<struct kevent, 64> found{};
  const int count =
      ::kevent(set_.get(), nullptr, 0, found.data(), static_cast<int>(found.size()), until ? &timeout : nullptr);
  for (int i = 0; i < count; ++i) {
    const auto tag = reinterpret_cast<std::uintptr_t>(found[static_cast<std::size_t>(i)].udata);
    void* whose = reinterpret_cast<void*>(tag & ~which);
    if (whose == nullptr) {
      wake_.clear();
      continue;
    }
    event::add(events, whose,
               (tag & which) == is_end ? child_process::woken_by::end : child_process::woken_by::doorbell);
  }
}

}  // namespace pynisher::platform
