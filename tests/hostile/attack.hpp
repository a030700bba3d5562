#pragma once

// What attackers have in common: finding the library's things in their own process, and a victim that is looked
// over afterwards.

#include <dirent.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <initializer_list>
#include <ostream>
#include <string>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "reply_region.hpp"
#include "support/forkservers.hpp"
#include "support/helper_process.hpp"
#include "support/outcomes.hpp"
#include "support/processes.hpp"

namespace hostile {

using pynisher::detail::reply_region;

/// In a limited function: the memory that it shares with its parent. It is told by its size from what a test shares.
inline reply_region* find_region() {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    unsigned long begin = 0, end = 0;
    char access[5] = {};
    if (std::sscanf(line.c_str(), "%lx-%lx %4s", &begin, &end, access) != 3) continue;
    if (std::string(access) == "rw-s" && end - begin == reply_region::size) {
      return reinterpret_cast<reply_region*>(begin);
    }
  }
  std::fprintf(stderr, "the attacker finds no shared region\n");
  ::_exit(97);
}

inline std::string link_of(int fd) {
  char target[256] = {};
  const std::string path = "/proc/self/fd/" + std::to_string(fd);
  return ::readlink(path.c_str(), target, sizeof target - 1) < 0 ? std::string() : std::string(target);
}

/// Open descriptors of this process, without the one that looks.
inline std::vector<int> open_descriptors() {
  std::vector<int> found;
  DIR* directory = ::opendir("/proc/self/fd");
  while (const dirent* entry = ::readdir(directory)) {
    const int fd = std::atoi(entry->d_name);
    if (entry->d_name[0] != '.' && fd != ::dirfd(directory)) found.push_back(fd);
  }
  ::closedir(directory);
  return found;
}

/// The descriptors by which a child wakes its parent.
inline std::vector<int> doorbells() {
  std::vector<int> found;
  for (const int fd : open_descriptors()) {
    if (link_of(fd) == "anon_inode:[eventfd]") found.push_back(fd);
  }
  return found;
}

/// A living child of `program` of that name, or 0.
inline pid_t find_helper(pid_t program, const std::string& name) {
  const auto all = support::children_named(name, program);
  const auto alive = std::ranges::find_if_not(all, support::is_gone);
  return alive == all.end() ? 0 : *alive;
}

inline std::uint64_t resident_peak() {
  rusage used{};
  ::getrusage(RUSAGE_SELF, &used);
  return static_cast<std::uint64_t>(used.ru_maxrss) * 1024;
}

/// Without the memory that is kept for the next call of a process of its own.
inline std::size_t count_open() {
  const auto all = open_descriptors();
  return static_cast<std::size_t>(
      std::ranges::count_if(all, [](int fd) { return !link_of(fd).starts_with("/memfd:pynisher"); }));
}

/// In a helper process that has been attacked: it goes on as before, and nothing is left over.
inline void check_unharmed(std::size_t descriptors_before, pynisher::start_method method) {
  const pynisher::options by{.context = method, .warnings = false};
  HELPER_CHECK(pynisher::limit([] { return 42; }, by)() == 42);
  HELPER_CHECK(pynisher::limit([] { return std::string(3 << 20, 'x'); }, by)().size() == std::size_t{3} << 20);
  pynisher::forkserver::stop();
  HELPER_CHECK(count_open() == descriptors_before);
  HELPER_CHECK(open_descriptors().size() <= descriptors_before + 2);
  HELPER_CHECK(::waitpid(-1, nullptr, WNOHANG | __WALL) == -1 && errno == ECHILD);
}

/// Runs `attack` in a helper process, which is to survive it, and says what happened.
/// A parent that hangs is killed after half a minute: `signal` is SIGALRM then.
template <class Attack>
support::helper_result on_a_victim(
    Attack attack, pynisher::start_method method = pynisher::start_method::fork, void (*prepare)() = [] {}) {
  return support::run_in_helper([attack, method, prepare] {
    ::alarm(30);
    // Descriptors of whoever has started the tests are not to be attacked.
    ::syscall(SYS_close_range, 3u, ~0u, 0u);
    prepare();
    const std::size_t before = count_open();
    attack();
    check_unharmed(before, method);
    return 0;
  });
}

MATCHER(Survived, "survived unharmed") {
  *result_listener << "which ended by " << arg;
  return arg.exited && arg.code == 0;
}

/// Says which verdict it is not, since a helper process has no matchers.
template <class R>
void expect_verdict(const pynisher::outcome<R>& result, std::initializer_list<pynisher::verdict> allowed) {
  if (std::find(allowed.begin(), allowed.end(), result.verdict()) != allowed.end()) return;
  std::fprintf(stderr, "not among the verdicts that are allowed: %s: %s\n", pynisher::to_string(result.verdict()),
               result.explain().c_str());
  std::fflush(stderr);
  ::_exit(99);
}

}  // namespace hostile
