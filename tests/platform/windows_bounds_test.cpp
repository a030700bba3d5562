// What a call and all that it starts may have together: kept by the job where the kernel keeps it, by the parent where not.

#include <windows.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "platform/windows_helpers.hpp"
#include "support/outcomes.hpp"

using namespace std::chrono_literals;
using namespace pynisher::literals;
using pynisher::limit;
using pynisher::memory_measure;
using pynisher::verdict;
using support::EndedAs;

namespace {

constexpr std::size_t MiB = std::size_t{1} << 20;

/// Which of so many still live when no more than `left` of them do.
std::vector<int> start_sleepers(int wanted, int left) {
  std::vector<support::unique_handle> started;
  for (int i = 0; i < wanted; ++i) started.push_back(support::start_sleeper());
  for (;;) {
    std::vector<int> alive;
    for (int i = 0; i < wanted; ++i) {
      const auto& one = started[static_cast<std::size_t>(i)];
      if (one && !support::has_ended(one.get())) alive.push_back(i);
    }
    if (static_cast<int>(alive.size()) <= left) return alive;
    ::Sleep(1);
  }
}

TEST(WindowsBounds, ThoseThatCameLastAreTheOnesTooMany) {
  EXPECT_THAT(limit(start_sleepers, {.wall_time = 60s, .processes = 3, .warnings = false})(5, 2),
              ::testing::ElementsAre(0, 1));
  EXPECT_THAT(limit(start_sleepers, {.wall_time = 60s, .processes = 1, .warnings = false})(3, 0), ::testing::IsEmpty());
}

TEST(WindowsBounds, AsManyAsThereMayBeLive) {
  EXPECT_THAT(limit(start_sleepers, {.wall_time = 60s, .processes = 4, .warnings = false})(3, 3),
              ::testing::ElementsAre(0, 1, 2));
}

DWORD start_one() {
  const auto started = support::start_sleeper();
  return ::GetProcessId(started.get());
}

TEST(WindowsBounds, AreGoneForWhatMayOutliveTheCall) {
  const DWORD pid =
      limit(start_one, {.processes = 2, .warnings = false, .terminate_child_processes = false})();
  const support::unique_handle sleeper(::OpenProcess(PROCESS_TERMINATE | SYNCHRONIZE, FALSE, pid));
  ASSERT_TRUE(sleeper);
  EXPECT_FALSE(support::has_ended(sleeper.get()));
  ::TerminateProcess(sleeper.get(), 0);
}

TEST(WindowsBounds, WhatACallHasStartedEndsWithIt) {
  const DWORD pid = limit(start_one, {.processes = 2, .warnings = false})();
  const support::unique_handle sleeper(::OpenProcess(SYNCHRONIZE, FALSE, pid));
  EXPECT_TRUE(!sleeper || support::has_ended(sleeper.get()));
}

int hold_for_ever(std::size_t bytes) {
  const auto held = std::make_unique<char[]>(bytes);
  std::memset(held.get(), 1, bytes);
  for (;;) ::Sleep(1000);
}
int hold(std::size_t bytes) {
  const auto held = std::make_unique<char[]>(bytes);
  std::memset(held.get(), 1, bytes);
  return 1;
}
/// None of them holds more than it may.
int hold_in_each(int count, std::size_t bytes, bool for_ever) {
  const auto holder = limit(for_ever ? hold_for_ever : hold, {.warnings = false});
  std::vector<pynisher::call<int>> holding;
  for (int i = 0; i < count; ++i) holding.push_back(holder.start(bytes));
  int held = 0;
  for (auto& one : holding) held += one.get();
  return held;
}

TEST(WindowsBounds, MemoryIsCountedTogether) {
  pynisher::options limits{.memory = 100_MiB, .wall_time = 120s, .measure = memory_measure::resident_tree,
                           .warnings = false};
  const auto ended = limit(hold_in_each, limits).try_call(3, 60 * MiB, true);
  ASSERT_THAT(ended, EndedAs(verdict::memory_limit));
  EXPECT_THAT(ended.explain(), ::testing::HasSubstr("together"));
  limits.memory = 1_GiB;
  EXPECT_EQ(limit(hold_in_each, limits)(3, 60 * MiB, false), 3);
}

/// The outer call's limit is on each process; the inner one's on all of its own, which is more than the outer has left.
int hold_within(std::size_t inner_limit, int count, std::size_t bytes) {
  return limit(hold_in_each, {.memory = {static_cast<double>(inner_limit), "B"}, .wall_time = 120s,
                              .measure = memory_measure::resident_tree, .warnings = false})(count, bytes, true);
}

TEST(WindowsBounds, AnInnerCallsMemoryTogetherIsCutToWhatTheOuterOneHasLeft) {
  const auto ended = limit(hold_within, {.memory = 100_MiB, .wall_time = 240s, .warnings = false}).try_call(10240 * MiB, 3, 60 * MiB);
  ASSERT_THAT(ended, EndedAs(verdict::raised));
  EXPECT_THROW(std::rethrow_exception(ended.error()), pynisher::MemoryLimitException);
  EXPECT_THAT(ended.explain(), ::testing::HasSubstr("together"));
}

std::uint64_t own_cpu_ticks() {
  FILETIME created, ended, kernel, user;
  ::GetProcessTimes(::GetCurrentProcess(), &created, &ended, &kernel, &user);
  const auto ticks = [](FILETIME time) { return (std::uint64_t{time.dwHighDateTime} << 32) | time.dwLowDateTime; };
  return ticks(kernel) + ticks(user);
}
void burn(std::chrono::milliseconds cpu_time) {
  const std::uint64_t end = own_cpu_ticks() + static_cast<std::uint64_t>(cpu_time.count()) * 10'000;
  while (own_cpu_ticks() < end) continue;
}
int burn_in_each(int count, std::chrono::milliseconds cpu_time) {
  for (int i = 0; i < count; ++i) limit(burn, {.warnings = false})(cpu_time);
  return count;
}

TEST(WindowsBounds, TheCpuTimeOfCallsWithinACallAddsUp) {
  const auto burner = limit(burn_in_each, {.cpu_time = 2s, .warnings = false});
  // By the outer call, or by the first of the inner ones for which too little is left.
  EXPECT_THROW(burner(30, 200ms), pynisher::CpuTimeoutException);
  EXPECT_EQ(burner(2, 50ms), 2);
}

int fill_for_ever() {
  std::vector<std::unique_ptr<char[]>> all;
  for (;;) {
    all.push_back(std::make_unique<char[]>(MiB));
    std::memset(all.back().get(), 1, MiB);
  }
}

TEST(WindowsBounds, APeakIsKnownOfACallThatWasEndedAtItsLimit) {
  const auto ended = limit(fill_for_ever, {.memory = 100_MiB, .warnings = false}).try_call();
  ASSERT_THAT(ended, EndedAs(verdict::memory_limit));
  EXPECT_GE(ended.usage().peak_memory, 90 * MiB) << ended.explain();
}

TEST(WindowsBounds, WhatTheCallerHoldsDoesNotCount) {
  const auto of_the_caller = std::make_unique<char[]>(256 * MiB);
  std::memset(of_the_caller.get(), 1, 256 * MiB);
  EXPECT_EQ(limit(hold, {.memory = 64_MiB, .measure = memory_measure::resident_tree, .warnings = false})(20 * MiB), 1);
}

TEST(WindowsBounds, TheFirstCallTellsWhatIsNotCounted) {
  std::vector<std::string> said;
  auto before = pynisher::set_warning_sink([&said](std::string_view text) { said.emplace_back(text); });
  EXPECT_EQ(limit(hold, {.processes = 5})(1), 1);
  pynisher::set_warning_sink(std::move(before));
  EXPECT_THAT(said, ::testing::Contains(::testing::HasSubstr("hreads are not counted")));
}

}  // namespace
