// Job Objects: what is told to the kernel, and what of it holds here.

#include <windows.h>

#include <chrono>
#include <cstdint>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "platform/contract.hpp"
#include "platform/windows/job.hpp"
#include "platform/windows/timed_wait.hpp"
#include "platform/windows_helpers.hpp"
#include "support/start_methods.hpp"

namespace {

namespace platform = pynisher::platform;
using platform::as_told_to_kernel;

DWORD flags_of(const platform::job_limits& limits) {
  return as_told_to_kernel(limits).BasicLimitInformation.LimitFlags;
}

TEST(WindowsJobs, EveryJobEndsWithItsLastHandleAndShowsNoDialog) {
  for (const bool whole_tree : {true, false}) {
    const DWORD flags = flags_of({.whole_tree = whole_tree, .memory_per_process = {}});
    EXPECT_NE(flags & JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE, 0u);
    EXPECT_NE(flags & JOB_OBJECT_LIMIT_DIE_ON_UNHANDLED_EXCEPTION, 0u);
  }
}

TEST(WindowsJobs, WhatACallStartsCanLeaveItOnlyWhereItMay) {
  EXPECT_EQ(flags_of({}) & (JOB_OBJECT_LIMIT_BREAKAWAY_OK | JOB_OBJECT_LIMIT_SILENT_BREAKAWAY_OK), 0u);
  EXPECT_NE(flags_of({.whole_tree = false, .memory_per_process = {}}) & JOB_OBJECT_LIMIT_SILENT_BREAKAWAY_OK, 0u);
}

TEST(WindowsJobs, AMemoryLimitIsToldToTheByte) {
  EXPECT_EQ(flags_of({}) & JOB_OBJECT_LIMIT_PROCESS_MEMORY, 0u);
  constexpr std::uint64_t bytes = (std::uint64_t{5} << 30) + 3;
  const auto told = as_told_to_kernel({.whole_tree = true, .memory_per_process = bytes});
  EXPECT_NE(told.BasicLimitInformation.LimitFlags & JOB_OBJECT_LIMIT_PROCESS_MEMORY, 0u);
  EXPECT_EQ(told.ProcessMemoryLimit, bytes);
}

TEST(WindowsJobs, TheKernelTakesThem) {
  const HANDLE job = platform::make_job();
  ASSERT_NE(job, nullptr);
  EXPECT_TRUE(platform::limit_job(job, {.whole_tree = false, .memory_per_process = std::uint64_t{1} << 30}));
  EXPECT_EQ(platform::processes_in(job), 0u);
  platform::end_job(job);
  ::CloseHandle(job);
}

TEST(WindowsJobs, MemoryTogetherProcessesAndCpuTimeAreToldAsTheyAre) {
  using namespace std::chrono_literals;
  constexpr std::uint64_t bytes = (std::uint64_t{3} << 30) + 7;
  const auto told = as_told_to_kernel({.memory_together = bytes, .cpu_per_process = 1500ms, .processes = 4});
  const auto& basic = told.BasicLimitInformation;
  EXPECT_NE(basic.LimitFlags & JOB_OBJECT_LIMIT_JOB_MEMORY, 0u);
  EXPECT_EQ(told.JobMemoryLimit, bytes);
  EXPECT_NE(basic.LimitFlags & JOB_OBJECT_LIMIT_PROCESS_TIME, 0u);
  EXPECT_EQ(basic.PerProcessUserTimeLimit.QuadPart, 15'000'000);  // of 100 ns
  EXPECT_NE(basic.LimitFlags & JOB_OBJECT_LIMIT_ACTIVE_PROCESS, 0u);
  EXPECT_EQ(basic.ActiveProcessLimit, 4u);
  EXPECT_EQ(basic.LimitFlags & JOB_OBJECT_LIMIT_PROCESS_MEMORY, 0u);
}

TEST(WindowsJobs, WhatIsNotLimitedIsNotTold) {
  constexpr DWORD limits = JOB_OBJECT_LIMIT_JOB_MEMORY | JOB_OBJECT_LIMIT_PROCESS_MEMORY |
                           JOB_OBJECT_LIMIT_PROCESS_TIME | JOB_OBJECT_LIMIT_ACTIVE_PROCESS;
  EXPECT_EQ(flags_of({}) & limits, 0u);
}

TEST(WindowsJobs, WhatIsCountedTogetherCannotLeave) {
  const auto may_leave = [](const platform::job_limits& limits) {
    return (flags_of(limits) & JOB_OBJECT_LIMIT_SILENT_BREAKAWAY_OK) != 0;
  };
  EXPECT_TRUE(may_leave({.whole_tree = false, .memory_per_process = 1, .cpu_per_process = std::chrono::seconds(1)}));
  EXPECT_FALSE(may_leave({.whole_tree = false, .memory_together = 1}));
  EXPECT_FALSE(may_leave({.whole_tree = false, .processes = 1}));
}

TEST(WindowsJobs, WhatTheKernelDoesNotKeepTheParentLooksAfter) {
  const auto looks = platform::looked_after_by_parent();
  EXPECT_TRUE(looks.address_space);
  EXPECT_TRUE(looks.tree);
  EXPECT_EQ(looks.processes, !platform::limits_that_jobs_keep().processes);
  for (const char* feature : {"memory", "memory_growth", "memory_address_space", "memory_tree", "process_count"}) {
    EXPECT_EQ(pynisher::why_not(feature), "");
  }
  EXPECT_EQ(platform::memory_limit_caveat() == nullptr, platform::limits_that_jobs_keep().memory);
  EXPECT_NE(platform::process_bound_caveat(), nullptr) << "threads are counted nowhere here";
}

/// 1: it got so much at once.
int commit(std::size_t bytes) {
  void* const got = ::VirtualAlloc(nullptr, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
  return got != nullptr ? 1 : 0;
}
/// 1: the system started it, however long it lives.
int start_another() { return support::start_sleeper() ? 1 : 0; }

TEST(WindowsJobs, WhatIsFoundByTrialIsWhatACallMeets) {
  using namespace pynisher::literals;
  const auto found = platform::try_limits_of_jobs();
  ASSERT_TRUE(found.has_value());
  const platform::kept_limits kept = *found;
  const auto memory = pynisher::limit(commit, {.memory = 256_MiB, .measure = pynisher::memory_measure::address_space,
                                               .warnings = false}).try_call(std::size_t{1} << 30);
  EXPECT_EQ(memory && *memory == 0, kept.memory) << memory.explain();
  const auto processes = pynisher::limit(start_another, {.processes = 1, .warnings = false}).try_call();
  ASSERT_TRUE(processes) << processes.explain();
  // Elsewhere the parent may end it so early that it never was one.
  EXPECT_TRUE(*processes == 0 || !kept.processes);
  // What does not even tell them back does not keep them.
  const auto said = platform::limits_that_jobs_keep();
  EXPECT_EQ(said.memory, kept.memory);
  EXPECT_EQ(said.processes, kept.processes);
}

TEST(WindowsWaits, EndBeforeTheirTimeWhereTicksAreTooCoarseAndAtItWhereTheyAreFine) {
  using namespace std::chrono_literals;
  using platform::timed_wait;
  EXPECT_EQ(timed_wait(std::nullopt).milliseconds(), INFINITE);
  EXPECT_FALSE(timed_wait(std::nullopt).is_fine());
  const timed_wait passed(platform::clock::now() - 1s);
  EXPECT_EQ(passed.milliseconds(), 0u);
  const timed_wait of_an_hour(platform::clock::now() + 1h);
  EXPECT_FALSE(of_an_hour.is_fine());
  EXPECT_LE(of_an_hour.milliseconds(), 3'600'000u - 32u);
  const timed_wait soon(platform::clock::now() + 20ms);
  EXPECT_TRUE(soon.is_fine() || soon.milliseconds() == 0);
  EXPECT_LE(soon.milliseconds(), 20u);
}

TEST(WindowsJobs, ThisProcessIsCounted) {
  const auto counts = platform::counts_of(::GetCurrentProcess());
  ASSERT_TRUE(counts.has_value());
  EXPECT_GT(counts->committed, 0u);
  EXPECT_GT(counts->resident, 0u);
}

}  // namespace
