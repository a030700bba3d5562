// How deaths are reported: the table of the contract, each row without limits and with all of them.

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "process/reported_deaths.hpp"
#include "support/functions.hpp"
#include "support/outcomes.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using pynisher::limit;
using pynisher::SignalException;
using pynisher::verdict;
using support::FailedWith;
using ::testing::HasSubstr;
using ::testing::Not;

// --- the rows -------------------------------------------------------------------------------------------------------

void throw_out_of_range() { throw std::out_of_range("row 7"); }
void throw_bad_alloc() { throw std::bad_alloc(); }
void throw_through_noexcept() noexcept { throw_out_of_range(); }
void throw_in_a_thread() {
  std::thread(throw_out_of_range).join();
  std::_Exit(96);
}
void bad_alloc_through_noexcept() noexcept { throw_bad_alloc(); }
void bad_alloc_in_a_thread() {
  std::thread(throw_bad_alloc).join();
  std::_Exit(96);
}
void terminate_without_exception() { std::terminate(); }
void segfault_in_a_thread() {
  std::thread(support::write_to_null).join();
  std::_Exit(96);
}
void overflow() { support::overflow_the_stack(0); }
void divide() { support::divide_by_zero(); }
void exit_0() { std::exit(0); }
void exit_3() { std::exit(3); }
void underscore_exit_0() { std::_Exit(0); }
void underscore_exit_200() { std::_Exit(200); }
void exit_in_a_thread() {
  std::thread(exit_3).join();
  support::sleep_forever();
}
void exit_137() { std::_Exit(137); }

const support::death deaths[] = {
    {"Segfault", support::write_to_null, verdict::signalled, SIGSEGV, true},
    {"SegfaultInAThread", segfault_in_a_thread, verdict::signalled, SIGSEGV, true},
    {"StackOverflow", overflow, verdict::signalled, SIGSEGV, true},
    {"DivisionByZero", divide, verdict::signalled, SIGFPE, true},
    {"IllegalInstruction", support::illegal_instruction, verdict::signalled, SIGILL, true},
    {"Abort", std::abort, verdict::signalled, SIGABRT, true},
    {"TerminateWithoutException", terminate_without_exception, verdict::signalled, SIGABRT, true},
    {"Exit0", exit_0, verdict::exited, 0},
    {"Exit3", exit_3, verdict::exited, 3},
    {"UnderscoreExit0", underscore_exit_0, verdict::exited, 0},
    {"UnderscoreExit200", underscore_exit_200, verdict::exited, 200},
    {"ExitInAThread", exit_in_a_thread, verdict::exited, 3},
    // An exit code is an exit code, though a shell would report SIGKILL by the same number.
    {"Exit137", exit_137, verdict::exited, 137},
};

class Deaths : public support::reported_deaths {};
FOR_EACH_START_METHOD_AND_DEATH(Deaths, deaths);

TEST_P(Deaths, AreReportedForWhatTheyAreWithoutLimits) { expect_reported_without_limits(); }
TEST_P(Deaths, AreReportedForWhatTheyAreUnderEveryLimit) { expect_reported_under_every_limit(); }

// --- the rows that are about exceptions ---------------------------------------------------------------------------

class ThrowingDeaths : public support::per_start_method {
 protected:
  /// Without limits, and with all but memory, which std::bad_alloc makes something else.
  static std::vector<pynisher::options> both() { return {unlimited(), with({.cpu_time = 60s, .wall_time = 60s})}; }
};
FOR_EACH_START_METHOD(ThrowingDeaths);

TEST_P(ThrowingDeaths, AnUncaughtExceptionArrivesWhereverItWasThrown) {
  for (const auto& limits : both()) {
    for (auto* function : {throw_out_of_range, throw_in_a_thread}) {
      EXPECT_THAT(limit(function, limits).try_call(), support::RaisedAs<std::out_of_range>("row 7"));
    }
    EXPECT_THAT(limit(throw_through_noexcept, limits).try_call(), support::RaisedAs<std::out_of_range>("row 7"));
  }
}

