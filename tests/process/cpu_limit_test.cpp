// The CPU limit holds whatever the function does about it, and counts nothing but CPU time.

#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <stdexcept>
#include <thread>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/outcomes.hpp"
#include "support/scenarios.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::CpuTimeoutException;
using pynisher::limit;
using pynisher::verdict;
using support::EndedAs;
using support::FailedWith;
using support::spin_forever;

class CpuLimit : public support::per_start_method {
 protected:
  /// The call ends by its CPU limit and by nothing else.
  template <class F>
  static void expect_ended(F fn, std::chrono::milliseconds cpu = 60ms) {
    const auto ended = limit(fn, with({.cpu_time = cpu})).try_call();
    EXPECT_THAT(ended, EndedAs(verdict::cpu_timeout));
    EXPECT_THAT(ended, FailedWith<CpuTimeoutException>([&](const auto& e) {
                  EXPECT_EQ(e.limit(), cpu);
                  EXPECT_GE(e.measured(), cpu);
                  EXPECT_GE(e.usage().cpu_time(), cpu);
                }));
  }
};
FOR_EACH_START_METHOD(CpuLimit);

TEST_P(CpuLimit, EndsACallThatSpins) { expect_ended(spin_forever); }

TEST_P(CpuLimit, HoldsFromOneMillisecondOn) {
  for (const auto cpu : {1ms, 2ms, 17ms}) expect_ended(spin_forever, cpu);
}

TEST_P(CpuLimit, HoldsForAWholeSecondAndMore) { expect_ended(spin_forever, 1100ms); }

TEST_P(CpuLimit, DoesNotEndACallThatStaysBelowIt) {
  const auto call = limit(
      [] {
        support::spin_for(30ms);
        return 1;
      },
      with({.cpu_time = 60s}));
  EXPECT_EQ(call(), 1);
}

TEST_P(CpuLimit, HoldsWhenSigxcpuIsIgnored) {
  expect_ended([] {
    support::ignore(SIGXCPU);
    spin_forever();
  });
}

TEST_P(CpuLimit, HoldsWhenSigxcpuIsHandled) {
  expect_ended([] {
    support::handle_by_nothing(SIGXCPU);
    spin_forever();
  });
}

TEST_P(CpuLimit, HoldsWhenSigxcpuThrows) {
  expect_ended([] {
    ::signal(SIGXCPU, [](int) { throw std::runtime_error("not today"); });
    for (;;) {
      try {
        spin_forever();
      } catch (const std::exception&) {
      }
    }
  });
}

TEST_P(CpuLimit, HoldsWhenEverySignalIsBlocked) {
  expect_ended([] {
    support::block_all_signals();
    spin_forever();
  });
}

TEST_P(CpuLimit, HoldsWhenEverySignalIsIgnored) {
  expect_ended([] {
    for (int signal = 1; signal < NSIG; ++signal) support::ignore(signal);
    spin_forever();
  });
}

void free_every_limit() {
  for (const int resource : {RLIMIT_CPU, RLIMIT_DATA, RLIMIT_AS}) {
    const rlimit none{RLIM_INFINITY, RLIM_INFINITY};
    if (::setrlimit(static_cast<__rlimit_resource>(resource), &none) != 0) {
      rlimit now{};
      ::getrlimit(static_cast<__rlimit_resource>(resource), &now);
      now.rlim_cur = now.rlim_max;
      ::setrlimit(static_cast<__rlimit_resource>(resource), &now);
    }
  }
}

TEST_P(CpuLimit, HoldsWhenTheFunctionAsksForNoLimit) {
  expect_ended([] {
    free_every_limit();
    spin_forever();
  });
}

TEST_P(CpuLimit, CannotBeRaisedByTheFunctionNotEvenAsRoot) {
  const auto raised = limit(
      [] {
        const rlimit none{RLIM_INFINITY, RLIM_INFINITY};
        return ::setrlimit(RLIMIT_CPU, &none) == 0;
      },
      with({.cpu_time = 5s}));
  EXPECT_FALSE(raised());
}

TEST_P(CpuLimit, HoldsWhenEveryTimerIsDeleted) {
  expect_ended([] {
    // By number: a function that wants to be free does not ask who made them.
    for (int timer = 0; timer < 64; ++timer) ::syscall(SYS_timer_delete, timer);
    const itimerval none{};
    for (const auto which : {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF}) ::setitimer(which, &none, nullptr);
    spin_forever();
  });
}

TEST_P(CpuLimit, HoldsWhenAllOfThisIsTriedAtOnce) {
  expect_ended([] {
    free_every_limit();
    for (int timer = 0; timer < 64; ++timer) ::syscall(SYS_timer_delete, timer);
    for (int signal = 1; signal < NSIG; ++signal) support::ignore(signal);
    support::block_all_signals();
    spin_forever();
  });
}

TEST_P(CpuLimit, CountsSystemTime) {
  expect_ended([] {
    for (;;) ::syscall(SYS_getppid);
  });
}

TEST_P(CpuLimit, CountsAllThreads) {
  // No thread alone can use up what the four use together before the first of them has to stop.
  static constexpr auto share = 50ms;
  const auto call = limit(
      [] {
        std::vector<std::thread> threads;
        for (int i = 0; i < 4; ++i) {
          threads.emplace_back([] {
            timespec used{};
            do ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &used);
            while (std::chrono::seconds(used.tv_sec) + std::chrono::nanoseconds(used.tv_nsec) < share);
          });
        }
        for (auto& thread : threads) thread.join();
      },
      with({.cpu_time = 3 * share}));
  EXPECT_THAT(call.try_call(), EndedAs(verdict::cpu_timeout));
}

TEST_P(CpuLimit, CountsSpinningThreadsWhileTheFirstSleeps) {
  expect_ended([] {
    std::thread(spin_forever).detach();
    support::sleep_forever();
  });
}

TEST_P(CpuLimit, DoesNotCountSleeping) {
  const auto call = limit(
      [] {
        std::this_thread::sleep_for(300ms);
        return 1;
      },
      with({.cpu_time = 100ms}));
  const auto ended = call.try_call();
  ASSERT_THAT(ended, EndedAs(verdict::returned));
  EXPECT_GE(ended.usage().wall_time, 300ms);
}

TEST_P(CpuLimit, ComesBeforeALaterWallLimitAndAfterAnEarlierOne) {
  EXPECT_THAT(limit(spin_forever, with({.cpu_time = 40ms, .wall_time = 100s})).try_call(),
              EndedAs(verdict::cpu_timeout));
  EXPECT_THAT(limit(spin_forever, with({.cpu_time = 100s, .wall_time = 40ms})).try_call(),
              EndedAs(verdict::wall_timeout));
}

struct spins_while_it_is_packed {
  template <class Archive>
  void save(Archive&) const {
    spin_forever();
  }
  template <class Archive>
  void load(Archive&) {}
};

TEST_P(CpuLimit, HoldsWhileTheResultIsBeingPacked) {
  expect_ended([] { return spins_while_it_is_packed(); });
}

}  // namespace
