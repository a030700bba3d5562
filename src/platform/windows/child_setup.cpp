// What a child does before the function.

#include <windows.h>

#include <psapi.h>
#if defined(_MSC_VER) && defined(_DEBUG)
#include <crtdbg.h>
#endif

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>

#include "../../settings.hpp"
#include "../contract.hpp"
#include "../posix/interrupts.hpp"
#include "handles.hpp"
#include "job.hpp"
#include "timed_wait.hpp"

namespace pynisher::platform {

namespace {

constexpr UINT aborted_code = 0xC0000409;

/// Set once per child; what crash handlers and nested calls need to know of the call around them.
struct {
  detail::reply_region* region = nullptr;
  std::optional<std::chrono::nanoseconds> cpu_limit;
  bool has_memory_limit = false;
  std::optional<std::uint64_t> may_commit;
  std::uint64_t committed_at_begin = 0;
} surrounding;

void note(std::uint32_t flags, std::uintptr_t address, int signal) {
  detail::reply_region& region = *surrounding.region;
  region.crash_address.store(address);
  region.crash_flags.store(flags);
  region.crash_signal.store(static_cast<std::uint32_t>(signal));
}

/// Of every exception that nobody handles: no dialog and no report, but the code that says what it was.
LONG WINAPI note_crash(EXCEPTION_POINTERS* what) {
  const EXCEPTION_RECORD& record = *what->ExceptionRecord;
  if (surrounding.region != nullptr) {
    const int last_error = errno;
    std::uint32_t flags = 0;
    std::uintptr_t address = 0;
    if (record.ExceptionCode == EXCEPTION_STACK_OVERFLOW) {
      flags |= detail::crash_flag::stack_overflow;
    } else if (last_error == ENOMEM) {
      flags |= detail::crash_flag::allocation_refused;
    }
    if (record.ExceptionCode == EXCEPTION_ACCESS_VIOLATION && record.NumberParameters > 1) {
      address = static_cast<std::uintptr_t>(record.ExceptionInformation[1]);
    }
    const bool is_memory =
        record.ExceptionCode == EXCEPTION_ACCESS_VIOLATION || flags == detail::crash_flag::stack_overflow;
    note(flags, address, is_memory ? SIGSEGV : 0);
    // What is left of an overflown stack is not enough for more.
    if (record.ExceptionCode != EXCEPTION_STACK_OVERFLOW) note_usage(*surrounding.region);
  }
  ::TerminateProcess(::GetCurrentProcess(), record.ExceptionCode);
  return EXCEPTION_EXECUTE_HANDLER;
}

/// The older C library ends an aborted process with 3, as `exit(3)` does.
void note_abort(int /*signal*/) {
  if (surrounding.region != nullptr) {
    note(errno == ENOMEM ? detail::crash_flag::allocation_refused : 0, 0, SIGABRT);
    note_usage(*surrounding.region);
  }
  ::TerminateProcess(::GetCurrentProcess(), aborted_code);
}

void watch_for_crashes() noexcept {
  ::SetErrorMode(SEM_NOGPFAULTERRORBOX | SEM_FAILCRITICALERRORS | SEM_NOOPENFILEERRORBOX);
  // The C library's own boxes, in programs without a console.
  ::_set_error_mode(_OUT_TO_STDERR);
#if defined(_MSC_VER) && defined(_DEBUG)
  // Those of its debugging version: no box, and no debugger that is asked for.
  for (const int kind : {_CRT_WARN, _CRT_ERROR, _CRT_ASSERT}) {
    ::_CrtSetReportMode(kind, _CRTDBG_MODE_FILE);
    ::_CrtSetReportFile(kind, _CRTDBG_FILE_STDERR);
  }
#endif
  ::SetUnhandledExceptionFilter(note_crash);
  std::signal(SIGABRT, note_abort);
  // Some of the stack is kept for the handler of its overflow; in other threads than the function's own the process's exit
  // code alone tells of it.
  ULONG kept = 32 << 10;
  ::SetThreadStackGuarantee(&kept);
}

std::uint64_t committed() noexcept {
  const auto counts = counts_of(::GetCurrentProcess());
  return counts ? counts->committed : 0;
}

}  // namespace

// The program holds the child's job: it cannot outlive it.
void tie_to_program(pid_t /*program*/, parentage /*how*/) noexcept {}

void note_outer_limits(bool within_memory_limit) noexcept { surrounding.has_memory_limit = within_memory_limit; }
bool is_within_memory_limit() noexcept { return surrounding.has_memory_limit; }
void prepare_set_up() noexcept {}

void set_up_child(const child_plan& plan, pid_t /*parent*/) noexcept {
  surrounding.region = plan.region;
  surrounding.cpu_limit = plan.cpu_limit;
  surrounding.has_memory_limit = surrounding.has_memory_limit || plan.memory.has_value();
  watch_for_crashes();
  forget_calls_in_flight();
  if (!plan.limits->given().name.empty()) show_as_thread(plan.limits->given().name);
  plan.region->ready.store(1);
  if (plan.measures_growth) doorbell::raise(plan.doorbell);
  while (plan.region->go.load() == 0) wait_for_change(plan.region->go, 0);
  if (plan.memory) {
    const bool by_address = plan.limits->given().measure == memory_measure::address_space;
    surrounding.committed_at_begin = committed();
    surrounding.may_commit = *plan.memory + (by_address ? 0 : surrounding.committed_at_begin);
  }
  plan.region->not_begun.store(0);
}

// The parent ends the job.
void end_tree_in_child() noexcept {}

namespace {

/// `exit` does not tell its code. It goes on to the program's own handlers, and then leaves with that code.
void on_exit() {
  flush_iostreams();
  if (surrounding.region != nullptr) note_usage(*surrounding.region);
}

}  // namespace

void catch_exits(void (* /*at_exit*/)(int code), void (* /*at_quick_exit*/)(int code)) noexcept {
  std::atexit(on_exit);
}

// Nothing is done for a child before there is one.
bool catch_exits_of_next_child(void (* /*at_exit*/)(int code), void (* /*at_quick_exit*/)(int code)) noexcept {
  return false;
}

std::uint64_t peak_of(pid_t process) noexcept {
  const HANDLE handle = ::OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION, FALSE, static_cast<DWORD>(process));
  if (handle == nullptr) return 0;
  const auto counts = counts_of(handle);
  ::CloseHandle(handle);
  return counts ? counts->peak_resident : 0;
}

