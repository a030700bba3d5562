// A limited call inside of a limited call: what it leaves behind, how it dies, and memory that it shares.

#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <string>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/outcomes.hpp"
#include "support/scenarios.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using pynisher::limit;
using pynisher::verdict;
using support::EndedAs;
using support::MiB;
using support::RaisedAs;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class NestedOnLinux : public support::per_start_method {};
FOR_EACH_START_METHOD(NestedOnLinux);

TEST_P(NestedOnLinux, AFunctionMayCallExitAfterACallOfItsOwn) {
  ONLY_BY_FORK("its callable has captures");
  const auto options = unlimited();
  const auto exits = limit(
      [options](bool quickly) {
        limit([] {}, options)();
        quickly ? std::quick_exit(8) : std::exit(7);
      },
      options);
  for (const bool quickly : {false, true}) {
    const auto ended = exits.try_call(quickly);
    EXPECT_THAT(ended, EndedAs(verdict::exited));
    try {
      ended.value();
      ADD_FAILURE() << "it returned";
    } catch (const pynisher::ExitException& e) {
      EXPECT_EQ(e.exit_code(), quickly ? 8 : 7);
    }
  }
}

std::size_t fill_shared_memory(std::size_t bytes) {
  void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 0;
  std::memset(memory, 1, bytes);
  support::sleep_two_minutes();
  return bytes;
}

// Which no kernel limit counts.
TEST_P(NestedOnLinux, ALargerInnerMemoryLimitDoesNotLoosenTheOuterOneForSharedMemory) {
  ONLY_BY_FORK("its callable has captures");
  SKIP_UNLESS_SUPPORTED("memory");
  const auto inner = with({.memory = 4_GiB, .wall_time = 50s});
  const auto call = limit([=] { return limit(fill_shared_memory, inner).try_call(200 * MiB).verdict(); },
                          with({.memory = 64_MiB, .wall_time = 60s}));
  EXPECT_EQ(call(), verdict::memory_limit);
}

TEST_P(NestedOnLinux, AnInnerDeathArrivesWithItsNumber) {
  ONLY_BY_FORK("its callable has captures");
  const auto inner = unlimited();
  EXPECT_THAT(limit([=] { limit(support::signal_self, inner)(SIGTERM); }, unlimited()).try_call(),
              RaisedAs<pynisher::SignalException>([](const auto& e) { EXPECT_EQ(e.signal(), SIGTERM); }));
  EXPECT_THAT(limit([=] { limit([] { ::_exit(23); }, inner)(); }, unlimited()).try_call(),
              RaisedAs<pynisher::ExitException>([](const auto& e) { EXPECT_EQ(e.exit_code(), 23); }));
}

TEST_P(NestedOnLinux, AnInnerCrashIsToldFromTheOuterOne) {
  ONLY_BY_FORK("its callable has captures");
  if (support::sanitized) GTEST_SKIP() << "sanitizer: it reports crashes itself";
  const auto inner = unlimited();
  for (const int signal : {SIGABRT, SIGSEGV, SIGFPE, SIGILL}) {
    EXPECT_THAT(limit([=] { limit(support::signal_self, inner)(signal); }, unlimited()).try_call(),
                RaisedAs<pynisher::SignalException>([=](const auto& e) { EXPECT_EQ(e.signal(), signal); }));
  }
  EXPECT_THAT(limit([=] { limit(support::write_to_null, inner)(); }, unlimited()).try_call(),
              RaisedAs<pynisher::SignalException>([](const auto& e) { EXPECT_EQ(e.signal(), SIGSEGV); }));
  EXPECT_THAT(limit([=] { limit([] { limit(support::write_to_null)(); }, inner)(); }, unlimited()).try_call(),
              RaisedAs<pynisher::SignalException>([](const auto& e) { EXPECT_EQ(e.signal(), SIGSEGV); }));
}

TEST_P(NestedOnLinux, NothingOfAnInnerCallSurvivesTheOuterOne) {
  ONLY_BY_FORK("its callable has captures");
  SKIP_UNLESS_SUPPORTED("kill_tree");
  support::process_log log;
  const auto inner = unlimited();
  const auto fn = [=](const std::string& list) {
    limit(
        [](const std::string& same_list) {
          support::log_process(same_list.c_str());
          support::double_fork_and_sleep(same_list);
        },
        inner)(list);
  };
  const auto ended = support::with_time_enough(
      with({.wall_time = 100ms}), log, 2,
      [&](const pynisher::options& enough) { return limit(fn, enough).try_call(log.path()); });
  EXPECT_THAT(log.survivors(), IsEmpty());
  EXPECT_THAT(log.pids(), SizeIs(2));
  EXPECT_THAT(ended, EndedAs(verdict::wall_timeout));
}

TEST_P(NestedOnLinux, AnInnerCallEndsOnlyItsOwnProcesses) {
  ONLY_BY_FORK("its callable has captures");
  SKIP_UNLESS_SUPPORTED("kill_tree");
  const support::process_log of_outer, of_inner;
  const auto inner = unlimited();
  const auto call = limit(
      [=](const std::string& outer_list, const std::string& inner_list) {
        support::start_descendant(support::descendant::double_forked_in_own_session, outer_list);
        limit(
            [](const std::string& list) {
              support::start_descendant(support::descendant::double_forked_in_own_session, list);
            },
            inner)(inner_list);
        const bool outer_lives = !support::is_gone(support::logged_processes(outer_list).front());
        const bool inner_is_gone = support::is_gone(support::logged_processes(inner_list).front());
        return outer_lives && inner_is_gone;
      },
      unlimited());
  EXPECT_TRUE(call(of_outer.path(), of_inner.path()));
  EXPECT_THAT(of_outer.survivors(), IsEmpty());
}

}  // namespace
