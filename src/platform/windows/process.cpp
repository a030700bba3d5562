// Watching and ending one child, and what it left as it ended.

#include <windows.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <random>
#include <utility>

#include "../../settings.hpp"
#include "../contract.hpp"
#include "handles.hpp"
#include "job.hpp"
#include "timed_wait.hpp"

namespace pynisher::platform {

namespace {

using namespace std::chrono_literals;

/// Codes that say what a process died of, and the signal that it is called elsewhere.
int signal_for(DWORD code) {
  switch (code) {
    case killed_code:
    case 0xC000013A:  // Ctrl-C that nobody handled
      return code == killed_code ? SIGKILL : SIGINT;
    case 0xC0000005:  // access violation
    case 0xC00000FD:  // stack overflow
    case 0x80000001:  // guard page
    case 0xC0000006:  // in page error
      return SIGSEGV;
    case 0x80000002:  // misaligned
      return SIGBUS;
    case 0xC000001D:  // illegal instruction
    case 0xC0000096:  // privileged instruction
      return SIGILL;
    case 0xC000008C:  // array bounds
    case 0xC000008D:
    case 0xC000008E:
    case 0xC000008F:
    case 0xC0000090:
    case 0xC0000091:
    case 0xC0000092:
    case 0xC0000093:
    case 0xC0000094:  // integer division by zero
    case 0xC0000095:  // integer overflow
      return SIGFPE;
    case 0x80000003:  // breakpoint
    case 0x80000004:
      return SIGTRAP;
    case 0xC0000374:  // heap corruption
    case 0xC0000409:  // fail fast: `abort`, and stack checks
    case 0xC0000420:  // assertion
    case 0xE06D7363:  // an exception of Microsoft's C++ that nobody caught
      return SIGABRT;
    default:
      return 0;
  }
}

/// How the kernel ends a process that has used up its job's time; and a number as any other, by which a program may end.
bool is_for_cpu_time(DWORD code, HANDLE process, HANDLE job) {
  constexpr DWORD quota_exceeded = 0xC0000044;
  return (code == ERROR_NOT_ENOUGH_QUOTA || code == quota_exceeded) && has_used_up_cpu_limit(process, job);
}

exit_status from_exit_code(DWORD code, HANDLE process, HANDLE job) {
  exit_status ended;
  const int signal = is_for_cpu_time(code, process, job) ? SIGXCPU : signal_for(code);
  ended.how = signal != 0 ? exit_status::kind::signalled : exit_status::kind::exited;
  ended.value = signal != 0 ? signal : static_cast<int>(code);
  // The library's own way to kill is nobody else's business.
  if (signal != 0 && code != killed_code) ended.system_code = code;
  return ended;
}

}  // namespace

const bool children_need_death_watch = false;

namespace {

struct signal_words {
  int signal;
  const char* name;
  const char* meaning;
};
constexpr signal_words known_signals[] = {
    {SIGINT, "INT", "Interrupt"},
    {SIGILL, "ILL", "Illegal instruction"},
    {SIGTRAP, "TRAP", "Trace/breakpoint trap"},
    {SIGABRT, "ABRT", "Aborted"},
    {SIGBUS, "BUS", "Bus error"},
    {SIGFPE, "FPE", "Arithmetic exception"},
    {SIGKILL, "KILL", "Killed"},
    {SIGSEGV, "SEGV", "Memory access violation"},
    {SIGXCPU, "XCPU", "CPU time limit exceeded"},
    {SIGTERM, "TERM", "Terminated"},
};

const signal_words* words_of(int signal) noexcept {
  const auto* const at = std::find_if(std::begin(known_signals), std::end(known_signals),
                                      [signal](const signal_words& known) { return known.signal == signal; });
  return at == std::end(known_signals) ? nullptr : at;
}

}  // namespace

const char* signal_name(int signal) noexcept {
  const auto* const known = words_of(signal);
  return known != nullptr ? known->name : nullptr;
}
const char* signal_meaning(int signal) noexcept {
  const auto* const known = words_of(signal);
  return known != nullptr ? known->meaning : nullptr;
}

fork_result fork_child(child_plan& /*plan*/) {
  fork_result refused;
  refused.error = ERROR_NOT_SUPPORTED;
  return refused;
}

fork_result watch_started_child(pid_t pid, call_fd process, call_fd job) {
  fork_result result;
  result.where = fork_result::side::parent;
  result.child.pid_ = pid;
  result.child.pidfd_ = std::move(process);
  result.child.job_ = std::move(job);
  return result;
}

bool let_go(const child_process& child, child_plan& plan) {
  const options& given = plan.limits->given();
  job_limits limits{.whole_tree = given.terminate_child_processes,
                    .cpu_per_process = plan.cpu_limit,
                    .processes = given.processes};
  if (given.measure == memory_measure::address_space) limits.memory_per_process = plan.memory;
  if (plan.measures_growth) {
    plan.at_start = mapped(static_cast<pid_t>(child.pid()));
    plan.region->held.store(plan.at_start.private_writable);
    if (plan.at_start.private_writable == 0 && !child.has_ended()) return false;
    // What the library takes for the reply's bookkeeping is not the function's.
    auto& most = plan.memory_bound != nullptr ? limits.memory_together : limits.memory_per_process;
    most = plan.at_start.private_writable + *plan.memory + detail::reply_region::size;
  }
  if (!limit_job(to_handle(child.job_.get()), limits) && !child.has_ended()) {
    errno = static_cast<int>(::GetLastError());
    return false;
  }
  if (plan.not_begun == 0) {
    std::random_device random;
    plan.not_begun = (std::uint64_t{random()} << 32) | random() | 1;
    plan.region->not_begun.store(plan.not_begun);
  }
  plan.region->go.fetch_add(1);
  wake_waiters(plan.region->go);
  return true;
}

// --- a running child ------------------------------------------------------------------------------------------

child_process::woken_by child_process::wait(const doorbell& bell, const doorbell* inner,
                                            std::optional<clock::time_point> until) const {
  const HANDLE watched[] = {to_handle(pidfd_.get()), to_handle(bell.waitable()),
                            to_handle(inner == nullptr ? -1 : inner->waitable())};
  const timed_wait timed(until);
  const DWORD ready = ::WaitForMultipleObjects(inner == nullptr ? 2 : 3, watched, FALSE, timed.milliseconds());
  if (ready == WAIT_OBJECT_0) return woken_by::end;
  return ready == WAIT_TIMEOUT ? woken_by::nothing : woken_by::doorbell;
}

bool child_process::has_ended() const noexcept {
  return ::WaitForSingleObject(to_handle(pidfd_.get()), 0) == WAIT_OBJECT_0;
}

void child_process::send(int signal) const noexcept {
  // An interrupt comes to all processes of the console by itself.
  if (signal == SIGKILL) ::TerminateProcess(to_handle(pidfd_.get()), killed_code);
}

std::optional<std::chrono::nanoseconds> child_process::cpu_time() const { return cpu_time_of(pid_); }

std::optional<std::uint64_t> child_process::memory_growth(const mapped_memory& at_start) const {
  const auto now = counts_of(to_handle(pidfd_.get()));
  if (!now || now->committed == 0) return std::nullopt;
  return now->committed > at_start.private_writable ? now->committed - at_start.private_writable : 0;
}

namespace {

std::atomic<std::int64_t> ended_children_ns{0};

/// All processors since it began.
std::uint64_t most_cpu_time_of(HANDLE process) {
  const auto times = times_of(process);
  if (!times) return 0;
  FILETIME now;
  ::GetSystemTimePreciseAsFileTime(&now);
  const std::chrono::nanoseconds lived = from_file_time(now) - times->created;
  return static_cast<std::uint64_t>(std::max(lived, 0ns).count()) * processors();
}

}  // namespace

std::chrono::nanoseconds cpu_of_ended_children() noexcept { return std::chrono::nanoseconds(ended_children_ns.load()); }

exit_status child_process::end(bool whole_tree, const call_mark& /*mark*/, const detail::reply_region& region) {
  const HANDLE process = to_handle(pidfd_.get());
  const auto cpu_before_end = cpu_time();
  const auto counts_before_end = counts_of(process);
  if (!has_ended()) send(SIGKILL);
  ::WaitForSingleObject(process, INFINITE);
  if (whole_tree) end_job(to_handle(job_.get()));
  DWORD code = 0;
  ::GetExitCodeProcess(process, &code);
  exit_status result = from_exit_code(code, process, to_handle(job_.get()));
  // Of what it has left behind.
  if (!whole_tree) release_job(to_handle(job_.get()));
  // What is told of an ended process may be nothing; then the child's own notes count.
  const std::uint64_t most = most_cpu_time_of(process);
  const std::uint64_t noted = std::min(most, std::min(region.user_ns.load(), most) + std::min(region.system_ns.load(), most));
  ended_children_ns.fetch_add(std::max(cpu_before_end.value_or(0ns).count(), static_cast<std::int64_t>(noted)));
  // Should this be a call's child that ends without a word, they count all the same.
  note_own_usage();
  if (cpu_before_end) {
    // Only the child tells how much of it was the system's, and its word for that is added again.
    const auto claimed = std::chrono::nanoseconds(static_cast<std::int64_t>(region.system_ns.load()));
    result.usage.user_time = *cpu_before_end - std::clamp(claimed, std::chrono::nanoseconds(0), *cpu_before_end);
  }
  if (counts_before_end) result.peak_before_kill = counts_before_end->peak_resident;
  pid_ = -1;
  pidfd_ = call_fd();
  job_ = call_fd();
  return result;
}

// The job is the mark.
call_mark new_mark() { return {1, 1}; }
call_mark new_mark_below(std::uint64_t /*mark*/) { return {}; }
std::uint64_t mark_carried_by(pid_t /*process*/) noexcept { return 0; }
void release_mark(const call_mark& /*mark*/) {}

// The program's end closes its jobs.
void parent_death_watch::start() noexcept {}
parent_death_watch::~parent_death_watch() = default;

bool join_group(const char* /*entry*/) noexcept { return false; }

// A process begins with a count of its own.
std::uint64_t own_peak() noexcept { return 0; }

}  // namespace pynisher::platform
