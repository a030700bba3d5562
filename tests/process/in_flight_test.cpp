// Calls that were started: results, waiting, cancellation, threads, many at once.

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/functions.hpp"
#include "support/outcomes.hpp"
#include "support/processes.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::limit;
using pynisher::verdict;
using support::sleep_forever;

class InFlight : public support::per_start_method {};
FOR_EACH_START_METHOD(InFlight);

int twice(int number) { return 2 * number; }

TEST_P(InFlight, AValueComesWhenItIsAskedFor) {
  const auto doubled = limit(twice, with({.cpu_time = 1min, .wall_time = 1min}));
  auto first = doubled.start(4);
  auto second = doubled.start(5);
  EXPECT_EQ(second.get(), 10);
  EXPECT_EQ(first.get(), 8);
}

int seven_when_permitted(const std::string& path) {
  support::await_permission(path);
  return 7;
}

TEST_P(InFlight, ComesBackWhileTheFunctionRuns) {
  const support::permission release;
  auto pending = limit(seven_when_permitted, with({})).start(release.path());
  EXPECT_FALSE(pending.ready());
  EXPECT_FALSE(pending.wait_for(1ms));
  EXPECT_FALSE(pending.wait_until(std::chrono::system_clock::now() + 1ms));
  EXPECT_GT(pending.pid(), 0);
  EXPECT_FALSE(support::is_gone(static_cast<support::process_id>(pending.pid())));
  release.give();
  pending.wait();
  EXPECT_TRUE(pending.ready());
  EXPECT_TRUE(pending.wait_for(0s));
  EXPECT_TRUE(pending.wait_until(std::chrono::system_clock::now() - 1h));
  EXPECT_EQ(pending.get(), 7);
}

TEST_P(InFlight, ThrowsWhatThePlainCallWould) {
  auto thrown = limit([]() -> int { throw std::domain_error("row 7"); }, with({})).start();
  EXPECT_THROW(static_cast<void>(thrown.get()), std::domain_error);
  auto late = limit(sleep_forever, with({.wall_time = 20ms})).start();
  EXPECT_THROW(late.get(), pynisher::WallTimeoutException);
  auto crashed = limit(support::end_by_a_signal, with({})).start();
  EXPECT_THROW(crashed.get(), pynisher::SignalException);
}

TEST_P(InFlight, AMemoryLimitHolds) {
  SKIP_UNLESS_SUPPORTED("memory");
  auto refused = limit(support::touch_memory_forever, with({.memory = pynisher::memory_size(30 * support::MiB)})).start();
  EXPECT_THROW(refused.get(), pynisher::MemoryLimitException);
}

TEST_P(InFlight, AnOutcomeNamesTheCall) {
  auto pending = limit([](int, const std::string&) { std::_Exit(4); }, with({})).start(3, "text");
  const auto ended = pending.get_outcome();
  EXPECT_THAT(ended, support::EndedAs(verdict::exited));
  EXPECT_THAT(ended.explain(), ::testing::HasSubstr("(3, \"text\")"));
}

TEST_P(InFlight, AResultIsTakenOnce) {
  auto pending = limit(twice, with({})).start(1);
  EXPECT_EQ(pending.get(), 2);
  EXPECT_THROW(static_cast<void>(pending.get()), std::logic_error);
  EXPECT_TRUE(pending.ready());
}

TEST_P(InFlight, ArgumentsAreNotNeededAfterTheStart) {
  ONLY_BY_FORK("its callable has captures");
  std::optional<pynisher::call<std::string>> pending;
  {
    const std::string text(5000, 'x');
    const auto give_back = limit([text](const std::string& more) { return text + more; }, with({}));
    pending.emplace(give_back.start(std::string(3000, 'y')));
  }
  EXPECT_EQ(pending->get(), std::string(5000, 'x') + std::string(3000, 'y'));
}

std::string joined(const std::string& one, const std::string& other) { return one + other; }

TEST_P(InFlight, NeitherTheCallableNorItsArgumentsAreNeededAfterTheStart) {
  std::optional<pynisher::call<std::string>> pending;
  {
    const auto join = limit(joined, with({}));
    const std::string text(5000, 'x');
    pending.emplace(join.start(text, std::string(3000, 'y')));
  }
  EXPECT_EQ(pending->get(), std::string(5000, 'x') + std::string(3000, 'y'));
}

