// What the forkserver needs of the system, on both of its sides.

#include <fcntl.h>
#include <libproc.h>
#include <poll.h>
#include <signal.h>
#include <sys/param.h>
#include <sys/proc.h>
#include <sys/proc_info.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <optional>
#include <string>

#include "../contract.hpp"
#include "descriptors.hpp"
#include "reaping.hpp"
#include "tree.hpp"

namespace pynisher::platform {

const bool forks_stay_with_server = true;

bool connect_two_processes(unique_fd& one, unique_fd& other, bool in_messages) {
  if (!in_messages) return connect_two(one, other);
  // SOCK_SEQPACKET, which local sockets have not got here.
  errno = EPROTONOSUPPORT;
  return false;
}

unique_fd watch_end_of(pid_t process) { return unique_fd(queue_end_of(process)); }

void end_own_child(pid_t child, const unique_fd& end) noexcept {
  const auto has_ended = [&end](int timeout_ms) {
    pollfd ended{end.get(), POLLIN, 0};
    return !end || ::poll(&ended, 1, timeout_ms) > 0;
  };
  // There are no signals by descriptor.
  if (end && !has_ended(0) && ::kill(child, SIGKILL) != 0 && errno == EPERM) {
    // The program has given up rights since.
    constexpr int patience_ms = 2000;
    if (!has_ended(patience_ms)) return;
  }
  reap(child);
}

bool is_stopped(pid_t process) noexcept {
  proc_bsdinfo info{};
  return ::proc_pidinfo(process, PROC_PIDTBSDINFO, 0, &info, sizeof info) == static_cast<int>(sizeof info) &&
         info.pbi_status == SSTOP;
}

std::optional<std::string> shown_name_of(pid_t process) {
  char name[2 * MAXCOMLEN + 1] = {};
  errno = 0;
  const int size = ::proc_name(process, name, sizeof name);
  if (size <= 0) return errno == ESRCH ? std::nullopt : std::optional<std::string>("");
  return std::string(name, static_cast<std::size_t>(size));
}

unique_fd working_directory() {
#if defined(O_SEARCH)
  // One that may be entered and not be read.
  if (unique_fd here(::open(".", O_SEARCH | O_CLOEXEC)); here) return here;
#endif
  return unique_fd(::open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

// It never did.
void outlive_starting_thread() noexcept {}

void tie_to_server(pid_t server) noexcept {
  // In this order: the watch hears of every child that was there when the server ended.
  tell_watch_of(::getpid(), false);
  if (::getppid() != server) ::_exit(1);
}

void rehearse_set_up() noexcept {}

}  // namespace pynisher::platform
