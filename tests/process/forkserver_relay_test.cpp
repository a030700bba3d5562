// The forkserver of systems on which its children are its own, here by choice: what the program cannot do there itself,
// the server does when it is asked, and not before. What a call is otherwise the other suites say, once more, with
// PYNISHER_TEST_RELAYED in their environment.

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <pynisher/pynisher.hpp>

#include "forkserver.hpp"
#include "support/descendants.hpp"
#include "support/forkservers.hpp"
#include "support/functions.hpp"
#include "support/helper_process.hpp"
#include "support/outcomes.hpp"
#include "support/processes.hpp"
#include "support/start_methods.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::limit;
using pynisher::verdict;
using support::EndedAs;
using testing::HasSubstr;

/// Before main, by which the server and its children come here as well.
[[maybe_unused]] const bool chosen = (pynisher::detail::relay_forks_always(), true);

pynisher::options by_server(pynisher::options limits = {}) {
  limits.context = pynisher::start_method::forkserver;
  limits.warnings = false;
  return limits;
}

pid_t waiting_child_of(pid_t server) { return support::waiting_children_of(server).front(); }

std::size_t descriptors_of(pid_t process) {
  const std::filesystem::directory_iterator all("/proc/" + std::to_string(process) + "/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

bool has_children() { return ::waitpid(-1, nullptr, WNOHANG) != -1 || errno != ECHILD; }

int same(int x) { return x; }
int parent() { return ::getppid(); }
void log_and_sleep(const std::string& path) {
  support::log_process(path.c_str());
  support::sleep_two_minutes();
}

class Relay : public ::testing::Test {
 protected:
  void SetUp() override { SKIP_UNLESS_SUPPORTED("forkserver"); }
  void TearDown() override { pynisher::forkserver::stop(); }
};

TEST_F(Relay, ChildrenAreTheServersAndTellEverythingAllTheSame) {
  const pid_t of_call = limit(parent, by_server())();
  EXPECT_EQ(of_call, support::server_of(::getpid()));
  const auto exited = limit([] { ::_exit(7); }, by_server()).try_call();
  EXPECT_THAT(exited, support::FailedWith<pynisher::ExitException>([](auto& e) { EXPECT_EQ(e.exit_code(), 7); }));
  const auto killed = limit([] { ::raise(SIGKILL); }, by_server()).try_call();
  EXPECT_THAT(killed, support::FailedWith<pynisher::SignalException>([](auto& e) {
                EXPECT_EQ(e.signal(), SIGKILL);
                EXPECT_THAT(e.what(), testing::Not(HasSubstr("forkserver")));
              }));
}

// The number of a child that has ended must not become another process's while the program may still use it.
TEST_F(Relay, AChildIsNotReapedBeforeTheProgramHasAskedForItsEnd) {
  support::process_log log;
  const std::string go_on = log.path() + ".go";
  support::helper_process program([&] {
    const auto answer = limit(
        [](const std::string& path, const std::string& sign) {
          support::log_process(path.c_str());
          support::await([&] { return std::filesystem::exists(sign); });
          return 42;
        },
        by_server());
    HELPER_CHECK(answer(log.path(), go_on) == 42);
    return 0;
  });
  support::await_logged(log.path(), 1);
  const pid_t child = log.pids().at(0), server = support::server_of(program.pid());
  ASSERT_GT(server, 0);
  program.send(SIGSTOP);
  support::await_stopped(program.pid());
  std::ofstream(go_on) << "now";
  support::await([&] { return support::process_state(child) == 'Z'; });
  // It makes the next child when it has seen the end of this one.
  waiting_child_of(server);
  EXPECT_EQ(support::process_state(child), 'Z');
  program.send(SIGCONT);
  const auto end = program.wait();
  EXPECT_EQ(end.code, 0) << end;
  support::await([&] { return support::process_state(child) == 0; });
  std::filesystem::remove(go_on);
}

TEST_F(Relay, TheServersDeathEndsItsCallsWithAllTheyHaveStartedAndSaysSo) {
  support::process_log log;
  auto running = limit(
                     [](const std::string& path) {
                       support::start_descendant(support::descendant::double_forked_in_own_session, path);
                       log_and_sleep(path);
                     },
                     by_server())
                     .start(log.path());
  support::await_logged(log.path(), 2);
  const pid_t server = support::server_of(::getpid());
  ::kill(server, SIGKILL);
  EXPECT_THAT(running.get_outcome(), support::FailedWith<pynisher::SignalException>([](auto& e) {
                EXPECT_EQ(e.signal(), SIGKILL);
                EXPECT_THAT(e.what(), HasSubstr("forkserver"));
              }));
  EXPECT_THAT(log.survivors(), testing::IsEmpty());
  EXPECT_EQ(limit(same, by_server())(2), 2);
  EXPECT_NE(support::server_of(::getpid()), server);
  pynisher::forkserver::stop();
  EXPECT_FALSE(has_children());
}

TEST_F(Relay, TheServersDeathBeforeTheFunctionBeginsIsAStartThatFailed) {
  EXPECT_EQ(limit(same, by_server())(1), 1);
  const pid_t server = support::server_of(::getpid());
  auto running = support::start_in_stopped_child(server, limit(same, by_server()), 2);
  ::kill(server, SIGKILL);
  EXPECT_THAT(running.get_outcome(), support::FailedWith<pynisher::StartException>(
                                         [](auto& e) { EXPECT_THAT(e.what(), HasSubstr("forkserver")); }));
}

TEST_F(Relay, AResultThatWasThereBeforeTheServerDiedCounts) {
  support::process_log log;
  support::helper_process program([&] {
    const auto answer = limit(
        [](const std::string& path) {
          support::log_process(path.c_str());
          return 42;
        },
        by_server());
    HELPER_CHECK(answer(log.path()) == 42);
    return 0;
  });
  support::await_logged(log.path(), 1);
  // It may be anywhere in the call, or past it.
  if (const pid_t server = support::server_of(program.pid()); server > 0) {
    program.send(SIGSTOP);
    support::await_stopped(program.pid());
    support::await_gone(log.pids().at(0));
    ::kill(server, SIGKILL);
    program.send(SIGCONT);
  }
  const auto end = program.wait();
  EXPECT_EQ(end.code, 0) << end;
}

TEST_F(Relay, AStoppedServerIsLetGoOnToEndItsChildren) {
  support::process_log log;
  auto running = limit(log_and_sleep, by_server()).start(log.path());
  support::await_logged(log.path(), 1);
  const pid_t server = support::server_of(::getpid());
  ::kill(server, SIGSTOP);
  support::await_stopped(server);
  running.cancel();
  EXPECT_THAT(running.get_outcome(), EndedAs(verdict::cancelled));
  EXPECT_THAT(log.survivors(), testing::IsEmpty());
}

TEST_F(Relay, AStopLetsCallsInFlightGoOnAndTheServerGoesWithTheLast) {
  support::process_log log;
  auto first = limit(log_and_sleep, by_server()).start(log.path());
  auto second = limit(log_and_sleep, by_server()).start(log.path());
  support::await_logged(log.path(), 2);
  const pid_t server = support::server_of(::getpid());
  pynisher::forkserver::stop();
  EXPECT_FALSE(support::is_gone(server));
  EXPECT_EQ(limit(same, by_server())(1), 1);
  first.cancel();
  EXPECT_THAT(first.get_outcome(), EndedAs(verdict::cancelled));
  EXPECT_FALSE(second.ready());
  EXPECT_FALSE(support::is_gone(server));
  second.cancel();
  EXPECT_THAT(second.get_outcome(), EndedAs(verdict::cancelled));
  support::await([&] { return support::process_state(server) == 0; });
  pynisher::forkserver::stop();
  EXPECT_FALSE(has_children());
}

TEST_F(Relay, AWaitingChildThatIsKilledIsReplacedAndReaped) {
  EXPECT_EQ(limit(same, by_server())(1), 1);
  for (int i = 0; i < 20; ++i) {
    const pid_t waiting = waiting_child_of(support::server_of(::getpid()));
    ::kill(waiting, SIGKILL);
    support::await_gone(waiting);
    // At the latest when it would have been its turn: another may have been announced before it. The call in hand may
    // fail with it.
    support::await([&] {
      static_cast<void>(limit(same, by_server()).try_call(i));
      return support::process_state(waiting) == 0;
    });
    EXPECT_EQ(limit(same, by_server())(i), i);
  }
}

TEST_F(Relay, ManyAtOnceLeaveNothingBehind) {
  const auto call = limit(same, by_server());
  EXPECT_EQ(call(1), 1);
  const pid_t server = support::server_of(::getpid());
  waiting_child_of(server);
  const std::size_t own = descriptors_of(::getpid()), servers = descriptors_of(server);
  {
    std::vector<pynisher::call<int>> pending;
    constexpr int count = 200;
    for (int i = 0; i < count; ++i) pending.push_back(call.start(i));
    for (int i = 0; i < count; ++i) EXPECT_EQ(pending[static_cast<std::size_t>(i)].get(), i);
  }
  EXPECT_EQ(call(1), 1);
  // One waits at a time, or one more where it was asked for while it came.
  support::await([&] {
    const auto left = support::children_of(server);
    return !left.empty() && left.size() <= 2 && support::children_named("pynisher-waits", server) == left &&
           descriptors_of(server) <= servers + 2 * (left.size() - 1);
  });
  pynisher::forkserver::stop();
  EXPECT_FALSE(has_children());
  EXPECT_LE(descriptors_of(::getpid()), own);
}

TEST_F(Relay, AKilledProgramTakesTheCallsAndAllThatTheyHaveStartedAlong) {
  for (const bool whole_tree : {true, false}) {
    support::process_log log;
    support::helper_process program([&] {
      const auto call = limit(
          [](const std::string& path) {
            support::start_descendant(support::descendant::in_own_session, path);
            log_and_sleep(path);
          },
          by_server({.terminate_child_processes = whole_tree}));
      call(log.path());
      return 0;
    });
    support::await_logged(log.path(), 2);
    const pid_t server = support::server_of(program.pid());
    ASSERT_GT(server, 0);
    program.send(SIGKILL);
    support::await_gone(server);
    support::await([&] { return log.survivors().size() <= (whole_tree ? 0u : 1u); });
  }
}

TEST_F(Relay, AProgramThatIgnoresItsChildrensEndsHearsOfThem) {
  const auto end = support::run_in_helper([] {
    ::signal(SIGCHLD, SIG_IGN);
    HELPER_CHECK(limit([] { ::_exit(7); }, by_server()).try_call().explain().find("code 7") != std::string::npos);
    HELPER_CHECK(limit([] { return ::signal(SIGCHLD, SIG_DFL) == SIG_IGN; }, by_server())());
    pynisher::forkserver::stop();
    HELPER_CHECK(!has_children());
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
}

}  // namespace
