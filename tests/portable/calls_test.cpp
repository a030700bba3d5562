// What holds on every system: nothing here knows which one it is on. What cannot be had is skipped, with the library's
// reason.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if __has_include(<sys/resource.h>)
#include <sys/resource.h>
#endif

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/outcomes.hpp"
#include "support/start_methods.hpp"

using namespace std::chrono_literals;
using namespace pynisher::literals;
using pynisher::limit;
using pynisher::verdict;
using support::EndedAs;
using support::FailedWith;
using support::RaisedAs;
namespace fs = std::filesystem;

struct refused_order : std::runtime_error {
  using std::runtime_error::runtime_error;
};
PYNISHER_EXCEPTION(refused_order);

namespace {

// --- what is called -------------------------------------------------------------------------------------------------

int twice(int x) { return 2 * x; }
void nothing() {}
std::string reversed(std::string text) { return {text.rbegin(), text.rend()}; }
std::vector<std::uint64_t> numbers(std::size_t count) {
  std::vector<std::uint64_t> all(count);
  for (std::size_t i = 0; i < count; ++i) all[i] = i * 0x9e3779b97f4a7c15u;
  return all;
}
std::uint64_t sum(const std::vector<std::uint64_t>& all) {
  std::uint64_t total = 0;
  for (const auto one : all) total += one;
  return total;
}

volatile int sink = 0;
void spin_forever() {
  for (;;) sink = sink + 1;
}
void sleep_forever() {
  for (;;) std::this_thread::sleep_for(1h);
}
/// At most 4 GiB, and slowly enough for whoever only looks now and then.
void take_memory() {
  std::vector<std::unique_ptr<char[]>> taken;
  constexpr std::size_t piece = std::size_t{1} << 20;
  for (int i = 0; i < 4096; ++i) {
    taken.push_back(std::make_unique<char[]>(piece));
    std::memset(taken.back().get(), 1, piece);
    std::this_thread::sleep_for(1ms);
  }
}
void write_to_null() {
  volatile int* volatile nowhere = nullptr;
  *nowhere = 1;
}
volatile int deepest = 0x7fffffff;  // the compiler is not to know
int overflow_stack(int depth) {
  volatile char room[4096];
  room[0] = static_cast<char>(depth);
  return depth < deepest ? overflow_stack(depth + 1) + room[0] : 0;
}
void throw_range_error() { throw std::range_error("out of noexcept"); }
void throw_out_of_noexcept() {
  const auto never = []() noexcept { throw_range_error(); };
  never();
}
void throw_nested() {
  try {
    throw std::invalid_argument("the cause");
  } catch (...) {
    std::throw_with_nested(std::logic_error("the effect"));
  }
}
double busy_for(double seconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (std::chrono::steady_clock::now() < end) sink = sink + 1;
  return seconds;
}

/// An emulator of system calls takes the limit, says that all is well, and forgets it.
bool limits_on_address_space_are_forgotten() {
#if __has_include(<sys/resource.h>)
  rlimit before{}, told{};
  ::getrlimit(RLIMIT_AS, &before);
  rlimit half = before;
  half.rlim_cur /= 2;
  if (::setrlimit(RLIMIT_AS, &half) != 0) return false;
  ::getrlimit(RLIMIT_AS, &told);
  ::setrlimit(RLIMIT_AS, &before);
  return told.rlim_cur != half.rlim_cur;
#else
  return false;
#endif
}

/// Below this no process like this one can be limited, for what it has mapped already: some 400 GiB by macOS on Apple's
/// processors, where that refuses such a limit. 0: no limit is refused.
std::uint64_t least_limit_on_address_space() {
#if __has_include(<sys/resource.h>)
  rlimit before{};
  ::getrlimit(RLIMIT_AS, &before);
  const auto takes = [&before](std::uint64_t bytes) {
    const rlimit wanted{std::min<rlim_t>(bytes, before.rlim_max), before.rlim_max};
    const bool taken = ::setrlimit(RLIMIT_AS, &wanted) == 0;
    ::setrlimit(RLIMIT_AS, &before);
    return taken;
  };
  constexpr std::uint64_t precise_enough = std::uint64_t{16} << 20;
  std::uint64_t refused = std::uint64_t{1} << 30, taken = std::uint64_t{1} << 47;
  if (takes(refused)) return 0;
  while (taken - refused > precise_enough) {
    const std::uint64_t middle = refused + (taken - refused) / 2;
    (takes(middle) ? taken : refused) = middle;
  }
  return taken;
#else
  return 0;
#endif
}

class Portable : public support::per_start_method {};
FOR_EACH_START_METHOD(Portable);

// --- values ---------------------------------------------------------------------------------------------------------

TEST_P(Portable, ValuesComeBack) {
  EXPECT_EQ(limit(twice, unlimited())(21), 42);
  EXPECT_EQ(limit(reversed, unlimited())("grün"), reversed("grün"));
  limit(nothing, unlimited())();
}

TEST_P(Portable, LargeValuesGoBothWays) {
  constexpr std::size_t count = std::size_t{1} << 20;
  const auto all = limit(numbers, unlimited())(count);
  EXPECT_EQ(all, numbers(count));
  EXPECT_EQ(limit(sum, unlimited())(all), sum(all));
}

TEST_P(Portable, OneCallableServesAgainAndAgain) {
  const auto doubled = limit(twice, unlimited());
  for (int i = 0; i < 20; ++i) EXPECT_EQ(doubled(i), 2 * i);
}

TEST_P(Portable, TheChildIsAnotherProcessInTheSamePlace) {
  static int touched = 0;
  const auto there = limit(
      +[] {
        touched = 7;
        return fs::current_path().string();
      },
      unlimited())();
  EXPECT_EQ(there, fs::current_path().string());
  EXPECT_EQ(touched, 0);
}

TEST_P(Portable, TheEnvironmentIsInherited) {
  const char* const own = std::getenv("PATH");
  ASSERT_NE(own, nullptr);
  const auto read = limit(
      +[] {
        const char* const found = std::getenv("PATH");
        return std::string(found != nullptr ? found : "");
      },
      unlimited());
  EXPECT_EQ(read(), own);
}

// --- exceptions -----------------------------------------------------------------------------------------------------

TEST_P(Portable, ExceptionsArriveAsWhatTheyAre) {
  EXPECT_THAT(limit(
                  +[] { throw std::out_of_range("at the end"); }, unlimited())
                  .try_call(),
              RaisedAs<std::out_of_range>("at the end"));
  EXPECT_THAT(limit(
                  +[] { throw refused_order("no such table"); }, unlimited())
                  .try_call(),
              RaisedAs<refused_order>("no such table"));
  EXPECT_THROW(limit(
                   +[] { throw 7; }, unlimited())(),
               int);
}

TEST_P(Portable, ErrorCodesAndCausesArrive) {
  try {
    limit(
        +[] { throw std::system_error(std::make_error_code(std::errc::no_such_file_or_directory)); }, unlimited())();
    FAIL() << "nothing arrived";
  } catch (const std::system_error& e) {
    EXPECT_EQ(e.code(), std::make_error_code(std::errc::no_such_file_or_directory));
  }
  try {
    limit(throw_nested, unlimited())();
    FAIL() << "nothing arrived";
  } catch (const std::logic_error& e) {
    EXPECT_STREQ(e.what(), "the effect");
    EXPECT_THROW(std::rethrow_if_nested(e), std::invalid_argument);
  }
}

TEST_P(Portable, AnExceptionThatLeavesANoexceptFunctionArrives) {
  EXPECT_THAT(limit(throw_out_of_noexcept, unlimited()).try_call(), RaisedAs<std::range_error>("out of noexcept"));
}

// --- limits ---------------------------------------------------------------------------------------------------------

TEST_P(Portable, AWallLimitEndsASleeper) {
  EXPECT_THAT(limit(sleep_forever, with({.wall_time = 200ms})).try_call(), EndedAs(verdict::wall_timeout));
}

TEST_P(Portable, ACpuLimitEndsASpinnerAndNoSleeper) {
  EXPECT_THAT(limit(spin_forever, with({.cpu_time = 100ms})).try_call(), EndedAs(verdict::cpu_timeout));
  const auto nap = limit(
      +[] { std::this_thread::sleep_for(1200ms); }, with({.cpu_time = 1s}));
  EXPECT_THAT(nap.try_call(), EndedAs(verdict::returned));
}

TEST_P(Portable, AMemoryLimitEndsWhoTakesMore) {
  SKIP_UNLESS_SUPPORTED("memory");
  EXPECT_THAT(limit(take_memory, with({.memory = 64_MiB})).try_call(), EndedAs(verdict::memory_limit));
  EXPECT_EQ(limit(sum, with({.memory = 256_MiB}))(numbers(1 << 20)), sum(numbers(1 << 20)));
}

TEST_P(Portable, ALimitOnAddressSpaceEndsWhoTakesMore) {
  if (limits_on_address_space_are_forgotten()) GTEST_SKIP() << "setrlimit(RLIMIT_AS) succeeds here and sets nothing";
  SKIP_UNLESS_SUPPORTED("memory_address_space");
  SKIP_UNDER_SANITIZER("it reserves more than any limit");
  using pynisher::memory_measure;
  const std::uint64_t least = least_limit_on_address_space();
  const std::uint64_t tight = least + (std::uint64_t{1} << 30), wide = least + (std::uint64_t{3} << 30);
  EXPECT_THAT(limit(take_memory, with({.memory = tight, .measure = memory_measure::address_space})).try_call(),
              EndedAs(verdict::memory_limit));
  EXPECT_EQ(limit(sum, with({.memory = wide, .measure = memory_measure::address_space}))(numbers(1 << 20)),
            sum(numbers(1 << 20)));
}

TEST_P(Portable, ALimitForTheWholeTreeEndsWhoTakesMore) {
  SKIP_UNLESS_SUPPORTED("memory_tree");
  using pynisher::memory_measure;
  const auto ended = limit(take_memory, with({.memory = 64_MiB, .measure = memory_measure::resident_tree})).try_call();
  ASSERT_THAT(ended, EndedAs(verdict::memory_limit));
  EXPECT_THAT(ended.explain(), ::testing::HasSubstr("together"));
  EXPECT_EQ(limit(sum, with({.memory = 256_MiB, .measure = memory_measure::resident_tree}))(numbers(1 << 20)),
            sum(numbers(1 << 20)));
}

void sleep_within(pynisher::start_method method) {
  limit(sleep_forever, {.context = method, .warnings = false})();
}
int twice_within(int x, pynisher::start_method method) {
  return limit(twice, {.context = method, .warnings = false})(x);
}

TEST_P(Portable, ABoundOnProcessesLetsNoMoreLive) {
  SKIP_UNLESS_SUPPORTED("process_count");
  SKIP_UNDER_SANITIZER("it may have a thread of its own");
  // The inner call's child is one too many: refused, or ended at once. Either is told to the function.
  EXPECT_THAT(limit(sleep_within, with({.processes = 1})).try_call(GetParam()), EndedAs(verdict::raised));
  EXPECT_EQ(limit(twice_within, with({.processes = 30}))(21, GetParam()), 42);
}

TEST_P(Portable, WhatIsNotSupportedIsRefusedByNameBeforeAnythingRuns) {
  using pynisher::start_method;
  for (const auto& [name, method] : {std::pair{"fork", start_method::fork}, std::pair{"spawn", start_method::spawn},
                                     std::pair{"forkserver", start_method::forkserver}}) {
    if (pynisher::supports(name)) continue;
    EXPECT_NE(pynisher::why_not(name), "");
    EXPECT_THROW(static_cast<void>(limit(nothing, {.context = method})), pynisher::UnsupportedException) << name;
  }
  if (!pynisher::supports("memory_address_space")) {
    EXPECT_THROW(
        static_cast<void>(limit(nothing, {.memory = 1_GiB, .measure = pynisher::memory_measure::address_space})),
        pynisher::UnsupportedException);
  }
}

// --- ends -----------------------------------------------------------------------------------------------------------

TEST_P(Portable, CrashesAreTold) {
  SKIP_UNDER_SANITIZER("it reports crashes itself");
  EXPECT_THAT(limit(write_to_null, unlimited()).try_call(),
              FailedWith<pynisher::SignalException>([](auto& e) { EXPECT_EQ(e.signal(), 11); }));
  EXPECT_THAT(limit(
                  +[] { std::abort(); }, unlimited())
                  .try_call(),
              FailedWith<pynisher::SignalException>([](auto& e) { EXPECT_EQ(e.signal(), SIGABRT); }));
}

TEST_P(Portable, AnEndlessRecursionIsACrash) {
  SKIP_UNDER_SANITIZER("it reports crashes itself");
  EXPECT_THAT(limit(overflow_stack, unlimited()).try_call(0), EndedAs(verdict::signalled));
}

TEST_P(Portable, ExitCodesAreTold) {
  EXPECT_THAT(limit(
                  +[] { std::_Exit(7); }, unlimited())
                  .try_call(),
              FailedWith<pynisher::ExitException>([](auto& e) { EXPECT_EQ(e.exit_code(), 7); }));
  EXPECT_THAT(limit(
                  +[] { std::exit(3); }, unlimited())
                  .try_call(),
              FailedWith<pynisher::ExitException>([](auto& e) { EXPECT_EQ(e.exit_code(), 3); }));
}

TEST_P(Portable, UsageIsMeasured) {
  const auto done = limit(busy_for, unlimited()).try_call(0.2);
  ASSERT_THAT(done, EndedAs(verdict::returned));
  EXPECT_GE(done.usage().wall_time, 200ms);
  EXPECT_GT(done.usage().cpu_time(), 0ns);
  EXPECT_GT(done.usage().peak_memory, 0u);
}

// --- calls in flight ------------------------------------------------------------------------------------------------

TEST_P(Portable, ManyCallsAtOnceGiveEachItsOwnResult) {
  const auto doubled = limit(twice, unlimited());
  std::vector<pynisher::call<int>> pending;
  // More than some systems can wait for at a time.
  constexpr int count = 70;
  for (int i = 0; i < count; ++i) pending.push_back(doubled.start(i));
  for (int i = 0; i < count; ++i) EXPECT_EQ(pending[static_cast<std::size_t>(i)].get(), 2 * i);
}

TEST_P(Portable, ARequestToStopCancels) {
  std::stop_source stop;
  pynisher::options limits = unlimited();
  limits.stop = stop.get_token();
  auto pending = limit(sleep_forever, limits).start();
  EXPECT_FALSE(pending.ready());
  stop.request_stop();
  EXPECT_THAT(pending.get_outcome(), EndedAs(verdict::cancelled));
}

TEST_P(Portable, ADroppedCallIsEnded) {
  { auto pending = limit(sleep_forever, unlimited()).start(); }
  EXPECT_EQ(limit(twice, unlimited())(1), 2);
}

TEST_P(Portable, ThreadsMayCallAtTheSameTime) {
  std::atomic<int> right{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      const auto doubled = limit(twice, with({.wall_time = 60s}));
      for (int i = 0; i < 5; ++i) right += doubled(t * 100 + i) == 2 * (t * 100 + i) ? 1 : 0;
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(right, 20);
}

// --- trees ----------------------------------------------------------------------------------------------------------

/// Shows for as long as it lives that it does.
void leave_traces(std::string file) {
  for (;;) {
    std::ofstream(file, std::ios::app) << '.' << std::flush;
    std::this_thread::sleep_for(2ms);
  }
}
void call_within(std::string file, pynisher::start_method method) {
  limit(leave_traces, {.context = method, .warnings = false})(file);
}

std::uintmax_t size_of(const fs::path& file) {
  std::error_code none;
  const auto size = fs::file_size(file, none);
  return none ? 0 : size;
}

TEST_P(Portable, AnInnerCallEndsWithTheOuterOne) {
  // One that leaves nobody's tree is ended everywhere.
  if (support::is_emulated()) GTEST_SKIP() << pynisher::why_not("kill_tree");
  const fs::path file =
      fs::temp_directory_path() / ("pynisher-portable-" + support::method_name(GetParam()) + "-" +
                                   std::to_string(std::chrono::steady_clock::now().time_since_epoch().count()));
  auto outer = limit(call_within, unlimited()).start(file.string(), GetParam());
  while (size_of(file) < 5 && !outer.ready()) std::this_thread::sleep_for(1ms);
  ASSERT_FALSE(outer.ready()) << outer.get_outcome().explain();
  outer.cancel();
  EXPECT_THAT(outer.get_outcome(), EndedAs(verdict::cancelled));
  const auto size = size_of(file);
  std::this_thread::sleep_for(100ms);
  EXPECT_EQ(size_of(file), size) << "something of the call is still alive";
  fs::remove(file);
}

TEST_P(Portable, CallsMayMakeCalls) {
  const auto outer = limit(
      +[](int x, pynisher::start_method method) {
        return limit(twice, {.context = method, .warnings = false})(x) + 1;
      },
      unlimited());
  EXPECT_EQ(outer(20, GetParam()), 41);
}

}  // namespace
