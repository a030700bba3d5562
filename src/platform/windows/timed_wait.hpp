#pragma once

// Waits of this system end with a tick of its timer, and ticks are 15.6 ms apart unless a program asks for more.

#include <windows.h>

#include <optional>

#include "../contract.hpp"

namespace pynisher::platform {

/// Ticks of 1 ms for as long as it lives. They cost power: for waits that are short.
class fine_ticks {
 public:
  explicit fine_ticks(bool wanted = true) noexcept;
  ~fine_ticks();
  fine_ticks(const fine_ticks&) = delete;
  fine_ticks& operator=(const fine_ticks&) = delete;

 private:
  bool asked_for_;
};

/// How long to wait in one go so that the end of the wait is met: a long one ends early, and the rest of it is fine.
class timed_wait {
 public:
  explicit timed_wait(std::optional<clock::time_point> until) noexcept : timed_wait(milliseconds_until(until)) {}
  [[nodiscard]] DWORD milliseconds() const noexcept { return milliseconds_; }
  [[nodiscard]] bool is_fine() const noexcept { return is_fine_; }

 private:
  static constexpr DWORD two_ticks = 32;

  static DWORD milliseconds_until(std::optional<clock::time_point> until) noexcept;
  explicit timed_wait(DWORD left) noexcept
      : is_fine_(left != 0 && left <= 2 * two_ticks),
        milliseconds_(left == INFINITE || left <= 2 * two_ticks ? left : left - two_ticks),
        ticks_(is_fine_) {}

  bool is_fine_;
  DWORD milliseconds_;
  fine_ticks ticks_;
};

}  // namespace pynisher::platform
