// What a child does between fork and the function. System calls only; each failure is reported by number.

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>
#include <ucontext.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <cstring>

#include "../../settings.hpp"
#include "../contract.hpp"
#include "../forked_page.hpp"
#include "../posix/interrupts.hpp"
#include "program_title.hpp"
#include "raw_syscall.hpp"
#include "tree.hpp"

/// Where glibc's main stack began.
extern "C" void* __libc_stack_end;

namespace pynisher::platform {

namespace {

using detail::start_stage;

constexpr int rlimit_locks = 10;
constexpr std::chrono::nanoseconds belt_delay = std::chrono::microseconds(200);

struct kernel_rlimit {
  std::uint64_t soft;
  std::uint64_t hard;
};

/// A mask and not a list, which would be one more page to touch.
constexpr std::uint32_t crash_signals = 1u << SIGSEGV | 1u << SIGBUS | 1u << SIGABRT | 1u << SIGILL | 1u << SIGTRAP |
                                        1u << SIGFPE | 1u << SIGSYS;

static_assert(std::popcount(crash_signals) == surrounding_call::crash_signals);

constexpr surrounding_call& surrounding = on_forked_page.surrounding;

[[noreturn]] void give_up(start_stage stage, long error) noexcept {
  // One that was started afresh may not have it yet.
  if (surrounding.region != nullptr) {
    surrounding.region->failed_errno.store(static_cast<std::int32_t>(-error));
    surrounding.region->failed_stage.store(static_cast<std::uint32_t>(stage));
  }
  raw::call(SYS_exit_group, 1);
  __builtin_unreachable();
}

void must(start_stage stage, long result) noexcept {
  if (result < 0) give_up(stage, result);
}

/// Soft and hard limit, never above what there is already.
long tighten(int resource, std::uint64_t limit) noexcept {
  kernel_rlimit now{};
  if (const long failed = raw::call(SYS_prlimit64, 0, resource, nullptr, &now); failed < 0) return failed;
  const kernel_rlimit wanted{std::min(limit, now.soft), std::min(limit, now.hard)};
  return raw::call(SYS_prlimit64, 0, resource, &wanted, nullptr);
}

// --- standing --------------------------------------------------------------------------------------------------

void belong_to_call(const call_mark& mark) noexcept {
  int was_reaper = 0;
  const long refused = raw::call(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1);
  // A kernel that has none is warned of: `kill_tree`.
  if (refused < 0 && raw::call(SYS_prctl, PR_GET_CHILD_SUBREAPER, &was_reaper) != -EINVAL) {
    give_up(start_stage::become_subreaper, refused);
  }
  if (mark.value == 0) return;
  const kernel_rlimit limit{mark.value, mark.value};
  must(start_stage::mark, raw::call(SYS_prlimit64, 0, rlimit_locks, &limit, nullptr));
}

void empty_standard_input() noexcept {
  // Made on the stack: in a fresh child each further page that is touched costs as much as several system calls.
  volatile char made[] = {'/', 'd', 'e', 'v', '/', 'n', 'u', 'l', 'l', '\0'};
  const char* const null_device = const_cast<const char*>(made);
  long fd = raw::call(SYS_openat, AT_FDCWD, null_device, O_RDONLY, 0);
  if (fd < 0) {
    // A chroot without /dev: a pipe that nobody writes to is as empty.
    int ends[2];
    must(start_stage::standard_input, raw::call(SYS_pipe2, ends, 0));
    raw::call(SYS_close, ends[1]);
    fd = ends[0];
  }
  if (fd == 0) return;
  must(start_stage::standard_input, raw::call(SYS_dup3, fd, 0, 0));
  raw::call(SYS_close, fd);
}

void give_output(const child_plan& plan) noexcept {
  if (plan.parentage != parentage::copy) return;  // it has got it already
  if (plan.out >= 0) must(start_stage::output, raw::call(SYS_dup3, plan.out, 1, 0));
  if (plan.err >= 0) must(start_stage::output, raw::call(SYS_dup3, plan.err, 2, 0));
}

/// Without CAP_SYS_RESOURCE nobody can raise a hard limit again. Dropped from the bounding set too, so that exec
/// does not give it back.
void drop_privilege() noexcept {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2]{};
  must(start_stage::drop_privilege, raw::call(SYS_capget, &header, data));
  constexpr std::uint32_t bit = 1u << CAP_SYS_RESOURCE;
  if ((data[0].permitted & bit) == 0) return;
  must(start_stage::drop_privilege, raw::call(SYS_prctl, PR_CAPBSET_DROP, CAP_SYS_RESOURCE));
  data[0].effective &= ~bit;
  data[0].permitted &= ~bit;
  data[0].inheritable &= ~bit;
  must(start_stage::drop_privilege, raw::call(SYS_capset, &header, data));
}

// --- crashes ---------------------------------------------------------------------------------------------------

alignas(16) char crash_stack[64 * 1024];

struct sigaction& before_crash(int signal) {
  int place = 0;
  // std::popcount is a call into libgcc.
  for (std::uint32_t below = crash_signals & ((1u << signal) - 1); below != 0; below &= below - 1) ++place;
  return surrounding.before_crash[place];
}

std::uintptr_t stack_pointer(const void* context) {
#if defined(__x86_64__)
  return static_cast<std::uintptr_t>(static_cast<const ucontext_t*>(context)->uc_mcontext.gregs[REG_RSP]);
#elif defined(__aarch64__)
  return static_cast<std::uintptr_t>(static_cast<const ucontext_t*>(context)->uc_mcontext.sp);
#else
  (void)context;
  return 0;
#endif
}

/// A fault next to the stack pointer has hit the end of the stack: the stack itself is mapped.
bool is_stack_overflow(int signal, const siginfo_t& info, const void* context) {
  if (signal != SIGSEGV || info.si_code <= 0) return false;
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
    // What malloc and mmap leave behind when they are refused; cleared when the function began.
    flags |= detail::crash_flag::allocation_refused;
  }
  // Only a fault has an address; a signal that was sent has its sender there.
  if (info.si_code > 0) region.crash_address.store(reinterpret_cast<std::uintptr_t>(info.si_addr));
  region.crash_flags.store(flags);
  region.crash_signal.store(static_cast<std::uint32_t>(signal));
}

