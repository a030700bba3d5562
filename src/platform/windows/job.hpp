#pragma once

// A call's Job Object: what its child starts is in it too, and all of it ends when the program closes it, or ends.

#include <windows.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <ratio>
#include <vector>

namespace pynisher::platform {

/// How a job that the library ends ends its processes: a number that nobody else uses, told as SIGKILL.
inline constexpr DWORD killed_code = 0xE0504B09;

/// Null, with errno set: it cannot be made. What its processes start is in it as well, and cannot leave it.
HANDLE make_job();
struct job_limits {
  bool whole_tree = true;  ///< false: what its processes start is not in it, unless they are counted together
  std::optional<std::uint64_t> memory_per_process = {};
  std::optional<std::uint64_t> memory_together = {};
  std::optional<std::chrono::nanoseconds> cpu_per_process = {};  ///< the kernel counts what it spends outside of itself
  std::uint32_t processes = 0;                                   ///< 0: any number
};
/// In place of what it had. False: the kernel does not take it.
bool limit_job(HANDLE job, const job_limits& limits) noexcept;
/// Takes back all that it had: whoever is still in it goes on without it.
void release_job(HANDLE job) noexcept;
/// Whether a process of that job that has ended may have been ended for its CPU time.
bool has_used_up_cpu_limit(HANDLE process, HANDLE job) noexcept;
/// What `limit_job` tells the kernel.
JOBOBJECT_EXTENDED_LIMIT_INFORMATION as_told_to_kernel(const job_limits& limits) noexcept;
/// Processes in it that run.
unsigned processes_in(HANDLE job) noexcept;

struct closes_handle {
  void operator()(HANDLE handle) const { ::CloseHandle(handle); }
};
/// Those of them that may be opened for `access` and to be asked what they are.
std::vector<std::unique_ptr<void, closes_handle>> members_of(HANDLE job, DWORD access = 0);
/// Comes back when none of its processes is left.
void end_job(HANDLE job) noexcept;
struct kept_limits {
  bool memory = false;
  bool processes = false;
};
/// Some systems take limits and do not keep them: set, read back and tried. Once.
kept_limits limits_that_jobs_keep() noexcept;
/// The trial alone, with a program that is made and never runs. Empty: it could not be made.
std::optional<kept_limits> try_limits_of_jobs() noexcept;

struct process_counts {
  std::uint64_t committed = 0;
  std::uint64_t resident = 0;
  std::uint64_t peak_resident = 0;
  std::uint64_t page_faults = 0;
};
std::optional<process_counts> counts_of(HANDLE process) noexcept;
/// What the system counts time in.
using hundreds_of_ns = std::chrono::duration<std::int64_t, std::ratio<1, 10'000'000>>;
inline hundreds_of_ns from_file_time(const FILETIME& time) noexcept {
  return hundreds_of_ns((std::int64_t{time.dwHighDateTime} << 32) | time.dwLowDateTime);
}
struct process_times {
  hundreds_of_ns created, kernel, user;
};
/// Wine tells whoever asks of their own CPU time, whichever process they ask about.
std::optional<process_times> times_of(HANDLE process) noexcept;
/// CPU time that the children of calls that are over have used.
std::chrono::nanoseconds cpu_of_ended_children() noexcept;
/// In a call's child: what it has used so far, and they, should it come to no more.
void note_own_usage() noexcept;
/// False: its maker is not done with it, and nothing of it runs yet. To end it just then brings Wine's server down (8.0
/// looks for the thread of a process that has none), and all that runs with it.
inline bool has_begun(HANDLE process) noexcept { return counts_of(process).has_value(); }

}  // namespace pynisher::platform
