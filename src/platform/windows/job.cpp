#include "job.hpp"

#include <psapi.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <new>
#include <utility>

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
  const bool counts_all = limits.memory_together || limits.processes != 0;
  if (!limits.whole_tree && !counts_all) flags |= JOB_OBJECT_LIMIT_SILENT_BREAKAWAY_OK;
  if (limits.memory_per_process) {
    flags |= JOB_OBJECT_LIMIT_PROCESS_MEMORY;
    told.ProcessMemoryLimit = static_cast<SIZE_T>(*limits.memory_per_process);
  }
  if (limits.memory_together) {
    flags |= JOB_OBJECT_LIMIT_JOB_MEMORY;
    told.JobMemoryLimit = static_cast<SIZE_T>(*limits.memory_together);
  }
  if (limits.cpu_per_process) {
    using hundreds_of_ns = std::chrono::duration<std::int64_t, std::ratio<1, 10'000'000>>;
    flags |= JOB_OBJECT_LIMIT_PROCESS_TIME;
    told.BasicLimitInformation.PerProcessUserTimeLimit.QuadPart =
        std::chrono::ceil<hundreds_of_ns>(*limits.cpu_per_process).count();
  }
  if (limits.processes != 0) {
    flags |= JOB_OBJECT_LIMIT_ACTIVE_PROCESS;
    told.BasicLimitInformation.ActiveProcessLimit = limits.processes;
  }
  return told;
}

bool limit_job(HANDLE job, const job_limits& limits) noexcept {
  auto told = as_told_to_kernel(limits);
  return set_limits(job, told);
}

void release_job(HANDLE job) noexcept {
  JOBOBJECT_EXTENDED_LIMIT_INFORMATION none{};
  set_limits(job, none);
}

bool has_cpu_limit(HANDLE job) noexcept {
  JOBOBJECT_EXTENDED_LIMIT_INFORMATION told{};
  return get_limits(job, told) && (told.BasicLimitInformation.LimitFlags & JOB_OBJECT_LIMIT_PROCESS_TIME) != 0;
}

unsigned processes_in(HANDLE job) noexcept {
  JOBOBJECT_BASIC_ACCOUNTING_INFORMATION counts{};
  if (::QueryInformationJobObject(job, JobObjectBasicAccountingInformation, &counts, sizeof counts, nullptr) == 0)
    return 0;
  return counts.ActiveProcesses;
}

std::vector<std::unique_ptr<void, closes_handle>> members_of(HANDLE job, DWORD access) {
  std::vector<std::uint64_t> buffer(4);  // of most jobs
  while (::QueryInformationJobObject(job, JobObjectBasicProcessIdList, buffer.data(),
                                     static_cast<DWORD>(buffer.size() * sizeof buffer[0]), nullptr) == 0) {
    if (::GetLastError() != ERROR_MORE_DATA || buffer.size() > (std::size_t{1} << 20)) return {};
    buffer.resize(2 * buffer.size());
  }
  // Not before: it may have moved.
  const auto* const list = reinterpret_cast<const JOBOBJECT_BASIC_PROCESS_ID_LIST*>(buffer.data());
  std::vector<std::unique_ptr<void, closes_handle>> members;
  for (DWORD i = 0; i < list->NumberOfProcessIdsInList; ++i) {
    const auto pid = static_cast<DWORD>(list->ProcessIdList[i]);
    // Wine tells of a job's members only to whoever may ask everything.
    std::unique_ptr<void, closes_handle> member(
        ::OpenProcess(PROCESS_QUERY_INFORMATION | PROCESS_VM_READ | access, FALSE, pid));
    // The number may be another process's by now.
    BOOL is_in_job = FALSE;
    if (member && ::IsProcessInJob(member.get(), job, &is_in_job) != 0 && is_in_job != FALSE) {
      members.push_back(std::move(member));
    }
  }
  return members;
}

namespace {

bool all_have_begun(HANDLE job) noexcept {
  try {
    const auto members = members_of(job);
    return std::ranges::all_of(members, [](const auto& one) { return has_begun(one.get()); });
  } catch (const std::bad_alloc&) {
    return true;
  }
}

}  // namespace

void end_job(HANDLE job) noexcept {
  // A process that is being made while the job ends may come after; and the end of one takes a moment.
  for (int waits_left = 5000; processes_in(job) > 0; --waits_left) {
    if (waits_left <= 0 || all_have_begun(job)) ::TerminateJobObject(job, killed_code);
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
