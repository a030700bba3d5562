// After a call the program is as it was, however the call ended.

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "concurrency/world.hpp"
#include "support/handshake.hpp"
#include "support/helper_process.hpp"
#include "support/outcomes.hpp"
#include "support/scenarios.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using namespace pynisher::literals;
using concurrency::look_around;
using pynisher::limit;
using pynisher::verdict;

/// A kind of call, and how it ends.
struct kind {
  const char* name;
  verdict expected;
  std::function<verdict()> call;
  const char* needs = "wall_time";
  friend void PrintTo(const kind& k, std::ostream* os) { *os << k.name; }
};

template <class F>
verdict verdict_of(F fn, pynisher::options limits = {}) {
  return limit(fn, std::move(limits)).try_call().verdict();
}

void leave_a_tree() {
  for (int i = 0; i < 3; ++i) {
    if (::fork() == 0) {
      ::setsid();
      if (::fork() != 0) ::_exit(0);
      support::sleep_two_minutes();
    }
  }
}

template <support::ending How>
void with_a_tree() {
  leave_a_tree();
  support::end_by(How);
}

verdict cancelled_in_flight() {
  std::stop_source stop;
  const support::shared_flag running;
  std::jthread canceller([&] {
    support::await_flag(*running);
    stop.request_stop();
  });
  return verdict_of(
      [running = running.get()] {
        running->store(true);
        support::sleep_forever();
      },
      {.warnings = false, .stop = stop.get_token()});
}

verdict failed_start() {
  // No descriptor is left for the library's own.
  rlimit before{};
  ::getrlimit(RLIMIT_NOFILE, &before);
  const rlimit none{0, before.rlim_max};
  ::setrlimit(RLIMIT_NOFILE, &none);
  const verdict seen = verdict_of([] {});
  ::setrlimit(RLIMIT_NOFILE, &before);
  return seen;
}

const kind kinds[] = {
    {"value", verdict::returned, [] { return verdict_of([] { return 7; }); }},
    {"large_value", verdict::returned, [] { return verdict_of([] { return std::string(8 << 20, 'x'); }); }},
    {"nothing", verdict::returned, [] { return verdict_of([] {}); }},
    {"exception", verdict::raised, [] { return verdict_of([] { throw std::out_of_range("row 7"); }); }},
    {"crash", verdict::signalled, [] { return verdict_of(support::write_to_null); }},
    {"abort", verdict::signalled, [] { return verdict_of([] { std::abort(); }); }},
    {"kill", verdict::signalled, [] { return verdict_of([] { ::raise(SIGKILL); }); }},
    {"exit", verdict::exited, [] { return verdict_of([] { std::exit(3); }); }},
    {"underscore_exit", verdict::exited, [] { return verdict_of([] { ::_exit(3); }); }},
    {"wall_limit", verdict::wall_timeout, [] { return verdict_of(support::sleep_forever, {.wall_time = 10ms}); }},
    {"cpu_limit", verdict::cpu_timeout, [] { return verdict_of(support::spin_forever, {.cpu_time = 10ms}); }},
    {"memory_limit", verdict::memory_limit,
     [] { return verdict_of(support::touch_memory_forever, {.memory = 32_MiB}); }, "memory"},
    {"all_limits_kept", verdict::returned,
     [] { return verdict_of([] { return 7; }, {.memory = 512_MiB, .cpu_time = 1min, .wall_time = 1min}); }, "memory"},
    {"cancelled", verdict::cancelled, cancelled_in_flight},
    {"failed_start", verdict::start_failed, failed_start},
    {"tree_and_value", verdict::returned, [] { return verdict_of(with_a_tree<support::ending::returns>); }},
    {"tree_and_exception", verdict::raised, [] { return verdict_of(with_a_tree<support::ending::throws>); }},
    {"tree_and_crash", verdict::signalled, [] { return verdict_of(with_a_tree<support::ending::segfault>); }},
    {"tree_and_exit", verdict::exited, [] { return verdict_of(with_a_tree<support::ending::calls_underscore_exit>); }},
    {"tree_and_wall_limit", verdict::wall_timeout,
     [] { return verdict_of(with_a_tree<support::ending::sleeps>, {.wall_time = 30ms}); }},
    {"polite_to_interrupts", verdict::returned,
     [] { return verdict_of([] { return 7; }, {.forceful_keyboard_interrupt = false}); }},
    {"named", verdict::returned, [] { return verdict_of([] { return 7; }, {.name = "a name"}); }},
    {"nested", verdict::returned,
     [] { return verdict_of([] { return limit([] { return 7; }, {.wall_time = 1min})(); }, {.wall_time = 1min}); }},
};

