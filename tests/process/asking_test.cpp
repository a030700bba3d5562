// The forms in which a caller may ask: no_raise, try_call and its sentence, RESTRICTED, and giving up.

#include <chrono>
#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/functions.hpp"
#include "support/outcomes.hpp"
#include "support/processes.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using pynisher::EMPTY;
using pynisher::limit;
using pynisher::verdict;
using support::EndedAs;
using support::FailedWith;
using support::sleep_forever;
using ::testing::AllOf;
using ::testing::HasSubstr;

int twice(int n) { return 2 * n; }
int fail(int n) {
  if (n == 1) throw std::runtime_error("one");
  if (n == 2) std::_Exit(3);
  if (n == 3) support::be_killed();
  if (n == 4) support::spin_forever();
  return n;
}

void exit_3() { std::exit(3); }
void log_and_sleep(const std::string& log) {
  support::log_process(log.c_str());
  sleep_forever();
}

// --- no_raise
// -----------------------------------------------------------------------------------------------------------

class NoRaise : public support::per_start_method {};
FOR_EACH_START_METHOD(NoRaise);

TEST_P(NoRaise, GivesTheValueOrNothing) {
  const auto quiet = limit(fail, with({.cpu_time = 80ms}), pynisher::no_raise);
  static_assert(std::is_same_v<decltype(quiet(1)), std::optional<int>>);
  for (int n = 1; n <= 4; ++n) EXPECT_TRUE(quiet(n) == EMPTY) << n;
  const auto patient = limit(twice, unlimited(), pynisher::no_raise);
  EXPECT_EQ(patient(5), 10);
  EXPECT_TRUE(patient(5) != EMPTY);
}

TEST_P(NoRaise, GivesTrueOrFalseForFunctionsWithoutAValue) {
  const auto quiet = limit(
      [](bool fails) {
        if (fails) throw 1;
      },
      unlimited(), pynisher::no_raise);
  static_assert(std::is_same_v<decltype(quiet(true)), bool>);
  EXPECT_TRUE(quiet(false));
  EXPECT_FALSE(quiet(true));
}

TEST_P(NoRaise, StillTellsByTryCall) {
  // Longer than a program takes to begin anywhere.
  const auto quiet = limit(fail, with({.cpu_time = 1s}), pynisher::no_raise);
  EXPECT_THAT(quiet.try_call(1), EndedAs(verdict::raised));
  EXPECT_THAT(quiet.try_call(4), EndedAs(verdict::cpu_timeout));
}

TEST_P(NoRaise, OptionsThatMakeNoSenseAreThrownAllTheSame) {
  EXPECT_THROW((void)limit(twice, with({.wall_time = -1s}), pynisher::no_raise), std::invalid_argument);
}

// --- try_call
// -----------------------------------------------------------------------------------------------------------

class TryCall : public support::per_start_method {};
FOR_EACH_START_METHOD(TryCall);

TEST_P(TryCall, HoldsTheValue) {
  auto ended = limit(twice, unlimited()).try_call(4);
  static_assert(std::is_same_v<decltype(ended), pynisher::outcome<int>>);
  EXPECT_TRUE(ended);
  EXPECT_EQ(ended.value(), 8);
  EXPECT_EQ(*ended, 8);
  EXPECT_EQ(ended.value_or(1), 8);
  EXPECT_EQ(ended.error(), nullptr);
  EXPECT_FALSE(ended == EMPTY);
}

TEST_P(TryCall, HoldsWhyThereIsNone) {
  auto ended = limit(fail, with({.wall_time = 50ms})).try_call(4);
  EXPECT_FALSE(ended);
  EXPECT_TRUE(ended == EMPTY);
  EXPECT_EQ(ended.value_or(1), 1);
  EXPECT_THROW(ended.value(), pynisher::WallTimeoutException);
  EXPECT_THROW(*ended, pynisher::WallTimeoutException);
}

TEST_P(TryCall, DoesNotThrowForAnythingTheChildDoes) {
  const auto call = limit(fail, with({.wall_time = 50ms}));
  for (int n = 1; n <= 4; ++n) EXPECT_NO_THROW((void)call.try_call(n));
}

TEST_P(TryCall, ExplainsAWallTimeoutByLimitAndMeasurement) {
  const auto ended = limit(sleep_forever, with({.wall_time = 120ms})).try_call();
  EXPECT_THAT(ended.explain(), AllOf(support::MentionsFunction("sleep_forever"), HasSubstr("wall"), HasSubstr("120 ms"),
                                     HasSubstr(pynisher::to_string(ended.usage().wall_time))));
}