TEST_P(ThrowingDeaths, AnUncaughtExceptionArrivesAsItselfUnderAMemoryLimit) {
  SKIP_UNLESS_SUPPORTED("memory");
  const auto limits = with({.memory = 64_MiB, .cpu_time = 60s, .wall_time = 60s});
  EXPECT_THAT(limit(throw_out_of_range, limits).try_call(), support::RaisedAs<std::out_of_range>("row 7"));
  EXPECT_THAT(limit(throw_in_a_thread, limits).try_call(), support::RaisedAs<std::out_of_range>("row 7"));
  EXPECT_THAT(limit(throw_through_noexcept, limits).try_call(), support::RaisedAs<std::out_of_range>("row 7"));
}

TEST_P(ThrowingDeaths, BadAllocIsBadAllocWhereNoMemoryLimitIsSet) {
  for (const auto& limits : both()) {
    EXPECT_THAT(limit(throw_bad_alloc, limits).try_call(), support::RaisedAs<std::bad_alloc>());
    EXPECT_THAT(limit(bad_alloc_in_a_thread, limits).try_call(), support::RaisedAs<std::bad_alloc>());
    EXPECT_THAT(limit(bad_alloc_through_noexcept, limits).try_call(), support::RaisedAs<std::bad_alloc>());
    EXPECT_THROW(limit(throw_bad_alloc, limits)(), std::bad_alloc);
  }
}

TEST_P(ThrowingDeaths, AnExceptionCaughtByTheFunctionIsItsOwnAffair) {
  const auto call = limit(
      [] {
        try {
          throw_out_of_range();
        } catch (const std::exception&) {
        }
        return 1;
      },
      unlimited());
  EXPECT_EQ(call(), 1);
}

// --- stack overflow
// ---------------------------------------------------------------------------------------------------

class StackOverflow : public support::per_start_method {};
FOR_EACH_START_METHOD(StackOverflow);

TEST_P(StackOverflow, IsNamedAndNeverAMemoryLimit) {
  SKIP_UNDER_SANITIZER("it turns crashes into reports and exits");
  SKIP_UNLESS_SUPPORTED("memory");
  for (const auto& limits : {unlimited(), with({.memory = 4_MiB}), with({.memory = 1_GiB, .cpu_time = 60s})}) {
    const auto ended = limit(overflow, limits).try_call();
    EXPECT_THAT(ended, FailedWith<SignalException>([](auto& e) {
                  EXPECT_EQ(e.signal(), SIGSEGV);
                  EXPECT_THAT(e.what(), HasSubstr("stack overflow"));
                }));
    EXPECT_THAT(ended.explain(), Not(HasSubstr("memory limit")));
  }
}

TEST_P(StackOverflow, IsNamedInOtherThreadsToo) {
  SKIP_UNDER_SANITIZER("it turns crashes into reports and exits");
  const auto ended = limit(
                         [] {
                           std::thread(overflow).join();
                           std::_Exit(96);
                         },
                         unlimited())
                         .try_call();
  EXPECT_THAT(ended, FailedWith<SignalException>([](auto& e) { EXPECT_EQ(e.signal(), SIGSEGV); }));
}

TEST_P(StackOverflow, IsNotSaidOfAnOrdinarySegfault) {
  SKIP_UNDER_SANITIZER("it turns crashes into reports and exits");
  EXPECT_THAT(limit(support::write_to_null, unlimited()).try_call().explain(), Not(HasSubstr("stack overflow")));
}

// --- a refusal long ago
// -----------------------------------------------------------------------------------------------

class Evidence : public support::per_start_method {};
FOR_EACH_START_METHOD(Evidence);

TEST_P(Evidence, ACrashUnderAMemoryLimitThatWasNeverReachedIsACrash) {
  SKIP_UNDER_SANITIZER("it turns crashes into reports and exits");
  SKIP_UNLESS_SUPPORTED("memory");
  const auto ended = limit(
                         [] {
                           support::touch_memory(20 * support::MiB);
                           support::write_to_null();
                         },
                         with({.memory = 64_MiB}))
                         .try_call();
  EXPECT_THAT(ended, FailedWith<SignalException>());
}

TEST_P(Evidence, ACrashAfterAnErrorOfAnotherKindIsACrash) {
  SKIP_UNDER_SANITIZER("it turns crashes into reports and exits");
  SKIP_UNLESS_SUPPORTED("memory");
  const auto ended = limit(
                         [] {
                           if (std::fopen("/no/such/file", "r") == nullptr) support::write_to_null();
                         },
                         with({.memory = 64_MiB}))
                         .try_call();
  EXPECT_THAT(ended, FailedWith<SignalException>());
}

}  // namespace
