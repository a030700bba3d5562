// The watch that outlives a killed parent: a process of its own that is told of each child, waits for the program's
// end, and kills what is left then.
//
// It is a fork of the program, and so keeps its memory until one of the two writes to it; it is forked twice, so that
// it is nobody's child and no wait of the application's finds it. It makes system calls only.

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/event.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <mutex>
#include <utility>

#include "../../fork_safe_mutex.hpp"
#include "../contract.hpp"
#include "../posix/watched_children.hpp"
#include "accounting.hpp"
#include "descriptors.hpp"
#include "reaping.hpp"
#include "tree.hpp"

namespace pynisher::platform {

const bool children_need_death_watch = true;

namespace {

struct watch_state {
  int users = 0;
  pid_t owner = 0;  ///< the process whose watch this is: a forked copy of the program has none
};

constinit watch_state state;
/// Of the program's end; -1: there is no watch. In a forked copy it is closed with the descriptors of calls.
std::atomic<int> told_by{-1};
std::atomic<pid_t> told_by_owner{0};

/// Never destroyed.
call_fd& program_end() {
  static auto* const end = new call_fd;
  return *end;
}

constinit watched_children children;

/// False: it is to stop.
bool take_all(int socket) noexcept {
  watch_message told;
  while (::recv(socket, &told, sizeof told, MSG_DONTWAIT) == sizeof told) {
    if (told.what == watch_message::kind::stop) return false;
    children.take(told);
  }
  return true;
}

void end(const watched_child& child) noexcept {
  if (child.is_replaced_by(beginning_of(child.pid))) return;
  ::kill(child.pid, SIGSTOP);
  if (child.whole_tree) kill_descendants(child.pid);
  ::kill(child.pid, SIGKILL);
  if (child.whole_tree) kill_session(child.pid);
}

[[noreturn]] void watch(pid_t owner, int socket) noexcept {
  ::setsid();
  static_cast<void>(::chdir("/"));
  for (int fd = 0; fd < ::getdtablesize(); ++fd) {
    if (fd != socket) ::close(fd);
  }
  const int queue = ::kqueue();
  struct kevent wanted[2];
  EV_SET(&wanted[0], static_cast<std::uintptr_t>(socket), EVFILT_READ, EV_ADD, 0, 0, nullptr);
  EV_SET(&wanted[1], static_cast<std::uintptr_t>(owner), EVFILT_PROC, EV_ADD, NOTE_EXIT, 0, nullptr);
  if (::kevent(queue, &wanted[0], 1, nullptr, 0, nullptr) != 0) ::_exit(1);
  // It may be gone already.
  bool over = ::kevent(queue, &wanted[1], 1, nullptr, 0, nullptr) != 0;
  if (over && errno != ESRCH) ::_exit(1);
  while (!over) {
    struct kevent came {};
    const int ready = ::kevent(queue, nullptr, 0, &came, 1, nullptr);
    if (ready < 0 && errno != EINTR) ::_exit(1);
    if (ready <= 0) continue;
    over = came.filter == EVFILT_PROC;
    if (!take_all(socket)) ::_exit(0);
    // The other end is closed by the program alone, or by its end.
    if (came.filter == EVFILT_READ && (came.flags & EV_EOF) != 0) over = true;
  }
  if (!take_all(socket)) ::_exit(0);
  for (const watched_child& child : children) end(child);
  ::_exit(0);
}

void tell(watch_message told) noexcept {
  const int socket = told_by.load();
  if (socket < 0 || told_by_owner.load() == 0) return;
  // It takes what it is told at once; a full socket means that it gets no time.
  constexpr int patience = 50, moment_ms = 20;
  for (int i = 0; i < patience; ++i) {
    if (::send(socket, &told, sizeof told, MSG_DONTWAIT) >= 0) return;
    if (errno != EAGAIN && errno != ENOBUFS && errno != EINTR) return;
    pollfd room{socket, POLLOUT, 0};
    ::poll(&room, 1, moment_ms);
  }
}

// From here on: under the mutex.

void start_watch() {
  call_fd own, watchs;
  if (!connect_two(own, watchs)) return;
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t owner = ::getpid();
  const pid_t between = ::fork();
  if (between == 0) {
    // The one that stays is nobody's child.
    if (::fork() == 0) watch(owner, watchs.get());
    ::_exit(0);
  }
  if (between > 0) reap(between);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (between < 0) return;
  program_end() = std::move(own);
  told_by.store(program_end().get());
  told_by_owner.store(owner);
}

/// Somebody may have killed it.
bool is_watch_gone() {
  char nothing = 0;
  return ::recv(told_by.load(), &nothing, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

void stop_watch() {
  tell({.what = watch_message::kind::stop});
  told_by.store(-1);
  program_end() = call_fd();
}

}  // namespace

void tell_watch_of(pid_t child, bool whole_tree) noexcept {
  // By whoever is that child or has not reaped it: the number is its own yet.
  tell({whole_tree ? watch_message::kind::tree : watch_message::kind::child, child, beginning_of(child)});
}

void tell_watch_gone(pid_t child) noexcept { tell({watch_message::kind::gone, child}); }

void parent_death_watch::start() noexcept {
  const pid_t self = process_number();
  // In this order, since the watch is forked here.
  const std::lock_guard forking(detail::fork_mutex);
  const std::lock_guard lock(detail::library_mutex);
  if (state.owner != self) {
    // A forked copy of the program has the state of the original's watch, but no watch.
    state = {.users = 0, .owner = self};
    told_by.store(-1);
    // Not closed: in a call's child that is done already, and the number may be another's.
    static_cast<void>(new call_fd(std::move(program_end())));
  }
  if (holder_ != self) {
    holder_ = self;
    ++state.users;
  }
  if (told_by.load() >= 0 && is_watch_gone()) told_by.store(-1);
  if (told_by.load() < 0) start_watch();
}

parent_death_watch::~parent_death_watch() {
  if (holder_ == 0 || holder_ != process_number()) return;
  const std::lock_guard lock(detail::library_mutex);
  if (--state.users == 0 && told_by.load() >= 0) stop_watch();
}

}  // namespace pynisher::platform
