#pragma once

// A call's Job Object: what its child starts is in it too, and all of it ends when the program closes it, or ends.

#include <windows.h>

#include <cstdint>
#include <optional>

namespace pynisher::platform {

/// How a job that the library ends ends its processes: a number that nobody else uses, told as SIGKILL.
inline constexpr DWORD killed_code = 0xE0504B09;

/// Null, with errno set: it cannot be made. What its processes start is in it as well, and cannot leave it.
HANDLE make_job();
struct job_limits {
  bool whole_tree = true;  ///< false: what its processes start is not in it
  std::optional<std::uint64_t> memory_per_process;
};
/// In place of what it had. False: the kernel does not take it.
bool limit_job(HANDLE job, const job_limits& limits) noexcept;
/// What `limit_job` tells the kernel.
JOBOBJECT_EXTENDED_LIMIT_INFORMATION as_told_to_kernel(const job_limits& limits) noexcept;
/// Processes in it that run.
unsigned processes_in(HANDLE job) noexcept;
/// Comes back when none of its processes is left.
void end_job(HANDLE job) noexcept;
/// Some systems take limits and forget them. Probed once.
bool jobs_hold_limits() noexcept;

struct process_counts {
  std::uint64_t committed = 0;
  std::uint64_t resident = 0;
  std::uint64_t peak_resident = 0;
  std::uint64_t page_faults = 0;
};
std::optional<process_counts> counts_of(HANDLE process) noexcept;

}  // namespace pynisher::platform
