// `memory_measure::resident_tree`: what a call and all that it has started really use, together.

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <new>
#include <string>
#include <system_error>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/handshake.hpp"
#include "support/outcomes.hpp"
#include "support/scenarios.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using pynisher::limit;
using pynisher::memory_measure;
using pynisher::MemoryLimitException;
using pynisher::verdict;
using support::EndedAs;
using support::FailedWith;
using support::held_memory;
using support::MiB;
using ::testing::HasSubstr;

class MemoryTree : public support::per_start_method {
 protected:
  void SetUp() override { SKIP_UNLESS_SUPPORTED("memory_tree"); }
  static pynisher::options of_all(pynisher::memory_size memory) {
    return with({.memory = memory, .measure = memory_measure::resident_tree});
  }
};
FOR_EACH_START_METHOD(MemoryTree);

int hold(std::size_t bytes) {
  const held_memory memory(bytes);
  return 42;
}
/// Descendants that hold as much each until all of them do; how many came to that.
int hold_in_each(int count, std::size_t bytes) {
  const support::shared_counter holding;
  for (int i = 0; i < count; ++i) {
    if (::fork() != 0) continue;
    const held_memory memory(bytes);
    holding.get()->fetch_add(1);
    support::sleep_two_minutes();
  }
  support::await([&] { return holding.get()->load() == count; });
  return static_cast<int>(holding.get()->load());
}
int hold_in_one_out_of_sight(std::size_t bytes) {
  if (::fork() == 0) {
    ::setsid();
    if (::fork() == 0) {
      const held_memory memory(bytes);
      support::sleep_two_minutes();
    }
    ::_exit(0);
  }
  support::sleep_forever();
}
int share(std::size_t bytes) {
  void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 1;
  std::memset(memory, 1, bytes);
  return 42;
}
int reserve(std::size_t bytes) {
  void* const memory =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? 1 : 42;
}
std::vector<char> give_back(std::size_t bytes) { return std::vector<char>(bytes, 'x'); }

TEST_P(MemoryTree, OneThatTakesMoreIsEndedAndSaysHowMuchItHeld) {
  const auto ended = limit(hold, of_all(64_MiB)).try_call(200 * MiB);
  ASSERT_THAT(ended, EndedAs(verdict::memory_limit));
  EXPECT_THAT(ended.explain(), HasSubstr("together"));
  EXPECT_THAT(ended, FailedWith<MemoryLimitException>([](const auto& e) {
                EXPECT_EQ(e.limit(), 64_MiB);
                EXPECT_GE(e.measured(), 60_MiB);
                EXPECT_LE(e.measured(), 66_MiB);
              }));
}

TEST_P(MemoryTree, ProcessesThatEachTakeLessAreCountedTogether) {
  EXPECT_THAT(limit(hold_in_each, of_all(100_MiB)).try_call(4, 40 * MiB), EndedAs(verdict::memory_limit));
  EXPECT_THAT(limit(hold_in_one_out_of_sight, of_all(64_MiB)).try_call(200 * MiB), EndedAs(verdict::memory_limit));
}

TEST_P(MemoryTree, BelowTheLimitNothingHappens) {
  SKIP_UNDER_THREAD_SANITIZER("what it notes of the memory counts too");
  EXPECT_EQ(limit(hold, of_all(128_MiB))(100 * MiB), 42);
  EXPECT_EQ(limit(hold_in_each, of_all(256_MiB))(4, 40 * MiB), 4);
}

TEST_P(MemoryTree, SharedMemoryCountsAndAddressSpaceDoesNot) {
  EXPECT_THAT(limit(share, of_all(64_MiB)).try_call(200 * MiB), EndedAs(verdict::memory_limit));
  EXPECT_EQ(limit(reserve, of_all(64_MiB))(std::size_t{4} << 30), 42);
}

TEST_P(MemoryTree, WhatTheCallerHoldsDoesNotCount) {
  const held_memory of_the_caller(256 * MiB);
  EXPECT_EQ(limit(hold, of_all(64_MiB))(20 * MiB), 42);
}

TEST_P(MemoryTree, SendingTheResultDoesNotCount) {
  SKIP_UNDER_THREAD_SANITIZER("what it notes of the memory counts too");
  EXPECT_EQ(limit(give_back, of_all(64_MiB))(48 * MiB).size(), 48 * MiB);
}

TEST_P(MemoryTree, GoesTogetherWithABoundOnProcesses) {
  SKIP_UNLESS_SUPPORTED("process_count");
  auto limits = of_all(100_MiB);
  limits.processes = 50;
  EXPECT_EQ(limit(hold_in_each, limits)(4, 5 * MiB), 4);
  EXPECT_THAT(limit(hold_in_each, limits).try_call(4, 40 * MiB), EndedAs(verdict::memory_limit));
}

int hold_in_a_call(int method, std::size_t bytes) {
  return limit(hold, {.context = static_cast<pynisher::start_method>(method), .warnings = false})(bytes);
}

TEST_P(MemoryTree, ACallWithinTheCallCountsToo) {
  const int method = static_cast<int>(GetParam());
  EXPECT_EQ(limit(hold_in_a_call, of_all(128_MiB))(method, 40 * MiB), 42);
  const auto ended = limit(hold_in_a_call, of_all(64_MiB)).try_call(method, 200 * MiB);
  // The inner call's child is killed: its caller may say so before it is ended itself.
  EXPECT_THAT(ended.verdict(), ::testing::AnyOf(verdict::memory_limit, verdict::raised));
}

/// Of this process's, in all hierarchies that are mounted where they usually are.
int groups_left() {
  int found = 0;
  std::error_code none;
  for (auto at = std::filesystem::recursive_directory_iterator("/sys/fs/cgroup", none);
       at != std::filesystem::recursive_directory_iterator(); at.increment(none)) {
    found += at->path().filename().string().starts_with("pynisher-" + std::to_string(::getpid()) + "-") ? 1 : 0;
  }
  return found;
}

TEST_P(MemoryTree, NoGroupIsLeft) {
  EXPECT_EQ(limit(hold, of_all(64_MiB))(MiB), 42);
  EXPECT_THAT(limit(hold_in_each, of_all(64_MiB)).try_call(4, 40 * MiB), EndedAs(verdict::memory_limit));
  auto not_all = of_all(64_MiB);
  not_all.terminate_child_processes = false;
  not_all.wall_time = 30s;
  EXPECT_EQ(limit(hold, not_all)(MiB), 42);
  EXPECT_EQ(groups_left(), 0);
}

}  // namespace
