// The watch that outlives a killed parent: a task of its own that shares the parent's memory.
//
// SIGKILL to the parent kills its limited children at once (PR_SET_PDEATHSIG), but what those have started becomes
// orphaned. This task gets a signal at the parent's death, looks for everything that carries the program's marks, and
// kills it. It shares memory and descriptors, so it costs about what a thread costs, no descriptor and no thread of
// the program; its exit signal is 0, so that no wait of the application's ever sees it.
//
// It runs with the thread-local storage of the thread that started it, which goes on meanwhile. So it makes system
// calls only, and this file is compiled without sanitizers and stack protectors.
//
// It is kept from the first call of a limited callable until that is gone, since starting and ending it costs a fifth of
// a short call. A program that replaces itself by exec leaves it behind with the old image's memory; it looks for that
// now and then.

#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#include <atomic>
#include <mutex>

#include "../../fork_safe_mutex.hpp"
#include "raw_syscall.hpp"
#include "tree.hpp"

namespace pynisher::platform {

namespace {

constexpr int end_signal = SIGTERM;
constexpr std::size_t stack_size = 32 << 10;

struct watch_state {
  int users = 0;
  pid_t owner = 0;  ///< the process whose watch this is: a forked copy of the program has none
  pid_t task = 0;   ///< until it is reaped
  void* stack = nullptr;
  call_mark marks;
  std::atomic<std::uint32_t> watching{0};
};

constinit watch_state only_state;

watch_state& state() { return only_state; }

/// True if the process runs this program no more, but one that it has become by exec.
bool has_become_another_program(pid_t process) {
  constexpr int same_memory = 1;
  return raw::call(SYS_kcmp, process, raw::call(SYS_getpid), same_memory, 0, 0) > 0;
}

[[noreturn]] void watch() {
  auto* shared = &state();
  raw::call(SYS_prctl, PR_SET_PDEATHSIG, end_signal);
  shared->watching.store(1);
  wake_waiters(shared->watching);
  raw::call(SYS_prctl, PR_SET_NAME, "pynisher-watch");
  const std::uint64_t set = std::uint64_t{1} << (end_signal - 1);
  constexpr timespec now_and_then{30, 0};
  while (raw::call(SYS_getppid) == shared->owner) {
    // The signal also comes when only the thread ends that started this.
    const long woken = raw::call(SYS_rt_sigtimedwait, &set, nullptr, &now_and_then, sizeof set);
    if (woken == -EAGAIN && has_become_another_program(shared->owner)) raw::call(SYS_exit_group, 0);
  }
  kill_marked(shared->marks);
  raw::call(SYS_exit_group, 0);
  __builtin_unreachable();
}

/// clone with a stack of its own; the child never returns from `watch`.
long start_task(void* stack) {
  clone_args arguments{};
  arguments.flags = CLONE_VM | CLONE_FS | CLONE_FILES;
  arguments.exit_signal = 0;
  arguments.stack = reinterpret_cast<std::uint64_t>(stack);
  arguments.stack_size = stack_size;
#if defined(__x86_64__)
  long result = SYS_clone3;
  asm volatile(
      "syscall\n\t"
      "test %%rax, %%rax\n\t"
      "jnz 1f\n\t"
      "xor %%ebp, %%ebp\n\t"
      "call *%[entry]\n\t"
      "ud2\n"
      "1:"
      : "+a"(result)
      : "D"(&arguments), "S"(sizeof arguments), [entry] "r"(&watch)
      : "rcx", "r11", "memory");
  return result;
#elif defined(__aarch64__)
  register long x8 asm("x8") = SYS_clone3;
  register long x0 asm("x0") = reinterpret_cast<long>(&arguments);
  register long x1 asm("x1") = sizeof arguments;
  asm volatile(
      "svc #0\n\t"
      "cbnz x0, 1f\n\t"
      "mov x29, xzr\n\t"
      "mov x30, xzr\n\t"
      "blr %[entry]\n\t"
      "brk #1\n"
      "1:"
      : "+r"(x0)
      : "r"(x8), "r"(x1), [entry] "r"(&watch)
      : "memory");
  return x0;
#else
  return -ENOSYS;
#endif
}

// From here on: under the mutex.

void start_watch(watch_state& shared) {
  if (shared.stack == nullptr) {
    void* fresh = ::mmap(nullptr, stack_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (fresh == MAP_FAILED) return;
    shared.stack = fresh;
  }
  shared.watching.store(0);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const long task = start_task(shared.stack);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (task < 0) return;
  shared.task = static_cast<pid_t>(task);
  // Not for ever: somebody may kill it.
  for (int i = 0; i < 100 && shared.watching.load() == 0; ++i) {
    wait_for_change(shared.watching, 0, std::chrono::milliseconds(1));
  }
}

/// Reaps it if it has ended, or waits for that.
void reap_watch(watch_state& shared, int options) {
  if (shared.task == 0) return;
  long reaped = 0;
  do reaped = raw::call(SYS_wait4, shared.task, nullptr, options | __WALL, nullptr);
  while (reaped == -EINTR);
  if (reaped != 0) shared.task = 0;
}

}  // namespace

void parent_death_watch::start() noexcept {
  // Within a limited call, the outer call's watch finds these marks as well.
  if (own_mark() != 0) return;
  watch_state& shared = state();
  const call_mark marks = program_marks();
  const pid_t self = process_number();
  const std::lock_guard lock(detail::library_mutex);
  if (shared.owner != self) {
    // A forked copy of the program has the state of the original's watch, but no watch.
    shared.owner = self;
    shared.users = 0;
    shared.task = 0;
    shared.marks = marks;
  }
  if (holder_ != self) {
    holder_ = self;
    ++shared.users;
  }
  reap_watch(shared, WNOHANG);
  if (shared.task == 0) start_watch(shared);
}

parent_death_watch::~parent_death_watch() {
  if (holder_ == 0 || holder_ != process_number()) return;
  watch_state& shared = state();
  const std::lock_guard lock(detail::library_mutex);
  if (--shared.users > 0 || shared.task == 0) return;
  raw::call(SYS_kill, shared.task, SIGKILL);
  reap_watch(shared, 0);
}

}  // namespace pynisher::platform
