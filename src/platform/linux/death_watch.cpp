// The watch that outlives a killed parent: a task of its own that shares the parent's memory.
//
// SIGKILL to the parent kills its limited children at once (PR_SET_PDEATHSIG), but what those have started becomes
// orphaned. This task gets a signal at the parent's death, looks for everything that carries the program's marks, and
// kills it. It shares memory and descriptors, so it costs about what a thread costs, no descriptor and no thread of
// the program; its exit signal is 0, so that no wait of the application's ever sees it.
//
// It runs with the thread-local storage of the thread that started it, which goes on meanwhile. So it makes system
// calls only, and this file is compiled without sanitizers and stack protectors.

#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

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
  pid_t task = 0;
  void* stack = nullptr;
  call_mark marks;
};

watch_state& state() {
  static auto* only = new watch_state;
  return *only;
}

[[noreturn]] void watch() {
  const auto* shared = &state();
  raw::call(SYS_prctl, PR_SET_NAME, "pynisher-watch");
  raw::call(SYS_prctl, PR_SET_PDEATHSIG, end_signal);
  const std::uint64_t set = std::uint64_t{1} << (end_signal - 1);
  while (raw::call(SYS_getppid) == shared->owner) {
    // The signal also comes when only the thread ends that started this.
    raw::call(SYS_rt_sigtimedwait, &set, nullptr, nullptr, sizeof set);
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

/// Under the mutex.
void start_watch(watch_state& shared) {
  void* stack = ::mmap(nullptr, stack_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED) return;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const long task = start_task(stack);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (task < 0) {
    ::munmap(stack, stack_size);
    return;
  }
  shared.task = static_cast<pid_t>(task);
  shared.stack = stack;
}

void stop_watch(watch_state& shared) {
  if (shared.task == 0) return;
  raw::call(SYS_kill, shared.task, SIGKILL);
  while (raw::call(SYS_wait4, shared.task, nullptr, __WALL, nullptr) == -EINTR) {
  }
  ::munmap(shared.stack, stack_size);
  shared.task = 0;
}

}  // namespace

void parent_death_watch::start() noexcept {
  // Within a limited call, the outer call's watch finds these marks as well.
  if (started_ || own_mark() != 0) return;
  started_ = true;
  watch_state& shared = state();
  const call_mark marks = program_marks();
  const std::lock_guard lock(detail::library_mutex);
  const auto self = static_cast<pid_t>(raw::call(SYS_getpid));
  if (shared.owner != self) {
    shared.owner = self;
    shared.users = 0;
    shared.task = 0;
  }
  if (shared.users++ == 0) {
    shared.marks = marks;
    start_watch(shared);
  }
}

parent_death_watch::~parent_death_watch() {
  if (!started_) return;
  watch_state& shared = state();
  const std::lock_guard lock(detail::library_mutex);
  if (--shared.users == 0) stop_watch(shared);
}

}  // namespace pynisher::platform
