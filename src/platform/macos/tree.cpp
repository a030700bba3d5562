#include "tree.hpp"

#include <libproc.h>
#include <signal.h>
#include <sys/proc_info.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>

namespace pynisher::platform {

namespace {

constexpr std::size_t most_listed = 4096;

/// The children of a process, or (0) all processes, appended to what is there; returns the new count.
std::size_t list_processes(pid_t parent, pid_t* list, std::size_t count) noexcept {
  const std::size_t room = (most_listed - count) * sizeof(pid_t);
  const int bytes = parent == 0 ? ::proc_listpids(PROC_ALL_PIDS, 0, list + count, static_cast<int>(room))
                                : ::proc_listpids(PROC_PPID_ONLY, static_cast<std::uint32_t>(parent), list + count,
                                                  static_cast<int>(room));
  return count + (bytes > 0 ? static_cast<std::size_t>(bytes) / sizeof(pid_t) : 0);
}

}  // namespace

int kill_descendants(pid_t pid) noexcept {
  pid_t found[most_listed];
  std::size_t count = list_processes(pid, found, 0);
  // Frozen first, and looked at again: a process that runs may have more children by now.
  for (std::size_t i = 0; i < count && count < most_listed; ++i) {
    ::kill(found[i], SIGSTOP);
    count = list_processes(found[i], found, count);
  }
  int alive = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (found[i] > 1 && ::kill(found[i], SIGKILL) == 0) ++alive;
  }
  return alive;
}

void kill_session(pid_t leader) noexcept {
  constexpr timespec moment{0, 1'000'000};
  constexpr int most_rounds = 1000;
  for (int round = 0; round < most_rounds; ++round) {
    pid_t found[most_listed];
    const std::size_t count = list_processes(0, found, 0);
    int alive = 0;
    for (std::size_t i = 0; i < count; ++i) {
      // Zombies have no session any more.
      if (found[i] > 1 && found[i] != leader && ::getsid(found[i]) == leader && ::kill(found[i], SIGKILL) == 0) ++alive;
    }
    if (alive == 0) return;
    ::nanosleep(&moment, nullptr);
  }
}

}  // namespace pynisher::platform
