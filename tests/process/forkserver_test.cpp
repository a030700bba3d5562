// The server itself: what it holds, when it ends, and what becomes of calls then.

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/pynisher.hpp>

#include "support/forkservers.hpp"
#include "support/functions.hpp"
#include "support/handshake.hpp"
#include "support/helper_process.hpp"
#include "support/outcomes.hpp"
#include "support/processes.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::limit;
using pynisher::start_method;
using pynisher::verdict;
using support::EndedAs;
using testing::HasSubstr;

pynisher::options by_server(pynisher::options limits = {}) {
  limits.context = start_method::forkserver;
  return limits;
}

pid_t own_server() { return support::server_of(::getpid()); }

/// The server's children are its own, as on systems that know it no other way.
bool is_relayed() { return std::getenv("PYNISHER_TEST_RELAYED") != nullptr; }
pid_t parent_of_calls() { return is_relayed() ? own_server() : ::getpid(); }

int parent() { return ::getppid(); }
int same(int x) { return x; }

class ForkServer : public ::testing::Test {
 protected:
  void SetUp() override {
    SKIP_UNLESS_SUPPORTED("forkserver");
    pynisher::forkserver::stop();
  }
  void TearDown() override { pynisher::forkserver::stop(); }
};

TEST_F(ForkServer, IsStartedByTheFirstCallOrEarlyAndServesAllOfThem) {
  EXPECT_EQ(own_server(), 0);
  EXPECT_EQ(limit(same, by_server())(1), 1);
  const pid_t server = own_server();
  EXPECT_GT(server, 0);
  EXPECT_EQ(limit(same, by_server())(2), 2);
  pynisher::forkserver::start();
  EXPECT_EQ(own_server(), server);
}

TEST_F(ForkServer, ItsChildrenAreTheCallersOwn) {
  const pid_t of_call = limit(parent, by_server())();
  EXPECT_EQ(of_call, parent_of_calls());
}

TEST_F(ForkServer, HasOneThreadNoDescriptorOfTheCallersAndLittleMemory) {
  const support::held_memory ballast(std::size_t{256} << 20);
  pynisher::forkserver::start();
  const std::string server = "/proc/" + std::to_string(own_server());
  const auto entries = [](const std::string& path) {
    return std::distance(std::filesystem::directory_iterator(path), std::filesystem::directory_iterator());
  };
  EXPECT_EQ(entries(server + "/task"), 1);
  for (const auto& file : std::filesystem::directory_iterator(server + "/fd")) {
    std::error_code gone;
    const std::string target = std::filesystem::read_symlink(file, gone);
    // The sockets are those to the program and to the child that waits.
    if (gone) continue;
    EXPECT_THAT(target, testing::AnyOf("/dev/null", testing::StartsWith("socket:"), "anon_inode:[pidfd]"));
  }
  SKIP_UNDER_SANITIZER("it holds memory of its own");
  std::ifstream statm(server + "/statm");
  std::size_t pages = 0, resident = 0;
  statm >> pages >> resident;
  EXPECT_LT(resident * 4096, std::size_t{32} << 20);
}

TEST_F(ForkServer, StopsWhenAskedAndLeavesNoChild) {
  EXPECT_EQ(limit(same, by_server())(1), 1);
  pynisher::forkserver::stop();
  pynisher::forkserver::stop();
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
  EXPECT_EQ(limit(same, by_server())(1), 1);
}

TEST_F(ForkServer, LosesNoCallToAnotherChildWithOneThatIsKilledWhileItWaits) {
  EXPECT_EQ(limit(same, by_server())(1), 1);
  for (int i = 0; i < 20; ++i) {
    const pid_t killed = support::waiting_children_of(parent_of_calls()).front();
    ::kill(killed, SIGKILL);
    auto in_hand = limit(same, by_server()).start(i);
    // It may have been given the call before the signal came.
    if (in_hand.pid() == killed) {
      EXPECT_THAT(in_hand.get_outcome(), support::FailedWith<pynisher::SignalException>());
    } else {
      EXPECT_EQ(in_hand.get(), i);
    }
    EXPECT_EQ(limit(same, by_server())(i), i);
  }
}

TEST_F(ForkServer, ThatWasKilledIsStartedAgain) {
  EXPECT_EQ(limit(same, by_server())(1), 1);
  const pid_t first = own_server();
  ::kill(first, SIGKILL);
  support::await([&] { return support::process_state(first) == 'Z'; });
  EXPECT_EQ(limit(same, by_server())(2), 2);
  EXPECT_NE(own_server(), first);
}

