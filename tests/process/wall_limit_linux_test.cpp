// The wall limit holds whatever the function does to its signals, timers and threads.

#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <thread>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "process/interrupted_result.hpp"
#include "process/limit_fixtures.hpp"
#include "support/outcomes.hpp"
#include "support/scenarios.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::limit;
using pynisher::SignalException;
using pynisher::verdict;
using support::EndedAs;
using support::FailedWith;
using support::interrupted_result;
using support::make_interrupted;
using support::sleep_forever;

class WallLimitOnLinux : public support::wall_limit_tests {};
FOR_EACH_START_METHOD(WallLimitOnLinux);

TEST_P(WallLimitOnLinux, HoldsWhenSigtermIsIgnored) {
  expect_ended([] {
    support::ignore_sigterm();
    sleep_forever();
  });
}

TEST_P(WallLimitOnLinux, HoldsWhenEverySignalIsIgnoredAndBlocked) {
  expect_ended([] {
    for (int signal = 1; signal < NSIG; ++signal) support::ignore(signal);
    support::block_all_signals();
    sleep_forever();
  });
}

TEST_P(WallLimitOnLinux, HoldsWhenEveryTimerIsDeleted) {
  expect_ended([] {
    for (int timer = 0; timer < 64; ++timer) ::syscall(SYS_timer_delete, timer);
    sleep_forever();
  });
}

TEST_P(WallLimitOnLinux, HoldsWhenTheChildIsFrozen) {
  expect_ended([] {
    support::signal_self(SIGSTOP);
    sleep_forever();
  });
}

TEST_P(WallLimitOnLinux, HoldsWhenTheFirstThreadHasLeft) {
  expect_ended([] {
    std::thread(sleep_forever).detach();
    // Ends the thread and not the process.
    ::syscall(SYS_exit, 0);
  });
}

// --- sending ---------------------------------------------------------------------------------------------------------

/// Environment variables reach the child of every start method.
constexpr const char* frozen_log = "PYNISHER_TEST_FROZEN_LOG";
void freeze() {
  if (const char* log = std::getenv(frozen_log)) support::log_process(log);
  support::signal_self(SIGSTOP);
}
void die() { support::signal_self(SIGKILL); }

class SendingOnLinux : public support::per_start_method {};
FOR_EACH_START_METHOD(SendingOnLinux);

TEST_P(SendingOnLinux, FrozenHalfWayEndsAtTheWallLimit) {
  support::process_log log;
  ::setenv(frozen_log, log.path().c_str(), 1);
  const auto ended = support::with_time_enough(with({.wall_time = 500ms}), log, 1, [](const auto& enough) {
    return limit(make_interrupted<freeze>, enough).try_call();
  });
  ::unsetenv(frozen_log);
  EXPECT_THAT(ended, EndedAs(verdict::wall_timeout));
  EXPECT_THAT(log.pids(), ::testing::SizeIs(1));
}

TEST_P(SendingOnLinux, KilledHalfWayEndsTheCall) {
  EXPECT_THAT(limit(make_interrupted<die>, unlimited()).try_call(),
              FailedWith<SignalException>([](const auto& e) { EXPECT_EQ(e.signal(), SIGKILL); }));
}

TEST_P(SendingOnLinux, AShortResultFrozenBeforeItIsSentEndsAtTheWallLimit) {
  const auto ended =
      limit([] { return interrupted_result<freeze>{std::vector<std::uint64_t>(3)}; }, with({.wall_time = 60ms}))
          .try_call();
  EXPECT_THAT(ended, EndedAs(verdict::wall_timeout));
}

}  // namespace