TEST_P(TryCall, ExplainsACpuTimeoutByLimitAndMeasurement) {
  const auto ended = limit(support::spin_forever, with({.cpu_time = 70ms})).try_call();
  EXPECT_THAT(ended.explain(), AllOf(support::MentionsFunction("spin_forever"), HasSubstr("CPU"), HasSubstr("70 ms"),
                                     HasSubstr(pynisher::to_string(ended.usage().cpu_time()))));
}

TEST_P(TryCall, ExplainsAMemoryLimitByLimitAndMeasurement) {
  SKIP_UNLESS_SUPPORTED("memory");
  const auto ended = limit(support::touch_memory_forever, with({.memory = 40_MiB})).try_call();
  EXPECT_THAT(ended.explain(), AllOf(support::MentionsFunction("touch_memory_forever"), HasSubstr("memory"), HasSubstr("40 MiB"),
                                     HasSubstr(pynisher::to_string(pynisher::memory_size(ended.usage().peak_memory)))));
}

TEST_P(TryCall, ExplainsDeathsByTheirNumber) {
  EXPECT_THAT(limit(support::end_by_a_signal, unlimited()).try_call().explain(),
              HasSubstr(support::name_of_that_signal));
  EXPECT_THAT(limit(exit_3, unlimited()).try_call().explain(), HasSubstr("code 3"));
}

TEST_P(TryCall, ExplainsAnExceptionByTypeAndText) {
  EXPECT_THAT(limit(fail, unlimited()).try_call(1).explain(), AllOf(HasSubstr("std::runtime_error"), HasSubstr("one")));
}

int nameless(int n) {
  if (n == 5) std::_Exit(1);
  return n;
}

TEST_P(TryCall, EveryTextSpeaksOfSomebody) {
  // A function without a name that the linker knows is still called something.
  const auto ended = limit(nameless, unlimited()).try_call(5);
  EXPECT_THAT(ended.explain(), ::testing::Not(::testing::StartsWith("(")));
}

TEST_P(TryCall, IsWhatTheExceptionSays) {
  const auto ended = limit(sleep_forever, with({.wall_time = 50ms})).try_call();
  EXPECT_THAT(ended,
              FailedWith<pynisher::WallTimeoutException>([&](const auto& e) { EXPECT_EQ(e.what(), ended.explain()); }));
}

// --- RESTRICTED
// -----------------------------------------------------------------------------------------------------------

const auto restricted_twice = RESTRICTED(.wall_time = 60s, .warnings = false) twice;
const auto restricted_quiet = RESTRICTED_NO_RAISE(.cpu_time = 1s, .warnings = false) fail;

TEST(Restricted, LimitsAtNamespaceScope) {
  EXPECT_EQ(restricted_twice(21), 42);
  EXPECT_EQ(restricted_quiet(4), std::nullopt);
  EXPECT_EQ(restricted_quiet(7), 7);
}

TEST(Restricted, LimitsALambdaAtBlockScope) {
  const auto sleeps = RESTRICTED(.wall_time = 40ms, .warnings = false)[] { sleep_forever(); };
  EXPECT_THROW(sleeps(), pynisher::WallTimeoutException);
}

// --- giving up
// --------------------------------------------------------------------------------------------------------------

class Cancelling : public support::per_start_method {
 protected:
  void SetUp() override { SKIP_UNLESS_SUPPORTED("cancel"); }
};
FOR_EACH_START_METHOD(Cancelling);

TEST_P(Cancelling, AStopThatWasRequestedBeforeEndsTheCall) {
  std::stop_source source;
  source.request_stop();
  EXPECT_THAT(limit(sleep_forever, with({.stop = source.get_token()})).try_call(),
              FailedWith<pynisher::CancelledException>());
}

TEST_P(Cancelling, AStopThatIsRequestedMeanwhileEndsTheCall) {
  const support::process_log log;
  std::stop_source source;
  std::thread other([&] {
    support::await_logged(log.path(), 1);
    source.request_stop();
  });
  const auto ended = limit(log_and_sleep, with({.stop = source.get_token()})).try_call(log.path());
  other.join();
  EXPECT_THAT(ended, FailedWith<pynisher::CancelledException>());
  EXPECT_THAT(log.pids(), ::testing::SizeIs(1));
  EXPECT_THAT(log.survivors(), ::testing::IsEmpty());
}

TEST_P(Cancelling, AStopAfterTheEndChangesNothing) {
  std::stop_source source;
  const auto call = limit(twice, with({.stop = source.get_token()}));
  const auto ended = call.try_call(3);
  source.request_stop();
  ASSERT_THAT(ended, EndedAs(verdict::returned));
  EXPECT_EQ(*ended, 6);
}

TEST_P(Cancelling, IsNotARaiseForThoseWhoDoNotRaise) {
  std::stop_source source;
  source.request_stop();
  const auto quiet = limit([] { sleep_forever(); }, with({.stop = source.get_token()}), pynisher::no_raise);
  EXPECT_FALSE(quiet());
}

}  // namespace
