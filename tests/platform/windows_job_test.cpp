// Job Objects: what is told to the kernel, and what of it holds here.

#include <windows.h>

#include <cstdint>

#include <gmock/gmock.h>

#include <pynisher/supports.hpp>

#include "platform/windows/job.hpp"
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

TEST(WindowsJobs, WhatIsClaimedIsWhatWasProbed) {
  EXPECT_EQ(platform::jobs_hold_limits(), pynisher::supports("memory_address_space"));
}

TEST(WindowsJobs, ThisProcessIsCounted) {
  const auto counts = platform::counts_of(::GetCurrentProcess());
  ASSERT_TRUE(counts.has_value());
  EXPECT_GT(counts->committed, 0u);
  EXPECT_GT(counts->resident, 0u);
}

}  // namespace
