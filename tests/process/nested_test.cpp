// A limited call inside of a limited call: it can only be tighter, and what happens to it is told to the outside.

#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <stdexcept>
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
using support::FailedWith;
using support::MiB;
using support::RaisedAs;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class Nested : public support::per_start_method {};
FOR_EACH_START_METHOD(Nested);

TEST_P(Nested, ValuesComeBackThroughEveryLevel) {
  ONLY_BY_FORK("its callable has captures");
  const auto options = unlimited();
  const auto call = limit(
      [options](int n) {
        return limit(
            [options](int m) { return limit([](int k) { return std::to_string(k + 1); }, options)(m * 10) + "!"; },
            options)(n + 5);
      },
      options);
  EXPECT_EQ(call(1), "61!");
}

TEST_P(Nested, FiveLevelsDeep) {
  ONLY_BY_FORK("its callable has captures");
  struct tower {
    pynisher::options options;
    int operator()(int levels) const { return levels == 0 ? 1 : 1 + limit(*this, options)(levels - 1); }
  };
  EXPECT_EQ(limit(tower{unlimited()}, unlimited())(5), 6);
}

// --- leaving by another way than by returning ------------------------------------------------------------------

// The inner call is started and over before; what it took along for its own end is not the outer one's.
TEST_P(Nested, AFunctionMayCallExitAfterACallOfItsOwn) {
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

TEST_P(Nested, AnInnerFunctionMayCallExit) {
  ONLY_BY_FORK("its callable has captures");
  const auto options = unlimited();
  const auto call = limit(
      [options] {
        const auto inner = limit([] { std::exit(5); }, options);
        return inner.try_call().verdict() == verdict::exited && inner.try_call().verdict() == verdict::exited;
      },
      options);
  EXPECT_TRUE(call());
}

// The handler of the outer call is not what stood before that of the inner one.
TEST_P(Nested, TerminateWithoutAnExceptionIsAnAbortAtEveryLevel) {
  ONLY_BY_FORK("its callable has captures");
  const auto options = unlimited();
  const auto signal_of = [](const auto& ended) {
    try {
      ended.value();
    } catch (const pynisher::SignalException& e) {
      return e.signal();
    }
    return 0;
  };
  const auto inner_signal = limit([=] { return signal_of(limit([] { std::terminate(); }, options).try_call()); }, options);
  EXPECT_EQ(inner_signal(), SIGABRT);
}

// --- tighter inside: the inner call breaks its limit, the outer one goes on
// --------------------------------------------

TEST_P(Nested, ATighterInnerLimitIsTheInnerCallsAffair) {
  ONLY_BY_FORK("its callable has captures");
  SKIP_UNLESS_SUPPORTED("memory");
  const auto inner_wall = with({.wall_time = 40ms});
  const auto inner_cpu = with({.cpu_time = 40ms});
  const auto inner_memory = with({.memory = 30_MiB});
  const auto call = limit(
      [=] {
        std::string log;
        log += to_string(limit(support::sleep_forever, inner_wall).try_call().verdict());
        log += " ";
        log += to_string(limit(support::spin_forever, inner_cpu).try_call().verdict());
        log += " ";
        log += to_string(limit(support::touch_memory_forever, inner_memory).try_call().verdict());
        return log;
      },
      with({.memory = 300_MiB, .cpu_time = 100s, .wall_time = 100s}));
  EXPECT_EQ(call(), "wall_timeout cpu_timeout memory_limit");
}

// --- larger inside: it cannot loosen
// ----------------------------------------------------------------------------------------

TEST_P(Nested, ALargerInnerWallLimitDoesNotLoosenTheOuterOne) {
  ONLY_BY_FORK("its callable has captures");
  const auto inner = with({.wall_time = 100s});
  const auto call = limit([=] { limit(support::sleep_forever, inner)(); }, with({.wall_time = 80ms}));
  EXPECT_THAT(call.try_call(),
              FailedWith<pynisher::WallTimeoutException>([](const auto& e) { EXPECT_EQ(e.limit(), 80ms); }));
}

TEST_P(Nested, ALargerInnerMemoryLimitDoesNotLoosenTheOuterOne) {
  ONLY_BY_FORK("its callable has captures");
  SKIP_UNLESS_SUPPORTED("memory");
  const auto inner = with({.memory = 1_GiB});
  const auto call = limit([=](std::size_t bytes) { return limit(support::touch_memory, inner)(bytes); },
                          with({.memory = 64_MiB, .wall_time = 50s}));
  EXPECT_EQ(call(40 * MiB), 40 * MiB);
  // The inner call is refused by the outer limit, and its exception is the outer function's.
  EXPECT_THAT(call.try_call(100 * MiB), RaisedAs<pynisher::MemoryLimitException>());
}

std::size_t fill_shared_memory(std::size_t bytes) {
  void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return 0;
  std::memset(memory, 1, bytes);
  support::sleep_two_minutes();
  return bytes;
}

// Which no kernel limit counts.
TEST_P(Nested, ALargerInnerMemoryLimitDoesNotLoosenTheOuterOneForSharedMemory) {
  ONLY_BY_FORK("its callable has captures");
  SKIP_UNLESS_SUPPORTED("memory");
  const auto inner = with({.memory = 4_GiB, .wall_time = 50s});
  const auto call = limit([=] { return limit(fill_shared_memory, inner).try_call(200 * MiB).verdict(); },
                          with({.memory = 64_MiB, .wall_time = 60s}));
  EXPECT_EQ(call(), verdict::memory_limit);
}

TEST_P(Nested, AnInnerCallWithoutAMemoryLimitStaysInTheOuterOne) {
  ONLY_BY_FORK("its callable has captures");
  SKIP_UNLESS_SUPPORTED("memory");
  const auto inner = unlimited();
  const auto call =
      limit([=] { limit(support::touch_memory_forever, inner)(); }, with({.memory = 64_MiB, .wall_time = 50s}));
  EXPECT_THAT(call.try_call(), EndedAs(verdict::memory_limit));
}

TEST_P(Nested, ALargerInnerCpuLimitDoesNotLoosenTheOuterOne) {
  ONLY_BY_FORK("its callable has captures");
  const auto inner = with({.cpu_time = 100s});
  const auto call = limit([=] { limit(support::spin_forever, inner)(); }, with({.cpu_time = 100ms, .wall_time = 50s}));
  EXPECT_THAT(call.try_call(), support::FailedWith<pynisher::CpuTimeoutException>(
                                   [](const auto& e) { EXPECT_EQ(e.limit(), 100ms); }));
}

TEST_P(Nested, AnInnerCallWithoutACpuLimitStaysInTheOuterOne) {
  ONLY_BY_FORK("its callable has captures");
  const auto inner = unlimited();
  const auto call = limit([=] { limit(support::spin_forever, inner)(); }, with({.cpu_time = 100ms, .wall_time = 50s}));
  EXPECT_THROW(call(), pynisher::CpuTimeoutException);
}

// --- what arrives at the top
// ---------------------------------------------------------------------------------------------------

TEST_P(Nested, AnInnerWallTimeoutArrivesWithItsFields) {
  ONLY_BY_FORK("its callable has captures");
  const auto inner = with({.wall_time = 40ms});
  EXPECT_THAT(limit([=] { limit(support::sleep_forever, inner)(); }, unlimited()).try_call(),
              RaisedAs<pynisher::WallTimeoutException>([](const auto& e) {
                EXPECT_EQ(e.limit(), 40ms);
                EXPECT_GE(e.measured(), 40ms);
                EXPECT_GE(e.usage().wall_time, 40ms);
                EXPECT_THAT(e.call(), ::testing::HasSubstr("sleep_forever"));
              }));
}

TEST_P(Nested, AnInnerCpuTimeoutArrivesWithItsFields) {
  ONLY_BY_FORK("its callable has captures");
  const auto inner = with({.cpu_time = 40ms});
  EXPECT_THAT(limit([=] { limit(support::spin_forever, inner)(); }, unlimited()).try_call(),
              RaisedAs<pynisher::CpuTimeoutException>([](const auto& e) {
                EXPECT_EQ(e.limit(), 40ms);
                EXPECT_GE(e.measured(), 40ms);
                EXPECT_GE(e.usage().cpu_time(), 40ms);
              }));
}

TEST_P(Nested, AnInnerMemoryLimitArrivesWithItsFields) {
  ONLY_BY_FORK("its callable has captures");
  SKIP_UNLESS_SUPPORTED("memory");
  const auto inner = with({.memory = 30_MiB});
  EXPECT_THAT(limit([=] { limit(support::touch_memory_forever, inner)(); }, unlimited()).try_call(),
              RaisedAs<pynisher::MemoryLimitException>([](const auto& e) {
                EXPECT_EQ(e.limit(), 30_MiB);
                EXPECT_GT(e.measured().bytes(), 20 * MiB);
              }));
}

TEST_P(Nested, AnInnerMemoryLimitThatIsNotThereTellsWhatTheOuterOneLeft) {
  ONLY_BY_FORK("its callable has captures");
  SKIP_UNLESS_SUPPORTED("memory");
  for (const auto measure : {pynisher::memory_measure::growth, pynisher::memory_measure::address_space}) {
    const std::uint64_t outer = measure == pynisher::memory_measure::growth ? 60 * MiB : 600 * MiB;
    const auto inner = with({.memory = 900_GiB, .measure = measure, .warnings = false});
    EXPECT_THAT(limit([=] { limit(support::touch_memory_forever, inner)(); },
                      with({.memory = pynisher::memory_size(outer), .measure = measure, .warnings = false}))
                    .try_call(),
                RaisedAs<pynisher::MemoryLimitException>([=](const auto& e) {
                  EXPECT_LE(e.limit().bytes(), outer);
                  EXPECT_GT(e.limit().bytes(), outer / 2);
                }));
  }
}

TEST_P(Nested, AnInnerDeathArrivesWithItsNumber) {
  ONLY_BY_FORK("its callable has captures");
  const auto inner = unlimited();
  EXPECT_THAT(limit([=] { limit(support::signal_self, inner)(SIGTERM); }, unlimited()).try_call(),
              RaisedAs<pynisher::SignalException>([](const auto& e) { EXPECT_EQ(e.signal(), SIGTERM); }));
  EXPECT_THAT(limit([=] { limit([] { ::_exit(23); }, inner)(); }, unlimited()).try_call(),
              RaisedAs<pynisher::ExitException>([](const auto& e) { EXPECT_EQ(e.exit_code(), 23); }));
}

TEST_P(Nested, AnInnerCrashIsToldFromTheOuterOne) {
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

TEST_P(Nested, TheOuterCpuLimitThatAnInnerCallReachesIsTheOuterCalls) {
  ONLY_BY_FORK("its callable has captures");
  const auto inner = unlimited();
  EXPECT_THAT(limit([=] { limit(support::spin_forever, inner)(); }, with({.cpu_time = 100ms})).try_call(),
              support::EndedAs(pynisher::verdict::cpu_timeout));
}

TEST_P(Nested, AnInnerExceptionArrivesAsThrown) {
  ONLY_BY_FORK("its callable has captures");
  const auto inner = unlimited();
  EXPECT_THAT(limit([=] { limit([] { throw std::domain_error("deep"); }, inner)(); }, unlimited()).try_call(),
              RaisedAs<std::domain_error>("deep"));
}

TEST_P(Nested, AnInnerLimitCaughtByTheFunctionIsItsOwnAffair) {
  ONLY_BY_FORK("its callable has captures");
  const auto inner = with({.wall_time = 30ms});
  const auto call = limit(
      [=] {
        try {
          limit(support::sleep_forever, inner)();
        } catch (const pynisher::TimeoutException&) {
          return std::string("caught");
        }
        return std::string("returned");
      },
      unlimited());
  EXPECT_EQ(call(), "caught");
}

// --- leftovers
// -----------------------------------------------------------------------------------------------------------------

TEST_P(Nested, NothingOfAnInnerCallSurvivesTheOuterOne) {
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

TEST_P(Nested, AnInnerCallEndsOnlyItsOwnProcesses) {
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
