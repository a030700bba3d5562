// Calls that were started: results, waiting, cancellation, threads, many at once.

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/descendants.hpp"
#include "support/handshake.hpp"
#include "support/helper_process.hpp"
#include "support/outcomes.hpp"
#include "support/processes.hpp"
#include "support/scenarios.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::limit;
using pynisher::verdict;
using support::sleep_forever;

class InFlight : public support::per_start_method {};
FOR_EACH_START_METHOD(InFlight);

int twice(int number) { return 2 * number; }

TEST_P(InFlight, AValueComesWhenItIsAskedFor) {
  const auto doubled = limit(twice, with({.cpu_time = 1min, .wall_time = 1min}));
  auto first = doubled.start(4);
  auto second = doubled.start(5);
  EXPECT_EQ(second.get(), 10);
  EXPECT_EQ(first.get(), 8);
}

TEST_P(InFlight, ComesBackWhileTheFunctionRuns) {
  ONLY_BY_FORK("its callable has captures");
  const support::shared_flag release;
  auto pending = limit(
                     [&release] {
                       support::await_flag(*release);
                       return 7;
                     },
                     with({}))
                     .start();
  EXPECT_FALSE(pending.ready());
  EXPECT_FALSE(pending.wait_for(1ms));
  EXPECT_FALSE(pending.wait_until(std::chrono::system_clock::now() + 1ms));
  EXPECT_GT(pending.pid(), 0);
  EXPECT_FALSE(support::is_gone(static_cast<pid_t>(pending.pid())));
  release->store(true);
  pending.wait();
  EXPECT_TRUE(pending.ready());
  EXPECT_TRUE(pending.wait_for(0s));
  EXPECT_TRUE(pending.wait_until(std::chrono::system_clock::now() - 1h));
  EXPECT_EQ(pending.get(), 7);
}

TEST_P(InFlight, ThrowsWhatThePlainCallWould) {
  auto thrown = limit([]() -> int { throw std::domain_error("row 7"); }, with({})).start();
  EXPECT_THROW(static_cast<void>(thrown.get()), std::domain_error);
  auto late = limit(sleep_forever, with({.wall_time = 20ms})).start();
  EXPECT_THROW(late.get(), pynisher::WallTimeoutException);
  auto crashed = limit([] { ::raise(SIGSEGV); }, with({})).start();
  EXPECT_THROW(crashed.get(), pynisher::SignalException);
}

TEST_P(InFlight, AMemoryLimitHolds) {
  SKIP_UNLESS_SUPPORTED("memory");
  auto refused = limit(support::touch_memory_forever, with({.memory = pynisher::memory_size(30 * support::MiB)})).start();
  EXPECT_THROW(refused.get(), pynisher::MemoryLimitException);
}

TEST_P(InFlight, AnOutcomeNamesTheCall) {
  auto pending = limit([](int, const std::string&) { ::_exit(4); }, with({})).start(3, "text");
  const auto ended = pending.get_outcome();
  EXPECT_THAT(ended, support::EndedAs(verdict::exited));
  EXPECT_THAT(ended.explain(), ::testing::HasSubstr("(3, \"text\")"));
}

TEST_P(InFlight, AResultIsTakenOnce) {
  auto pending = limit(twice, with({})).start(1);
  EXPECT_EQ(pending.get(), 2);
  EXPECT_THROW(static_cast<void>(pending.get()), std::logic_error);
  EXPECT_TRUE(pending.ready());
}

TEST_P(InFlight, ArgumentsAreNotNeededAfterTheStart) {
  ONLY_BY_FORK("its callable has captures");
  std::optional<pynisher::call<std::string>> pending;
  {
    const std::string text(5000, 'x');
    const auto give_back = limit([text](const std::string& more) { return text + more; }, with({}));
    pending.emplace(give_back.start(std::string(3000, 'y')));
  }
  EXPECT_EQ(pending->get(), std::string(5000, 'x') + std::string(3000, 'y'));
}

TEST_P(InFlight, LargeResultsComeWhileNobodyWaits) {
  auto pending = limit([] { return std::vector<std::uint64_t>(4 << 20, 9); }, with({.wall_time = 1min})).start();
  pending.wait();
  EXPECT_THAT(pending.get(), ::testing::SizeIs(4 << 20));
}

