// A limited call inside of a limited call: it can only be tighter, and what happens to it is told to the outside.

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>

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
using support::FailedWith;
using support::MiB;
using support::RaisedAs;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class Nested : public support::per_start_method {};
FOR_EACH_START_METHOD(Nested);

/// What an inner call is given, by the outer one's start method, which travels to it as an argument.
pynisher::options by(pynisher::start_method method, pynisher::options limits = {}) {
  limits.context = method;
  limits.warnings = false;
  return limits;
}
using pynisher::start_method;

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

std::string add_one(int n) { return std::to_string(n + 1); }
std::string add_one_below(int n, start_method method) { return limit(add_one, by(method))(n * 10) + "!"; }

TEST_P(Nested, ValuesComeBackThroughEveryLevelByArguments) {
  const auto call = limit(
      [](int n, start_method method) { return limit(add_one_below, by(method))(n + 5, method); }, unlimited());
  EXPECT_EQ(call(1, GetParam()), "61!");
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
TEST_P(Nested, AFunctionMayExitAfterACallOfItsOwn) {
  const auto exits = limit(
      [](start_method method) {
        limit([] {}, by(method))();
        std::exit(7);
      },
      unlimited());
  EXPECT_THAT(exits.try_call(GetParam()),
              FailedWith<pynisher::ExitException>([](const auto& e) { EXPECT_EQ(e.exit_code(), 7); }));
}

TEST_P(Nested, AnInnerFunctionMayCallExit) {
  const auto call = limit(
      [](start_method method) {
        const auto inner = limit([] { std::exit(5); }, by(method));
        return inner.try_call().verdict() == verdict::exited && inner.try_call().verdict() == verdict::exited;
      },
      unlimited());
  EXPECT_TRUE(call(GetParam()));
}

// The handler of the outer call is not what stood before that of the inner one.
TEST_P(Nested, TerminateWithoutAnExceptionIsAnAbortAtEveryLevel) {
  const auto inner_signal = limit(
      [](start_method method) {
        try {
          limit([] { std::terminate(); }, by(method))();
        } catch (const pynisher::SignalException& e) {
          return e.signal();
        }
        return 0;
      },
      unlimited());
  EXPECT_EQ(inner_signal(GetParam()), SIGABRT);
}

// --- tighter inside: the inner call breaks its limit, the outer one goes on
// --------------------------------------------

TEST_P(Nested, ATighterInnerLimitIsTheInnerCallsAffair) {
  SKIP_UNLESS_SUPPORTED("memory");
  const auto call = limit(
      [](start_method method) {
        std::string log;
        log += to_string(limit(support::sleep_forever, by(method, {.wall_time = 40ms})).try_call().verdict());
        log += " ";
        log += to_string(limit(support::spin_forever, by(method, {.cpu_time = 40ms})).try_call().verdict());
        log += " ";
        log += to_string(limit(support::touch_memory_forever, by(method, {.memory = 30_MiB})).try_call().verdict());
        return log;
      },
      with({.memory = 300_MiB, .cpu_time = 100s, .wall_time = 100s}));
  EXPECT_EQ(call(GetParam()), "wall_timeout cpu_timeout memory_limit");
}

// --- larger inside: it cannot loosen
// ----------------------------------------------------------------------------------------

TEST_P(Nested, ALargerInnerWallLimitDoesNotLoosenTheOuterOne) {
  const auto call = limit(
      [](start_method method) { limit(support::sleep_forever, by(method, {.wall_time = 100s}))(); },
      with({.wall_time = 80ms}));
  EXPECT_THAT(call.try_call(GetParam()),
              FailedWith<pynisher::WallTimeoutException>([](const auto& e) { EXPECT_EQ(e.limit(), 80ms); }));
}

TEST_P(Nested, ALargerInnerMemoryLimitDoesNotLoosenTheOuterOne) {
  SKIP_UNLESS_SUPPORTED("memory");
  const auto call = limit(
      [](std::size_t bytes, start_method method) {
        return limit(support::touch_memory, by(method, {.memory = 1_GiB}))(bytes);
      },
      with({.memory = 64_MiB, .wall_time = 50s}));
  EXPECT_EQ(call(40 * MiB, GetParam()), 40 * MiB);
  // The inner call is refused by the outer limit, and its exception is the outer function's.
  const auto takes_all = limit(
      [](start_method method) { limit(support::touch_memory_forever, by(method, {.memory = 1_GiB}))(); },
      with({.memory = 64_MiB, .wall_time = 50s}));
  EXPECT_THAT(takes_all.try_call(GetParam()), RaisedAs<pynisher::MemoryLimitException>());
}

TEST_P(Nested, AnInnerCallWithoutAMemoryLimitStaysInTheOuterOne) {
  SKIP_UNLESS_SUPPORTED("memory");
  const auto call = limit([](start_method method) { limit(support::touch_memory_forever, by(method))(); },
                          with({.memory = 64_MiB, .wall_time = 50s}));
  const auto ended = call.try_call(GetParam());
  // A refusal is the function's own; where memory is sampled, the inner call has a limit that it says it has passed.
  EXPECT_THAT(ended, EndedAs(support::memory_is_refused() ? verdict::memory_limit : verdict::raised));
  EXPECT_THROW(ended.value(), pynisher::MemoryLimitException);
}

void spin_within(start_method method) { limit(support::spin_forever, by(method))(); }

TEST_P(Nested, ALargerInnerCpuLimitDoesNotLoosenTheOuterOne) {
  const auto call = limit(
      [](start_method method) { limit(support::spin_forever, by(method, {.cpu_time = 100s}))(); },
      with({.cpu_time = 100ms, .wall_time = 50s}));
  EXPECT_THAT(call.try_call(GetParam()), support::FailedWith<pynisher::CpuTimeoutException>(
                                             [](const auto& e) { EXPECT_EQ(e.limit(), 100ms); }));
}

TEST_P(Nested, AnInnerCallWithoutACpuLimitStaysInTheOuterOne) {
  EXPECT_THROW(limit(spin_within, with({.cpu_time = 100ms, .wall_time = 50s}))(GetParam()),
               pynisher::CpuTimeoutException);
}

// --- what arrives at the top
// ---------------------------------------------------------------------------------------------------

TEST_P(Nested, AnInnerWallTimeoutArrivesWithItsFields) {
  const auto call = limit(
      [](start_method method) { limit(support::sleep_forever, by(method, {.wall_time = 40ms}))(); }, unlimited());
  EXPECT_THAT(call.try_call(GetParam()), RaisedAs<pynisher::WallTimeoutException>([](const auto& e) {
                EXPECT_EQ(e.limit(), 40ms);
                EXPECT_GE(e.measured(), 40ms);
                EXPECT_GE(e.usage().wall_time, 40ms);
                EXPECT_THAT(e.call(), support::MentionsFunction("sleep_forever"));
              }));
}

TEST_P(Nested, AnInnerCpuTimeoutArrivesWithItsFields) {
  const auto call =
      limit([](start_method method) { limit(support::spin_forever, by(method, {.cpu_time = 40ms}))(); }, unlimited());
  EXPECT_THAT(call.try_call(GetParam()), RaisedAs<pynisher::CpuTimeoutException>([](const auto& e) {
                EXPECT_EQ(e.limit(), 40ms);
                EXPECT_GE(e.measured(), 40ms);
                EXPECT_GE(e.usage().cpu_time(), 40ms);
              }));
}

TEST_P(Nested, AnInnerMemoryLimitArrivesWithItsFields) {
  SKIP_UNLESS_SUPPORTED("memory");
  const auto call = limit(
      [](start_method method) { limit(support::touch_memory_forever, by(method, {.memory = 30_MiB}))(); },
      unlimited());
  EXPECT_THAT(call.try_call(GetParam()), RaisedAs<pynisher::MemoryLimitException>([](const auto& e) {
                EXPECT_EQ(e.limit(), 30_MiB);
                EXPECT_GT(e.measured().bytes(), 20 * MiB);
              }));
}

void take_memory_within(start_method method, int measure) {
  limit(support::touch_memory_forever,
        by(method, {.memory = 900_GiB, .measure = static_cast<pynisher::memory_measure>(measure)}))();
}

TEST_P(Nested, AnInnerMemoryLimitThatIsNotThereTellsWhatTheOuterOneLeft) {
  SKIP_UNLESS_SUPPORTED("memory");
  for (const auto measure : {pynisher::memory_measure::growth, pynisher::memory_measure::address_space}) {
    const std::uint64_t outer = measure == pynisher::memory_measure::growth ? 60 * MiB : 600 * MiB;
    EXPECT_THAT(limit(take_memory_within, with({.memory = pynisher::memory_size(outer), .measure = measure}))
                    .try_call(GetParam(), static_cast<int>(measure)),
                RaisedAs<pynisher::MemoryLimitException>([=](const auto& e) {
                  EXPECT_LE(e.limit().bytes(), outer);
                  EXPECT_GT(e.limit().bytes(), outer / 2);
                }));
  }
}

TEST_P(Nested, AnInnerDeathArrivesWithItsNumber) {
  EXPECT_THAT(limit([](start_method method) { limit(support::end_by_a_signal, by(method))(); }, unlimited())
                  .try_call(GetParam()),
              RaisedAs<pynisher::SignalException>(
                  [](const auto& e) { EXPECT_EQ(e.signal(), support::signal_of_that_end); }));
  EXPECT_THAT(limit([](start_method method) { limit([] { std::_Exit(23); }, by(method))(); }, unlimited())
                  .try_call(GetParam()),
              RaisedAs<pynisher::ExitException>([](const auto& e) { EXPECT_EQ(e.exit_code(), 23); }));
}

void crash_within(start_method method) { limit(support::write_to_null, by(method))(); }

TEST_P(Nested, AnInnerCrashIsToldFromTheOuterOne) {
  SKIP_UNDER_SANITIZER("it reports crashes itself");
  const auto is_told = RaisedAs<pynisher::SignalException>([](const auto& e) { EXPECT_EQ(e.signal(), SIGSEGV); });
  EXPECT_THAT(limit(crash_within, unlimited()).try_call(GetParam()), is_told);
  EXPECT_THAT(limit([](start_method method) { limit(crash_within, by(method))(method); }, unlimited())
                  .try_call(GetParam()),
              is_told);
}

TEST_P(Nested, TheOuterCpuLimitThatAnInnerCallReachesIsTheOuterCalls) {
  EXPECT_THAT(limit(spin_within, with({.cpu_time = 100ms})).try_call(GetParam()), EndedAs(verdict::cpu_timeout));
}

TEST_P(Nested, AnInnerExceptionArrivesAsThrown) {
  const auto call = limit(
      [](start_method method) { limit([] { throw std::domain_error("deep"); }, by(method))(); }, unlimited());
  EXPECT_THAT(call.try_call(GetParam()), RaisedAs<std::domain_error>("deep"));
}

TEST_P(Nested, AnInnerLimitCaughtByTheFunctionIsItsOwnAffair) {
  const auto call = limit(
      [](start_method method) {
        try {
          limit(support::sleep_forever, by(method, {.wall_time = 30ms}))();
        } catch (const pynisher::TimeoutException&) {
          return std::string("caught");
        }
        return std::string("returned");
      },
      unlimited());
  EXPECT_EQ(call(GetParam()), "caught");
}

// --- leftovers
// -----------------------------------------------------------------------------------------------------------------

void log_and_sleep(const std::string& list) {
  support::log_process(list.c_str());
  support::sleep_forever();
}

TEST_P(Nested, AnInnerCallEndsWithTheOuterOne) {
  SKIP_UNLESS_SUPPORTED("kill_tree");
  support::process_log log;
  const auto ended =
      support::with_time_enough(with({.wall_time = 100ms}), log, 1, [&](const pynisher::options& enough) {
        return limit([](const std::string& list, start_method method) { limit(log_and_sleep, by(method))(list); }, enough)
            .try_call(log.path(), GetParam());
      });
  EXPECT_THAT(log.survivors(), IsEmpty());
  EXPECT_THAT(log.pids(), SizeIs(1));
  EXPECT_THAT(ended, EndedAs(verdict::wall_timeout));
}

}  // namespace
