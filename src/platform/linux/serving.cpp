// What the forkserver needs of the system, on both of its sides.

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string>

#include "../contract.hpp"

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

namespace pynisher::platform {

// CLONE_PARENT.
const bool forks_stay_with_server = false;

bool connect_two_processes(unique_fd& one, unique_fd& other, bool in_messages) {
  int ends[2];
  const int type = in_messages ? SOCK_SEQPACKET : SOCK_STREAM;
  if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends) != 0) return false;
  one = unique_fd(ends[0]);
  other = unique_fd(ends[1]);
  return one && other;
}

unique_fd watch_end_of(pid_t process) { return unique_fd(static_cast<int>(::syscall(SYS_pidfd_open, process, 0))); }

// By descriptor: a handler of the application's may have reaped it, and the number be another's.
void end_own_child(pid_t child, const unique_fd& end) noexcept {
  if (!end) {
    while (::waitpid(child, nullptr, __WALL) < 0 && errno == EINTR) {
    }
    return;
  }
  if (::syscall(SYS_pidfd_send_signal, end.get(), SIGKILL, nullptr, 0) != 0 && errno == EPERM) {
    // The program has given up rights since.
    pollfd ended{end.get(), POLLIN, 0};
    constexpr int patience_ms = 2000;
    if (::poll(&ended, 1, patience_ms) <= 0) return;
  }
  siginfo_t ended;
  while (::syscall(SYS_waitid, P_PIDFD, end.get(), &ended, WEXITED | __WALL, nullptr) < 0 && errno == EINTR) {
  }
}

bool is_stopped(pid_t process) noexcept {
  char path[32], text[256];
  std::snprintf(path, sizeof path, "/proc/%d/stat", static_cast<int>(process));
  const unique_fd file(::open(path, O_RDONLY | O_CLOEXEC));
  const ssize_t got = file ? ::read(file.get(), text, sizeof text - 1) : -1;
  if (got <= 0) return false;
  text[got] = '\0';
  const char* name_end = std::strrchr(text, ')');
  return name_end != nullptr && name_end[1] == ' ' && (name_end[2] == 'T' || name_end[2] == 't');
}

std::optional<std::string> shown_name_of(pid_t process) {
  char path[32], name[16] = {};
  std::snprintf(path, sizeof path, "/proc/%d/comm", static_cast<int>(process));
  const unique_fd file(::open(path, O_RDONLY | O_CLOEXEC));
  if (!file) return errno == ENOENT ? std::nullopt : std::optional<std::string>("");
  const ssize_t got = ::read(file.get(), name, sizeof name);
  if (got <= 0) return std::nullopt;
  return std::string(name, static_cast<std::size_t>(got));
}

unique_fd working_directory() { return unique_fd(::open(".", O_PATH | O_DIRECTORY | O_CLOEXEC)); }

void outlive_starting_thread() noexcept { ::prctl(PR_SET_PDEATHSIG, 0); }

void tie_to_server(pid_t server) noexcept {
  // The server has one thread: its end is the server's.
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || ::getppid() != server) ::_exit(1);
}

void rehearse_set_up() noexcept {
  const volatile auto kept = ::environ;
  ::environ = kept;
}

}  // namespace pynisher::platform
