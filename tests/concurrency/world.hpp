#pragma once

// All that a call might leave behind in its process, as text, so that two moments can be compared.

#include <dirent.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sched.h>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "support/suites.hpp"

namespace concurrency {

inline std::set<std::string> entries_of(const char* path) {
  std::set<std::string> names;
  DIR* directory = ::opendir(path);
  if (directory == nullptr) return names;
  const std::string own = std::to_string(::dirfd(directory));
  const bool descriptors = std::string(path) == "/proc/self/fd";
  while (const dirent* entry = ::readdir(directory)) {
    const std::string name = entry->d_name;
    if (name[0] != '.' && !(descriptors && name == own)) names.insert(name);
  }
  ::closedir(directory);
  return names;
}

inline std::string whole_file(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline std::string joined(const std::set<std::string>& names) {
  std::string text;
  for (const auto& name : names) text += name + ' ';
  return text;
}

inline std::string descriptors() {
  std::multiset<std::string> all;
  for (const auto& fd : entries_of("/proc/self/fd")) {
    char target[256] = {};
    if (::readlink(("/proc/self/fd/" + fd).c_str(), target, sizeof target - 1) <= 0) continue;
    // What waits for the next call may have been made again, under another number.
    const bool is_the_librarys = std::string_view(target).starts_with("/memfd:pynisher");
    all.insert((is_the_librarys ? "one" : fd) + "->" + target);
  }
  std::string text;
  for (const auto& one : all) text += one + ' ';
  return text;
}

inline std::string children() {
  std::string text;
  for (const auto& thread : entries_of("/proc/self/task")) {
    text += whole_file("/proc/self/task/" + thread + "/children");
  }
  // Clones that no ordinary wait sees are children too.
  siginfo_t ended{};
  const int result = ::waitid(P_ALL, 0, &ended, WEXITED | WNOHANG | WNOWAIT | __WALL);
  return text + (result < 0 && errno == ECHILD ? "none to wait for" : "some to wait for");
}

inline std::string dispositions() {
  std::string text;
  for (int signal = 1; signal < NSIG; ++signal) {
    struct sigaction action{};
    if (::sigaction(signal, nullptr, &action) != 0) continue;
    char line[128];
    std::snprintf(line, sizeof line, "%d:%p/%x ", signal, reinterpret_cast<void*>(action.sa_handler),
                  static_cast<unsigned>(action.sa_flags));
    text += line;
  }
  return text;
}

inline std::string signal_mask() {
  sigset_t mask;
  ::sigprocmask(SIG_SETMASK, nullptr, &mask);
  std::string text;
  for (int signal = 1; signal < NSIG; ++signal) text += ::sigismember(&mask, signal) == 1 ? '1' : '0';
  return text;
}

inline std::string timers() {
  std::string text = whole_file("/proc/self/timers");
  for (const auto which : {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF}) {
    itimerval timer{};
    ::getitimer(which, &timer);
    text += timer.it_value.tv_sec == 0 && timer.it_value.tv_usec == 0 ? "off " : "on ";
  }
  return text;
}

inline std::string limits() {
  std::string text;
  for (int resource = 0; resource < static_cast<int>(RLIM_NLIMITS); ++resource) {
    rlimit limit{};
    ::getrlimit(static_cast<__rlimit_resource>(resource), &limit);
    text += std::to_string(limit.rlim_cur) + '/' + std::to_string(limit.rlim_max) + ' ';
  }
  return text;
}

inline std::size_t mapping_count() {
  const std::string maps = whole_file("/proc/self/maps");
  std::size_t count = 0;
  for (const char c : maps) count += c == '\n';
  return count;
}

inline std::uint64_t resident_bytes() {
  unsigned long long pages = 0, resident = 0;
  std::sscanf(whole_file("/proc/self/statm").c_str(), "%llu %llu", &pages, &resident);
  return resident * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

inline std::string flags() {
  int subreaper = -1, death_signal = -1;
  ::prctl(PR_GET_CHILD_SUBREAPER, &subreaper);
  ::prctl(PR_GET_PDEATHSIG, &death_signal);
  char name[17] = {};
  ::prctl(PR_GET_NAME, name);
  return "subreaper " + std::to_string(subreaper) + ", death signal " + std::to_string(death_signal) + ", dumpable " +
         std::to_string(::prctl(PR_GET_DUMPABLE)) + ", name " + name;
}

/// Gives this process a /tmp and a /dev/shm of its own, so that nobody else's files come and go there. False: it may
/// not; they are not looked at then.
inline bool own_temporary_files() {
  if (::unshare(CLONE_NEWNS) != 0) return false;
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return false;
  return ::mount("tmpfs", "/tmp", "tmpfs", 0, nullptr) == 0 && ::mount("tmpfs", "/dev/shm", "tmpfs", 0, nullptr) == 0;
}

using world = std::map<std::string, std::string>;

inline world look_around(bool own_files) {
  world seen;
  seen["descriptors"] = descriptors();
  seen["children"] = children();
  seen["threads"] = joined(entries_of("/proc/self/task"));
  seen["dispositions"] = dispositions();
  seen["signal mask"] = signal_mask();
  seen["timers"] = timers();
  seen["limits"] = limits();
  // A sanitizer maps as it goes.
  if (!support::sanitized) seen["mappings"] = std::to_string(mapping_count());
  seen["flags"] = flags();
  if (own_files) {
    seen["/dev/shm"] = joined(entries_of("/dev/shm"));
    seen["/tmp"] = joined(entries_of("/tmp"));
  }
  return seen;
}

/// Empty when nothing has changed.
inline std::string changes(const world& before, const world& after) {
  std::string text;
  for (const auto& [what, was] : before) {
    const std::string& is = after.at(what);
    if (is != was) text += what + ": was \"" + was + "\", is \"" + is + "\"\n";
  }
  return text;
}

}  // namespace concurrency
