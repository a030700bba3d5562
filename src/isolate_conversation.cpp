#include "isolate_conversation.hpp"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <iterator>
#include <new>
#include <string>

#include <fmt/format.h>

#include "descriptor_passing.hpp"
#include "mail_packing.hpp"

namespace pynisher::detail {

using platform::clock;
using namespace std::chrono_literals;
using state = isolate_core::reply::state;

namespace {

bool is_asleep(std::int64_t process) {
  std::ifstream file(fmt::format("/proc/{}/stat", process));
  std::string text;
  std::getline(file, text);
  // The name may hold anything.
  const std::size_t at = text.rfind(") ");
  return at != std::string::npos && at + 2 < text.size() && (text[at + 2] == 'S' || text[at + 2] == 'T');
}

}  // namespace

conversation::conversation(int socket, const platform::doorbell& ended, call_in_flight& process, const settings* limits)
    : socket_(socket), ended_(ended), process_(process), limits_(limits) {
  if (limits_ == nullptr) return;
  if (limits_->wall_time()) deadline_ = begun_ + std::min(*limits_->wall_time(), platform::longest_wait);
  if (limits_->cpu_time()) {
    used_before_ = cpu_time();
    next_look_ = begun_ + least_interval;
  }
  if (limits_->given().stop.stop_possible()) {
    stop_bell_.emplace();
    on_stop_.emplace(limits_->given().stop, ring{&*stop_bell_});
  }
}

state conversation::send(std::span<const std::byte> bytes, std::span<const int> descriptors) {
  while (!bytes.empty()) {
    const ssize_t sent = send_bytes(socket_, bytes, descriptors, MSG_DONTWAIT);
    if (sent > 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(sent));
      descriptors = {};
      if (const state now = bytes.empty() ? state::came : look(); now != state::came) return now;
    } else if (sent < 0 && errno != EAGAIN && errno != EINTR) {
      return hung_up();
    } else if (const state now = wait(POLLOUT); now != state::came) {
      return now;
    }
  }
  return state::came;
}

state conversation::receive(void* to, std::size_t size) {
  auto* at = static_cast<std::byte*>(to);
  while (size > 0) {
    const ssize_t got = ::recv(socket_, at, size, MSG_DONTWAIT);
    if (got > 0) {
      at += got;
      size -= static_cast<std::size_t>(got);
      // Whoever sends without end, or byte by byte, does not keep its limits waiting.
      if (const state now = size == 0 ? state::came : look(); now != state::came) return now;
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
      return hung_up();
    } else if (has_ended_) {
      // All that it has sent has been read.
      return state::died;
    } else if (const state now = wait(POLLIN); now != state::came) {
      return now;
    }
  }
  return state::came;
}

std::chrono::nanoseconds conversation::cpu_time() const {
  const auto used = process_.usage_so_far();
  return used ? used->cpu_time() : used_before_;
}

pynisher::usage conversation::usage() const {
  pynisher::usage used;
  used.wall_time = clock::now() - begun_;
  if (const auto of_process = process_.usage_so_far()) {
    used.peak_memory = of_process->peak_memory;
    if (limits_ != nullptr && limits_->cpu_time()) used.user_time = of_process->cpu_time() - used_before_;
  }
  return used;
}

/// A process's descriptors are closed a moment before its end is told; on a machine that has no time for it, a long
/// one. One that sleeps is not about to end.
state conversation::hung_up() {
  constexpr int quiet_looks = 4;
  const auto last_look = clock::now() + 10s;
  for (int quiet = 0; !has_ended_;) {
    const auto look_at = clock::now() + 250ms;
    while (!has_ended_ && clock::now() < look_at) {
      if (const state now = wait(0, look_at); now != state::came) return now;
    }
    quiet = is_asleep(process_.pid()) ? quiet + 1 : 0;
    if (!has_ended_ && (quiet == quiet_looks || clock::now() >= last_look)) return state::hung_up;
  }
  return state::died;
}

