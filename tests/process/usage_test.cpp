// What a call cost is what it cost, and not what its parent held.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/functions.hpp"
#include "support/outcomes.hpp"
#include "support/processes.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using pynisher::limit;
using pynisher::verdict;
using support::EndedAs;
using support::GiB;
using support::held_memory;
using support::MiB;
using ::testing::AllOf;
using ::testing::Ge;
using ::testing::Le;

class Usage : public support::per_start_method {};
FOR_EACH_START_METHOD(Usage);

void hold(std::size_t bytes) { const held_memory memory(bytes); }
void hold_and_kill_itself(std::size_t bytes) {
  const held_memory memory(bytes);
  support::be_killed();
}
void hold_and_sleep(std::size_t bytes, const std::string& log) {
  const held_memory memory(bytes);
  support::log_process(log.c_str());
  support::sleep_forever();
}
void hold_and_throw(std::size_t bytes) {
  const held_memory memory(bytes);
  throw 5;
}
void do_nothing() {}

const auto when_killed = support::being_killed_is_an_exit ? verdict::exited : verdict::signalled;
const auto about_100_MiB = AllOf(Ge(80 * MiB), Le(130 * MiB));

TEST_P(Usage, PeakMemoryIsTheChildsOwnUnderAParentOfAGibibyte) {
  SKIP_UNDER_SANITIZER("its shadow memory counts");
  const held_memory of_the_parent(GiB);
  const auto ended = limit(hold, unlimited()).try_call(100 * MiB);
  ASSERT_THAT(ended, EndedAs(verdict::returned));
  EXPECT_THAT(ended.usage().peak_memory, about_100_MiB);
}

TEST_P(Usage, PeakMemoryOfAnIdleCallUnderAParentOfAGibibyteIsSmall) {
  SKIP_UNDER_SANITIZER("its shadow memory counts");
  const held_memory of_the_parent(GiB);
  const auto ended = limit(do_nothing, unlimited()).try_call();
  ASSERT_THAT(ended, EndedAs(verdict::returned));
  EXPECT_GT(ended.usage().peak_memory, 0u);
  EXPECT_LE(ended.usage().peak_memory, support::size_of_an_idle_program);
}

TEST_P(Usage, PeakMemoryIsTheChildsOwnAfterAParentWasLargerThanItIs) {
  SKIP_UNDER_SANITIZER("its shadow memory counts");
  // What the parent's peak was, and what it holds now, are not the same; neither is the child's affair.
  hold(600 * MiB);
  const auto ended = limit(hold, unlimited()).try_call(100 * MiB);
  ASSERT_THAT(ended, EndedAs(verdict::returned));
  EXPECT_THAT(ended.usage().peak_memory, about_100_MiB);
}

// A program that is started again has the peak of the one that started it, as far as the kernel tells.
TEST_P(Usage, PeakMemoryOfACallThatIsKilledUnderAParentOfAGibibyteIsNotTheParents) {
  SKIP_UNDER_SANITIZER("its shadow memory counts");
  const held_memory of_the_parent(GiB);
  const auto ended = limit(hold_and_kill_itself, unlimited()).try_call(MiB);
  ASSERT_THAT(ended, EndedAs(when_killed));
  EXPECT_GT(ended.usage().peak_memory, 0u);
  EXPECT_LE(ended.usage().peak_memory, 16 * MiB + support::size_of_an_idle_program);
}

TEST_P(Usage, PeakMemoryOfPagesThatWereTheParents) {
  ONLY_BY_FORK("its callable has captures");
  SKIP_UNDER_SANITIZER("its shadow memory counts");
  // Writing to a page that was the parent's makes a page of the child's own.
  std::vector<char> of_the_parent(100 * MiB, 'p');
  const auto call =
      limit([&of_the_parent] { support::touch(of_the_parent.data(), of_the_parent.size()); }, unlimited());
  const auto ended = call.try_call();
  ASSERT_THAT(ended, EndedAs(verdict::returned));
  EXPECT_GE(ended.usage().page_faults, 50 * MiB / (2 * MiB));
}