TEST_F(ForkServer, ThatDiesTakesNoCallAlong) {
  if (is_relayed()) GTEST_SKIP() << "it takes those along that are its children's";
  support::process_log log;
  auto running = limit(
                     [](const std::string& path) {
                       support::log_process(path.c_str());
                       support::sleep_two_minutes();
                     },
                     by_server())
                     .start(log.path());
  support::await_logged(log.path(), 1);
  const pid_t dead = own_server();
  ::kill(dead, SIGKILL);
  support::await([&] { return support::process_state(dead) == 'Z'; });
  EXPECT_FALSE(running.ready());
  EXPECT_EQ(limit(same, by_server())(2), 2);
  running.cancel();
  EXPECT_THAT(running.get_outcome(), EndedAs(verdict::cancelled));
}

TEST_F(ForkServer, ThatIsStoppedFailsTheCallInHandAndNoOther) {
  EXPECT_EQ(limit(same, by_server())(1), 1);
  ::kill(own_server(), SIGSTOP);
  support::await_stopped(own_server());
  // One child may wait already, and one more may be announced.
  int failed = 0, calls = 0;
  while (failed == 0 && ++calls < 5) {
    const auto outcome = limit(same, by_server()).try_call(2);
    if (!outcome) {
      EXPECT_THROW((void)outcome.value(), pynisher::StartException);
      ++failed;
    }
  }
  // A server that relays is let go on by the end of a call that had its child before.
  if (is_relayed())
    EXPECT_LE(failed, 1);
  else
    EXPECT_EQ(failed, 1);
  EXPECT_EQ(limit(same, by_server())(3), 3);
}

TEST_F(ForkServer, IsUsedByManyThreadsAtOnce) {
  const auto call = limit(same, by_server({.warnings = false}));
  std::atomic<int> right{0};
  std::vector<std::jthread> callers;
  for (int i = 0; i < 8; ++i) {
    callers.emplace_back([&, i] {
      for (int k = 0; k < 25; ++k) right += call(100 * i + k) == 100 * i + k ? 1 : 0;
    });
  }
  callers.clear();
  EXPECT_EQ(right, 200);
}

TEST_F(ForkServer, OutlivesTheThreadThatStartedItAndSoDoItsChildren) {
  std::jthread([] { pynisher::forkserver::start(); }).join();
  const pid_t server = own_server();
  support::process_log log;
  auto running = limit(
                     [](const std::string& path) {
                       support::log_process(path.c_str());
                       support::sleep_two_minutes();
                     },
                     by_server())
                     .start(log.path());
  support::await_logged(log.path(), 1);
  std::jthread([] { EXPECT_EQ(limit(same, by_server({.warnings = false}))(1), 1); }).join();
  EXPECT_EQ(own_server(), server);
  EXPECT_FALSE(running.ready());
}

TEST_F(ForkServer, DiesWithTheProgramAndItsCallsToo) {
  for (const bool whole_tree : {true, false}) {
    support::process_log log;
    support::helper_process program([&] {
      limit(
          [](const std::string& path) {
            support::log_process(path.c_str());
            support::sleep_two_minutes();
          },
          by_server({.terminate_child_processes = whole_tree}))(log.path());
      return 0;
    });
    support::await_logged(log.path(), 1);
    const pid_t server = support::server_of(program.pid());
    ASSERT_GT(server, 0);
    program.send(SIGKILL);
    support::await_gone(server);
    support::await_gone(log.pids().at(0));
  }
}

TEST_F(ForkServer, EndsWithAProgramThatReturns) {
  support::process_log log;
  const auto end = support::run_in_helper([&] {
    pynisher::forkserver::start();
    std::ofstream(log.path(), std::ios::app | std::ios::binary) << "";
    const pid_t server = own_server();
    std::printf("%d", static_cast<int>(server));
    return 0;
  });
  ASSERT_EQ(end.code, 0) << end;
  support::await_gone(std::stoi(end.out));
}

