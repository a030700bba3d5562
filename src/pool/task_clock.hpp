#pragma once

// The time that a task has had: pure, and told the time.
//
// When a task has begun only its worker knows, so the worker says so, and is believed within what is possible: not
// before it was seen with the task before that, nor after it was first seen with this one.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>

namespace pynisher::detail {

class task_clock {
 public:
  using time_point = std::chrono::steady_clock::time_point;
  using nanoseconds = std::chrono::nanoseconds;

  struct limits {
    std::optional<nanoseconds> wall, cpu;
  };
  /// What is seen of a worker at one moment.
  struct sight {
    time_point now;
    std::optional<std::uint64_t> task;  ///< a number of its own; empty: it has none
    bool begun = false;
    time_point sent;             ///< when the task was sent; it cannot have begun before
    time_point waiting_since;    ///< since when, as far as is known, nothing has kept the worker from beginning with it
    time_point claimed_begin;    ///< by the worker
    nanoseconds cpu{0};          ///< of the worker, so far
    nanoseconds claimed_cpu{0};  ///< at the task's beginning, by the worker
  };
  enum class over : std::uint8_t { nothing, wall_time, cpu_time };
  struct verdict {
    over which = over::nothing;
    std::optional<time_point> next_look;
  };

  /// A worker that has a task and does not begin with it for so long does not begin any more.
  static constexpr nanoseconds patience = std::chrono::seconds(30);
  static constexpr nanoseconds least_interval = std::chrono::microseconds(500);

  explicit task_clock(unsigned processors) : processors_(processors) {}

  verdict look(const sight& seen, const limits& by) {
    if (!seen.task || (!by.wall && !by.cpu)) {
      task_.reset();
      last_ = seen.now;
      last_cpu_ = seen.cpu;
      return {};
    }
    if (!seen.begun) {
      task_.reset();
      last_ = seen.now;
      last_cpu_ = seen.cpu;
      const auto lost = seen.waiting_since + patience + by.wall.value_or(nanoseconds(0));
      if (seen.now >= lost) return {over::wall_time, {}};
      const auto soonest = seen.now + soonest_end(by);
      return {over::nothing, std::min(lost, soonest)};
    }
    if (task_ != seen.task) {
      task_ = seen.task;
      begin_ = std::clamp(seen.claimed_begin, std::min(std::max(last_, seen.sent), seen.now), seen.now);
      cpu_begin_ = std::clamp(seen.claimed_cpu, std::min(last_cpu_, seen.cpu), seen.cpu);
    }
    last_ = seen.now;
    last_cpu_ = seen.cpu;
    verdict result;
    if (by.wall) {
      if (seen.now - begin_ >= *by.wall) return {over::wall_time, {}};
      result.next_look = begin_ + *by.wall;
    }
    if (by.cpu) {
      const nanoseconds left = *by.cpu - cpu_used();
      if (left <= nanoseconds(0)) return {over::cpu_time, {}};
      const auto next = seen.now + std::max(least_interval, nanoseconds(left / processors_));
      result.next_look = result.next_look ? std::min(*result.next_look, next) : next;
    }
    return result;
  }

  /// Of the task that was last looked at.
  [[nodiscard]] nanoseconds wall_used() const { return task_ ? last_ - begin_ : nanoseconds(0); }
  [[nodiscard]] nanoseconds cpu_used() const { return task_ ? last_cpu_ - cpu_begin_ : nanoseconds(0); }

  /// A task that begins at once can reach a limit no sooner than after this.
  [[nodiscard]] nanoseconds soonest_end(const limits& by) const {
    nanoseconds soonest = nanoseconds::max();
    if (by.wall) soonest = *by.wall;
    if (by.cpu) soonest = std::min(soonest, std::max(least_interval, nanoseconds(*by.cpu / processors_)));
    return std::min(soonest, nanoseconds(std::chrono::hours(24 * 365 * 100)));
  }

 private:
  unsigned processors_;
  std::optional<std::uint64_t> task_;
  time_point begin_, last_;
  nanoseconds cpu_begin_{0}, last_cpu_{0};
};

}  // namespace pynisher::detail
