// Calls that were started: what they leave behind, signal masks, copies of the program, and a thousand of them.

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <optional>
#include <thread>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/descendants.hpp"
#include "support/handshake.hpp"
#include "support/helper_process.hpp"
#include "support/processes.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::limit;
using pynisher::verdict;
using support::sleep_forever;

class InFlightOnLinux : public support::per_start_method {};
FOR_EACH_START_METHOD(InFlightOnLinux);

int twice(int number) { return 2 * number; }

TEST_P(InFlightOnLinux, AHandleThatGoesTakesTheCallsTreeAlong) {
  ONLY_BY_FORK("its callable has captures");
  SKIP_UNLESS_SUPPORTED("kill_tree");
  support::process_log log;
  pid_t child = 0;
  {
    auto pending = limit(
                       [path = log.path()] {
                         support::start_descendant(support::descendant::double_forked_in_own_session, path);
                         sleep_forever();
                       },
                       with({}))
                       .start();
    child = static_cast<pid_t>(pending.pid());
    support::await_logged(log.path(), 1);
  }
  EXPECT_TRUE(support::is_gone(child));
  EXPECT_THAT(log.survivors(), ::testing::IsEmpty());
}

TEST_P(InFlightOnLinux, TheFunctionHasTheCallersSignalMask) {
  sigset_t odd, before;
  sigemptyset(&odd);
  sigaddset(&odd, SIGUSR2);
  ::pthread_sigmask(SIG_SETMASK, &odd, &before);
  auto pending = limit(
                     [] {
                       sigset_t now;
                       ::pthread_sigmask(SIG_SETMASK, nullptr, &now);
                       std::vector<int> blocked;
                       for (int signal = 1; signal < 32; ++signal) {
                         if (sigismember(&now, signal) == 1) blocked.push_back(signal);
                       }
                       return blocked;
                     },
                     with({}))
                     .start();
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  EXPECT_THAT(pending.get(), ::testing::ElementsAre(SIGUSR2));
}

TEST_P(InFlightOnLinux, AThousandAtOnceEachWithItsOwnResult) {
  ONLY_BY_FORK("its callable has captures");
  rlimit files{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &files), 0);
  constexpr rlim_t needed = 3000;
  if (files.rlim_max < needed) GTEST_SKIP() << "not that many descriptors may be had here";
  const rlimit more{std::max(files.rlim_cur, needed), files.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &more), 0);
  support::handshake release;
  const auto wait_for_it = limit(
      [&release](int number) {
        release.wait();
        return number;
      },
      with({.wall_time = 5min}));
  std::vector<pynisher::call<int>> pending;
  for (int i = 0; i < 1000; ++i) pending.push_back(wait_for_it.start(i));
  for (const auto& call : pending) ASSERT_FALSE(call.ready());
  release.close_writing();
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(pending[static_cast<std::size_t>(i)].get(), i);
  pending.clear();
  ::setrlimit(RLIMIT_NOFILE, &files);
}

// A forked copy of the program has copies of the handles, but not the calls.
TEST_P(InFlightOnLinux, ACopyOfTheProgramLeavesThemAlone) {
  ONLY_BY_FORK("its callable has captures");
  const auto end = support::run_in_helper([] {
    const support::shared_flag release;
    std::optional<pynisher::call<int>> pending(limit(
                                                   [&release] {
                                                     support::await_flag(*release);
                                                     return 7;
                                                   },
                                                   with({.warnings = false}))
                                                   .start());
    const pid_t copy = ::fork();
    if (copy == 0) {
      ::alarm(30);
      pending.reset();
      auto own = limit(twice, with({.warnings = false})).start(4);
      ::_exit(own.get() == 8 ? 0 : 1);
    }
    int status = -1;
    HELPER_CHECK(::waitpid(copy, &status, 0) == copy && status == 0);
    HELPER_CHECK(!pending->ready());
    release->store(true);
    HELPER_CHECK(pending->get() == 7);
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
}

TEST_P(InFlightOnLinux, NothingIsLeftWhenTheHandlesAreGone) {
  ONLY_BY_FORK("its callable has captures");
  const auto end = support::run_in_helper([] {
    const auto count = [](const char* directory) {
      return std::distance(std::filesystem::directory_iterator(directory), std::filesystem::directory_iterator());
    };
    // With the first thread a sanitizer starts one of its own.
    std::thread([] {}).join();
    const auto threads = count("/proc/self/task"), files = count("/proc/self/fd");
    for (int i = 0; i < 20; ++i) {
      auto value = limit(twice, with({.warnings = false})).start(i);
      auto never = limit(sleep_forever, with({.warnings = false})).start();
      auto late = limit(sleep_forever, with({.wall_time = 3ms, .warnings = false})).start();
      HELPER_CHECK(value.get() == 2 * i);
      HELPER_CHECK(late.get_outcome().verdict() == verdict::wall_timeout);
    }
    // A thread that has been joined is listed for another moment.
    support::await([&] { return count("/proc/self/task") <= threads; });
    HELPER_CHECK(count("/proc/self/fd") == files);
    HELPER_CHECK(::waitpid(-1, nullptr, WNOHANG | __WALL) == -1 && errno == ECHILD);
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
}

}  // namespace
