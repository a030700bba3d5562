// How long a task has had, by what is seen of its worker and what the worker claims.

#include <chrono>
#include <optional>

#include <gtest/gtest.h>

#include "pool/task_clock.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::detail::task_clock;
using over = task_clock::over;

const task_clock::time_point start{std::chrono::hours(1)};

task_clock::sight at(std::chrono::nanoseconds when, std::uint64_t task, std::chrono::nanoseconds claimed) {
  return {.now = start + when,
          .task = task,
          .begun = true,
          .sent = start,
          .waiting_since = start,
          .claimed_begin = start + claimed};
}

TEST(TaskClock, EndsATaskAtItsLimitAndNotBefore) {
  task_clock clock(2);
  EXPECT_EQ(clock.look(at(999ms, 1, 0ms), {.wall = 1s, .cpu = {}}).next_look, start + 1s);
  EXPECT_EQ(clock.look(at(1s, 1, 0ms), {.wall = 1s, .cpu = {}}).which, over::wall_time);
}

TEST(TaskClock, CountsFromWhenTheWorkerBegan) {
  task_clock clock(2);
  EXPECT_EQ(clock.look(at(1500ms, 1, 700ms), {.wall = 1s, .cpu = {}}).which, over::nothing);
  EXPECT_EQ(clock.look(at(1700ms, 1, 700ms), {.wall = 1s, .cpu = {}}).which, over::wall_time);
}

TEST(TaskClock, BeginsAnewWithEachTask) {
  task_clock clock(2);
  clock.look(at(900ms, 1, 0ms), {.wall = 1s, .cpu = {}});
  EXPECT_EQ(clock.look(at(1200ms, 2, 950ms), {.wall = 1s, .cpu = {}}).which, over::nothing);
  EXPECT_EQ(clock.look(at(1950ms, 2, 950ms), {.wall = 1s, .cpu = {}}).which, over::wall_time);
}

// A worker that says again and again that it has only just begun.
TEST(TaskClock, WhatAWorkerClaimsFirstHolds) {
  task_clock clock(2);
  EXPECT_EQ(clock.look(at(500ms, 1, 500ms), {.wall = 1s, .cpu = {}}).which, over::nothing);
  EXPECT_EQ(clock.look(at(1400ms, 1, 1400ms), {.wall = 1s, .cpu = {}}).which, over::nothing);
  EXPECT_EQ(clock.look(at(1500ms, 1, 1500ms), {.wall = 1s, .cpu = {}}).which, over::wall_time);
}

TEST(TaskClock, ClaimsOutsideOfWhatIsPossibleCount) {
  task_clock clock(2);
  // From the future: from now on.
  EXPECT_EQ(clock.look(at(500ms, 1, std::chrono::hours(10)), {.wall = 1s, .cpu = {}}).next_look, start + 1500ms);
  // From before it was seen with the task before that.
  EXPECT_EQ(clock.look(at(600ms, 2, -std::chrono::hours(1)), {.wall = 1s, .cpu = {}}).next_look, start + 1500ms);
}

TEST(TaskClock, CpuTimeIsTheTasksOwn) {
  task_clock clock(2);
  auto seen = at(1s, 1, 0ms);
  seen.cpu = 5s;
  seen.claimed_cpu = 4900ms;
  const auto first = clock.look(seen, {.wall = {}, .cpu = 1s});
  EXPECT_EQ(first.which, over::nothing);
  EXPECT_EQ(first.next_look, seen.now + 450ms) << "two processors may use up what is left in half the time";
  seen = at(2s, 1, 0ms);
  seen.cpu = 5900ms;
  EXPECT_EQ(clock.look(seen, {.wall = {}, .cpu = 1s}).which, over::cpu_time);
}

TEST(TaskClock, ATaskThatIsNeverBegunIsOverInTheEnd) {
  task_clock clock(2);
  task_clock::sight seen{
      .now = start + 1s, .task = 1, .begun = false, .sent = start, .waiting_since = start, .claimed_begin = start};
  EXPECT_EQ(clock.look(seen, {.wall = 1s, .cpu = {}}).which, over::nothing);
  seen.now = start + 1s + task_clock::patience;
  EXPECT_EQ(clock.look(seen, {.wall = 1s, .cpu = {}}).which, over::wall_time);
}

TEST(TaskClock, NothingIsLookedForWithoutLimits) {
  task_clock clock(2);
  EXPECT_EQ(clock.look(at(1s, 1, 0ms), {}).next_look, std::nullopt);
}

}  // namespace
