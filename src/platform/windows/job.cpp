#include "job.hpp"

#include <psapi.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <new>
#include <utility>

#include "timed_wait.hpp"

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

bool has_used_up_cpu_limit(HANDLE process, HANDLE job) noexcept {
  JOBOBJECT_EXTENDED_LIMIT_INFORMATION told{};
  const auto times = times_of(process);
  if (!times || !get_limits(job, told)) return false;
  const hundreds_of_ns limit(told.BasicLimitInformation.PerProcessUserTimeLimit.QuadPart);
  return (told.BasicLimitInformation.LimitFlags & JOB_OBJECT_LIMIT_PROCESS_TIME) != 0 && times->user >= limit;
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
    const fine_ticks ticks;
    if (processes_in(job) > 0) ::Sleep(1);
  }
}

namespace {

/// This program once more, in that job; nothing of it ever runs.
class unborn_process {
 public:
  explicit unborn_process(HANDLE job) {
    alignas(std::max_align_t) std::byte room[128];
    auto* const list = reinterpret_cast<LPPROC_THREAD_ATTRIBUTE_LIST>(room);
    SIZE_T size = sizeof room;
    if (::InitializeProcThreadAttributeList(list, 1, 0, &size) == 0) return;
    constexpr DWORD_PTR job_list = 0x0002000D;
    STARTUPINFOEXW start{};
    start.StartupInfo.cb = sizeof start;
    start.lpAttributeList = list;
    wchar_t path[4096];
    const DWORD length = ::GetModuleFileNameW(nullptr, path, 4096);
    if (length > 0 && length < 4096 && ::UpdateProcThreadAttribute(list, 0, job_list, &job, sizeof job, nullptr, nullptr) != 0) {
      ::CreateProcessW(path, nullptr, nullptr, nullptr, FALSE, CREATE_SUSPENDED | EXTENDED_STARTUPINFO_PRESENT, nullptr,
                       nullptr, &start.StartupInfo, &made_);
    }
    ::DeleteProcThreadAttributeList(list);
  }
  ~unborn_process() {
    if (made_.hProcess == nullptr) return;
    ::TerminateProcess(made_.hProcess, killed_code);
    ::WaitForSingleObject(made_.hProcess, INFINITE);
    ::CloseHandle(made_.hThread);
    ::CloseHandle(made_.hProcess);
  }
  unborn_process(const unborn_process&) = delete;
  unborn_process& operator=(const unborn_process&) = delete;
  explicit operator bool() const { return made_.hProcess != nullptr; }
  /// Nothing of it is touched.
  bool may_commit(std::size_t bytes) const {
    void* const got = ::VirtualAllocEx(made_.hProcess, nullptr, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
    if (got != nullptr) ::VirtualFreeEx(made_.hProcess, got, 0, MEM_RELEASE);
    return got != nullptr;
  }

 private:
  PROCESS_INFORMATION made_{};
};

struct closed_job {
  HANDLE job = ::CreateJobObjectW(nullptr, nullptr);
  ~closed_job() {
    if (job != nullptr) ::CloseHandle(job);
  }
};

constexpr std::uint64_t tried_memory = std::uint64_t{128} << 20;

bool tells_limits_back() noexcept {
  const closed_job made;
  constexpr DWORD both = JOB_OBJECT_LIMIT_PROCESS_MEMORY | JOB_OBJECT_LIMIT_ACTIVE_PROCESS;
  const job_limits wanted{.memory_per_process = tried_memory, .processes = 1};
  JOBOBJECT_EXTENDED_LIMIT_INFORMATION told{};
  return made.job != nullptr && limit_job(made.job, wanted) && get_limits(made.job, told) &&
         (told.BasicLimitInformation.LimitFlags & both) == both &&
         told.BasicLimitInformation.ActiveProcessLimit == 1 && told.ProcessMemoryLimit == tried_memory;
}

}  // namespace

std::optional<kept_limits> try_limits_of_jobs() noexcept {
  const closed_job made;
  if (made.job == nullptr || !limit_job(made.job, {.memory_per_process = tried_memory, .processes = 1})) return std::nullopt;
  const unborn_process first(made.job);
  if (!first || !first.may_commit(tried_memory / 8)) return std::nullopt;
  const unborn_process second(made.job);
  return kept_limits{.memory = !first.may_commit(tried_memory), .processes = !second};
}

kept_limits limits_that_jobs_keep() noexcept {
  static std::atomic<int> known{-1};
  int kept = known.load();
  if (kept < 0) {
    const auto found = tells_limits_back() ? try_limits_of_jobs() : kept_limits{};
    // The next time, then.
    if (!found) return {};
    kept = (found->memory ? 1 : 0) + (found->processes ? 2 : 0);
    known.store(kept);
  }
  return {.memory = (kept & 1) != 0, .processes = (kept & 2) != 0};
}

std::optional<process_counts> counts_of(HANDLE process) noexcept {
  PROCESS_MEMORY_COUNTERS counters{};
  counters.cb = sizeof counters;
  if (::GetProcessMemoryInfo(process, &counters, sizeof counters) == 0) return std::nullopt;
  return process_counts{counters.PagefileUsage, counters.WorkingSetSize, counters.PeakWorkingSetSize,
                        counters.PageFaultCount};
}

std::optional<process_times> times_of(HANDLE process) noexcept {
  FILETIME created, ended, kernel, user;
  if (::GetProcessTimes(process, &created, &ended, &kernel, &user) == 0) return std::nullopt;
  return process_times{from_file_time(created), from_file_time(kernel), from_file_time(user)};
}

}  // namespace pynisher::platform
