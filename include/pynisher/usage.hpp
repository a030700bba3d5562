#pragma once

// What a call cost. Measured by the operating system, not told by the function.

#include <chrono>
#include <cstdint>

namespace pynisher {

/// Present after success and after failure alike. Counts the child process and those of its own
/// children that it waited for.
struct usage {
  std::chrono::nanoseconds wall_time{};    ///< from the start of the child until its end, monotonic clock
  std::chrono::nanoseconds user_time{};    ///< CPU time of all threads, outside the kernel
  std::chrono::nanoseconds system_time{};  ///< CPU time of all threads, inside the kernel
  std::uint64_t peak_memory = 0;  ///< bytes resident at the peak, beyond what the child got from its parent
  std::uint64_t page_faults = 0;  ///< pages that the child made the kernel fetch, copy or clear

  [[nodiscard]] std::chrono::nanoseconds cpu_time() const { return user_time + system_time; }
  friend bool operator==(const usage&, const usage&) = default;
};

}  // namespace pynisher
