#pragma once

// What the kernel counts for a process.

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>

namespace pynisher::platform {

struct process_accounts {
  std::uint64_t footprint = 0;  ///< bytes that it makes the system hold: dirty, compressed and swapped ones
  std::uint64_t peak_footprint = 0;
  std::chrono::nanoseconds user_time{0}, system_time{0};
};

/// Empty: there is no such process, or it is another user's. System calls only.
std::optional<process_accounts> accounts_of(pid_t process) noexcept;
/// When it began, in microseconds of the system's time; the same after an exec. 0: there is no such process, or it is
/// another user's. System calls only.
std::int64_t beginning_of(pid_t process) noexcept;

}  // namespace pynisher::platform