TEST_P(InFlight, LargeResultsComeWhileNobodyWaits) {
  auto pending = limit([] { return std::vector<std::uint64_t>(4 << 20, 9); }, with({.wall_time = 1min})).start();
  pending.wait();
  EXPECT_THAT(pending.get(), ::testing::SizeIs(4 << 20));
}

TEST_P(InFlight, CancelEndsItAtOnce) {
  auto pending = limit(sleep_forever, with({})).start();
  const auto pid = static_cast<support::process_id>(pending.pid());
  pending.cancel();
  EXPECT_THAT(pending.get_outcome(), support::EndedAs(verdict::cancelled));
  EXPECT_TRUE(support::is_gone(pid));
  pending.cancel();
}

TEST_P(InFlight, CancelAfterTheEndChangesNothing) {
  auto pending = limit(twice, with({})).start(6);
  pending.wait();
  pending.cancel();
  EXPECT_EQ(pending.get(), 12);
}

TEST_P(InFlight, AStopTokenEndsIt) {
  std::stop_source stop;
  auto pending = limit(sleep_forever, with({.stop = stop.get_token()})).start();
  stop.request_stop();
  EXPECT_THROW(pending.get(), pynisher::CancelledException);
  auto too_late = limit(sleep_forever, with({.stop = stop.get_token()})).start();
  EXPECT_THROW(too_late.get(), pynisher::CancelledException);
  EXPECT_EQ(too_late.pid(), -1);
}

TEST_P(InFlight, AssigningToAHandleEndsWhatItHeld) {
  auto pending = limit(sleep_forever, with({})).start();
  const auto first = static_cast<support::process_id>(pending.pid());
  pending = limit(sleep_forever, with({})).start();
  EXPECT_TRUE(support::is_gone(first));
  EXPECT_FALSE(support::is_gone(static_cast<support::process_id>(pending.pid())));
}

// The child must not die with the thread that asked for it.
TEST_P(InFlight, GoesOnWhenTheThreadThatStartedItEnds) {
  const support::permission release;
  std::optional<pynisher::call<int>> pending;
  std::thread([&] { pending.emplace(limit(seven_when_permitted, with({})).start(release.path())); }).join();
  release.give();
  int result = 0;
  std::thread([&result, pending = std::move(*pending)]() mutable { result = pending.get(); }).join();
  EXPECT_EQ(result, 7);
}

int sum_of_two_calls(pynisher::start_method method) {
  const pynisher::options inner{.context = method, .warnings = false};
  auto one = limit(twice, inner).start(1);
  auto two = limit(twice, inner).start(2);
  return one.get() + two.get();
}

TEST_P(InFlight, CallsOfACallAreCallsToo) {
  auto pending = limit(sum_of_two_calls, with({})).start(GetParam());
  EXPECT_EQ(pending.get(), 6);
}

TEST_P(InFlight, TellsWhenItIsDone) {
  std::mutex mutex;
  std::condition_variable changed;
  int told = 0;
  const auto tell = [&] {
    const std::lock_guard lock(mutex);
    ++told;
    changed.notify_all();
  };
  auto pending = limit(twice, with({})).start(2);
  pending.when_done(tell);
  {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return told == 1; });
  }
  EXPECT_TRUE(pending.ready());
  pending.when_done(tell);
  EXPECT_EQ(told, 2);
  EXPECT_EQ(pending.get(), 4);
}

TEST_P(InFlight, DeadlinesOfManyAreEachTheirOwn) {
  std::vector<pynisher::call<void>> pending;
  for (int i = 0; i < 60; ++i) {
    pending.push_back(limit(sleep_forever, with({.wall_time = std::chrono::milliseconds(20 + i % 7 * 10)})).start());
  }
  for (int i = 0; i < 60; ++i) {
    const auto ended = pending[static_cast<std::size_t>(i)].get_outcome();
    EXPECT_THAT(ended, support::EndedAs(verdict::wall_timeout));
    EXPECT_GE(ended.usage().wall_time, std::chrono::milliseconds(20 + i % 7 * 10));
  }
}

}  // namespace
