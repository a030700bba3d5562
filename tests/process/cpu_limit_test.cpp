// The CPU limit holds, and counts nothing but CPU time.

#include <chrono>
#include <thread>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "process/limit_fixtures.hpp"
#include "support/functions.hpp"
#include "support/outcomes.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::limit;
using pynisher::verdict;
using support::EndedAs;
using support::spin_forever;

class CpuLimit : public support::cpu_limit_tests {};
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

TEST_P(CpuLimit, CountsAllThreads) {
  // No thread alone can use up what the four use together before the first of them has to stop.
  static constexpr auto share = 50ms;
  const auto call = limit(
      [] {
        std::vector<std::thread> threads;
        for (int i = 0; i < 4; ++i) {
          threads.emplace_back([] {
            while (support::cpu_time_of_thread() < share) {
            }
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
        std::this_thread::sleep_for(1200ms);
        return 1;
      },
      with({.cpu_time = 1s}));
  const auto ended = call.try_call();
  ASSERT_THAT(ended, EndedAs(verdict::returned));
  EXPECT_GE(ended.usage().wall_time, 1200ms);
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