state conversation::wait(short events, std::optional<clock::time_point> until) {
  pollfd watched[] = {{events != 0 ? socket_ : -1, events, 0},
                      {ended_.descriptor(), POLLIN, 0},
                      {stop_bell_ ? stop_bell_->descriptor() : -1, POLLIN, 0}};
  for (const auto& time : {deadline_, next_look_}) {
    if (time && (!until || *time < *until)) until = time;
  }
  timespec timeout{};
  if (until) {
    const auto left = std::max(std::chrono::nanoseconds(0), std::chrono::nanoseconds(*until - clock::now()));
    timeout = {static_cast<time_t>(left.count() / 1'000'000'000), static_cast<long>(left.count() % 1'000'000'000)};
  }
  const int ready = ::ppoll(watched, std::size(watched), until ? &timeout : nullptr, nullptr);
  if (ready > 0 && watched[0].revents != 0) return state::came;
  if (ready > 0 && watched[1].revents != 0) {
    has_ended_ = true;
    return (events & POLLOUT) != 0 ? state::died : state::came;
  }
  return look();
}

state conversation::look() {
  if (limits_ == nullptr) return state::came;
  if (limits_->given().stop.stop_requested()) return state::cancelled;
  if (!deadline_ && !next_look_) return state::came;
  const auto now = clock::now();
  if (deadline_ && now >= *deadline_) return state::wall_time;
  if (next_look_ && now >= *next_look_) {
    const auto left = *limits_->cpu_time() - (cpu_time() - used_before_);
    if (left <= 0ns) return state::cpu_time;
    next_look_ = now + std::max(least_interval, std::chrono::nanoseconds(left / platform::processors()));
  }
  return state::came;
}

// --- one request --------------------------------------------------------------------------------------------------

namespace {

std::uint64_t largest_answer(const settings& of_isolate) {
  const std::uint64_t half = platform::physical_memory() / 2;
  return of_isolate.memory() ? std::min(half, 4 * *of_isolate.memory() + (std::uint64_t{256} << 20)) : half;
}

/// The answer, in as many pieces as it comes.
void hear(conversation& with, std::uint64_t largest, isolate_core::reply& answered) {
  frame_header header{};
  do {
    answered.how = with.receive(&header, sizeof header);
    if (answered.how != state::came) return;
    answered.kind = header.kind;
    const bool makes_sense = is_answer(header.kind) && (header.kind != frame_kind::piece || header.size != 0);
    if (!makes_sense || header.size > largest - answered.bytes.arrived()) {
      answered.how = makes_sense ? state::too_large : state::lies;
      return;
    }
    // What had come of a value is worth nothing when something else ends it.
    if (header.kind != frame_kind::piece && header.kind != frame_kind::value) answered.bytes = reply_bytes();
    // No memory runs ahead of the bytes that have come.
    for (std::uint64_t left = header.size; left > 0;) {
      const std::uint64_t next = std::min(left, std::uint64_t{256} << 10);
      answered.how = with.receive(answered.bytes.grow(static_cast<std::size_t>(next)), static_cast<std::size_t>(next));
      left -= next;
      if (answered.how == state::came && (left > 0 || header.kind == frame_kind::piece)) answered.how = with.look();
      if (answered.how != state::came) return;
    }
  } while (header.kind == frame_kind::piece);
  answered.has_attached = header.has_attached != 0;
}

}  // namespace

isolate_core::reply isolate_core::ask_for_certain(std::span<const std::byte> request, const settings* limits,
                                                  std::span<const int> descriptors, bool measured) {
  reply answered;
  const auto asked = process();
  conversation with(socket_.get(), *ended_bell_, *asked, limits);
  try {
    answered.how = with.send(request, descriptors);
    if (answered.how == reply::state::came) hear(with, largest_answer(*limits_), answered);
  } catch (const std::bad_alloc&) {
    // What is left of its answer would be taken for the next one's.
    answered.how = reply::state::too_large;
    answered.bytes = reply_bytes();
  }
  answered.bytes.select(0, answered.bytes.arrived());
  if (answered.has_attached) answered.custody = until_reply_is_read(asked->pid());
  if (measured || answered.how != reply::state::came || answered.kind != frame_kind::value)
    answered.usage = with.usage();
  if (answered.how != reply::state::came && answered.how != reply::state::died) end_process();
  return answered;
}

}  // namespace pynisher::detail
