// Descendants that come into being while they are being killed.

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <stop_token>
#include <string>
#include <thread>
#include <tuple>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "support/handshake.hpp"
#include "support/helper_process.hpp"
#include "support/scenarios.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::limit;
using support::ending;

constexpr long most_alive = 200;

/// Shared by a bomb's processes. It is defused by the test, or by time, so that what escapes does not stay.
struct bomb {
  std::atomic<long> alive{0};
  std::atomic<long> steps{0};
  std::atomic<bool> defused{false};
  std::chrono::steady_clock::time_point until = std::chrono::steady_clock::now() + 60s;
};

bool goes_on(const bomb& b) { return !b.defused.load() && std::chrono::steady_clock::now() < b.until; }

/// Forks and exits, again and again: never the same process for long.
[[noreturn]] void hop(bomb* b) {
  while (goes_on(*b)) {
    if (::fork() > 0) ::_exit(0);
    b->steps.fetch_add(1);
  }
  ::_exit(0);
}

/// The same through exec, with a session of its own each time.
[[noreturn]] void hop_in_sessions(bomb* b) {
  while (goes_on(*b)) {
    if (::fork() > 0) ::_exit(0);
    ::setsid();
    b->steps.fetch_add(1);
  }
  ::_exit(0);
}

/// Two for one, up to a bound on those alive.
[[noreturn]] void multiply(bomb* b) {
  while (goes_on(*b)) {
    b->steps.fetch_add(1);
    if (b->alive.fetch_add(1) < most_alive) {
      if (::fork() < 0) b->alive.fetch_sub(1);
    } else {
      b->alive.fetch_sub(1);
      ::usleep(100);
    }
  }
  ::_exit(0);
}

enum class shape { one_chain, many_chains, chains_in_sessions, multiplying };

const char* name_of(shape what) {
  switch (what) {
    case shape::one_chain:
      return "one_chain";
    case shape::many_chains:
      return "many_chains";
    case shape::chains_in_sessions:
      return "chains_in_sessions";
    case shape::multiplying:
      return "multiplying";
  }
  return "unknown";
}

void start(shape what, bomb* b) {
  const int count = what == shape::one_chain ? 1 : what == shape::multiplying ? 2 : 4;
  for (int i = 0; i < count; ++i) {
    if (::fork() != 0) continue;
    if (what == shape::multiplying) multiply(b);
    if (what == shape::chains_in_sessions) hop_in_sessions(b);
    hop(b);
  }
}

/// Whether nobody takes another step. Those killed do not; the others do, all the time.
bool stands_still(const bomb& b) {
  const long seen = b.steps.load();
  ::usleep(20'000);
  return b.steps.load() == seen;
}

class MovingTrees : public ::testing::TestWithParam<std::tuple<shape, ending>> {};

TEST_P(MovingTrees, AreGoneWhenTheCallIs) {
  SKIP_UNLESS_SUPPORTED("kill_tree");
  const auto [what, how] = GetParam();
  constexpr int calls = 4;
  const support::shared<bomb> b;
  const auto end = support::run_in_helper([&, what, how] {
    ::alarm(50);
    for (int i = 0; i < calls; ++i) {
      const long from = b->steps.load();
      b->alive.store(0);
      // The one that never ends is cancelled when its tree moves.
      std::stop_source stop;
      std::jthread canceller([&] {
        if (how != ending::sleeps) return;
        support::await([&] { return b->steps.load() > from + 20; });
        stop.request_stop();
      });
      const auto result = limit(
                              [what, how, b = b.get(), from] {
                                ::signal(SIGCHLD, SIG_IGN);
                                start(what, b);
                                support::await([&] { return b->steps.load() > from + 20; });
                                support::end_by(how);
                              },
                              {.warnings = false, .stop = stop.get_token()})
                              .try_call();
      HELPER_CHECK(!result.explain().empty());
      if (!stands_still(*b)) {
        b->defused.store(true);
        std::fprintf(stderr, "call %d left something that moves\n", i);
        return 2;
      }
      HELPER_CHECK(b->steps.load() > from);
    }
    HELPER_CHECK(::waitpid(-1, nullptr, WNOHANG | __WALL) == -1 && errno == ECHILD);
    return 0;
  });
  b->defused.store(true);
  EXPECT_EQ(end.code, 0) << end;
}

INSTANTIATE_TEST_SUITE_P(Of, MovingTrees,
                         ::testing::Combine(::testing::Values(shape::one_chain, shape::many_chains,
                                                              shape::chains_in_sessions, shape::multiplying),
                                            ::testing::Values(ending::returns, ending::throws, ending::segfault,
                                                              ending::calls_underscore_exit, ending::kills_itself,
                                                              ending::sleeps)),
                         [](const auto& p) {
                           return std::string(name_of(std::get<0>(p.param))) + "_and_" +
                                  support::name_of(std::get<1>(p.param));
                         });

}  // namespace
