// What a child does between fork and the function; each failure is reported by number.

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>

#include "../../settings.hpp"
#include "../contract.hpp"
#include "../posix/interrupts.hpp"
#include "accounting.hpp"
#include "tree.hpp"

// What the C++ library's own waiting is made of; declared by none of the system's headers.
extern "C" int __ulock_wait(std::uint32_t operation, void* address, std::uint64_t value, std::uint32_t microseconds);
extern "C" int __ulock_wake(std::uint32_t operation, void* address, std::uint64_t value);

namespace pynisher::platform {

namespace {

using detail::start_stage;

constexpr int crash_signals[] = {SIGSEGV, SIGBUS, SIGABRT, SIGILL, SIGTRAP, SIGFPE, SIGSYS};

/// Set once per child; what crash handlers and nested calls need to know of the call around them.
struct {
  struct sigaction before_crash[std::size(crash_signals)];
  pid_t pid = 0;
  pid_t parent = 0;
  detail::reply_region* region = nullptr;
  bool ends_descendants = false;
  bool is_fresh = false;
  bool is_prepared = false;
  std::optional<std::chrono::nanoseconds> cpu_limit;
  bool has_memory_limit = false;
  std::optional<std::uint64_t> may_hold;  ///< bytes of footprint
  std::optional<std::uint64_t> may_map;   ///< bytes of address space
} surrounding;

[[noreturn]] void give_up(start_stage stage, int error) noexcept {
  if (surrounding.region != nullptr) {
    surrounding.region->failed_errno.store(error);
    surrounding.region->failed_stage.store(static_cast<std::uint32_t>(stage));
  }
  ::_exit(1);
}

void must(start_stage stage, int result) noexcept {
  if (result < 0) give_up(stage, errno);
}

/// Soft and hard limit, never above what there is already.
int tighten(int resource, std::uint64_t limit) noexcept {
  rlimit now{};
  if (::getrlimit(resource, &now) != 0) return -1;
  const rlimit wanted{std::min<rlim_t>(limit, now.rlim_cur), std::min<rlim_t>(limit, now.rlim_max)};
  return ::setrlimit(resource, &wanted);
}

void empty_standard_input() noexcept {
  const int fd = ::open("/dev/null", O_RDONLY);
  must(start_stage::standard_input, fd);
  if (fd == 0) return;
  must(start_stage::standard_input, ::dup2(fd, 0));
  ::close(fd);
}

// --- crashes ---------------------------------------------------------------------------------------------------

alignas(16) char crash_stack[64 * 1024];

std::uintptr_t stack_pointer(const void* context) {
  const auto* machine = static_cast<const ucontext_t*>(context)->uc_mcontext;
#if defined(__arm64__)
  return static_cast<std::uintptr_t>(__darwin_arm_thread_state64_get_sp(machine->__ss));
#else
  return static_cast<std::uintptr_t>(machine->__ss.__rsp);
#endif
}

/// By the kernel for something that the thread did. SIGSEGV, SIGBUS and SIGILL always look like this here; others that
/// are sent have no code, but `abort` sends with whatever code the kernel has told this process last.
bool is_fault(const siginfo_t& info) { return info.si_signo != SIGABRT && info.si_code > 0 && info.si_code < SI_USER; }

/// A fault next to the stack pointer has hit the end of the stack: the stack itself is mapped.
bool is_stack_overflow(int signal, const siginfo_t& info, const void* context) {
  if ((signal != SIGSEGV && signal != SIGBUS) || !is_fault(info)) return false;
  const auto address = reinterpret_cast<std::uintptr_t>(info.si_addr);
  const std::uintptr_t sp = stack_pointer(context);
  constexpr std::uintptr_t below = 1 << 20, above = 64 << 10;
  return sp != 0 && address + below >= sp && address <= sp + above;
}

void write_crash_note(int signal, const siginfo_t& info, const void* context, int last_error) {
  detail::reply_region& region = *surrounding.region;
  std::uint32_t flags = 0;
  if (is_stack_overflow(signal, info, context)) {
    flags |= detail::crash_flag::stack_overflow;
  } else if (last_error == ENOMEM) {
    flags |= detail::crash_flag::allocation_refused;
  }
  if (is_fault(info)) region.crash_address.store(reinterpret_cast<std::uintptr_t>(info.si_addr));
  region.crash_flags.store(flags);
  region.crash_signal.store(static_cast<std::uint32_t>(signal));
}

struct sigaction& before_crash(int signal) {
  const auto* const at = std::find(std::begin(crash_signals), std::end(crash_signals), signal);
  return surrounding.before_crash[at - crash_signals];
}

/// No handler of the application's will mend the fault and go on.
bool is_final(int signal) {
  const struct sigaction& before = before_crash(signal);
  return (before.sa_flags & SA_SIGINFO) == 0 && before.sa_handler == SIG_DFL;
}

/// Notes what the kernel does not tell a parent, ends what the call started, and lets the crash go on.
void note_crash(int signal, siginfo_t* info, void* context) {
  const int last_error = errno;
  // What the function forks has inherited this handler, but not the region.
  if (::getpid() == surrounding.pid) {
    if (surrounding.is_fresh) surrounding.region->peak.store(peak_of(surrounding.pid));
    write_crash_note(signal, *info, context, last_error);
    if (is_final(signal) && surrounding.ends_descendants) kill_descendants(surrounding.pid);
  }
  ::sigaction(signal, &before_crash(signal), nullptr);
  // A fault happens again by itself when this returns; what was sent has to be sent again, which does no harm to what
  // ends here anyway.
  if (is_final(signal) || !is_fault(*info)) ::pthread_kill(::pthread_self(), signal);
  errno = last_error;
}

int watch_for_crashes() noexcept {
  stack_t stack{};
  stack.ss_sp = crash_stack;
  stack.ss_size = sizeof crash_stack;
  if (::sigaltstack(&stack, nullptr) != 0) return -1;
  struct sigaction action {};
  action.sa_sigaction = note_crash;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  for (const int signal : crash_signals) {
    struct sigaction before {};
    if (::sigaction(signal, &action, &before) != 0) return -1;
    if ((before.sa_flags & SA_SIGINFO) == 0 || before.sa_sigaction != note_crash) before_crash(signal) = before;
  }
  return 0;
}

// --- limits ----------------------------------------------------------------------------------------------------

/// The parent looks at the CPU time to the nanosecond; this is for a child that nobody looks at, and that heeds
/// SIGXCPU.
void limit_cpu(std::chrono::nanoseconds limit) noexcept {
  must(start_stage::cpu_limit, tighten(RLIMIT_CPU, static_cast<std::uint64_t>(limit.count() / 1'000'000'000) + 2));
}

/// The kernel refuses to go below what is mapped, which nothing here can be told of: then as low as it goes.
int tighten_address_space(std::uint64_t limit) noexcept {
  if (tighten(RLIMIT_AS, limit) == 0) return 0;
  rlimit now{};
  if (errno != EINVAL || ::getrlimit(RLIMIT_AS, &now) != 0) return -1;
  constexpr std::uint64_t page = 16384;
  // The soft limit alone can be raised again while this is being tried out.
  const auto takes = [&now](std::uint64_t bytes) {
    const rlimit wanted{bytes, now.rlim_max};
    return ::setrlimit(RLIMIT_AS, &wanted) == 0;
  };
  std::uint64_t refused = limit, taken = std::min<std::uint64_t>(now.rlim_max, std::uint64_t{1} << 47);
  if (!takes(taken)) return -1;
  while (taken - refused > page) {
    const std::uint64_t middle = refused + (taken - refused) / 2;
    (takes(middle) ? taken : refused) = middle;
  }
  return tighten(RLIMIT_AS, taken);
}

void limit_memory(const child_plan& plan) noexcept {
  if (plan.limits->given().measure == memory_measure::address_space) {
    // The reply's region is the library's, not the function's.
    surrounding.may_map = *plan.memory + detail::reply_region::size;
    must(start_stage::memory_limit, tighten_address_space(*surrounding.may_map));
  } else {
    // For calls within this one; this one is watched by its parent.
    surrounding.may_hold = mapped().private_writable + *plan.memory;
  }
}

/// The parent may be killed before it has told its death watch of this process.
void await_go(const child_plan& plan, std::uint32_t seen) noexcept {
  while (plan.region->go.load() == seen) {
    if (::getppid() != surrounding.parent) ::_exit(1);
    wait_for_change(plan.region->go, seen);
  }
}

/// The parent has measured a child of the forkserver as it waited; taking the arguments is not the function's affair.
void be_measured_with_arguments(const child_plan& plan) noexcept {
  const std::uint32_t seen = plan.region->go.load();
  plan.region->ready.store(2);
  doorbell::raise(plan.doorbell);
  await_go(plan, seen);
}

}  // namespace

void tie_to_program(pid_t program, parentage how) noexcept {
  // To its server, long since.
  if (how == parentage::relayed) return;
  if (how == parentage::copy) tell_watch_of(::getpid(), surrounding.ends_descendants);
  if (::getppid() != program) ::_exit(1);
}

void note_outer_limits(bool within_memory_limit) noexcept { surrounding.has_memory_limit = within_memory_limit; }

bool is_within_memory_limit() noexcept { return surrounding.has_memory_limit; }

void prepare_set_up() noexcept { surrounding.is_prepared = watch_for_crashes() >= 0; }

void set_up_child(const child_plan& plan, pid_t parent) noexcept {
  const detail::settings& limits = *plan.limits;
  surrounding.pid = ::getpid();
  surrounding.region = plan.region;
  surrounding.ends_descendants = limits.given().terminate_child_processes;
  surrounding.cpu_limit = plan.cpu_limit;
  surrounding.has_memory_limit = surrounding.has_memory_limit || plan.memory.has_value();

  tie_to_program(parent, plan.parentage);
  surrounding.parent = plan.parentage == parentage::relayed ? ::getppid() : parent;
  if (plan.parentage == parentage::copy) {
    must(start_stage::keep_region, keep_from_children(plan.region, detail::reply_region::size) < 0 ? -1 : 0);
  }
  if (surrounding.ends_descendants) must(start_stage::mark, ::setsid());
  empty_standard_input();
  forget_stdio();
  forget_calls_in_flight();
  close_descriptors_of_calls(plan.doorbell, plan.conversation);
  if (!limits.given().name.empty()) show_as_thread(limits.given().name);
  if (!surrounding.is_prepared) must(start_stage::handlers, watch_for_crashes());
  // What the function forks, and calls in it, have to see for themselves.
  surrounding.is_prepared = false;

  surrounding.is_fresh = plan.parentage == parentage::fresh;
  if (!surrounding.is_fresh) {
    rusage at_start{};
    ::getrusage(RUSAGE_SELF, &at_start);
    plan.region->first_peak.store(static_cast<std::uint64_t>(at_start.ru_maxrss));
  }

  if (plan.cpu_limit) limit_cpu(*plan.cpu_limit);
  if (plan.parentage != parentage::copy) {
    plan.region->ready.store(1);
    if (plan.measures_growth && plan.parentage == parentage::fresh) doorbell::raise(plan.doorbell);
  }
  // Nothing runs before there is somebody to watch it.
  await_go(plan, 0);
  if (plan.measures_growth && has_waited(plan.parentage)) be_measured_with_arguments(plan);
  if (plan.memory) limit_memory(plan);
  plan.region->not_begun.store(0);
}

void end_tree_in_child() noexcept {
  // Whether anything is left only the parent can say: orphans do not come to this process.
  if (surrounding.ends_descendants) kill_descendants(surrounding.pid);
}

namespace {

/// The code that `exit` was given is not told to what it calls. `exit` goes on to the handlers that the program has
/// registered, and then leaves with that code.
void on_exit() {
  if (::getpid() != surrounding.pid) return;
  flush_iostreams();
  note_usage(*surrounding.region);
}

}  // namespace

void catch_exits(void (* /*at_exit*/)(int code), void (* /*at_quick_exit*/)(int code)) noexcept { ::atexit(on_exit); }

// Once for all children: a handler cannot be taken back here, and this one does nothing but in a call's child. Not in
// the child, where another thread's `atexit` may have left its lock locked for good.
bool catch_exits_of_next_child(void (* /*at_exit*/)(int code), void (* /*at_quick_exit*/)(int code)) noexcept {
  static const bool registered = ::atexit(on_exit) == 0;
  return registered;
}

void note_usage(detail::reply_region& region) noexcept {
  const auto nanoseconds = [](const timeval& time) {
    return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(time.tv_usec) * 1000;
  };
  rusage used{};
  ::getrusage(RUSAGE_SELF, &used);
  region.user_ns.store(nanoseconds(used.ru_utime), std::memory_order_relaxed);
  region.system_ns.store(nanoseconds(used.ru_stime), std::memory_order_relaxed);
  region.peak.store(static_cast<std::uint64_t>(used.ru_maxrss), std::memory_order_relaxed);
  region.page_faults.store(static_cast<std::uint64_t>(used.ru_minflt + used.ru_majflt), std::memory_order_relaxed);
}

std::optional<std::chrono::nanoseconds> outer_cpu_left() {
  if (!surrounding.cpu_limit) return std::nullopt;
  // Inner calls that are over count too, or many of them would use up many times the limit.
  std::chrono::nanoseconds spent{0};
  for (const int whose : {RUSAGE_SELF, RUSAGE_CHILDREN}) {
    rusage used{};
    ::getrusage(whose, &used);
    spent += std::chrono::seconds(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
             std::chrono::microseconds(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
  }
  return std::max(*surrounding.cpu_limit - spent, std::chrono::nanoseconds(1));
}

std::optional<std::uint64_t> outer_memory_left(memory_measure measure) {
  const bool by_address = measure == memory_measure::address_space;
  const auto& most = by_address ? surrounding.may_map : surrounding.may_hold;
  if (!most) return std::nullopt;
  const mapped_memory now = mapped();
  const std::uint64_t held = by_address ? now.address_space + detail::reply_region::size : now.private_writable;
  return *most > held ? *most - held : 1;
}

std::string shown_name() {
  char name[64] = {};
  ::pthread_getname_np(::pthread_self(), name, sizeof name);
  return name;
}

void show_as_thread(const std::string& name) noexcept {
  // A longer one is refused.
  char shown[64];
  ::strlcpy(shown, name.c_str(), sizeof shown);
  ::pthread_setname_np(shown);
}

pid_t process_number() noexcept { return ::getpid(); }
std::int64_t process_identity() noexcept { return process_number(); }

pid_t thread_number() noexcept { return static_cast<pid_t>(::pthread_mach_thread_np(::pthread_self())); }

void leave(int code) noexcept { ::_exit(code); }

namespace {

// Between processes, and all who wait.
constexpr std::uint32_t compare_and_wait_shared = 3, no_errno = 0x01000000, wake_all = 0x00000100;

}  // namespace

void wait_for_change(std::atomic<std::uint32_t>& word, std::uint32_t seen) noexcept {
  // For a moment: should this system's call not work between these two processes, it is only slow.
  constexpr std::uint32_t moment_us = 10'000;
  __ulock_wait(compare_and_wait_shared | no_errno, &word, seen, moment_us);
}

void wake_waiters(std::atomic<std::uint32_t>& word) noexcept {
  __ulock_wake(compare_and_wait_shared | no_errno | wake_all, &word, 0);
}

}  // namespace pynisher::platform
