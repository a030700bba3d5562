// The CPU limit holds whatever the function does about it.

#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <stdexcept>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "process/limit_fixtures.hpp"
#include "support/outcomes.hpp"
#include "support/scenarios.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::limit;
using support::spin_forever;

class CpuLimitOnLinux : public support::cpu_limit_tests {};
FOR_EACH_START_METHOD(CpuLimitOnLinux);

TEST_P(CpuLimitOnLinux, HoldsWhenSigxcpuIsIgnored) {
  expect_ended([] {
    support::ignore(SIGXCPU);
    spin_forever();
  });
}

TEST_P(CpuLimitOnLinux, HoldsWhenSigxcpuIsHandled) {
  expect_ended([] {
    support::handle_by_nothing(SIGXCPU);
    spin_forever();
  });
}

TEST_P(CpuLimitOnLinux, HoldsWhenSigxcpuThrows) {
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

TEST_P(CpuLimitOnLinux, HoldsWhenEverySignalIsBlocked) {
  expect_ended([] {
    support::block_all_signals();
    spin_forever();
  });
}

TEST_P(CpuLimitOnLinux, HoldsWhenEverySignalIsIgnored) {
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

TEST_P(CpuLimitOnLinux, HoldsWhenTheFunctionAsksForNoLimit) {
  expect_ended([] {
    free_every_limit();
    spin_forever();
  });
}

TEST_P(CpuLimitOnLinux, CannotBeRaisedByTheFunctionNotEvenAsRoot) {
  const auto raised = limit(
      [] {
        const rlimit none{RLIM_INFINITY, RLIM_INFINITY};
        return ::setrlimit(RLIMIT_CPU, &none) == 0;
      },
      with({.cpu_time = 5s}));
  EXPECT_FALSE(raised());
}

TEST_P(CpuLimitOnLinux, HoldsWhenEveryTimerIsDeleted) {
  expect_ended([] {
    // By number: a function that wants to be free does not ask who made them.
    for (int timer = 0; timer < 64; ++timer) ::syscall(SYS_timer_delete, timer);
    const itimerval none{};
    for (const auto which : {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF}) ::setitimer(which, &none, nullptr);
    spin_forever();
  });
}

TEST_P(CpuLimitOnLinux, HoldsWhenAllOfThisIsTriedAtOnce) {
  expect_ended([] {
    free_every_limit();
    for (int timer = 0; timer < 64; ++timer) ::syscall(SYS_timer_delete, timer);
    for (int signal = 1; signal < NSIG; ++signal) support::ignore(signal);
    support::block_all_signals();
    spin_forever();
  });
}

TEST_P(CpuLimitOnLinux, CountsSystemTime) {
  expect_ended([] {
    for (;;) ::syscall(SYS_getppid);
  });
}

}  // namespace
