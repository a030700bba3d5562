#include "job.hpp"

#include <psapi.h>

#include <atomic>
#include <cerrno>

namespace pynisher::platform {

namespace {

bool set_limits(HANDLE job, JOBOBJECT_EXTENDED_LIMIT_INFORMATION& limits) noexcept {
  return ::SetInformationJobObject(job, JobObjectExtendedLimitInformation, &limits, sizeof limits) != 0;
}

bool get_limits(HANDLE job, JOBOBJECT_EXTENDED_LIMIT_INFORMATION& limits) noexcept {
  return ::QueryInformationJobObject(job, JobObjectExtendedLimitInformation, &limits, sizeof limits, nullptr) != 0;
}

}  // namespace

HANDLE make_job() {
  const HANDLE job = ::CreateJobObjectW(nullptr, nullptr);
  if (job == nullptr) {
    errno = static_cast<int>(::GetLastError());
    return nullptr;
  }
  if (limit_job(job, {})) return job;
  errno = static_cast<int>(::GetLastError());
  ::CloseHandle(job);
  return nullptr;
}

JOBOBJECT_EXTENDED_LIMIT_INFORMATION as_told_to_kernel(const job_limits& limits) noexcept {
  JOBOBJECT_EXTENDED_LIMIT_INFORMATION told{};
  DWORD& flags = told.BasicLimitInformation.LimitFlags;
  // No dialog may hold up the end of a process that nobody sees.
  flags = JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE | JOB_OBJECT_LIMIT_DIE_ON_UNHANDLED_EXCEPTION;
  if (!limits.whole_tree) flags |= JOB_OBJECT_LIMIT_SILENT_BREAKAWAY_OK;
  if (limits.memory_per_process) {
    flags |= JOB_OBJECT_LIMIT_PROCESS_MEMORY;
    told.ProcessMemoryLimit = static_cast<SIZE_T>(*limits.memory_per_process);
  }
  return told;
}

bool limit_job(HANDLE job, const job_limits& limits) noexcept {
  auto told = as_told_to_kernel(limits);
  return set_limits(job, told);
}

unsigned processes_in(HANDLE job) noexcept {
  JOBOBJECT_BASIC_ACCOUNTING_INFORMATION counts{};
  if (::QueryInformationJobObject(job, JobObjectBasicAccountingInformation, &counts, sizeof counts, nullptr) == 0)
    return 0;
  return counts.ActiveProcesses;
}

void end_job(HANDLE job) noexcept {
  // A process that is being made while the job ends may come after; and the end of one takes a moment.
  while (processes_in(job) > 0) {
    ::TerminateJobObject(job, killed_code);
    if (processes_in(job) > 0) ::Sleep(1);
  }
}

bool jobs_hold_limits() noexcept {
  static std::atomic<int> known{-1};
  if (known.load() < 0) {
    const HANDLE job = ::CreateJobObjectW(nullptr, nullptr);
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION wanted{}, told{};
    wanted.BasicLimitInformation.LimitFlags = JOB_OBJECT_LIMIT_PROCESS_MEMORY;
    wanted.ProcessMemoryLimit = SIZE_T{1} << 30;
    const bool holds = job != nullptr && set_limits(job, wanted) && get_limits(job, told) &&
                       (told.BasicLimitInformation.LimitFlags & JOB_OBJECT_LIMIT_PROCESS_MEMORY) != 0 &&
                       told.ProcessMemoryLimit == wanted.ProcessMemoryLimit;
    if (job != nullptr) ::CloseHandle(job);
    known.store(holds ? 1 : 0);
  }
  return known.load() == 1;
}

std::optional<process_counts> counts_of(HANDLE process) noexcept {
  PROCESS_MEMORY_COUNTERS counters{};
  counters.cb = sizeof counters;
  if (::GetProcessMemoryInfo(process, &counters, sizeof counters) == 0) return std::nullopt;
  return process_counts{counters.PagefileUsage, counters.WorkingSetSize, counters.PeakWorkingSetSize,
                        counters.PageFaultCount};
}

}  // namespace pynisher::platform