/// Notes what the kernel does not tell a parent, ends what the call started, and lets the crash go on.
void note_crash(int signal, siginfo_t* info, void* context) {
  const int last_error = errno;
  // What the function forks has inherited this handler, but not the region; one that waits has none yet.
  if (raw::call(SYS_getpid) == surrounding.pid) {
    if (surrounding.is_fresh) surrounding.region->peak.store(peak_of(static_cast<pid_t>(surrounding.pid)));
    write_crash_note(signal, *info, context, last_error);
    // A handler of the application's may mend the fault and go on.
    const bool final = before_crash(signal).sa_handler == SIG_DFL;
    if (final && surrounding.ends_descendants) end_own_descendants();
  }
  ::sigaction(signal, &before_crash(signal), nullptr);
  // A fault happens again by itself when this returns; what was sent has to be sent again.
  if (info->si_code <= 0) {
    raw::call(SYS_tgkill, raw::call(SYS_getpid), raw::call(SYS_gettid), signal);
  }
  errno = last_error;
}

/// Negative: the error number. It may be done again then.
[[gnu::hot]] long watch_for_crashes() noexcept {
  const stack_t stack{crash_stack, 0, sizeof crash_stack};
  if (const long failed = raw::call(SYS_sigaltstack, &stack, nullptr); failed < 0) return failed;
  struct sigaction action {};
  action.sa_sigaction = note_crash;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  for (std::uint32_t left = crash_signals; left != 0; left &= left - 1) {
    const int signal = std::countr_zero(left);
    struct sigaction before {};
    if (::sigaction(signal, &action, &before) != 0) return -errno;
    // A call within a call finds the outer one's handler, and has inherited what was there before that.
    if (before.sa_sigaction != note_crash) before_crash(signal) = before;
  }
  return 0;
}

// --- limits ----------------------------------------------------------------------------------------------------

