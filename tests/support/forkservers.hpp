#pragma once

// The forkserver and its children, looked at from outside: by the names that they show.

#include <signal.h>
#include <sys/types.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "support/posix_functions.hpp"
#include "support/processes.hpp"

namespace support {

inline std::vector<pid_t> children_of(pid_t process) {
  std::vector<pid_t> all;
  for (const auto& thread : std::filesystem::directory_iterator("/proc/" + std::to_string(process) + "/task")) {
    std::ifstream children(thread.path() / "children");
    for (pid_t child = 0; children >> child;) all.push_back(child);
  }
  return all;
}

inline std::string name_of_process(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/comm");
  std::string name;
  std::getline(file, name);
  return name;
}

/// Those children of a process that show this name.
inline std::vector<pid_t> children_named(const std::string& name, pid_t parent) {
  auto all = children_of(parent);
  std::erase_if(all, [&](pid_t child) { return name_of_process(child) != name; });
  return all;
}

/// The server of a program; 0: it has none.
inline pid_t server_of(pid_t program) {
  const auto servers = children_named("pynisher-forks", program);
  return servers.empty() ? 0 : servers.front();
}

/// The children that wait for a call, once there are any. Their parent is the program or, where it relays, the server.
inline std::vector<pid_t> waiting_children_of(pid_t parent) {
  std::vector<pid_t> waiting;
  await([&] { return !(waiting = children_named("pynisher-waits", parent)).empty(); });
  return waiting;
}

/// A call in flight whose child was stopped while it waited, so that it has not begun.
template <class Limited, class... A>
auto start_in_stopped_child(pid_t parent, const Limited& call, const A&... args) {
  std::set<pid_t> stopped;
  for (;;) {
    for (const pid_t waiting : waiting_children_of(parent)) {
      ::kill(waiting, SIGSTOP);
      await_stopped(waiting);
      stopped.insert(waiting);
    }
    // Another one may have been announced before.
    auto running = call.start(args...);
    if (stopped.contains(static_cast<pid_t>(running.pid()))) return running;
    static_cast<void>(running.get_outcome());
  }
}

}  // namespace support
