#include "isolate_conversation.hpp"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <iterator>

namespace pynisher::detail {

using platform::clock;
using namespace std::chrono_literals;

conversation::conversation(int socket, const platform::doorbell& ended, std::int64_t pid, const settings* limits)
    : socket_(socket), ended_(ended), pid_(static_cast<pid_t>(pid)), limits_(limits) {
  if (limits_ == nullptr) return;
  if (limits_->wall_time()) deadline_ = begun_ + std::min(*limits_->wall_time(), platform::longest_wait);
  if (limits_->cpu_time()) {
    used_before_ = platform::cpu_time_of(pid_).value_or(0ns);
    next_look_ = begun_ + least_interval;
  }
  if (limits_->given().stop.stop_possible()) {
    stop_bell_.emplace();
    on_stop_.emplace(limits_->given().stop, ring{&*stop_bell_});
  }
}

conversation::state conversation::send(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(sent));
    } else if (sent < 0 && errno != EAGAIN && errno != EINTR) {
      return state::died;
    } else if (const state now = wait(POLLOUT); now != state::came) {
      return now;
    }
  }
  return state::came;
}

conversation::state conversation::receive(void* to, std::size_t size) {
  auto* at = static_cast<std::byte*>(to);
  while (size > 0) {
    const ssize_t got = ::recv(socket_, at, size, MSG_DONTWAIT);
    if (got > 0) {
      at += got;
      size -= static_cast<std::size_t>(got);
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
      return state::died;
    } else if (has_ended_) {
      // All that it has sent has been read.
      return state::died;
    } else if (const state now = wait(POLLIN); now != state::came) {
      return now;
    }
  }
  return state::came;
}

pynisher::usage conversation::usage() const {
  pynisher::usage used;
  used.wall_time = clock::now() - begun_;
  used.peak_memory = platform::peak_of(pid_);
  return used;
}

std::chrono::nanoseconds conversation::cpu_used() const {
  return platform::cpu_time_of(pid_).value_or(used_before_) - used_before_;
}

conversation::state conversation::wait(short events) {
  pollfd watched[] = {
      {socket_, events, 0}, {ended_.descriptor(), POLLIN, 0}, {stop_bell_ ? stop_bell_->descriptor() : -1, POLLIN, 0}};
  std::optional<clock::time_point> until = deadline_;
  if (next_look_ && (!until || *next_look_ < *until)) until = next_look_;
  timespec timeout{};
  if (until) {
    const auto left = std::max(std::chrono::nanoseconds(0), std::chrono::nanoseconds(*until - clock::now()));
    timeout = {static_cast<time_t>(left.count() / 1'000'000'000), static_cast<long>(left.count() % 1'000'000'000)};
  }
  ::ppoll(watched, std::size(watched), until ? &timeout : nullptr, nullptr);
  if (watched[0].revents != 0) return state::came;
  if (watched[1].revents != 0) {
    has_ended_ = true;
    return events == POLLIN ? state::came : state::died;
  }
  if (watched[2].revents != 0) return state::cancelled;
  const auto now = clock::now();
  if (deadline_ && now >= *deadline_) return state::wall_time;
  if (next_look_ && now >= *next_look_) {
    const auto left = *limits_->cpu_time() - cpu_used();
    if (left <= 0ns) return state::cpu_time;
    next_look_ = now + std::max(least_interval, std::chrono::nanoseconds(left / platform::processors()));
  }
  return state::came;
}

}  // namespace pynisher::detail
