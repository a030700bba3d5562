// The wall limit holds whatever the function does, until its result has arrived.

#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "process/interrupted_result.hpp"
#include "process/limit_fixtures.hpp"
#include "support/functions.hpp"
#include "support/outcomes.hpp"
#include "support/processes.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::limit;
using pynisher::SignalException;
using pynisher::verdict;
using pynisher::WallTimeoutException;
using support::EndedAs;
using support::FailedWith;
using support::interrupted_result;
using support::make_interrupted;
using support::sleep_forever;

class WallLimit : public support::wall_limit_tests {};
FOR_EACH_START_METHOD(WallLimit);

TEST_P(WallLimit, EndsACallThatSleeps) { expect_ended(sleep_forever); }
TEST_P(WallLimit, EndsACallThatSpins) { expect_ended(support::spin_forever); }
TEST_P(WallLimit, HoldsFromOneMillisecondOn) {
  for (const auto wall : {1ms, 2ms, 13ms}) expect_ended(sleep_forever, wall);
}

TEST_P(WallLimit, DoesNotEndACallThatStaysBelowIt) {
  const auto call = limit(
      [] {
        std::this_thread::sleep_for(20ms);
        return 1;
      },
      with({.wall_time = 60s}));
  EXPECT_EQ(call(), 1);
}

TEST_P(WallLimit, TheCallSaysWhatItWas) {
  const auto ended =
      limit([](int, const std::string&) { sleep_forever(); }, with({.wall_time = 20ms})).try_call(3, "some text");
  EXPECT_THAT(ended, FailedWith<WallTimeoutException>(
                         [](const auto& e) { EXPECT_THAT(e.call(), ::testing::HasSubstr("3, \"some text\"")); }));
}

// --- sending ---------------------------------------------------------------------------------------------------------

void crash() { support::write_to_null(); }
void leave() { std::_Exit(5); }
/// Environment variables reach the child of every start method.
constexpr const char* log_of_what_stops = "PYNISHER_TEST_LOG_OF_WHAT_STOPS";
void stop() {
  if (const char* log = std::getenv(log_of_what_stops)) support::log_process(log);
  sleep_forever();
}
void nothing() {}

class Sending : public support::per_start_method {};
FOR_EACH_START_METHOD(Sending);

TEST_P(Sending, ArrivesWhenNothingHappens) {
  const auto value = limit(make_interrupted<nothing>, with({.wall_time = 100s}))();
  EXPECT_EQ(value.half.size(), 150 * support::MiB / sizeof(std::uint64_t));
}

TEST_P(Sending, StoppedHalfWayEndsAtTheWallLimit) {
  support::process_log log;
  support::set_environment(log_of_what_stops, log.path());
  const auto ended = support::with_time_enough(with({.wall_time = 500ms}), log, 1, [](const auto& enough) {
    return limit(make_interrupted<stop>, enough).try_call();
  });
  support::unset_environment(log_of_what_stops);
  EXPECT_THAT(ended, EndedAs(verdict::wall_timeout));
  EXPECT_THAT(log.pids(), ::testing::SizeIs(1));
}

TEST_P(Sending, CrashedHalfWayEndsTheCall) {
  SKIP_UNDER_SANITIZER("it turns crashes into reports and exits");
  EXPECT_THAT(limit(make_interrupted<crash>, unlimited()).try_call(),
              FailedWith<SignalException>([](const auto& e) { EXPECT_EQ(e.signal(), SIGSEGV); }));
}

TEST_P(Sending, ExitedHalfWayEndsTheCall) {
  EXPECT_THAT(limit(make_interrupted<leave>, unlimited()).try_call(),
              FailedWith<pynisher::ExitException>([](const auto& e) { EXPECT_EQ(e.exit_code(), 5); }));
}

void throw_runtime_error() { throw std::runtime_error("cannot be packed"); }

TEST_P(Sending, AnExceptionHalfWayArrives) {
  EXPECT_THAT(limit(make_interrupted<throw_runtime_error>, unlimited()).try_call(),
              support::RaisedAs<std::runtime_error>("cannot be packed"));
}

TEST_P(Sending, AShortResultThatStopsBeforeItIsSentEndsAtTheWallLimit) {
  const auto ended =
      limit([] { return interrupted_result<stop>{std::vector<std::uint64_t>(3)}; }, with({.wall_time = 60ms}))
          .try_call();
  EXPECT_THAT(ended, EndedAs(verdict::wall_timeout));
}

}  // namespace
