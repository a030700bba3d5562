// SIGINT and SIGTERM while a call runs.

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <thread>
#include <tuple>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/handshake.hpp"
#include "support/helper_process.hpp"
#include "support/outcomes.hpp"
#include "support/scenarios.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::KeyboardInterrupt;
using pynisher::limit;
using pynisher::verdict;
using support::descendant;

volatile sig_atomic_t handled = 0;
void count_it(int /*signal*/) { handled = handled + 1; }
void count_it_with_information(int signal, siginfo_t* information, void* context) {
  if (information != nullptr && context != nullptr && information->si_signo == signal) handled = handled + 1;
}

bool is_disposition(int signal, void (*expected)(int)) {
  struct sigaction now{};
  ::sigaction(signal, nullptr, &now);
  return (now.sa_flags & SA_SIGINFO) == 0 && now.sa_handler == expected;
}

class Interrupts : public support::per_start_method {
 protected:
  /// A program that makes one call, and gets `signal` when its tree stands.
  template <class Program>
  support::helper_result interrupt(int signal, std::size_t tree, Program program) {
    support::helper_process caller([&, this] {
      ::alarm(40);
      return program(log_.path());
    });
    support::await([&] { return log_.pids().size() >= tree || support::is_gone(caller.pid()); });
    caller.send(signal);
    auto end = caller.wait();
    EXPECT_EQ(log_.pids().size(), tree) << end;
    return end;
  }
  /// The program's death is what ends the rest: a moment later.
  void expect_nothing_left() {
    support::await([&] { return log_.survivors().empty(); });
  }
  support::process_log log_;
};
FOR_EACH_START_METHOD(Interrupts);

/// In the child: a daemon, then no end.
void daemon_and_sleep(const std::string& log) {
  support::log_process(log.c_str());
  support::double_fork_and_sleep(log);
}

// --- forceful
// ---------------------------------------------------------------------------------------------------------

TEST_P(Interrupts, EndAProgramThatDoesNotHandleThemAndNothingIsLeft) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    log_.clear();
    const auto end = interrupt(signal, 2, [&](const std::string& log) {
      limit(daemon_and_sleep, unlimited())(log);
      return 1;
    });
    EXPECT_EQ(end.signal, signal) << end;
    expect_nothing_left();
  }
}

TEST_P(Interrupts, EndAProgramThatCallsInAnotherThreadAndNothingIsLeft) {
  const auto end = interrupt(SIGINT, 2, [&](const std::string& log) {
    std::thread([&] { limit(daemon_and_sleep, unlimited())(log); }).join();
    return 1;
  });
  EXPECT_EQ(end.signal, SIGINT) << end;
  expect_nothing_left();
}

TEST_P(Interrupts, GoToTheApplicationsHandlerAndTheCallThrows) {
  const auto end = interrupt(SIGINT, 2, [&](const std::string& log) {
    ::signal(SIGINT, count_it);
    try {
      limit(daemon_and_sleep, unlimited())(log);
    } catch (const KeyboardInterrupt&) {
      HELPER_CHECK(handled == 1);
      HELPER_CHECK(is_disposition(SIGINT, count_it));
      for (const pid_t pid : support::logged_processes(log)) HELPER_CHECK(support::is_gone(pid));
      return 42;
    }
    return 1;
  });
  EXPECT_EQ(end.code, 42) << end;
}

TEST_P(Interrupts, GiveAHandlerItsInformation) {
  const auto end = interrupt(SIGINT, 2, [&](const std::string& log) {
    struct sigaction action{};
    action.sa_sigaction = count_it_with_information;
    action.sa_flags = SA_SIGINFO;
    ::sigaction(SIGINT, &action, nullptr);
    const auto result = limit(daemon_and_sleep, unlimited()).try_call(log);
    HELPER_CHECK(result.verdict() == verdict::cancelled);
    HELPER_CHECK(handled == 1);
    struct sigaction now{};
    ::sigaction(SIGINT, nullptr, &now);
    HELPER_CHECK(now.sa_sigaction == count_it_with_information && (now.sa_flags & SA_SIGINFO) != 0);
    return 42;
  });
  EXPECT_EQ(end.code, 42) << end;
}

TEST_P(Interrupts, AreThrownWithNoRaiseToo) {
  const auto end = interrupt(SIGINT, 2, [&](const std::string& log) {
    ::signal(SIGINT, count_it);
    try {
      (void)limit(daemon_and_sleep, unlimited(), pynisher::no_raise)(log);
    } catch (const KeyboardInterrupt&) {
      return 42;
    }
    return 1;
  });
  EXPECT_EQ(end.code, 42) << end;
}

TEST_P(Interrupts, EndAllCallsOfAllThreads) {
  const auto end = interrupt(SIGINT, 8, [&](const std::string& log) {
    ::signal(SIGINT, count_it);
    std::atomic<int> interrupted{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&] {
        try {
          limit(daemon_and_sleep, unlimited())(log);
        } catch (const KeyboardInterrupt&) {
          interrupted.fetch_add(1);
        }
      });
    }
    for (auto& thread : threads) thread.join();
    HELPER_CHECK(is_disposition(SIGINT, count_it));
    for (const pid_t pid : support::logged_processes(log)) HELPER_CHECK(support::is_gone(pid));
    return interrupted.load();
  });
  EXPECT_EQ(end.code, 4) << end;
}

