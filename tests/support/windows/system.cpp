#include "support/system.hpp"

#include <windows.h>

#include <psapi.h>

#include <csignal>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <stdexcept>

#include "platform/windows/job.hpp"

namespace support {

namespace {

struct closes {
  void operator()(HANDLE handle) const { ::CloseHandle(handle); }
};
using unique_handle = std::unique_ptr<void, closes>;

std::chrono::nanoseconds from_file_time(const FILETIME& time) {
  const std::uint64_t ticks = (std::uint64_t{time.dwHighDateTime} << 32) | time.dwLowDateTime;
  return std::chrono::nanoseconds(static_cast<std::int64_t>(ticks * 100));
}

PROCESS_MEMORY_COUNTERS own_memory() {
  PROCESS_MEMORY_COUNTERS counts{};
  counts.cb = sizeof counts;
  ::GetProcessMemoryInfo(::GetCurrentProcess(), &counts, sizeof counts);
  return counts;
}

/// Numbers of processes are soon used again; when one began tells it from its namesakes.
struct entry {
  std::uint64_t pid;
  std::uint64_t began;
};

std::uint64_t beginning_of(HANDLE process) {
  FILETIME created, ended, kernel, user;
  if (::GetProcessTimes(process, &created, &ended, &kernel, &user) == 0) return 0;
  return (std::uint64_t{created.dwHighDateTime} << 32) | created.dwLowDateTime;
}

/// Null: it is gone.
unique_handle opened(std::uint64_t pid) {
  constexpr DWORD access = PROCESS_QUERY_LIMITED_INFORMATION | PROCESS_TERMINATE | SYNCHRONIZE;
  unique_handle process(::OpenProcess(access, FALSE, static_cast<DWORD>(pid)));
  if (process && ::WaitForSingleObject(process.get(), 0) == WAIT_OBJECT_0) return nullptr;
  return process;
}

unique_handle survivor(const entry& one) {
  unique_handle process = opened(one.pid);
  if (process && beginning_of(process.get()) != one.began) return nullptr;
  return process;
}

std::vector<entry> entries_of(const std::string& file) {
  std::vector<entry> all;
  std::ifstream list(file, std::ios::binary);
  entry one{};
  // NOLINTNEXTLINE: bytes of a file.
  while (list.read(reinterpret_cast<char*>(&one), sizeof one)) all.push_back(one);
  return all;
}

}  // namespace

// The system's own libraries are part of it.
const std::uint64_t size_of_an_idle_program = std::uint64_t{48} << 20;

process_id own_pid() noexcept { return static_cast<process_id>(::GetCurrentProcessId()); }

void sleep_forever() {
  for (;;) ::Sleep(INFINITE);
}

std::chrono::nanoseconds cpu_time_used() {
  FILETIME created, ended, kernel, user;
  ::GetProcessTimes(::GetCurrentProcess(), &created, &ended, &kernel, &user);
  return from_file_time(kernel) + from_file_time(user);
}
std::chrono::nanoseconds cpu_time_of_thread() {
  FILETIME created, ended, kernel, user;
  ::GetThreadTimes(::GetCurrentThread(), &created, &ended, &kernel, &user);
  return from_file_time(kernel) + from_file_time(user);
}

std::uint64_t own_peak() { return own_memory().PeakWorkingSetSize; }
std::uint64_t mapped_here() { return own_memory().PagefileUsage; }

const bool being_killed_is_an_exit = true;
void be_killed() {
  ::TerminateProcess(::GetCurrentProcess(), 1);
  std::abort();
}

const int signal_of_that_end = SIGABRT;
const char* const name_of_that_signal = "SIGABRT";
void end_by_a_signal() { std::abort(); }

void set_environment(const char* name, const std::string& value) {
  ::SetEnvironmentVariableA(name, value.c_str());
  ::_putenv_s(name, value.c_str());
}
void unset_environment(const char* name) {
  ::SetEnvironmentVariableA(name, nullptr);
  ::_putenv_s(name, "");
}

bool memory_is_refused() { return pynisher::platform::limits_that_jobs_keep().memory; }

void* take_pages(std::size_t bytes) noexcept {
  return ::VirtualAlloc(nullptr, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
}
void give_back_pages(void* pages, std::size_t /*bytes*/) noexcept { ::VirtualFree(pages, 0, MEM_RELEASE); }
bool reserve_address_space(std::size_t bytes) noexcept {
  return ::VirtualAlloc(nullptr, bytes, MEM_RESERVE, PAGE_NOACCESS) != nullptr;
}

bool is_gone(process_id pid) { return !opened(static_cast<std::uint64_t>(pid)); }

std::string new_temporary_file() {
  char folder[MAX_PATH + 1], name[MAX_PATH + 1];
  if (::GetTempPathA(sizeof folder, folder) == 0 || ::GetTempFileNameA(folder, "pyn", 0, name) == 0) {
    throw std::runtime_error("no temporary file");
  }
  return name;
}

void log_process(const char* file) {
  const entry self{::GetCurrentProcessId(), beginning_of(::GetCurrentProcess())};
  const HANDLE list = ::CreateFileA(file, FILE_APPEND_DATA, FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE, nullptr,
                                    OPEN_EXISTING, FILE_ATTRIBUTE_NORMAL, nullptr);
  DWORD written = 0;
  if (list == INVALID_HANDLE_VALUE || ::WriteFile(list, &self, sizeof self, &written, nullptr) == 0) std::_Exit(97);
  ::CloseHandle(list);
}

std::vector<process_id> logged_processes(const std::string& file) {
  std::vector<process_id> pids;
  for (const entry& one : entries_of(file)) pids.push_back(static_cast<process_id>(one.pid));
  return pids;
}

std::vector<process_id> logged_survivors(const std::string& file) {
  std::vector<process_id> pids;
  for (const entry& one : entries_of(file)) {
    if (survivor(one)) pids.push_back(static_cast<process_id>(one.pid));
  }
  return pids;
}

void kill_logged(const std::string& file) {
  for (const entry& one : entries_of(file)) {
    if (const auto process = survivor(one)) ::TerminateProcess(process.get(), 1);
  }
}

}  // namespace support