TEST_P(InFlight, CancelEndsItAtOnce) {
  auto pending = limit(sleep_forever, with({})).start();
  const auto pid = static_cast<pid_t>(pending.pid());
  pending.cancel();
  EXPECT_THAT(pending.get_outcome(), support::EndedAs(verdict::cancelled));
  EXPECT_TRUE(support::is_gone(pid));
  pending.cancel();
}

TEST_P(InFlight, CancelAfterTheEndChangesNothing) {
  auto pending = limit(twice, with({})).start(6);
  pending.wait();
  pending.cancel();
  EXPECT_EQ(pending.get(), 12);
}

TEST_P(InFlight, AStopTokenEndsIt) {
  std::stop_source stop;
  auto pending = limit(sleep_forever, with({.stop = stop.get_token()})).start();
  stop.request_stop();
  EXPECT_THROW(pending.get(), pynisher::CancelledException);
  auto too_late = limit(sleep_forever, with({.stop = stop.get_token()})).start();
  EXPECT_THROW(too_late.get(), pynisher::CancelledException);
  EXPECT_EQ(too_late.pid(), -1);
}

TEST_P(InFlight, AHandleThatGoesTakesTheCallsTreeAlong) {
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

TEST_P(InFlight, AssigningToAHandleEndsWhatItHeld) {
  auto pending = limit(sleep_forever, with({})).start();
  const auto first = static_cast<pid_t>(pending.pid());
  pending = limit(sleep_forever, with({})).start();
  EXPECT_TRUE(support::is_gone(first));
  EXPECT_FALSE(support::is_gone(static_cast<pid_t>(pending.pid())));
}

// The child must not die with the thread that asked for it.
TEST_P(InFlight, GoesOnWhenTheThreadThatStartedItEnds) {
  ONLY_BY_FORK("its callable has captures");
  const support::shared_flag release;
  std::optional<pynisher::call<int>> pending;
  std::thread([&] {
    pending.emplace(limit(
                        [&release] {
                          support::await_flag(*release);
                          return 7;
                        },
                        with({}))
                        .start());
  }).join();
  release->store(true);
  int result = 0;
  std::thread([&result, pending = std::move(*pending)]() mutable { result = pending.get(); }).join();
  EXPECT_EQ(result, 7);
}

TEST_P(InFlight, TheFunctionHasTheCallersSignalMask) {
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

TEST_P(InFlight, CallsOfACallAreCallsToo) {
  ONLY_BY_FORK("its callable has captures");
  const auto inner = with({});
  auto pending = limit(
                     [inner] {
                       auto one = limit(twice, inner).start(1);
                       auto two = limit(twice, inner).start(2);
                       return one.get() + two.get();
                     },
                     with({.warnings = false}))
                     .start();
  EXPECT_EQ(pending.get(), 6);
}

TEST_P(InFlight, TellsWhenItIsDone) {
  std::mutex mutex;
  std::condition_variable changed;
  int told = 0;
  const auto tell = [&] {
    const std::lock_guard lock(mutex);
    ++told;
    changed.notify_all();
  };
  auto pending = limit(twice, with({})).start(2);
  pending.when_done(tell);
  {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return told == 1; });
  }
  EXPECT_TRUE(pending.ready());
  pending.when_done(tell);
  EXPECT_EQ(told, 2);
  EXPECT_EQ(pending.get(), 4);
}

TEST_P(InFlight, AThousandAtOnceEachWithItsOwnResult) {
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

TEST_P(InFlight, DeadlinesOfManyAreEachTheirOwn) {
  std::vector<pynisher::call<void>> pending;
  for (int i = 0; i < 60; ++i) {
    pending.push_back(limit(sleep_forever, with({.wall_time = std::chrono::milliseconds(20 + i % 7 * 10)})).start());
  }
  for (int i = 0; i < 60; ++i) {
    const auto ended = pending[static_cast<std::size_t>(i)].get_outcome();
    EXPECT_THAT(ended, support::EndedAs(verdict::wall_timeout));
    EXPECT_GE(ended.usage().wall_time, std::chrono::milliseconds(20 + i % 7 * 10));
  }
}

// A forked copy of the program has copies of the handles, but not the calls.
TEST_P(InFlight, ACopyOfTheProgramLeavesThemAlone) {
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

TEST_P(InFlight, NothingIsLeftWhenTheHandlesAreGone) {
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