void note_usage(detail::reply_region& region) noexcept {
  if (const auto times = times_of(::GetCurrentProcess())) {
    // What calls within this one have used is its own, as it is of a process that has waited for its children elsewhere.
    const std::chrono::nanoseconds user = times->user + cpu_of_ended_children(), system = times->kernel;
    region.user_ns.store(static_cast<std::uint64_t>(user.count()), std::memory_order_relaxed);
    region.system_ns.store(static_cast<std::uint64_t>(system.count()), std::memory_order_relaxed);
  }
  if (const auto counts = counts_of(::GetCurrentProcess())) {
    region.peak.store(counts->peak_resident, std::memory_order_relaxed);
    region.page_faults.store(counts->page_faults, std::memory_order_relaxed);
  }
}

void note_own_usage() noexcept {
  if (surrounding.region != nullptr) note_usage(*surrounding.region);
}

std::optional<std::chrono::nanoseconds> outer_cpu_left() {
  if (!surrounding.cpu_limit) return std::nullopt;
  // Or many calls within the call would use up many times the limit.
  std::chrono::nanoseconds spent = cpu_of_ended_children();
  if (const auto times = times_of(::GetCurrentProcess())) spent += times->kernel + times->user;
  return std::max(*surrounding.cpu_limit - spent, std::chrono::nanoseconds(1));
}

std::optional<std::uint64_t> outer_memory_left(memory_measure measure) {
  if (!surrounding.may_commit) return std::nullopt;
  const std::uint64_t now = committed();
  const std::uint64_t left = *surrounding.may_commit > now ? *surrounding.may_commit - now : 1;
  // An absolute limit has to hold what the program takes before its function begins.
  return measure == memory_measure::address_space ? left + surrounding.committed_at_begin : left;
}

namespace {

/// There only since Windows 10.
template <class Function>
Function thread_function(const char* name) {
  return reinterpret_cast<Function>(
      reinterpret_cast<void (*)()>(::GetProcAddress(::GetModuleHandleW(L"kernel32.dll"), name)));
}

}  // namespace

std::string shown_name() { return {}; }

void show_as_thread(const std::string& name) noexcept {
  using set_description = HRESULT(WINAPI*)(HANDLE, PCWSTR);
  static const auto set = thread_function<set_description>("SetThreadDescription");
  wchar_t wide[64] = {};
  if (set == nullptr || name.empty()) return;
  ::MultiByteToWideChar(CP_UTF8, 0, name.c_str(), -1, wide, static_cast<int>(std::size(wide)) - 1);
  set(::GetCurrentThread(), wide);
}

pid_t process_number() noexcept { return static_cast<pid_t>(::GetCurrentProcessId()); }
std::int64_t process_identity() noexcept { return process_number(); }
pid_t thread_number() noexcept { return static_cast<pid_t>(::GetCurrentThreadId()); }

void leave(int code) noexcept {
  ::TerminateProcess(::GetCurrentProcess(), static_cast<UINT>(code));
  wait_for_the_end();
}

void wait_for_the_end() noexcept {
  for (;;) ::Sleep(INFINITE);
}

signal_mask blocked_signals() noexcept { return {}; }
void block_signals(const signal_mask& /*these*/) noexcept {}
signal_mask block_all_signals() noexcept { return {}; }

// Nothing of this system waits for a word of memory that two processes share. It is asked for twice: by a child that is
// about to begin, and by one whose large result is taken more slowly than it is packed.
void wait_for_change(std::atomic<std::uint32_t>& word, std::uint32_t seen) noexcept {
  for (int look = 0; look < 200; ++look) {
    if (word.load() != seen) return;
    ::SwitchToThread();
  }
  const fine_ticks ticks;
  ::Sleep(1);
}

void wake_waiters(std::atomic<std::uint32_t>& /*word*/) noexcept {}

}  // namespace pynisher::platform
