// The watch that outlives a killed parent: a process of its own with next to no memory.
//
// SIGKILL to the parent kills its limited children at once (PR_SET_PDEATHSIG), but what those have started becomes
// orphaned. This process gets a signal at the parent's death, looks for everything that carries the program's marks,
// and kills it. It is a fork that gives up what it has inherited, descriptors, session, directory and all memory but
// code and the stack it runs on: nothing of the program is kept alive by it, and whoever takes over the program has no
// hold on it, even if the program has given up rights since. Its exit signal is 0, so that only a wait with __WALL sees
// it.
//
// It makes system calls only, since the thread-local storage is not its own any more; this file is compiled without
// sanitizers and stack protectors.
//
// It is kept from the first call of a limited callable until that is gone: starting and ending it would cost a third of
// a short call.

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <cstdint>
#include <mutex>

#include "../../fork_safe_mutex.hpp"
#include "raw_syscall.hpp"
#include "tree.hpp"

namespace pynisher::platform {

namespace {

constexpr int end_signal = SIGTERM;

struct watch_state {
  int users = 0;
  pid_t owner = 0;
  std::int64_t identity = 0;  ///< of the process whose watch this is: a forked copy of the program has none
  pid_t task = 0;             ///< until it is reaped
  call_mark marks;
};

constinit watch_state state;

std::uintptr_t parse_hex(const char*& at, const char* end) {
  std::uintptr_t value = 0;
  for (; at != end; ++at) {
    const int digit = *at >= '0' && *at <= '9' ? *at - '0' : *at >= 'a' && *at <= 'f' ? *at - 'a' + 10 : -1;
    if (digit < 0) break;
    value = value * 16 + static_cast<std::uintptr_t>(digit);
  }
  return value;
}

/// One line of /proc/self/maps: "begin-end perms offset device inode path".
struct mapping {
  std::uintptr_t begin, end;
  bool is_private_file;
};

mapping parse_mapping(const char* at, const char* end) {
  mapping found{};
  found.begin = parse_hex(at, end);
  if (at != end) ++at;
  found.end = parse_hex(at, end);
  if (at != end) ++at;
  const bool is_private = end - at > 3 && at[3] == 'p';
  for (int spaces = 0; at != end && spaces < 3; ++at) {
    if (*at == ' ') ++spaces;
  }
  found.is_private_file = is_private && at != end && *at != '0';
  return found;
}

struct range {
  std::uintptr_t begin, end;
};

/// Unmaps [begin, end) but for what is in `kept`, which is in order.
void unmap_but(std::uintptr_t begin, std::uintptr_t end, const range (&kept)[2]) {
  for (const range& keep : kept) {
    if (keep.end <= begin || keep.begin >= end) continue;
    if (keep.begin > begin) raw::call(SYS_munmap, begin, keep.begin - begin);
    begin = keep.end;
    if (begin >= end) return;
  }
  raw::call(SYS_munmap, begin, end - begin);
}

/// Gives up all memory but code, the stack around `here`, and the thread's descriptor `self`, in which the kernel
/// writes (restartable sequences).
void forget_memory(const char* here, std::uintptr_t self) {
  const long file = raw::call(SYS_openat, AT_FDCWD, "/proc/self/maps", O_RDONLY | O_CLOEXEC, 0);
  if (file < 0) return;
  constexpr std::uintptr_t page = 4096, room = 64 << 10;
  const std::uintptr_t stack_page = reinterpret_cast<std::uintptr_t>(here) & ~(page - 1);
  const std::uintptr_t self_page = self & ~(page - 1);
  range kept[2] = {{stack_page - room, stack_page + 4 * page}, {self_page - page, self_page + 2 * page}};
  if (kept[0].begin > kept[1].begin) {
    const range first = kept[1];
    kept[1] = kept[0];
    kept[0] = first;
  }
  char text[2048];
  long filled = 0;
  for (;;) {
    const long got = raw::call(SYS_read, file, text + filled, static_cast<long>(sizeof text) - filled);
    if (got <= 0) break;
    filled += got;
    long line = 0;
    for (long at = 0; at < filled; ++at) {
      if (text[at] != '\n') continue;
      const mapping found = parse_mapping(text + line, text + at);
      line = at + 1;
      if (found.is_private_file || found.end <= found.begin) continue;
      // The kernel's own pages at the top cannot be unmapped, and need not be.
      unmap_but(found.begin, found.end, kept);
    }
    // The beginning of the next line; a longer one is skipped over.
    for (long at = line; at < filled; ++at) text[at - line] = text[at];
    filled = line == 0 ? 0 : filled - line;
  }
  raw::call(SYS_close, file);
}

[[noreturn]] void watch(pid_t owner, call_mark marks, std::uintptr_t self) {
  raw::call(SYS_prctl, PR_SET_PDEATHSIG, end_signal);
  raw::call(SYS_prctl, PR_SET_NAME, "pynisher-watch");
  // Not with the program's group, nor with its terminal.
  raw::call(SYS_setsid);
  raw::call(SYS_chdir, "/");
  raw::call(SYS_close_range, 0u, ~0u, 0u);
  const char here = 0;
  forget_memory(&here, self);
  const std::uint64_t set = std::uint64_t{1} << (end_signal - 1);
  while (raw::call(SYS_getppid) == owner) {
    // The signal also comes when only the thread ends that started this.
    raw::call(SYS_rt_sigtimedwait, &set, nullptr, nullptr, sizeof set);
  }
  kill_marked(marks);
  raw::call(SYS_exit_group, 0);
  __builtin_unreachable();
}

// From here on: under the mutex.

void start_watch() {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t owner = state.owner;
  const auto self = reinterpret_cast<std::uintptr_t>(pthread_self());
  const call_mark marks = state.marks;
  const long task = raw::call(SYS_clone, 0, nullptr, nullptr, nullptr, nullptr);
  if (task == 0) watch(owner, marks, self);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (task > 0) state.task = static_cast<pid_t>(task);
}

/// Reaps it if it has ended, or waits for that.
void reap_watch(int options) {
  if (state.task == 0) return;
  long reaped = 0;
  do reaped = raw::call(SYS_wait4, state.task, nullptr, options | __WALL, nullptr);
  while (reaped == -EINTR);
  if (reaped != 0) state.task = 0;
}

}  // namespace

void parent_death_watch::start() noexcept {
  // Within a limited call, the outer call's watch finds these marks as well.
  if (own_mark() != 0) return;
  const call_mark marks = program_marks();
  const std::int64_t self = process_identity();
  const std::lock_guard lock(detail::library_mutex);
  if (state.identity != self) {
    // A forked copy of the program has the state of the original's watch, but no watch.
    state = {.owner = process_number(), .identity = self, .marks = marks};
  }
  if (holder_ != self) {
    holder_ = self;
    ++state.users;
  }
  reap_watch(WNOHANG);
  if (state.task == 0) start_watch();
}

parent_death_watch::~parent_death_watch() {
  if (holder_ == 0 || holder_ != process_identity()) return;
  const std::lock_guard lock(detail::library_mutex);
  if (--state.users > 0 || state.task == 0) return;
  // Refused, where the program has given up rights since; then it stays until the program ends.
  if (raw::call(SYS_kill, state.task, SIGKILL) == 0) reap_watch(0);
}

}  // namespace pynisher::platform