TEST_P(Usage, PeakMemoryIsThereAfterEveryFailure) {
  SKIP_UNDER_SANITIZER("its shadow memory counts");
  EXPECT_THAT(limit(hold_and_throw, unlimited()).try_call(100 * MiB).usage().peak_memory, about_100_MiB);
  // A program that is started again begins with the peak that this one has come to, in whatever test: the kernel says
  // nothing of what is below that, and who has killed itself neither, so that it is what was seen in time. Nor does each
  // kernel say anything of a process that has gone.
  const bool is_told = GetParam() != pynisher::start_method::spawn ||
                       (support::own_peak() < 80 * MiB && !support::being_killed_is_an_exit);
  const auto killed = limit(hold_and_kill_itself, unlimited()).try_call(100 * MiB).usage().peak_memory;
  EXPECT_THAT(killed, AllOf(Ge(is_told ? 80 * MiB : 1), Le(130 * MiB)));
  support::process_log log;
  const auto ended = support::with_time_enough(with({.wall_time = 500ms}), log, 1, [&](const auto& enough) {
    return limit(hold_and_sleep, enough).try_call(100 * MiB, log.path());
  });
  ASSERT_THAT(ended, EndedAs(verdict::wall_timeout));
  EXPECT_THAT(ended.usage().peak_memory, about_100_MiB);
}

TEST_P(Usage, PeakMemoryOfACallThatReachedItsLimitIsNearTheLimit) {
  SKIP_UNLESS_SUPPORTED("memory");
  const auto ended = limit(support::touch_memory_forever, with({.memory = 100_MiB})).try_call();
  ASSERT_THAT(ended, EndedAs(verdict::memory_limit));
  EXPECT_THAT(ended.usage().peak_memory, about_100_MiB);
}

TEST_P(Usage, CpuTimeIsWhatWasSpun) {
  const auto ended = limit(support::spin_for, unlimited()).try_call(300ms);
  ASSERT_THAT(ended, EndedAs(verdict::returned));
  EXPECT_GE(ended.usage().cpu_time(), 295ms);
  // The loop asks the kernel for the time and does little else, in the child: not a whole second more.
  EXPECT_LE(ended.usage().cpu_time(), 1300ms);
  EXPECT_GE(ended.usage().wall_time, 295ms);
}

TEST_P(Usage, CpuTimeOfAllThreadsCounts) {
  const auto ended = limit(
                         [] {
                           std::thread([] { support::spin_for(100ms); }).join();
                           std::thread([] { support::spin_for(200ms); }).join();
                         },
                         unlimited())
                         .try_call();
  ASSERT_THAT(ended, EndedAs(verdict::returned));
  EXPECT_GE(ended.usage().cpu_time(), 195ms);
}

TEST_P(Usage, SleepingIsWallTimeAndNotCpuTime) {
  const auto ended = limit([] { std::this_thread::sleep_for(1s); }, unlimited()).try_call();
  ASSERT_THAT(ended, EndedAs(verdict::returned));
  EXPECT_GE(ended.usage().wall_time, 1s);
  EXPECT_LT(ended.usage().cpu_time(), 500ms);
}

TEST_P(Usage, TimesAreThereAfterAFailure) {
  const auto thrown = limit(
                          [] {
                            support::spin_for(60ms);
                            throw 5;
                          },
                          unlimited())
                          .try_call();
  ASSERT_THAT(thrown, EndedAs(verdict::raised));
  EXPECT_GE(thrown.usage().cpu_time(), 55ms);

  // Longer than a program takes to begin anywhere.
  const auto timed_out = limit(support::sleep_forever, with({.wall_time = 1s})).try_call();
  ASSERT_THAT(timed_out, EndedAs(verdict::wall_timeout));
  EXPECT_GE(timed_out.usage().wall_time, 1s);
  EXPECT_LT(timed_out.usage().cpu_time(), 1s);

  const auto died = limit(
                        [] {
                          support::spin_for(60ms);
                          support::be_killed();
                        },
                        unlimited())
                        .try_call();
  ASSERT_THAT(died, EndedAs(when_killed));
  EXPECT_GE(died.usage().wall_time, 55ms);
  if (support::being_killed_is_an_exit) GTEST_SKIP() << "nothing is told of a process that has ended itself";
  EXPECT_GE(died.usage().cpu_time(), 55ms);
  EXPECT_GT(died.usage().page_faults, 0u);
}

TEST_P(Usage, IsInTheLimitExceptionToo) {
  try {
    limit(support::spin_forever, with({.cpu_time = 60ms}))();
    ADD_FAILURE();
  } catch (const pynisher::CpuTimeoutException& e) {
    EXPECT_GE(e.usage().cpu_time(), 60ms);
    EXPECT_GT(e.usage().peak_memory, 0u);
  }
}

}  // namespace
