#include <poll.h>
#include <sys/epoll.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "../contract.hpp"

namespace pynisher::platform {

namespace {

// Which of a child's two descriptors it was stands in the low bits of what comes with the event.
constexpr std::uint64_t is_end = 0, is_bell = 1, which = 3;

bool add_to(int set, int descriptor, std::uint64_t tag) {
  epoll_event wanted{};
  wanted.events = EPOLLIN;
  wanted.data.u64 = tag;
  return ::epoll_ctl(set, EPOLL_CTL_ADD, descriptor, &wanted) == 0;
}

void remove_from(int set, int descriptor) { ::epoll_ctl(set, EPOLL_CTL_DEL, descriptor, nullptr); }

}  // namespace

many_waiter::many_waiter() : set_(::epoll_create1(EPOLL_CLOEXEC)) {
  if (set_ && wake_ && !add_to(set_.get(), wake_.descriptor(), is_bell)) set_ = call_fd();
}

bool many_waiter::add(const child_process& child, const doorbell& bell, void* whose) {
  if (!child.pidfd_) {
    ended_at_once_.push_back(whose);
    return true;
  }
  const auto tag = reinterpret_cast<std::uintptr_t>(whose);
  if (add_to(set_.get(), child.pidfd_.get(), tag | is_end) && add_to(set_.get(), bell.descriptor(), tag | is_bell)) {
    return true;
  }
  const int error = errno;
  remove(child, bell);
  errno = error;
  return false;
}

void many_waiter::remove(const child_process& child, const doorbell& bell) {
  if (child.pidfd_) remove_from(set_.get(), child.pidfd_.get());
  remove_from(set_.get(), bell.descriptor());
}

void many_waiter::wait(std::optional<clock::time_point> until, std::vector<event>& events) {
  events.clear();
  for (void* whose : ended_at_once_) events.push_back({whose, child_process::woken_by::end});
  ended_at_once_.clear();
  if (!events.empty()) return;

  // epoll_wait counts in milliseconds; poll can wait for the set to the nanosecond.
  pollfd ready{set_.get(), POLLIN, 0};
  timespec timeout{};
  if (until) {
    const auto left = std::max(std::chrono::nanoseconds(0), std::chrono::nanoseconds(*until - clock::now()));
    timeout.tv_sec = static_cast<time_t>(left.count() / 1'000'000'000);
    timeout.tv_nsec = static_cast<long>(left.count() % 1'000'000'000);
  }
  if (::ppoll(&ready, 1, until ? &timeout : nullptr, nullptr) <= 0) return;

  std::array<epoll_event, 64> found{};
  const int count = ::epoll_wait(set_.get(), found.data(), static_cast<int>(found.size()), 0);
  for (int i = 0; i < count; ++i) {
    const std::uint64_t tag = found[static_cast<std::size_t>(i)].data.u64;
    void* whose = reinterpret_cast<void*>(static_cast<std::uintptr_t>(tag & ~which));
    if (whose == nullptr) {
      wake_.clear();
      continue;
    }
    event::add(events, whose,
               (tag & which) == is_end ? child_process::woken_by::end : child_process::woken_by::doorbell);
  }
}

}  // namespace pynisher::platform
