// SIGKILL to the program that makes the call: there is no handler for it, and still nothing may be left.

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/handshake.hpp"
#include "support/helper_process.hpp"
#include "support/scenarios.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using clock_type = std::chrono::steady_clock;
using pynisher::limit;
using support::descendant;

/// How long survivors live after the program's death is recorded; how long they may is a promise of 100 ms on a machine
/// that is not busy with other tests. More than this is never a matter of scheduling.
constexpr auto never = 10s;

/// How long it took until none of the list was alive; `never` if some still were.
std::chrono::milliseconds time_until_gone(const support::process_log& log) {
  const auto from = clock_type::now();
  for (;;) {
    // Read again each time: one may log itself when it is about to die.
    if (log.survivors().empty()) break;
    if (clock_type::now() - from > never) return std::chrono::duration_cast<std::chrono::milliseconds>(never);
    std::this_thread::sleep_for(500us);
  }
  return std::chrono::duration_cast<std::chrono::milliseconds>(clock_type::now() - from);
}

/// Daemons from the very first moment of the function, quickly: each is in the list before its maker goes on.
void quick_daemons(const std::string& log) {
  for (int i = 0; i < 3; ++i) {
    if (::fork() != 0) continue;
    ::setsid();
    if (::fork() != 0) ::_exit(0);
    support::log_process(log.c_str());
    support::sleep_two_minutes();
  }
  support::sleep_forever();
}

class KilledParent : public support::per_start_method {
 protected:
  /// Starts a program, kills it when `when` says so, and returns how long its processes lived on.
  template <class Program, class When>
  std::chrono::milliseconds kill_in_the_middle(support::process_log& log, Program program, When when) {
    support::helper_process caller([&] {
      program(log.path());
      return 0;
    });
    when();
    caller.send(SIGKILL);
    const auto end = caller.wait();
    EXPECT_EQ(end.signal, SIGKILL) << end;
    return time_until_gone(log);
  }

  /// From the beginning of a call until its function has started something.
  clock_type::duration time_until_first_birth() {
    support::process_log log;
    const support::shared_flag about_to_call;
    clock_type::duration taken{};
    kill_in_the_middle(
        log, [&](const std::string& path) { call_after(about_to_call, path); },
        [&] {
          support::await_flag(*about_to_call);
          const auto from = clock_type::now();
          support::await_logged(log.path(), 1);
          taken = clock_type::now() - from;
        });
    return taken;
  }
  void call_after(const support::shared_flag& about_to_call, const std::string& path) {
    const auto guarded = limit(quick_daemons, unlimited());
    about_to_call->store(true);
    guarded(path);
  }
};
FOR_EACH_START_METHOD(KilledParent);

void tree_and_sleep(const std::string& log) {
  support::start_descendant(descendant::plain, log);
  support::start_descendant(descendant::double_forked_in_own_session, log);
  support::start_descendant(descendant::ignores_sigterm, log);
  support::start_descendant(descendant::stopped, log);
  support::log_process(log.c_str());
  support::sleep_forever();
}

TEST_P(KilledParent, LeavesNothingOfAWholeTree) {
  for (int i = 0; i < 5; ++i) {
    support::process_log log;
    const auto lived = kill_in_the_middle(
        log, [&](const std::string& path) { limit(tree_and_sleep, unlimited())(path); },
        [&] { support::await_logged(log.path(), 5); });
    EXPECT_LT(lived, never);
    EXPECT_EQ(log.pids().size(), 5u);
  }
}

TEST_P(KilledParent, LeavesNothingOfCallsInSeveralThreads) {
  support::process_log log;
  const auto lived = kill_in_the_middle(
      log,
      [&](const std::string& path) {
        std::vector<std::thread> threads;
        for (int i = 0; i < 4; ++i) threads.emplace_back([&] { limit(tree_and_sleep, unlimited())(path); });
        for (auto& thread : threads) thread.join();
      },
      [&] { support::await_logged(log.path(), 20); });
  EXPECT_LT(lived, never);
}

// The watch is a child of the thread that started it, which may be gone long before the program.
TEST_P(KilledParent, LeavesNothingWhenTheThreadOfTheFirstCallIsGone) {
  ONLY_BY_FORK("its callable has captures");
  support::process_log log;
  const support::shared_flag second_runs;
  const auto lived = kill_in_the_middle(
      log,
      [&](const std::string& path) {
        const support::shared_flag first_runs, release;
        std::thread first([&] {
          limit(
              [running = first_runs.get(), release = release.get()] {
                running->store(true);
                support::await_flag(*release);
                ::usleep(1000);
              },
              unlimited())();
        });
        support::await_flag(*first_runs);
        ::usleep(2000);  // long enough to be worth a watch
        std::thread second([&] { limit(tree_and_sleep, unlimited())(path); });
        support::await_logged(path, 5);
        release->store(true);
        first.join();
        second_runs->store(true);
        second.join();
      },
      [&] { support::await_flag(*second_runs); });
  EXPECT_LT(lived, never);
  EXPECT_EQ(log.pids().size(), 5u);
}

