// CPU time of another process: what GetProcessTimes tells, or what the list of all processes tells, where the former
// tells nothing of processes other than one's own, or their own time to whoever asks.

#include <windows.h>
#include <winternl.h>

#include <atomic>
#include <vector>

#include "../contract.hpp"
#include "job.hpp"

namespace pynisher::platform {

namespace {

using std::chrono::nanoseconds;

nanoseconds told_by_handle(HANDLE process) {
  const auto times = times_of(process).value_or(process_times{});
  return times.kernel + times.user;
}

/// The beginning of an entry as the system fills it in; the header names few of its parts.
struct process_entry {
  ULONG next;
  ULONG threads;
  LARGE_INTEGER reserved[3];
  LARGE_INTEGER created, user, kernel;
  UNICODE_STRING name;
  LONG priority;
  HANDLE id;
};

nanoseconds told_by_list(DWORD pid) {
  constexpr LONG too_small = static_cast<LONG>(0xC0000004);
  std::vector<std::uint64_t> buffer(std::size_t{64} << 10);
  for (;;) {
    ULONG needed = 0;
    const auto size = static_cast<ULONG>(buffer.size() * sizeof buffer[0]);
    const LONG status = ::NtQuerySystemInformation(SystemProcessInformation, buffer.data(), size, &needed);
    if (status == too_small && buffer.size() < (std::size_t{64} << 20)) {
      buffer.resize(2 * buffer.size());
      continue;
    }
    if (status < 0) return nanoseconds(0);
    break;
  }
  const auto* at = reinterpret_cast<const std::byte*>(buffer.data());
  for (;;) {
    const auto* const entry = reinterpret_cast<const process_entry*>(at);
    if (reinterpret_cast<std::uintptr_t>(entry->id) == pid) {
      return hundreds_of_ns(entry->user.QuadPart + entry->kernel.QuadPart);
    }
    if (entry->next == 0) return nanoseconds(0);
    at += entry->next;
  }
}

}  // namespace

std::optional<nanoseconds> cpu_time_of(pid_t process) noexcept {
  const auto pid = static_cast<DWORD>(process);
  const HANDLE handle = ::OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, FALSE, pid);
  if (handle == nullptr) return std::nullopt;
  // Wine's own time. Another system has shown by now that it tells of others, or will, as soon as the two differ.
  static std::atomic<bool> tells_of_others{false};
  const nanoseconds own_before = told_by_handle(::GetCurrentProcess());
  const nanoseconds by_handle = told_by_handle(handle);
  const bool may_be_own = own_before <= by_handle && by_handle <= told_by_handle(::GetCurrentProcess());
  ::CloseHandle(handle);
  if (by_handle > nanoseconds(0) && !may_be_own) tells_of_others.store(true);
  if (tells_of_others.load()) return by_handle;
  try {
    return told_by_list(pid);
  } catch (const std::bad_alloc&) {
    return nanoseconds(0);
  }
}

}  // namespace pynisher::platform
