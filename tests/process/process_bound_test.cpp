// How many processes and threads a call may have.

#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/pynisher.hpp>

#include "support/functions.hpp"
#include "support/outcomes.hpp"
#include "support/posix_functions.hpp"
#include "support/processes.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::limit;
using pynisher::verdict;
using support::EndedAs;

class ProcessBound : public support::per_start_method {
  void SetUp() override {
    SKIP_UNLESS_SUPPORTED("process_count");
    SKIP_UNDER_SANITIZER("it may have a thread of its own");
  }
};
FOR_EACH_START_METHOD(ProcessBound);

/// How many children it gets, of `wanted`; -1: it was refused for another reason than that there were too many.
int fork_until_refused(int wanted) {
  for (int made = 0; made < wanted; ++made) {
    const pid_t child = ::fork();
    if (child == 0) support::sleep_two_minutes();
    if (child < 0) return errno == EAGAIN ? made : -1;
  }
  return wanted;
}
int start_threads_until_refused(int wanted) {
  static std::atomic<bool> go_on{false};
  std::vector<std::thread> threads;
  int made = 0;
  try {
    for (; made < wanted; ++made) {
      threads.emplace_back([] {
        while (!go_on.load()) std::this_thread::sleep_for(1ms);
      });
    }
  } catch (const std::system_error&) {
  }
  go_on.store(true);
  for (auto& thread : threads) thread.join();
  return made;
}
/// One after the other: there are never more than two.
int many_short_ones(int count) {
  int good = 0;
  for (int i = 0; i < count; ++i) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(0);
    good += child > 0 && ::waitpid(child, nullptr, 0) == child ? 1 : 0;
  }
  return good;
}
[[noreturn]] void fork_without_end() {
  for (;;) ::fork();
}

TEST_P(ProcessBound, CountsTheChildAndWhatItStarts) {
  EXPECT_EQ(limit(fork_until_refused, with({.processes = 5}))(20), 4);
  EXPECT_EQ(limit(fork_until_refused, with({.processes = 1}))(20), 0);
  EXPECT_EQ(limit(fork_until_refused, with({.processes = 50}))(20), 20);
}

TEST_P(ProcessBound, CountsThreads) { EXPECT_EQ(limit(start_threads_until_refused, with({.processes = 5}))(20), 4); }

TEST_P(ProcessBound, IsAboutHowManyThereAreAtOnce) {
  EXPECT_EQ(limit(many_short_ones, with({.processes = 2}))(50), 50);
}

TEST_P(ProcessBound, HoldsAForkBombAndLeavesNothingOfIt) {
  EXPECT_THAT(limit(fork_without_end, with({.wall_time = 300ms, .processes = 30})).try_call(),
              EndedAs(verdict::wall_timeout));
  EXPECT_EQ(limit(fork_until_refused, with({.processes = 5}))(20), 4);
}

int inner_count(int method, int bound) {
  return limit(fork_until_refused, {.context = static_cast<pynisher::start_method>(method),
                                    .processes = static_cast<std::uint32_t>(bound),
                                    .warnings = false})(40);
}

TEST_P(ProcessBound, OfAnInnerCallCanOnlyBeTighter) {
  // The inner call's child counts for both; so do the outer call's child and, with a forkserver, what that has.
  EXPECT_EQ(limit(inner_count, with({.processes = 30}))(static_cast<int>(GetParam()), 3), 2);
  const int got = limit(inner_count, with({.processes = 12}))(static_cast<int>(GetParam()), 100);
  EXPECT_LE(got, 10);
  EXPECT_GE(got, 7);
}

void bound_within(int method) {
  limit(support::sleep_forever,
        {.context = static_cast<pynisher::start_method>(method), .processes = 5, .warnings = false})();
}

TEST_P(ProcessBound, ManyThreadsHaveEachTheirOwn) {
  std::atomic<int> good{0};
  std::vector<std::jthread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&] {
      for (int k = 0; k < 20; ++k) {
        good += limit(many_short_ones, with({.processes = 2})).try_call(1).has_value() ? 1 : 0;
      }
    });
  }
  callers.clear();
  EXPECT_EQ(good, 80);
}

TEST_P(ProcessBound, NoGroupIsLeftOfACallWithinACallThatWasEnded) {
  const auto groups = [] {
    int found = 0;
    for (const char* hierarchy : {"/sys/fs/cgroup/pids", "/sys/fs/cgroup"}) {
      std::error_code none;
      for (const auto& entry : std::filesystem::directory_iterator(hierarchy, none)) {
        found += entry.path().filename().string().starts_with("pynisher-" + std::to_string(::getpid()) + "-") ? 1 : 0;
      }
    }
    return found;
  };
  EXPECT_THAT(limit(bound_within, with({.wall_time = 200ms, .processes = 20})).try_call(static_cast<int>(GetParam())),
              EndedAs(verdict::wall_timeout));
  EXPECT_EQ(groups(), 0);
}

/// Knows how this library finds what a call has left, and whom it asks.
void hides_a_daemon(const std::string& path) {
  int ready[2];
  if (::pipe(ready) != 0) return;
  if (::fork() == 0) {
    if (::fork() == 0) {
      ::setsid();
      constexpr auto mark = static_cast<__rlimit_resource>(10);
      const rlimit none{0, 0};
      ::setrlimit(mark, &none);
      support::log_process(path.c_str());
      ::close(ready[0]);
      ::close(ready[1]);
      support::sleep_two_minutes();
    }
    ::_exit(0);
  }
  ::close(ready[1]);
  char none = 0;
  while (::read(ready[0], &none, 1) < 0 && errno == EINTR) {
  }
  // Past the library, which would end what is below this process.
  ::syscall(SYS_exit_group, 0);
}

TEST_P(ProcessBound, EndsWhatHasHiddenItself) {
  support::process_log log;
  EXPECT_THAT(limit(hides_a_daemon, with({.processes = 5})).try_call(log.path()), EndedAs(verdict::exited));
  ASSERT_EQ(log.pids().size(), 1u);
  EXPECT_TRUE(log.survivors().empty());
}

TEST_P(ProcessBound, IsGoneForWhatOutlivesTheCall) {
  const auto leaves_one = [](const std::string& path) {
    if (::fork() != 0) return;
    support::log_process(path.c_str());
    support::sleep_two_minutes();
  };
  support::process_log log;
  limit(leaves_one, with({.processes = 5, .terminate_child_processes = false}))(log.path());
  support::await_logged(log.path(), 1);
  EXPECT_FALSE(support::is_gone(log.pids().at(0)));
  ::kill(log.pids().at(0), SIGKILL);
}

}  // namespace