/// A kernel timer that freezes the child, whatever it does with signals, so that the parent finds it and its tree as
/// they were at the limit. The parent watches the limit as well, since a function may find and delete timers.
/// `when`: on that clock.
long freeze_by_timer(clockid_t clock, std::chrono::nanoseconds when) noexcept {
  sigevent event{};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGSTOP;
  int timer = 0;
  if (const long failed = raw::call(SYS_timer_create, clock, &event, &timer); failed < 0) return failed;
  const auto count = std::max<std::int64_t>(when.count(), 1);
  itimerspec expiry{};
  expiry.it_value.tv_sec = static_cast<time_t>(count / 1'000'000'000);
  expiry.it_value.tv_nsec = static_cast<long>(count % 1'000'000'000);
  return raw::call(SYS_timer_settime, timer, TIMER_ABSTIME, &expiry, nullptr);
}

void limit_cpu(std::chrono::nanoseconds limit) noexcept {
  must(start_stage::cpu_limit, freeze_by_timer(CLOCK_PROCESS_CPUTIME_ID, limit));
  const auto whole_seconds = static_cast<std::uint64_t>(limit.count() / 1'000'000'000) + 2;
  must(start_stage::cpu_limit, tighten(RLIMIT_CPU, whole_seconds));
}

void limit_wall(clock::time_point deadline) noexcept {
  // steady_clock is CLOCK_MONOTONIC, in libstdc++ and libc++ alike.
  must(start_stage::wall_limit, freeze_by_timer(CLOCK_MONOTONIC, deadline.time_since_epoch() + belt_delay));
}

/// What the main stack holds already, environment and arguments included; at least that.
std::uint64_t stack_in_use() noexcept {
  constexpr std::uintptr_t arguments_and_environment = std::uintptr_t{1} << 20, largest = std::uintptr_t{16} << 30;
  const char here = 0;
  const auto begin = reinterpret_cast<std::uintptr_t>(__libc_stack_end);
  const auto now = reinterpret_cast<std::uintptr_t>(&here);
  // Elsewhere: a thread other than the first, whose stack cannot grow.
  const bool on_main_stack = now < begin && begin - now < largest;
  return arguments_and_environment + (on_main_stack ? begin - now : 0);
}

void limit_memory(const detail::settings& limits, std::uint64_t limit, std::uint64_t held) noexcept {
  // The group is entered instead.
  if (limits.given().measure == memory_measure::resident_tree) return;
  if (limits.given().measure == memory_measure::address_space) {
    // The reply's region is the library's, not the function's.
    must(start_stage::memory_limit, tighten(RLIMIT_AS, limit + detail::reply_region::size));
    return;
  }
  must(start_stage::memory_limit, tighten(RLIMIT_DATA, held + limit));
  // The main stack is private memory too, but RLIMIT_DATA does not count it.
  must(start_stage::memory_limit, tighten(RLIMIT_STACK, stack_in_use() + limit));
}

/// Says that the order has been understood. The parent measures what a fresh process holds before the function begins.
void get_ready(const child_plan& plan) noexcept {
  plan.region->ready.store(1);
  if (plan.measures_growth && plan.parentage == parentage::fresh) doorbell::raise(plan.doorbell);
}

/// The parent has measured a child of the forkserver as it waited; taking the arguments is not the function's affair.
std::uint64_t held_with_arguments(const child_plan& plan) noexcept {
  const std::uint64_t when_waiting = plan.region->held.load();
  if (!has_waited(plan.parentage) || !plan.measures_growth) return when_waiting;
  const std::uint64_t now = mapped().private_writable;
  if (now <= when_waiting + detail::reply_region::taken_without_asking) return std::max(now, when_waiting);
  const std::uint32_t seen = plan.region->go.load();
  plan.region->ready.store(2);
  doorbell::raise(plan.doorbell);
  while (plan.region->go.load() == seen) wait_for_change(plan.region->go, seen);
  return plan.region->held.load();
}

}  // namespace

// What runs in every child stands side by side in the program (hot), on fewer pages that have to be mapped there.

[[gnu::hot]] void tie_to_program(pid_t program, parentage how) noexcept {
  // To its server, long since.
  if (how == parentage::relayed) return;
  // The signal comes when the thread ends that is the parent, which for an adopted child may be any; the forkserver
  // ends those.
  if (!has_waited(how)) must(start_stage::die_with_parent, raw::call(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL));
  // The signal is for a death that is still to come.
  if (raw::call(SYS_getppid) != program) raw::call(SYS_exit_group, 1);
}

void note_outer_limits(bool within_memory_limit) noexcept { surrounding.has_memory_limit = within_memory_limit; }

bool is_within_memory_limit() noexcept { return surrounding.has_memory_limit; }

void prepare_set_up() noexcept {
  // Should it fail, it fails again when there is a call to say so.
  surrounding.is_prepared = watch_for_crashes() >= 0;
}

[[gnu::hot]] void set_up_child(const child_plan& plan, pid_t parent) noexcept {
  const detail::settings& limits = *plan.limits;
  surrounding.pid = raw::call(SYS_getpid);
  surrounding.region = plan.region;
  surrounding.ends_descendants = limits.given().terminate_child_processes;
  surrounding.cpu_limit = plan.cpu_limit;
  surrounding.has_memory_limit = surrounding.has_memory_limit || (plan.memory && limits.given().measure != memory_measure::resident_tree);

  tie_to_program(parent, plan.parentage);
  if (plan.parentage == parentage::copy) {
    must(start_stage::keep_region, keep_from_children(plan.region, detail::reply_region::size));
  }
  if (limits.given().terminate_child_processes) belong_to_call(plan.mark);
  if (plan.process_bound != nullptr && !join_group(plan.process_bound)) give_up(start_stage::process_bound, -EACCES);
  empty_standard_input();
  give_output(plan);
  forget_stdio();
  forget_calls_in_flight();
  close_descriptors_of_calls(plan.doorbell, plan.conversation);
  if (!limits.given().name.empty()) show_as(limits.given().name);
  if (!surrounding.is_prepared) must(start_stage::handlers, watch_for_crashes());
  // What the function forks, and calls in it, have to see for themselves.
  surrounding.is_prepared = false;
  if (plan.memory || plan.cpu_limit) drop_privilege();

  surrounding.is_fresh = plan.parentage == parentage::fresh;
  if (surrounding.is_fresh) {
    plan.region->peak.store(peak_of(static_cast<pid_t>(surrounding.pid)));
  } else {
    rusage at_start{};
    raw::call(SYS_getrusage, RUSAGE_SELF, &at_start);
    plan.region->first_peak.store(static_cast<std::uint64_t>(at_start.ru_maxrss) * 1024);
  }

  if (limits.wall_time()) limit_wall(plan.started + std::min(*limits.wall_time(), longest_wait));
  if (plan.cpu_limit) limit_cpu(*plan.cpu_limit);
  if (plan.parentage != parentage::copy) get_ready(plan);
  // Nothing runs before there is somebody to watch it.
  while (plan.region->go.load() == 0) wait_for_change(plan.region->go, 0);
  // Only now: what came before is not the function's.
  if (plan.memory_bound != nullptr && !join_group(plan.memory_bound)) give_up(start_stage::memory_limit, -EACCES);
  if (plan.memory) limit_memory(limits, *plan.memory, held_with_arguments(plan));
  plan.region->not_begun.store(0);
}

[[gnu::hot]] void end_tree_in_child() noexcept {
  if (!surrounding.ends_descendants) return;
  if (!end_own_descendants()) return;
  // A function may have given up being the reaper of what it starts.
  int reaper = 0;
  if (raw::call(SYS_prctl, PR_GET_CHILD_SUBREAPER, &reaper) != 0 || reaper == 0) return;
  // Another thread might start something yet, so that only a single one can say that nothing is left. For a single
  // thread this unshares nothing; for one of many it is refused.
  if (raw::call(SYS_unshare, CLONE_THREAD) == 0) surrounding.region->orderly.store(1, std::memory_order_release);
}

[[gnu::hot]] void note_usage(detail::reply_region& region) noexcept {
  const auto nanoseconds = [](const timeval& time) {
    return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(time.tv_usec) * 1000;
  };
  rusage used{};
  raw::call(SYS_getrusage, RUSAGE_SELF, &used);
  region.user_ns.store(nanoseconds(used.ru_utime), std::memory_order_relaxed);
  region.system_ns.store(nanoseconds(used.ru_stime), std::memory_order_relaxed);
  // The kernel's count begins with the peak of the program that started this one.
  region.peak.store(surrounding.is_fresh ? peak_of(static_cast<pid_t>(surrounding.pid)) : static_cast<std::uint64_t>(used.ru_maxrss) * 1024,
                    std::memory_order_relaxed);
  region.page_faults.store(static_cast<std::uint64_t>(used.ru_minflt + used.ru_majflt), std::memory_order_relaxed);
}

std::optional<std::chrono::nanoseconds> outer_cpu_left() {
  if (!surrounding.cpu_limit) return std::nullopt;
  timespec used{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  // Inner calls that are over count too, or many of them would use up many times the limit.
  rusage of_children{};
  ::getrusage(RUSAGE_CHILDREN, &of_children);
  const auto spent = std::chrono::seconds(used.tv_sec + of_children.ru_utime.tv_sec + of_children.ru_stime.tv_sec) +
                     std::chrono::nanoseconds(used.tv_nsec) +
                     std::chrono::microseconds(of_children.ru_utime.tv_usec + of_children.ru_stime.tv_usec);
  return std::max(*surrounding.cpu_limit - spent, std::chrono::nanoseconds(1));
}

std::optional<std::uint64_t> outer_memory_left(memory_measure measure) {
  if (!surrounding.has_memory_limit) return std::nullopt;
  const bool by_address = measure == memory_measure::address_space;
  kernel_rlimit limit{};
  if (raw::call(SYS_prlimit64, 0, by_address ? RLIMIT_AS : RLIMIT_DATA, nullptr, &limit) < 0) return std::nullopt;
  const mapped_memory now = mapped();
  const std::uint64_t held = by_address ? now.address_space + detail::reply_region::size : now.private_writable;
  return limit.soft > held ? limit.soft - held : 1;
}

std::string shown_name() {
  char name[16] = {};
  raw::call(SYS_prctl, PR_GET_NAME, name);
  return name;
}

void show_as_thread(const std::string& name) noexcept { raw::call(SYS_prctl, PR_SET_NAME, name.c_str()); }

[[gnu::hot]] pid_t process_number() noexcept { return static_cast<pid_t>(raw::call(SYS_getpid)); }

namespace {

/// Zero in each forked copy. Null: the system has no such memory.
std::atomic<std::int64_t>* word_wiped_by_fork() noexcept {
  static constinit std::atomic<std::atomic<std::int64_t>*> kept{nullptr};
  constexpr std::size_t page = 4096;
  std::atomic<std::int64_t>* word = kept.load();
  if (word != nullptr) return word;
  const long memory = raw::call(SYS_mmap, nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory < 0) return nullptr;
  auto* const fresh = reinterpret_cast<std::atomic<std::int64_t>*>(memory);
  if (raw::call(SYS_madvise, fresh, page, MADV_WIPEONFORK) == 0 && kept.compare_exchange_strong(word, fresh)) return fresh;
  raw::call(SYS_munmap, fresh, page);
  return word;
}

}  // namespace

// A copy in another namespace of processes, or one whose original has gone, may have the original's number.
std::int64_t process_identity() noexcept {
  const std::int64_t number = process_number();
  std::atomic<std::int64_t>* const word = word_wiped_by_fork();
  if (word == nullptr) return number;
  std::int64_t identity = word->load();
  if (identity != 0) return identity;
  std::int64_t random = 0;
  if (raw::call(SYS_getrandom, &random, sizeof random, GRND_NONBLOCK) != sizeof random) {
    timespec now{};
    raw::call(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    random = now.tv_sec * 1'000'000'000 + now.tv_nsec;
  }
  // Never a number's.
  random = (random ^ number << 32) | std::int64_t{1} << 62;
  return word->compare_exchange_strong(identity, random) ? random : identity;
}

[[gnu::hot]] pid_t thread_number() noexcept { return static_cast<pid_t>(raw::call(SYS_gettid)); }

[[gnu::hot]] void leave(int code) noexcept {
  raw::call(SYS_exit_group, code);
  __builtin_unreachable();
}

[[gnu::hot]] void wait_for_change(std::atomic<std::uint32_t>& word, std::uint32_t seen) noexcept {
  constexpr int futex_wait = 0;
  raw::call(SYS_futex, &word, futex_wait, seen, nullptr, nullptr, 0);
}

void wake_waiters(std::atomic<std::uint32_t>& word) noexcept {
  constexpr int futex_wake = 1;
  raw::call(SYS_futex, &word, futex_wake, 0x7fffffff, nullptr, nullptr, 0);
}

}  // namespace pynisher::platform
