// Starting, watching and ending one child.

#include <libproc.h>
#include <mach/vm_inherit.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/event.h>
#include <sys/mman.h>
#include <sys/proc_info.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <mutex>

#include "../../fork_safe_mutex.hpp"
#include "../../settings.hpp"
#include "../contract.hpp"
#include "accounting.hpp"
#include "descriptors.hpp"
#include "reaping.hpp"
#include "tree.hpp"

namespace pynisher::platform {

namespace {

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

/// What the queue has been told: for a child that somebody else has reaped.
exit_status status_kept_by(int queue) {
  struct kevent end {};
  constexpr timespec at_once{};
  if (::kevent(queue, nullptr, 0, &end, 1, &at_once) != 1 || (end.fflags & NOTE_EXITSTATUS) == 0) return {};
  return from_wait_status(static_cast<int>(end.data));
}

bool is_shown(pid_t pid) noexcept {
  const int last_error = errno;
  proc_bsdinfo info{};
  const bool shown = ::proc_pidinfo(pid, PROC_PIDTBSDINFO, 0, &info, sizeof info) > 0 || errno != ESRCH;
  errno = last_error;
  return shown;
}

/// Waits until a stop signal has taken effect or the process has ended; not for ever.
void await_standstill(pid_t pid) {
  constexpr timespec pause{0, 100'000};
  constexpr int most_looks = 200;
  for (int look = 0; look < most_looks; ++look) {
    siginfo_t seen{};
    const int result = ::waitid(P_PID, static_cast<id_t>(pid), &seen, WSTOPPED | WEXITED | WNOHANG | WNOWAIT);
    if (result < 0 || seen.si_pid == pid) return;
    ::nanosleep(&pause, nullptr);
  }
}

void kill_and_reap(pid_t pid) {
  ::kill(pid, SIGKILL);
  reap(pid);
}

/// For as long as it takes.
void await_end(const call_fd& end) {
  pollfd ended{end.get(), POLLIN, 0};
  while (end && ::poll(&ended, 1, -1) < 0 && errno == EINTR) {
  }
}

/// The child has the region; meanwhile no other thread starts one.
pid_t fork_with(child_plan& plan) {
  const std::lock_guard<detail::fork_safe_mutex> lock(detail::fork_mutex);
  detail::reply_region& region = *plan.region;
  if (::minherit(&region, detail::reply_region::size, VM_INHERIT_SHARE) != 0) return -1;
  if (plan.before_fork != nullptr) plan.is_prepared = plan.before_fork();
  // The child's too: ENOMEM in it at a crash tells that the function was refused memory.
  errno = 0;
  const pid_t pid = ::fork();
  // The child's set-up does the same.
  if (pid == 0) return pid;
  const int error = errno;
  const long failed = keep_from_children(&region, detail::reply_region::size);
  errno = failed < 0 ? static_cast<int>(-failed) : error;
  if (pid < 0 || failed >= 0) return pid;
  kill_and_reap(pid);
  errno = static_cast<int>(-failed);
  return -1;
}

}  // namespace

int queue_end_of(pid_t process) noexcept {
  const int queue = ::kqueue();
  if (queue < 0) return queue;
  // The status is told to the parent and to whoever may send it signals, the end to everybody.
  for (const std::uint32_t what : {NOTE_EXIT | NOTE_EXITSTATUS, NOTE_EXIT}) {
    struct kevent end {};
    EV_SET(&end, static_cast<std::uintptr_t>(process), EVFILT_PROC, EV_ADD, what, 0, nullptr);
    if (::kevent(queue, &end, 1, nullptr, 0, nullptr) == 0) return queue;
    if (errno != EACCES) break;
  }
  const int error = errno;
  ::close(queue);
  errno = error;
  return -1;
}

pid_t reap(pid_t child, int* status, rusage* used) noexcept {
  // Never by waiting in the kernel: where SIGCHLD is ignored that takes the child away by itself, and wakes nobody
  // unless it was the last one.
  timespec pause{0, 20'000};
  for (;;) {
    const pid_t reaped = ::wait4(child, status, WNOHANG, used);
    if (reaped > 0 || (reaped < 0 && errno != EINTR)) return reaped;
    ::nanosleep(&pause, nullptr);
    pause.tv_nsec = std::min(2 * pause.tv_nsec, 1'000'000L);
  }
}

// --- fork ---------------------------------------------------------------------------------------------------

void forget_pages(void* data, std::size_t size) noexcept { ::madvise(data, size, MADV_DONTNEED); }

long keep_from_children(void* data, std::size_t size) noexcept {
  return ::minherit(data, size, VM_INHERIT_NONE) == 0 ? 0 : -errno;
}

fork_result fork_child(child_plan& plan) {
  // No signal may find the child between fork and the end of its set-up: the application's handlers are still there.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);

  const pid_t parent = ::getpid();
  const pid_t pid = fork_with(plan);
  if (pid == 0) {
    set_up_child(plan, parent);
    ::sigprocmask(SIG_SETMASK, plan.signal_mask != nullptr ? plan.signal_mask : &before, nullptr);
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
  result.child.pidfd_ = process ? std::move(process) : call_fd(queue_end_of(pid));
  // No such process: the child was quick, and is a zombie or reaped by somebody else. It counts as ended.
  if (!result.child.pidfd_ && errno != ESRCH) {
    result.where = fork_result::side::failed;
    result.error = errno;
    kill_and_reap(pid);
    tell_watch_gone(pid);
  }
  return result;
}

bool let_go(const child_process& child, child_plan& plan) {
  // A copy has told it itself.
  if (plan.parentage == parentage::fresh) tell_watch_of(static_cast<pid_t>(child.pid()), plan.mark.value != 0);
  if (plan.measures_growth) {
    plan.at_start = mapped(static_cast<pid_t>(child.pid()));
    plan.region->held.store(plan.at_start.private_writable);
    if (plan.at_start.private_writable == 0 && !child.has_ended()) return false;
  }
  if (plan.not_begun == 0) {
    // Not to be foretold by a function, which has a copy of all that was there before the fork.
    ::arc4random_buf(&plan.not_begun, sizeof plan.not_begun);
    plan.not_begun |= 1;
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
  pollfd watched[] = {
      {pidfd_.get(), POLLIN, 0}, {bell.waitable(), POLLIN, 0}, {inner == nullptr ? -1 : inner->waitable(), POLLIN, 0}};
  const int ready = poll_until(watched, std::size(watched), until);
  if (ready <= 0) return woken_by::nothing;
  return watched[0].revents != 0 ? woken_by::end : woken_by::doorbell;
}

bool child_process::has_ended() const noexcept {
  pollfd ended{pidfd_.get(), POLLIN, 0};
  if (!pidfd_ || ::poll(&ended, 1, 0) > 0) return true;
  // No thread of it runs any more when the kernel shows it no more, which is some time before it tells of its end.
  return !is_shown(pid_);
}

void child_process::send(int signal) const noexcept {
  if (parent_ && parent_->send(signal)) return;
  // There are no signals by descriptor. Where somebody else has reaped it, the queue says so.
  if (!has_ended()) ::kill(pid_, signal);
}

std::optional<std::chrono::nanoseconds> child_process::cpu_time() const { return cpu_time_of(pid_); }

std::optional<std::uint64_t> child_process::memory_growth(const mapped_memory& at_start) const {
  const auto now = accounts_of(pid_);
  if (!now) return std::nullopt;
  return now->footprint > at_start.private_resident ? now->footprint - at_start.private_resident : 0;
}

// --- its end ----------------------------------------------------------------------------------------------------

void child_process::tell_death_watch(bool whole_tree) const noexcept { tell_watch_of(pid_, whole_tree); }

exit_status child_process::end(bool whole_tree, const call_mark& mark, const detail::reply_region& region) {
  if (parent_) {
    if (auto told = parent_->end(region.orderly.load(std::memory_order_acquire) == 1)) {
      pid_ = -1;
      return *told;
    }
  }
  if (whole_tree && !has_ended()) {
    // Standing still it makes no new children.
    send(SIGSTOP);
    await_standstill(pid_);
    kill_descendants(pid_);
  }
  const auto cpu_before_end = cpu_time();
  const std::uint64_t peak = has_ended() ? 0 : peak_of(pid_);
  send(SIGKILL);

  await_end(pidfd_);
  // Before it is reaped: until then nobody else can have its number, nor a session of that.
  if (whole_tree && mark.value != 0 && region.orderly.load(std::memory_order_acquire) == 0) kill_session(pid_);

  int status = 0;
  rusage used{};
  exit_status result;
  if (reap(pid_, &status, &used) == pid_) {
    result = from_wait_status(status);
    result.usage_known = true;
    result.usage.user_time = from_timeval(used.ru_utime);
    result.usage.system_time = from_timeval(used.ru_stime);
    result.usage.peak_memory = static_cast<std::uint64_t>(used.ru_maxrss);
    result.usage.page_faults = static_cast<std::uint64_t>(used.ru_minflt + used.ru_majflt);
  } else {
    // SIGCHLD is ignored, or a handler of the application's was faster; or it was another's child, who is gone.
    if (pidfd_) result = status_kept_by(pidfd_.get());
    if (cpu_before_end) result.usage.user_time = *cpu_before_end;
  }
  result.peak_before_kill = peak;
  tell_watch_gone(pid_);
  result.server_lost = parent_ != nullptr;
  pid_ = -1;
  return result;
}

// --- marks ------------------------------------------------------------------------------------------------------

// The session that a call's child makes is its mark; this only says that there is to be one.
call_mark new_mark() { return {1, 1}; }
call_mark new_mark_below(std::uint64_t /*mark*/) { return {}; }
std::uint64_t mark_carried_by(pid_t /*process*/) noexcept { return 0; }

void release_mark(const call_mark& /*mark*/) {}

}  // namespace pynisher::platform