class Leftovers : public ::testing::TestWithParam<kind> {};

TEST_P(Leftovers, AreNone) {
  SKIP_UNLESS_SUPPORTED(GetParam().needs);
  if (GetParam().expected == verdict::start_failed) SKIP_UNDER_SANITIZER("its own checks need a descriptor");
  const auto end = support::run_in_helper([what = GetParam()] {
    const bool own_files = concurrency::own_temporary_files();
    // The first calls set up what is kept for the program's life.
    for (int i = 0; i < 3; ++i) HELPER_CHECK(what.call() == what.expected);
    const auto before = look_around(own_files);
    for (int i = 0; i < 10; ++i) HELPER_CHECK(what.call() == what.expected);
    std::fputs(concurrency::changes(before, look_around(own_files)).c_str(), stdout);
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
  EXPECT_EQ(end.out, "");
}

INSTANTIATE_TEST_SUITE_P(Of, Leftovers, ::testing::ValuesIn(kinds),
                         [](const auto& k) { return std::string(k.param.name); });

// What the library sets for itself it sets on the first call; that much may differ, and nothing else.
TEST(Leftovers, OfTheVeryFirstCallAreNoDescriptorThreadChildOrHandler) {
  const auto end = support::run_in_helper([] {
    auto before = look_around(false);
    HELPER_CHECK(limit([] { return 7; }, {.wall_time = 1min})() == 7);
    auto after = look_around(false);
    before.erase("mappings");
    std::fputs(concurrency::changes(before, after).c_str(), stdout);
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
  EXPECT_EQ(end.out, "");
}

TEST(Leftovers, OfAnApplicationsOwnSettingsAreAllOfThem) {
  SKIP_UNDER_SANITIZER("its own checks need a descriptor");
  const auto end = support::run_in_helper([] {
    // Odd ones, that a call would restore wrongly if it restored from memory instead of from what was there.
    sigset_t odd;
    sigemptyset(&odd);
    for (const int signal : {SIGUSR1, SIGINT, SIGTERM, SIGCHLD}) sigaddset(&odd, signal);
    ::sigprocmask(SIG_SETMASK, &odd, nullptr);
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    ::signal(SIGXCPU, SIG_IGN);
    ::signal(SIGINT, [](int) {});
    ::signal(SIGUSR2, [](int) { ::_exit(1); });
    for (const auto& what : kinds) {
      if (!pynisher::supports(what.needs)) continue;
      what.call();
      const auto before = look_around(false);
      HELPER_CHECK(what.call() == what.expected);
      const std::string changed = concurrency::changes(before, look_around(false));
      if (!changed.empty()) std::printf("%s: %s", what.name, changed.c_str());
    }
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
  EXPECT_EQ(end.out, "");
}

TEST(Leftovers, OfTwoThousandCallsAreNoMemoryAndNoDescriptor) {
  SKIP_UNDER_SANITIZER("it keeps memory that is given back");
  const auto end = support::run_in_helper([] {
    const auto one_call = [](int i) {
      switch (i % 5) {
        case 0:
          HELPER_CHECK(verdict_of([] { throw std::out_of_range("row 7"); }) == verdict::raised);
          break;
        case 1:
          HELPER_CHECK(verdict_of([] { ::_exit(3); }) == verdict::exited);
          break;
        case 2:
          HELPER_CHECK(verdict_of([] { return std::string(2 << 20, 'x'); }) == verdict::returned);
          break;
        case 3:
          HELPER_CHECK(verdict_of(support::sleep_forever, {.wall_time = 1ms}) == verdict::wall_timeout);
          break;
        default:
          HELPER_CHECK(verdict_of([] { return 7; }) == verdict::returned);
      }
    };
    for (int i = 0; i < 200; ++i) one_call(i);
    const std::uint64_t resident = concurrency::resident_bytes();
    const auto before = look_around(false);
    for (int i = 0; i < 2000; ++i) one_call(i);
    // A page per call would be 8 MiB.
    HELPER_CHECK(concurrency::resident_bytes() < resident + (std::uint64_t{2} << 20));
    std::fputs(concurrency::changes(before, look_around(false)).c_str(), stdout);
    return 0;
  });
  EXPECT_EQ(end.code, 0) << end;
  EXPECT_EQ(end.out, "");
}

}  // namespace
