#include <poll.h>
#include <sys/epoll.h>

#include <algorithm>
#include <array>

#include "../contract.hpp"

namespace pynisher::platform {

bell_set::bell_set() : set_(::epoll_create1(EPOLL_CLOEXEC)) {
  if (set_ && wake_ && !add(wake_)) set_ = call_fd();
}

bool bell_set::add(const doorbell& bell) {
  // Edges: a bell that other processes can clear as well is heard all the same, and costs no second system call.
  epoll_event wanted{};
  wanted.events = EPOLLIN | EPOLLET;
  return ::epoll_ctl(set_.get(), EPOLL_CTL_ADD, bell.descriptor(), &wanted) == 0;
}

void bell_set::remove(const doorbell& bell) { ::epoll_ctl(set_.get(), EPOLL_CTL_DEL, bell.descriptor(), nullptr); }

void bell_set::wait(std::optional<clock::time_point> until) {
  std::array<epoll_event, 16> found{};
  if (!until) {
    ::epoll_wait(set_.get(), found.data(), static_cast<int>(found.size()), -1);
    return;
  }
  // epoll_wait counts in milliseconds; poll can wait for the set to the nanosecond.
  pollfd ready{set_.get(), POLLIN, 0};
  const auto left = std::max(std::chrono::nanoseconds(0), std::chrono::nanoseconds(*until - clock::now()));
  const timespec timeout{static_cast<time_t>(left.count() / 1'000'000'000),
                         static_cast<long>(left.count() % 1'000'000'000)};
  if (::ppoll(&ready, 1, &timeout, nullptr) > 0) {
    ::epoll_wait(set_.get(), found.data(), static_cast<int>(found.size()), 0);
  }
}

}  // namespace pynisher::platform
