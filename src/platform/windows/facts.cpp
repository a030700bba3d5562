#include <windows.h>

#include <algorithm>
#include <string>
#include <thread>

#include "../contract.hpp"
#include "job.hpp"

namespace pynisher::platform {

std::string why_not(feature what) {
  switch (what) {
    case feature::wall_time:
    case feature::cpu_time:
    case feature::memory:
    case feature::memory_growth:
    case feature::memory_address_space:
    case feature::memory_tree:
    case feature::process_count:
    case feature::spawn:
    case feature::kill_tree:
    case feature::parent_death:
    case feature::cancel:
    case feature::decorator:
      return {};
    case feature::fork:
      return "Windows cannot copy a process; use spawn, and pynisher::init";
    case feature::forkserver:
      return "Windows cannot copy a process, and so has no forkserver; use spawn";
  }
  return "no such feature";
}

const char* memory_limit_caveat() noexcept {
  if (limits_that_jobs_keep().memory) return nullptr;
  return "this system's job objects take memory limits and do not enforce them: the library looks at what the call has "
         "committed every 1 to 50 ms, the more often the nearer it is, and ends it when it is above. In between it may "
         "take more. An allocation is never refused.";
}

mapped_memory mapped(pid_t process) {
  const HANDLE handle = ::OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION | PROCESS_VM_READ, FALSE,
                                      process == 0 ? ::GetCurrentProcessId() : static_cast<DWORD>(process));
  if (handle == nullptr) return {};
  const auto counts = counts_of(handle);
  ::CloseHandle(handle);
  if (!counts) return {};
  return {counts->committed, counts->committed, counts->resident};
}

// Asked for only where a process is copied.
int threads() { return 1; }

// Debug information is another file here, and need not be there.
std::string symbol_at(const void* /*address*/) { return {}; }

void advise_huge_pages(void* /*data*/, std::size_t /*size*/) noexcept {}

const bool reserved_memory_is_free = false;

std::byte* reserve_memory(std::size_t size) noexcept {
  return static_cast<std::byte*>(::VirtualAlloc(nullptr, size, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE));
}

void release_memory(std::byte* data, std::size_t /*size*/) noexcept { ::VirtualFree(data, 0, MEM_RELEASE); }

void forget_pages(void* /*data*/, std::size_t /*size*/) noexcept {}
long keep_from_children(void* /*data*/, std::size_t /*size*/) noexcept { return 0; }

std::uint64_t physical_memory() {
  // Asked once, and by one thread: Wine tells the second of two that ask for the first time that there is none.
  static const std::uint64_t known = [] {
    MEMORYSTATUSEX status{};
    status.dwLength = sizeof status;
    const bool is_told = ::GlobalMemoryStatusEx(&status) != 0 && status.ullTotalPhys != 0;
    return is_told ? std::uint64_t{status.ullTotalPhys} : std::uint64_t{4} << 30;
  }();
  return known;
}

unsigned processors() { return std::max(1u, std::thread::hardware_concurrency()); }

}  // namespace pynisher::platform
