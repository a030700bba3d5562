// Starting, watching and ending one child.

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <mutex>
#include <string_view>
#include <utility>

#include "../../fork_safe_mutex.hpp"
#include "../contract.hpp"
#include "../forked_page.hpp"
#include "../posix/descriptors.hpp"
#include "raw_syscall.hpp"
#include "tree.hpp"

#if defined(__has_feature)
#define PYNISHER_HAS_FEATURE(x) __has_feature(x)
#else
#define PYNISHER_HAS_FEATURE(x) 0
#endif

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

namespace pynisher::platform {

namespace {

timespec to_timespec(std::chrono::nanoseconds time) {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(time);
  return {static_cast<time_t>(seconds.count()), static_cast<long>((time - seconds).count())};
}

std::chrono::nanoseconds from_timeval(const timeval& time) {
  return std::chrono::seconds(time.tv_sec) + std::chrono::microseconds(time.tv_usec);
}

exit_status from_wait_status(int status) {
  exit_status ended;
  if (WIFEXITED(status)) {
    ended.how = exit_status::kind::exited;
    ended.value = WEXITSTATUS(status);
  } else if (WIFSIGNALED(status)) {
    ended.how = exit_status::kind::signalled;
    ended.value = WTERMSIG(status);
  }
  return ended;
}

// struct pidfd_info and PIDFD_GET_INFO as of Linux 6.15; older headers do not have them.
struct pidfd_info {
  std::uint64_t mask;
  std::uint64_t cgroupid;
  std::uint32_t pid, tgid, ppid;
  std::uint32_t ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
  std::int32_t exit_code;
};
constexpr std::uint64_t pidfd_info_exit = 1u << 3;

/// The exit status of a child that somebody else has reaped: kernels from 6.15 on keep it with the descriptor. It is
/// there once the child is reaped, a moment after its end is told.
exit_status status_kept_by(int pidfd) {
  for (int attempt = 0; attempt < 500; ++attempt) {
    pidfd_info info{};
    info.mask = pidfd_info_exit;
    const bool told = ::ioctl(pidfd, _IOWR(0xFF, 11, pidfd_info), &info) == 0;
    if (!told && errno != ESRCH) return {};
    if (told && (info.mask & pidfd_info_exit) != 0) return from_wait_status(info.exit_code);
    const timespec moment{0, 20'000};
    raw::call(SYS_nanosleep, &moment, nullptr);
  }
  return {};
}

void await_end(int pidfd) {
  pollfd end{pidfd, POLLIN, 0};
  while (raw::call(SYS_ppoll, &end, 1, nullptr, nullptr, 0) == -EINTR) {
  }
}

/// Waits until a stop signal has taken effect or the process has ended; not for ever, since a process in an
/// uninterruptible sleep stops when that is over.
void await_standstill(pid_t pid, int pidfd) {
  // It mostly takes less than the shortest sleep does.
  constexpr int looks = 200, all = looks + 50;
  for (int attempt = 0; attempt < all; ++attempt) {
    siginfo_t seen{};
    const long result =
        raw::call(SYS_waitid, P_PIDFD, pidfd, &seen, WSTOPPED | WEXITED | WNOHANG | WNOWAIT | __WALL, nullptr);
    if (result < 0 || seen.si_pid == pid) return;
    if (attempt < looks) continue;
    const timespec pause{0, 20'000L << std::min((attempt - looks) / 5, 6)};
    raw::call(SYS_nanosleep, &pause, nullptr);
  }
}

/// While one exists, orphans come to this process and not to init, which reaps when it pleases. Held only while a
/// call's frozen tree is being killed, so that hardly anybody else's orphan can come along.
class orphans_come_here {
 public:
  orphans_come_here() {
    const std::lock_guard lock(detail::library_mutex);
    if (holders++ == 0) {
      ::prctl(PR_GET_CHILD_SUBREAPER, &set_by_application);
      ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    }
  }
  ~orphans_come_here() {
    const std::lock_guard lock(detail::library_mutex);
    if (--holders == 0) ::prctl(PR_SET_CHILD_SUBREAPER, set_by_application);
  }
  orphans_come_here(const orphans_come_here&) = delete;
  orphans_come_here& operator=(const orphans_come_here&) = delete;

 private:
  static inline int holders = 0;
  static inline int set_by_application = 0;
};

}  // namespace

// --- descriptors --------------------------------------------------------------------------------------------

void close_descriptor(int fd) noexcept {
#if defined(__SANITIZE_THREAD__) || PYNISHER_HAS_FEATURE(thread_sanitizer)
  // It keeps count of descriptors.
  ::close(fd);
#else
  // Not by the C library, whose calls pthread_cancel may end.
  raw::call(SYS_close, fd);
#endif
}

[[gnu::hot]] void close_descriptor_in_child(int fd) noexcept { raw::call(SYS_close, fd); }

call_fd make_memory_file(std::size_t size) {
  call_fd file(::memfd_create("pynisher", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file || size == 0) return file;
  // A child that made it shorter would leave the program with addresses that have no memory behind them.
  const bool fine = ::ftruncate(file.get(), static_cast<off_t>(size)) == 0 &&
                    ::fcntl(file.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0;
  return fine ? std::move(file) : call_fd();
}

doorbell::doorbell() : fd_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

bool doorbell::raise(int descriptor) noexcept {
  const std::uint64_t one = 1;
  const long result = raw::call(SYS_write, descriptor, &one, sizeof one);
  return result == sizeof one || result == -EAGAIN;
}

void doorbell::clear() noexcept {
  // Not to wait is asked for here and not of the descriptor, whose flags a child can change.
  std::uint64_t count = 0;
  const iovec to{&count, sizeof count};
  raw::call(SYS_preadv2, fd_.get(), &to, 1, -1, -1, RWF_NOWAIT);
}

bool doorbell::is_one(int descriptor) noexcept {
  char path[32] = "/proc/self/fd/", target[64];
  std::to_chars(path + std::strlen(path), path + sizeof path - 1, descriptor);
  const long size = raw::call(SYS_readlinkat, AT_FDCWD, path, target, sizeof target);
  return size > 0 && std::string_view(target, static_cast<std::size_t>(size)) == "anon_inode:[eventfd]";
}

// --- fork ---------------------------------------------------------------------------------------------------

void forget_pages(void* data, std::size_t size) noexcept {
  constexpr std::uintptr_t page = 4096;
  const auto begin = (reinterpret_cast<std::uintptr_t>(data) + page - 1) & ~(page - 1);
  const auto end = (reinterpret_cast<std::uintptr_t>(data) + size) & ~(page - 1);
  if (end > begin) raw::call(SYS_madvise, begin, end - begin, MADV_DONTNEED);
}

[[gnu::hot]] long keep_from_children(void* data, std::size_t size) noexcept {
  return raw::call(SYS_madvise, data, size, MADV_DONTFORK);
}

namespace {

/// Of a child that does not run its function yet.
void kill_and_reap(pid_t pid) {
  ::kill(pid, SIGKILL);
  while (::waitpid(pid, nullptr, __WALL) < 0 && errno == EINTR) {
  }
}

/// The child has the region; meanwhile no other thread starts one.
pid_t fork_with(child_plan& plan) {
  const std::lock_guard<detail::fork_safe_mutex> lock(detail::fork_mutex);
  detail::reply_region& region = *plan.region;
  if (const long failed = raw::call(SYS_madvise, &region, detail::reply_region::size, MADV_DOFORK); failed < 0) {
    errno = static_cast<int>(-failed);
    return -1;
  }
  if (plan.before_fork != nullptr) plan.is_prepared = plan.before_fork();
  // The child's too: ENOMEM in it at a crash tells that the function was refused memory.
  errno = 0;
  const pid_t pid = ::fork();
  // The child's set-up does the same.
  if (pid == 0) return pid;
  const int error = errno;
  const long failed = keep_from_children(&region, detail::reply_region::size);
  // Not written to where there is nothing to say: for as long as the child has it too, that is a fault and a copy.
  if (pid >= 0 && failed >= 0) return pid;
  errno = failed < 0 ? static_cast<int>(-failed) : error;
  if (pid < 0) return pid;
  kill_and_reap(pid);
  errno = static_cast<int>(-failed);
  return -1;
}

/// Not to be foretold by a function, which has a copy of all that was there before the fork.
std::uint64_t unguessable_number() noexcept {
  std::uint64_t number = 0;
  if (raw::call(SYS_getrandom, &number, sizeof number, GRND_NONBLOCK) != sizeof number) {
    timespec now{};
    raw::call(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    number = static_cast<std::uint64_t>(now.tv_nsec) * 0x9e3779b97f4a7c15u ^ static_cast<std::uint64_t>(now.tv_sec);
  }
  return number | 1;
}

}  // namespace

const bool children_need_death_watch = false;

[[gnu::hot]] fork_result fork_child(child_plan& plan) {
  // No signal may find the child between fork and the end of its set-up: the application's handlers are still there.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);

  const pid_t parent = process_number();
  const pid_t pid = fork_with(plan);
  if (pid == 0) {
    set_up_child(plan, parent);
    raw::call(SYS_rt_sigprocmask, SIG_SETMASK, plan.signal_mask != nullptr ? plan.signal_mask : &before, nullptr, 8);
    fork_result in_child;
    in_child.where = fork_result::side::child;
    return in_child;
  }
  const int error = errno;
  pthread_sigmask(SIG_SETMASK, &before, nullptr);

  fork_result result;
  if (pid < 0) {
    result.error = error;
    return result;
  }
  return watch_started_child(pid);
}

fork_result watch_started_child(pid_t pid, call_fd process, call_fd /*job*/) {
  fork_result result;
  result.where = fork_result::side::parent;
  result.child.pid_ = pid;
  result.child.pidfd_ = process ? std::move(process) : call_fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  // No such process: SIGCHLD is ignored, or somebody else reaps, and the child's set-up failed. It counts as ended.
  if (!result.child.pidfd_ && errno != ESRCH) {
    result.where = fork_result::side::failed;
    result.error = errno;
    kill_and_reap(pid);
  }
  return result;
}

bool let_go(const child_process& child, child_plan& plan) {
  if (plan.measures_growth) {
    // The child waits for this. It was not asked before the fork, since other threads take and give back memory.
    plan.at_start = mapped(static_cast<pid_t>(child.pid()));
    plan.region->held.store(plan.at_start.private_writable);
    if (plan.at_start.private_writable == 0 && !child.has_ended()) return false;
  }
  if (plan.not_begun == 0) {
    plan.not_begun = unguessable_number();
    plan.region->not_begun.store(plan.not_begun);
  }
  plan.region->go.fetch_add(1);
  wake_waiters(plan.region->go);
  return true;
}

// --- a running child ------------------------------------------------------------------------------------------

child_process::woken_by child_process::wait(const doorbell& bell, const doorbell* inner,
                                            std::optional<clock::time_point> until) const {
  if (!pidfd_) return woken_by::end;
  pollfd watched[] = {{pidfd_.get(), POLLIN, 0},
                      {bell.waitable(), POLLIN, 0},
                      {inner == nullptr ? -1 : inner->waitable(), POLLIN, 0}};
  timespec timeout{};
  if (until) timeout = to_timespec(std::max(std::chrono::nanoseconds(0), *until - clock::now()));
  const int ready = ::ppoll(watched, std::size(watched), until ? &timeout : nullptr, nullptr);
  if (ready <= 0) return woken_by::nothing;
  return watched[0].revents != 0 ? woken_by::end : woken_by::doorbell;
}

bool child_process::has_ended() const noexcept {
  pollfd ended{pidfd_.get(), POLLIN, 0};
  // Not SYS_poll, which newer architectures do not have.
  constexpr timespec at_once{};
  return !pidfd_ || raw::call(SYS_ppoll, &ended, 1, &at_once, nullptr, 0) > 0;
}

void child_process::send(int signal) const noexcept {
  if (parent_ && parent_->send(signal)) return;
  raw::call(SYS_pidfd_send_signal, pidfd_.get(), signal, nullptr, 0);
}

// The child is not reaped yet, so the number is still its own.
std::optional<std::chrono::nanoseconds> child_process::cpu_time() const { return cpu_time_of(pid_); }

std::optional<std::chrono::nanoseconds> cpu_time_of(pid_t process) noexcept {
  // What clock_getcpuclockid gives.
  constexpr int scheduler_clock = 2;
  const auto id = static_cast<clockid_t>((~static_cast<unsigned>(process) << 3) | scheduler_clock);
  timespec used{};
  if (::clock_gettime(id, &used) != 0) return std::nullopt;
  return std::chrono::seconds(used.tv_sec) + std::chrono::nanoseconds(used.tv_nsec);
}

std::uint64_t peak_of(pid_t process) noexcept {
  // In a crash handler too: system calls and the stack only.
  char path[32] = "/proc/";
  char* const end = std::to_chars(path + 6, path + 20, process).ptr;
  const char file[] = {'/', 's', 't', 'a', 't', 'u', 's', '\0'};
  std::copy(file, file + sizeof file, end);
  const long fd = raw::call(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
  if (fd < 0) return 0;
  char text[2048];
  const long got = raw::call(SYS_read, fd, text, sizeof text);
  raw::call(SYS_close, fd);
  const std::string_view all(text, static_cast<std::size_t>(std::max(got, 0l)));
  const std::size_t at = all.find("\nVmHWM:");
  if (at == std::string_view::npos) return 0;
  std::uint64_t kilobytes = 0;
  for (const char c : all.substr(at + 7)) {
    if (c >= '0' && c <= '9') kilobytes = kilobytes * 10 + static_cast<std::uint64_t>(c - '0');
    if (c == 'k' || c == '\n') break;
  }
  return kilobytes * 1024;
}

std::uint64_t own_peak() noexcept {
  rusage used{};
  ::getrusage(RUSAGE_SELF, &used);
  return static_cast<std::uint64_t>(used.ru_maxrss) * 1024;
}

std::optional<std::uint64_t> child_process::memory_growth(const mapped_memory& at_start) const {
  char path[32];
  std::snprintf(path, sizeof path, "/proc/%d/status", static_cast<int>(pid_));
  const unique_fd file(::open(path, O_RDONLY | O_CLOEXEC));
  char text[4096];
  const ssize_t got = file ? ::read(file.get(), text, sizeof text - 1) : -1;
  if (got <= 0) return std::nullopt;
  text[got] = '\0';
  const auto kilobytes = [&text](const char* field) -> std::uint64_t {
    const char* at = std::strstr(text, field);
    return at == nullptr ? 0 : std::strtoull(at + std::strlen(field), nullptr, 10) * 1024;
  };
  const auto growth = [](std::uint64_t now, std::uint64_t before) { return now > before ? now - before : 0; };
  // What may be written, and what is there: pages that were filled and then made read-only are only the latter.
  const std::uint64_t writable = growth(kilobytes("\nVmData:"), at_start.private_writable);
  const std::uint64_t present = growth(kilobytes("\nRssAnon:"), at_start.private_resident);
  // The main stack has a limit of its own, at which a function crashes.
  const std::uint64_t stack = kilobytes("\nVmStk:");
  return std::max(writable, growth(present, stack)) + kilobytes("\nRssShmem:");
}

// --- its end ----------------------------------------------------------------------------------------------------

// The kernel's own way is enough.
void child_process::tell_death_watch(bool /*whole_tree*/) const noexcept {}

exit_status child_process::end(bool whole_tree, const call_mark& mark, const detail::reply_region& region) {
  if (parent_) {
    if (auto told = parent_->end(has_ended() && region.orderly.load(std::memory_order_acquire) == 1)) {
      pid_ = -1;
      return *told;
    }
  }
  std::optional<orphans_come_here> adoption;
  bool ended_by_itself = has_ended();
  // One that has started nothing may still do so until it is killed: that is found by its mark.
  if (whole_tree && !ended_by_itself && !(mark.value != 0 && is_last_made(pid_))) {
    // Standing still it makes no new children and, being their reaper, gets those whose parents are killed.
    send(SIGSTOP);
    await_standstill(pid_, pidfd_.get());
    if (kill_descendants(pid_) > 0) {
      adoption.emplace();
      // Signals take a moment; one in an uninterruptible sleep takes until that is over.
      constexpr timespec moment{0, 20'000};
      do {
        // Until it is dead a descendant may have let it go on.
        send(SIGSTOP);
        raw::call(SYS_nanosleep, &moment, nullptr);
      } while (kill_descendants(pid_) > 0);
    }
  }
  const auto cpu_before_end = cpu_time();
  if (!ended_by_itself) ended_by_itself = has_ended();
  const std::uint64_t peak = ended_by_itself ? 0 : peak_of(pid_);
  if (!ended_by_itself) send(SIGKILL);

  siginfo_t ended{};
  rusage used{};
  long failed = -ECHILD;
  bool was_last = false;
  if (pidfd_) {
    if (!ended_by_itself) await_end(pidfd_.get());
    was_last = is_last_made(pid_);
    // By descriptor: should somebody else have reaped it, the number may be another's by now.
    do failed = raw::call(SYS_waitid, P_PIDFD, pidfd_.get(), &ended, WEXITED | __WALL, &used);
    while (failed == -EINTR);
  }

  exit_status result;
  result.peak_before_kill = peak;
  if (failed == 0) {
    result.how = ended.si_code == CLD_EXITED ? exit_status::kind::exited : exit_status::kind::signalled;
    result.value = ended.si_status;
    result.usage_known = true;
    result.usage.user_time = from_timeval(used.ru_utime);
    result.usage.system_time = from_timeval(used.ru_stime);
    result.usage.peak_memory = static_cast<std::uint64_t>(used.ru_maxrss) * 1024;
    result.usage.page_faults = static_cast<std::uint64_t>(used.ru_minflt + used.ru_majflt);
  } else if (pidfd_) {
    // SIGCHLD is ignored, or a handler of the application's was faster; or it was another's child, who is gone. The
    // descriptor still tells the end.
    await_end(pidfd_.get());
    result = status_kept_by(pidfd_.get());
    // What the child noted itself it noted at an orderly end only.
    if (cpu_before_end) result.usage.user_time = *cpu_before_end;
  }
  // A child that came to an orderly end has seen to its descendants itself. What it may have put beside itself, and all
  // that any other child has left, is known by its mark.
  const bool orderly = ended_by_itself && region.orderly.load(std::memory_order_acquire) == 1;
  // Of one that somebody else has reaped the number may have been another's already.
  result.was_alone = was_last && failed == 0;
  if (whole_tree && mark.value != 0 && !result.was_alone && (!orderly || has_marked_child(mark))) kill_marked(mark);
  result.server_lost = parent_ != nullptr;
  pid_ = -1;
  return result;
}

}  // namespace pynisher::platform
