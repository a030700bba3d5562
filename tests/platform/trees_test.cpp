// Marks, and killing by mark and by ancestry.

#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>

#include "platform/linux/tree.hpp"
#include "platform/started_child.hpp"
#include "support/handshake.hpp"
#include "support/helper_process.hpp"
#include "support/scenarios.hpp"

namespace {

using platform_tests::started_child;
namespace platform = pynisher::platform;
using support::descendant;
using ::testing::IsEmpty;

bool within(const platform::call_mark& inner, const platform::call_mark& outer) {
  return inner.value <= outer.value && outer.value - inner.value < outer.span;
}

bool apart(const platform::call_mark& a, const platform::call_mark& b) { return !within(a, b) && !within(b, a); }

// --- marks
// --------------------------------------------------------------------------------------------------------------

TEST(Marks, OfCallsInFlightAreApart) {
  std::vector<platform::call_mark> marks;
  for (int i = 0; i < 500; ++i) marks.push_back(platform::new_mark());
  for (std::size_t i = 0; i < marks.size(); ++i) {
    ASSERT_NE(marks[i].value, 0u);
    EXPECT_TRUE(within(marks[i], platform::program_marks()));
    for (std::size_t j = 0; j < i; ++j) ASSERT_TRUE(apart(marks[i], marks[j])) << i << ' ' << j;
  }
  for (const auto& mark : marks) platform::release_mark(mark);
}

TEST(Marks, TakenByThreadsAtOnceAreApartAndOfOneProgram) {
  const auto end = support::run_in_helper([] {
    // In a fresh process, so that the threads race for the program's own number as well.
    std::atomic<int> waiting{0};
    std::vector<std::vector<platform::call_mark>> taken(8);
    std::vector<std::thread> threads;
    for (auto& marks : taken) {
      threads.emplace_back([&] {
        waiting.fetch_add(1);
        while (waiting.load() < 8) {
        }
        for (int i = 0; i < 200; ++i) marks.push_back(platform::new_mark());
      });
    }
    for (auto& thread : threads) thread.join();
    std::set<std::uint64_t> values;
    for (const auto& marks : taken) {
      for (const auto& mark : marks) {
        HELPER_CHECK(within(mark, platform::program_marks()));
        HELPER_CHECK(values.insert(mark.value).second);
      }
    }
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
}

TEST(Marks, AreGivenAgainWhenReleasedHoweverManyCallsThereAre) {
  for (int i = 0; i < 200'000; ++i) {
    const auto mark = platform::new_mark();
    ASSERT_NE(mark.value, 0u) << i;
    platform::release_mark(mark);
  }
}

TEST(Marks, OfForkedCopiesOfTheProgramAreApart) {
  const platform::call_mark own = platform::new_mark();
  const support::shared<std::atomic<std::uint64_t>> others;
  for (int i = 0; i < 4; ++i) {
    const auto end = support::run_in_helper([&] {
      others->store(platform::new_mark().value);
      return 0;
    });
    EXPECT_EQ(end.code, 0);
    EXPECT_FALSE(within({others->load(), 1}, platform::program_marks()));
  }
  platform::release_mark(own);
}

TEST(Marks, AreInheritedThroughForkAndExec) {
  EXPECT_EQ(platform::own_mark(), 0u) << "the test itself has none";
  support::process_log log;
  const support::shared<std::atomic<std::uint64_t>> seen;
  const support::shared_flag release;
  started_child child([&] {
    seen->store(platform::own_mark());
    if (::fork() == 0) {
      ::setsid();
      support::log_process(log.path().c_str());
      ::execl("/bin/sleep", "sleep", "120", static_cast<char*>(nullptr));
      ::_exit(1);
    }
    support::sleep_forever();
  });
  support::await_logged(log.path(), 1);
  support::await([&] {
    rlimit limit{};
    return ::prlimit(log.pids().front(), static_cast<__rlimit_resource>(10), nullptr, &limit) == 0 &&
           limit.rlim_max == child.mark().value;
  });
  EXPECT_EQ(seen->load(), child.mark().value);
}

TEST(Marks, OfNestedCallsLieWithinTheOuterOnes) {
  struct level {
    std::uint64_t value, span;
  };
  const support::shared<level> first, second, third;
  started_child child([&] {
    const auto inner = platform::new_mark();
    const auto neighbour = platform::new_mark();
    *first = {inner.value, inner.span};
    *second = {neighbour.value, neighbour.span};
    started_child nested([&] {
      const auto innermost = platform::new_mark();
      *third = {innermost.value, innermost.span};
    });
    nested.await_end();
    return within({third->value, third->span}, nested.mark()) && within(nested.mark(), {~std::uint64_t{0}, 0}) ? 1 : 0;
  });
  child.await_end();
  EXPECT_EQ(child.end(true).value, 0);
  const platform::call_mark inner{first->value, first->span}, neighbour{second->value, second->span};
  EXPECT_TRUE(within(inner, child.mark()));
  EXPECT_TRUE(within(neighbour, child.mark()));
  EXPECT_TRUE(within({third->value, third->span}, child.mark()));
  EXPECT_TRUE(apart(inner, neighbour));
}

// Processes of one call count for themselves; the marks that they give must differ all the same.
TEST(Marks, GivenByTwoProcessesOfOneCallAreApart) {
  const support::shared<std::atomic<std::uint64_t>> one, other;
  started_child child([&] {
    const pid_t pid = ::fork();
    if (pid == 0) {
      one->store(platform::new_mark().value);
      ::_exit(0);
    }
    other->store(platform::new_mark().value);
    ::waitpid(pid, nullptr, 0);
  });
  child.await_end();
  child.end(true);
  EXPECT_NE(one->load(), 0u);
  EXPECT_NE(one->load(), other->load());
}

// --- killing by mark
// ------------------------------------------------------------------------------------------------------

TEST(KillMarked, EndsWhatCarriesTheMarkWhereverItWentAndNothingElse) {
  support::process_log marked, neighbours, own;
  const support::shared_flag ready, neighbour_ready;
  support::start_descendant(descendant::plain, own.path());
  started_child neighbour([&] {
    support::start_descendant(descendant::double_forked_in_own_session, neighbours.path());
    neighbour_ready->store(true);
    support::sleep_forever();
  });
  started_child child([&] {
    for (const auto kind : support::all_descendants) support::start_descendant(kind, marked.path());
    ready->store(true);
    support::sleep_forever();
  });
  support::await_flag(*ready);
  support::await_flag(*neighbour_ready);
  platform::kill_marked(child.mark());
  EXPECT_THAT(marked.survivors(), IsEmpty());
  EXPECT_TRUE(support::is_gone(child.pid()));
  EXPECT_EQ(neighbours.survivors().size(), 1u);
  EXPECT_FALSE(support::is_gone(neighbour.pid()));
  EXPECT_EQ(own.survivors().size(), 1u);
  ::kill(own.pids().front(), SIGKILL);
  ::waitpid(own.pids().front(), nullptr, 0);
}

TEST(KillMarked, OfAMarkThatNobodyCarriesIsNothing) {
  const auto mark = platform::new_mark();
  platform::kill_marked(mark);
  platform::release_mark(mark);
}

TEST(KillMarked, OfTheProgramsMarksEndsAllItsCalls) {
  support::process_log of_first, of_second;
  started_child first([&] { support::double_fork_and_sleep(of_first.path()); });
  started_child second([&] { support::double_fork_and_sleep(of_second.path()); });
  support::await_logged(of_first.path(), 1);
  support::await_logged(of_second.path(), 1);
  platform::kill_marked(platform::program_marks());
  EXPECT_THAT(of_first.survivors(), IsEmpty());
  EXPECT_THAT(of_second.survivors(), IsEmpty());
  EXPECT_TRUE(support::is_gone(first.pid()));
  EXPECT_TRUE(support::is_gone(second.pid()));
}

TEST(KillMarked, ReapsItsOrphansWhereItIsTheirReaper) {
  const auto end = support::run_in_helper([] {
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    support::process_log log;
    {
      started_child child([&] {
        support::start_descendant(descendant::double_forked_in_own_session, log.path());
        ::_exit(0);
      });
      child.await_end();
      child.end(true);
    }
    HELPER_CHECK(log.survivors().empty());
    HELPER_CHECK(::waitpid(-1, nullptr, WNOHANG | __WALL) == -1 && errno == ECHILD);
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
}

// --- killing by ancestry
// ----------------------------------------------------------------------------------------------------

TEST(KillDescendants, SaysZeroOnlyWhenNobodyBelowIsAlive) {
  support::process_log log;
  const support::shared_flag ready;
  const pid_t reaper = ::fork();
  if (reaper == 0) {
    // As a limited child is: what loses its parent in a first round is found in the next.
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    for (const auto kind : {descendant::plain, descendant::with_own_children, descendant::stopped,
                            descendant::double_forked_in_own_session}) {
      support::start_descendant(kind, log.path());
    }
    ready->store(true);
    support::sleep_two_minutes();
  }
  support::await_flag(*ready);
  EXPECT_GE(platform::kill_descendants(reaper), 4);
  while (platform::kill_descendants(reaper) > 0) ::usleep(100);
  EXPECT_EQ(log.pids().size(), 6u);
  EXPECT_THAT(log.survivors(), IsEmpty());
  EXPECT_FALSE(support::is_gone(reaper)) << "only what is below";
  ::kill(reaper, SIGKILL);
  ::waitpid(reaper, nullptr, 0);
  EXPECT_EQ(platform::kill_descendants(reaper), 0) << "nobody has none";
}

TEST(EndOwnDescendants, LeavesNoChildNotEvenADeadOne) {
  const auto end = support::run_in_helper([] {
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    support::process_log log;
    HELPER_CHECK(platform::end_own_descendants());  // of nobody
    for (const auto kind : support::all_descendants) support::start_descendant(kind, log.path());
    if (::fork() == 0) ::_exit(0);
    HELPER_CHECK(platform::end_own_descendants());
    HELPER_CHECK(log.pids().size() >= std::size(support::all_descendants));
    HELPER_CHECK(log.survivors().empty());
    HELPER_CHECK(::waitpid(-1, nullptr, WNOHANG | __WALL) == -1 && errno == ECHILD);
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
}

}  // namespace