TEST_P(Interrupts, ThatAreIgnoredStayIgnored) {
  ONLY_BY_FORK("its callable has captures");
  const support::shared_flag release;
  support::process_log log;
  support::helper_process caller([&] {
    ::alarm(40);
    ::signal(SIGINT, SIG_IGN);
    const int value = limit(
        [release = release.get(), path = log.path()] {
          support::log_process(path.c_str());
          support::await_flag(*release);
          return 42;
        },
        unlimited())();
    HELPER_CHECK(is_disposition(SIGINT, SIG_IGN));
    return value;
  });
  support::await_logged(log.path(), 1);
  caller.send(SIGINT);
  // To the child as well, as a terminal would.
  ::kill(log.pids().front(), SIGINT);
  release->store(true);
  const auto end = caller.wait();
  EXPECT_EQ(end.code, 42) << end;
}

// --- not forceful
// -------------------------------------------------------------------------------------------------------

volatile sig_atomic_t child_heard = 0;

/// In the child: stays until it has heard of the interrupt, then takes its time and returns.
int wait_for_the_interrupt(const std::string& log) {
  child_heard = 0;
  ::signal(SIGINT, [](int) { child_heard = 1; });
  support::log_process(log.c_str());
  support::await([] { return child_heard == 1; });
  support::log_process(log.c_str());
  return 42;
}

TEST_P(Interrupts, ThatAreNotForcefulGoToTheChildAndTheCallReturnsItsValue) {
  const auto end = interrupt(SIGINT, 1, [&](const std::string& log) {
    ::signal(SIGINT, count_it);
    auto limits = unlimited();
    limits.forceful_keyboard_interrupt = false;
    const int value = limit(wait_for_the_interrupt, limits)(log);
    HELPER_CHECK(handled == 1);
    HELPER_CHECK(is_disposition(SIGINT, count_it));
    HELPER_CHECK(support::logged_processes(log).size() == 2);
    ::truncate(log.c_str(), sizeof(pid_t));
    return value;
  });
  EXPECT_EQ(end.code, 42) << end;
}

// The default action awaits the signal still; it comes when the child has had its say.
TEST_P(Interrupts, ThatAreNotForcefulEndAProgramThatDoesNotHandleThemAfterTheCall) {
  support::process_log log;
  support::helper_process caller([&] {
    ::alarm(40);
    auto limits = unlimited();
    limits.forceful_keyboard_interrupt = false;
    limit(wait_for_the_interrupt, limits)(log.path());
    return 1;
  });
  support::await_logged(log.path(), 1);
  caller.send(SIGINT);
  const auto end = caller.wait();
  EXPECT_EQ(end.signal, SIGINT) << end;
  EXPECT_EQ(log.pids().size(), 2u) << "the child was not waited for";
  EXPECT_THAT(log.survivors(), ::testing::IsEmpty());
}

TEST_P(Interrupts, ThatAreNotForcefulAndEndTheChildAreAKeyboardInterrupt) {
  const auto end = interrupt(SIGINT, 1, [&](const std::string& log) {
    ::signal(SIGINT, count_it);
    auto limits = unlimited();
    limits.forceful_keyboard_interrupt = false;
    try {
      limit(
          [](const std::string& path) {
            ::signal(SIGINT, SIG_DFL);
            support::log_process(path.c_str());
            support::sleep_forever();
          },
          limits)(log);
    } catch (const KeyboardInterrupt&) {
      return handled == 1 ? 42 : 2;
    }
    return 1;
  });
  EXPECT_EQ(end.code, 42) << end;
}

// --- what the application does meanwhile -----------------------------------------------------------------------------

TEST_P(Interrupts, HandlersSetDuringACallAreKept) {
  ONLY_BY_FORK("its callable has captures");
  const auto end = support::run_in_helper([&] {
    ::signal(SIGINT, count_it);
    const support::shared_flag running, release;
    std::thread setter([&] {
      support::await_flag(*running);
      ::signal(SIGINT, SIG_IGN);
      release->store(true);
    });
    limit(
        [running = running.get(), release = release.get()] {
          running->store(true);
          support::await_flag(*release);
        },
        unlimited())();
    setter.join();
    return is_disposition(SIGINT, SIG_IGN) ? 0 : 1;
  });
  EXPECT_EQ(end.code, 0) << end;
}

TEST_P(Interrupts, BetweenCallsBelongToTheApplicationAlone) {
  const auto end = support::run_in_helper([&] {
    ::signal(SIGINT, count_it);
    for (int i = 0; i < 20; ++i) {
      HELPER_CHECK(limit([](int x) { return x; }, unlimited())(i) == i);
      ::raise(SIGINT);
      HELPER_CHECK(handled == i + 1);
    }
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
}

// From anywhere in a call: before the child is there, while it ends, while its reply is read.
TEST_P(Interrupts, AtAnyMomentNeitherHangNorGetLost) {
  ONLY_BY_FORK("its callable has captures");
  const support::shared_counter calls, interrupts;
  support::helper_process caller([&, calls = calls.get(), interrupts = interrupts.get()] {
    ::alarm(50);
    ::signal(SIGINT, count_it);
    while (interrupts->load() >= 0) {
      const auto result = limit([] { return 1; }, unlimited()).try_call();
      HELPER_CHECK(result.verdict() == verdict::returned || result.verdict() == verdict::cancelled);
      calls->fetch_add(1);
    }
    HELPER_CHECK(handled > 0);
    HELPER_CHECK(is_disposition(SIGINT, count_it));
    HELPER_CHECK(::waitpid(-1, nullptr, WNOHANG | __WALL) == -1 && errno == ECHILD);
    return 0;
  });
  support::await([&] { return calls->load() > 0 || support::is_gone(caller.pid()); });
  for (int i = 0; i < 300; ++i) {
    caller.send(SIGINT);
    ::usleep(static_cast<useconds_t>((i * 131) % 997));
  }
  interrupts->store(-1);
  const auto end = caller.wait();
  EXPECT_EQ(end.code, 0) << end;
}

}  // namespace
