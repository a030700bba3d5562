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
// It is started when the child is there already, on another core while the child sets itself up; the child's function
// begins when the watch has said that it watches.

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
  std::atomic<std::uint32_t>* told_first = nullptr;  ///< the word of the call that the watch was started for
  std::atomic<std::uint32_t> watching{0};            ///< and has told that call
};

watch_state& state() {
  static auto* only = new watch_state;
  return *only;
}

void tell(std::atomic<std::uint32_t>& word) {
  word.store(1);
  wake_waiters(word);
}

[[noreturn]] void watch() {
  auto* shared = &state();
  raw::call(SYS_prctl, PR_SET_PDEATHSIG, end_signal);
  tell(*shared->told_first);
  tell(shared->watching);
  raw::call(SYS_prctl, PR_SET_NAME, "pynisher-watch");
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

/// The functions from here to the end of the namespace: under the mutex.

bool start_watch(watch_state& shared) {
  if (shared.stack == nullptr) {
    void* fresh = ::mmap(nullptr, stack_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (fresh == MAP_FAILED) return false;
    shared.stack = fresh;
  }
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const long task = start_task(shared.stack);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (task > 0) shared.task = static_cast<pid_t>(task);
  return task > 0;
}

void reap_watch(watch_state& shared) {
  if (shared.task == 0) return;
  while (raw::call(SYS_wait4, shared.task, nullptr, __WALL, nullptr) == -EINTR) {
  }
  shared.task = 0;
}

/// A forked copy of the program has the state of the original's watch, but no watch.
void own(watch_state& shared) {
  const auto self = static_cast<pid_t>(raw::call(SYS_getpid));
  if (shared.owner == self) return;
  shared.owner = self;
  shared.users = 0;
  shared.task = 0;
}

}  // namespace

bool parent_death_watch::is_needed() noexcept {
  // Within a limited call, the outer call's watch finds these marks as well.
  return own_mark() == 0;
}

void parent_death_watch::start(std::atomic<std::uint32_t>& watched) noexcept {
  watch_state& shared = state();
  const call_mark marks = program_marks();
  bool running = false;
  {
    const std::lock_guard lock(detail::library_mutex);
    own(shared);
    holds_ = true;
    if (shared.users++ == 0) {
      reap_watch(shared);
      shared.marks = marks;
      shared.told_first = &watched;
      shared.watching.store(0);
      first_ = start_watch(shared);
    }
    running = shared.task != 0;
  }
  if (first_) return;
  if (running) await_watching();
  watched.store(1);
  wake_waiters(watched);
}

/// Not for ever: somebody may have killed it.
void parent_death_watch::await_watching() noexcept {
  std::atomic<std::uint32_t>& watching = state().watching;
  for (int i = 0; i < 100 && watching.load() == 0; ++i) wait_for_change(watching, 0, std::chrono::milliseconds(1));
}

void parent_death_watch::release() noexcept {
  if (!holds_) return;
  holds_ = false;
  watch_state& shared = state();
  bool others = false;
  {
    const std::lock_guard lock(detail::library_mutex);
    others = --shared.users > 0;
    if (!others && shared.task != 0) raw::call(SYS_kill, shared.task, SIGKILL);
  }
  // It goes on for others, and must have done with this call's memory before that goes.
  if (others && first_) await_watching();
}

parent_death_watch::~parent_death_watch() {
  release();
  watch_state& shared = state();
  const std::lock_guard lock(detail::library_mutex);
  if (shared.users == 0 && shared.owner == static_cast<pid_t>(raw::call(SYS_getpid))) reap_watch(shared);
}

}  // namespace pynisher::platform