// The child has taken back that it dies with its parent: only the watch is left.
TEST_P(KilledParent, LeavesNothingOfAChildThatWantsToOutliveIt) {
  support::process_log log;
  const auto lived = kill_in_the_middle(
      log,
      [&](const std::string& path) {
        limit(
            [](const std::string& list) {
              ::prctl(PR_SET_PDEATHSIG, 0);
              ::setsid();
              support::block_all_signals();
              tree_and_sleep(list);
            },
            unlimited())(path);
      },
      [&] { support::await_logged(log.path(), 5); });
  EXPECT_LT(lived, never);
}

TEST_P(KilledParent, LeavesNothingOfNestedCalls) {
  support::process_log log;
  const auto lived = kill_in_the_middle(
      log,
      [&](const std::string& path) {
        limit(
            [](const std::string& list) {
              support::log_process(list.c_str());
              limit(tree_and_sleep)(list);
            },
            unlimited())(path);
      },
      [&] { support::await_logged(log.path(), 6); });
  EXPECT_LT(lived, never);
}

// Whatever is not to be ended with the call is not ended with the program either.
TEST_P(KilledParent, LeavesAloneWhatTheCallMayLeaveBehind) {
  support::process_log log;
  auto limits = unlimited();
  limits.terminate_child_processes = false;
  support::helper_process caller([&] {
    limit(support::double_fork_and_sleep, limits)(log.path());
    return 0;
  });
  support::await_logged(log.path(), 1);
  // Long enough for a watch that should not be there.
  ::usleep(2000);
  caller.send(SIGKILL);
  caller.wait();
  ::usleep(50'000);
  EXPECT_EQ(log.survivors().size(), 1u);
}

// Also within the first moments of a call, in which the library has not set up everything yet.
TEST_P(KilledParent, AtAnyInstantLeavesNothing) {
  std::mt19937 random(20240611);
  std::vector<std::chrono::milliseconds> lived;
  std::size_t born = 0;
  int left = 0;
  const auto first_birth = std::chrono::duration_cast<std::chrono::microseconds>(time_until_first_birth());
  for (int i = 0; i < 200; ++i) {
    support::process_log log;
    const support::shared_flag about_to_call;
    // Half of them early: that is where it is difficult.
    const auto latest = i % 2 == 0 ? std::max(30'000us, 2 * first_birth) : 1500us;
    const auto instant = std::chrono::microseconds(random() % static_cast<std::size_t>(latest.count()));
    lived.push_back(kill_in_the_middle(
        log,
        [&](const std::string& path) { call_after(about_to_call, path); },
        [&] {
          while (!about_to_call->load()) std::this_thread::yield();
          const auto until = clock_type::now() + instant;
          while (clock_type::now() < until) {
          }
        }));
    born += log.pids().size();
    if (lived.back() >= never) {
      ++left;
      ADD_FAILURE() << log.survivors().size() << " left of a program that was killed " << instant.count()
                    << " us into its call";
    }
    if (left == 3) break;
  }
  std::sort(lived.begin(), lived.end());
  std::printf("%zu descendants in %zu programs; gone after (ms): median %lld, 95 %% %lld, worst %lld\n", born,
              lived.size(), static_cast<long long>(lived[lived.size() / 2].count()),
              static_cast<long long>(lived[lived.size() * 95 / 100].count()),
              static_cast<long long>(lived.back().count()));
  RecordProperty("worst_ms", static_cast<int>(lived.back().count()));
  EXPECT_GT(born, 20u) << "too few were born for this to mean anything";
}

// Proof that the tests above can fail: a watch that is stopped does not watch, and the daemon lives on.
TEST_P(KilledParent, WouldLeaveADaemonWithoutTheWatch) {
  support::process_log log;
  const support::shared_flag watch_stopped;
  const support::shared_counter watch;
  support::helper_process caller([&] {
    std::thread stopper([&] {
      support::await_logged(log.path(), 1);
      for (bool found = false; !found;) {
        std::FILE* list = ::popen(("cat /proc/" + std::to_string(::getpid()) + "/task/*/children").c_str(), "r");
        for (int pid = 0; std::fscanf(list, "%d", &pid) == 1;) {
          char name[32] = {};
          if (std::FILE* comm = std::fopen(("/proc/" + std::to_string(pid) + "/comm").c_str(), "r")) {
            if (std::fgets(name, sizeof name, comm) != nullptr && std::string(name) == "pynisher-watch\n") {
              ::kill(pid, SIGSTOP);
              watch->store(pid);
              found = true;
            }
            std::fclose(comm);
          }
        }
        ::pclose(list);
      }
      watch_stopped->store(true);
    });
    stopper.detach();
    limit(support::double_fork_and_sleep, unlimited())(log.path());
    return 0;
  });
  support::await_flag(*watch_stopped);
  caller.send(SIGKILL);
  caller.wait();
  ::usleep(200'000);
  EXPECT_EQ(log.survivors().size(), 1u);
  // It does its duty yet, and goes.
  ::kill(static_cast<pid_t>(watch->load()), SIGCONT);
  support::await([&] { return log.survivors().empty() && support::is_gone(static_cast<pid_t>(watch->load())); });
}

}  // namespace