TEST_F(ForkServer, OfACopyOfTheProgramIsItsOwn) {
  pynisher::forkserver::start();
  const pid_t server = own_server();
  const auto end = support::run_in_helper([server] {
    HELPER_CHECK(own_server() == 0);
    HELPER_CHECK(limit(same, by_server())(1) == 1);
    HELPER_CHECK(limit(parent, by_server())() == parent_of_calls());
    HELPER_CHECK(own_server() != server);
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
  EXPECT_EQ(own_server(), server);
  EXPECT_EQ(limit(same, by_server())(1), 1);
}

TEST_F(ForkServer, IsNotTheTerminalsToInterrupt) {
  const auto end = support::run_in_helper([] {
    HELPER_CHECK(::setpgid(0, 0) == 0);
    pynisher::forkserver::start();
    const pid_t server = own_server();
    for (const int signal : {SIGINT, SIGQUIT, SIGTSTP, SIGHUP, SIGTERM, SIGUSR1}) {
      ::signal(signal, SIG_IGN);
      ::kill(0, signal);
    }
    HELPER_CHECK(limit(same, by_server())(1) == 1);
    HELPER_CHECK(own_server() == server);
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
}

TEST_F(ForkServer, OfAProgramThatGivesUpRightsIsStartedAnew) {
  if (::geteuid() != 0) GTEST_SKIP() << "there are no rights to be given up";
  const auto end = support::run_in_helper([] {
    HELPER_CHECK(limit(same, by_server())(1) == 1);
    HELPER_CHECK(::setresgid(65534, 65534, 65534) == 0 && ::setresuid(65534, 65534, 65534) == 0);
    constexpr int may_not_run_this = 77;
    const std::string image = std::filesystem::read_symlink("/proc/self/exe");
    if (::access(image.c_str(), X_OK) != 0) return may_not_run_this;
    HELPER_CHECK(limit([] { return static_cast<int>(::geteuid()); }, by_server())() == 65534);
    HELPER_CHECK(limit(support::sleep_forever, by_server({.wall_time = 50ms})).try_call().verdict() ==
                 verdict::wall_timeout);
    pynisher::forkserver::stop();
    return 0;
  });
  if (end.code == 77) GTEST_SKIP() << "another user may not run this program where it is";
  EXPECT_EQ(end.code, 0) << end;
}

TEST_F(ForkServer, IsRefusedWhereRealAndEffectiveUserDiffer) {
  if (::geteuid() != 0) GTEST_SKIP() << "there are no rights to be given up";
  const auto end = support::run_in_helper([] {
    HELPER_CHECK(::seteuid(65534) == 0);
    HELPER_CHECK(limit(same, by_server()).try_call(1).verdict() == verdict::start_failed);
    HELPER_CHECK(limit(same, {.context = start_method::spawn}).try_call(1).verdict() == verdict::start_failed);
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
}

TEST_F(ForkServer, ServesAProgramThatHasClosedItsStandardDescriptors) {
  const auto end = support::run_in_helper([] {
    ::close(0);
    ::close(1);
    ::close(2);
    for (int i = 0; i < 3; ++i) {
      if (limit([] { return ::fcntl(1, F_GETFD) < 0 && ::fcntl(2, F_GETFD) < 0; }, by_server())() != true) return 1;
    }
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
}

// --- preloading -------------------------------------------------------------------------------------------------

std::vector<int> prepared;
int times_prepared() { return static_cast<int>(prepared.size()); }

TEST_F(ForkServer, PreloadedFunctionsRunOnceAndAreThereInEveryCall) {
  const auto end = support::run_in_helper([] {
    pynisher::forkserver::preload([] { prepared.push_back(1); });
    HELPER_CHECK(limit(times_prepared, by_server())() == 1);
    HELPER_CHECK(limit(times_prepared, by_server())() == 1);
    // Where it runs already: at once.
    pynisher::forkserver::preload([] { prepared.push_back(2); });
    HELPER_CHECK(limit(times_prepared, by_server())() == 2);
    HELPER_CHECK(prepared.empty());
    // In the next one too.
    ::kill(own_server(), SIGKILL);
    const pid_t dead = own_server();
    support::await([&] { return support::process_state(dead) == 'Z'; });
    HELPER_CHECK(limit(times_prepared, by_server())() == 2);
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
}

TEST_F(ForkServer, APreloadedFunctionThatFailsSaysSo) {
  const auto end = support::run_in_helper([] {
    pynisher::forkserver::preload([] { throw std::runtime_error("no tables"); });
    try {
      pynisher::forkserver::start();
    } catch (const pynisher::StartException& e) {
      HELPER_CHECK(std::string(e.what()).find("no tables") != std::string::npos);
      const auto outcome = limit(same, by_server()).try_call(1);
      HELPER_CHECK(outcome.verdict() == verdict::start_failed);
      return 0;
    }
    return 1;
  });
  EXPECT_EQ(end.code, 0) << end;
}

TEST_F(ForkServer, APreloadedFunctionThatKillsTheServerIsReported) {
  const auto end = support::run_in_helper([] {
    pynisher::forkserver::preload([] { ::raise(SIGKILL); });
    try {
      pynisher::forkserver::start();
    } catch (const pynisher::StartException&) {
      HELPER_CHECK(own_server() == 0);
      return 0;
    }
    return 1;
  });
  EXPECT_EQ(end.code, 0) << end;
}

TEST_F(ForkServer, WhatAPreloadedFunctionPrintsIsSeenOnce) {
  const auto end = support::run_in_helper([] {
    pynisher::forkserver::preload([] { std::printf("loading\n"); });
    HELPER_CHECK(limit(same, by_server())(1) == 1);
    HELPER_CHECK(limit(same, by_server())(2) == 2);
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
  EXPECT_EQ(end.out, "loading\n");
}

}  // namespace
