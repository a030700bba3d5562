// Calls from many threads at once have nothing to do with each other.

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <set>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>

#include <pynisher/pynisher.hpp>

#include "concurrency/world.hpp"
#include "support/handshake.hpp"
#include "support/outcomes.hpp"
#include "support/scenarios.hpp"
#include "support/suites.hpp"

namespace {

using namespace std::chrono_literals;
using pynisher::limit;
using pynisher::verdict;
using support::EndedAs;

class IndependentCalls : public support::per_start_method {};
FOR_EACH_START_METHOD(IndependentCalls);

/// Runs until told to stop, in a thread of its own. The body may not use matchers: it returns what is wrong.
template <class Body>
std::vector<std::string> in_threads(int count, Body body) {
  std::vector<std::string> complaints(static_cast<std::size_t>(count));
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < count; ++i) {
      threads.emplace_back([&complaints, &body, i] { complaints[static_cast<std::size_t>(i)] = body(i); });
    }
  }
  std::erase(complaints, std::string());
  return complaints;
}

TEST_P(IndependentCalls, AShortOneReturnsWhileALongOneRuns) {
  ONLY_BY_FORK("its callable has captures");
  const support::shared_flag started, release;
  std::atomic<bool> long_one_returned{false};
  std::jthread long_one([&] {
    limit(
        [started = started.get(), release = release.get()] {
          started->store(true);
          support::await_flag(*release);
        },
        unlimited())();
    long_one_returned.store(true);
  });
  support::await_flag(*started);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(limit([](int x) { return x + 1; }, unlimited())(i), i + 1);
    EXPECT_THAT(limit(support::write_to_null, unlimited()).try_call(), EndedAs(verdict::signalled));
    EXPECT_THAT(limit(support::sleep_forever, with({.wall_time = 5ms})).try_call(), EndedAs(verdict::wall_timeout));
    EXPECT_FALSE(long_one_returned.load());
  }
  release->store(true);
}

// A child that is started while another call runs must not keep that one's pipes open, or swallow its wake-ups.
TEST_P(IndependentCalls, ALongOneKeepsNoDescriptorThatAShortOneWaitsFor) {
  ONLY_BY_FORK("its callable has captures");
  const support::shared_counter running;
  const support::shared_flag release;
  std::vector<std::jthread> long_ones;
  for (int i = 0; i < 8; ++i) {
    long_ones.emplace_back([&] {
      limit(
          [running = running.get(), release = release.get()] {
            running->fetch_add(1);
            support::await_flag(*release);
          },
          unlimited())();
    });
    support::await([&] { return running->load() == i + 1; });
    EXPECT_EQ(limit([] { return std::string(5 << 20, 'x'); }, unlimited())().size(), std::size_t{5} << 20);
  }
  release->store(true);
}

std::string mixed_call(int thread, int call, const pynisher::options& limits) {
  const auto wrong = [&](const auto& result) {
    return "thread " + std::to_string(thread) + ", call " + std::to_string(call) + ": " + result.explain() + "\n";
  };
  pynisher::options short_limit = limits;
  short_limit.wall_time = 3ms;
  switch ((thread + call) % 8) {
    case 0: {
      const auto result = limit([](int a, int b) { return a * 1000 + b; }, limits).try_call(thread, call);
      return result && *result == thread * 1000 + call ? std::string() : wrong(result);
    }
    case 1: {
      const auto result =
          limit([](int a) -> int { throw std::out_of_range(std::to_string(a)); }, limits).try_call(call);
      try {
        result.value();
      } catch (const std::out_of_range& e) {
        if (e.what() == std::to_string(call)) return {};
      } catch (...) {
      }
      return wrong(result);
    }
    case 2: {
      const auto result = limit([](int n) { ::_exit(n % 200); }, limits).try_call(call);
      try {
        result.value();
      } catch (const pynisher::ExitException& e) {
        if (e.exit_code() == call % 200) return {};
      } catch (...) {
      }
      return wrong(result);
    }
    case 3: {
      const auto result = limit([] { ::raise(SIGKILL); }, limits).try_call();
      return result.verdict() == verdict::signalled ? std::string() : wrong(result);
    }
    case 4: {
      const auto result = limit(support::sleep_forever, short_limit).try_call();
      return result.verdict() == verdict::wall_timeout ? std::string() : wrong(result);
    }
    case 5: {
      const auto size = static_cast<std::size_t>(thread + 1) * 100'000;
      const auto result = limit([](std::size_t n, char c) { return std::string(n, c); }, limits)
                              .try_call(size, static_cast<char>('a' + thread));
      return result && *result == std::string(size, static_cast<char>('a' + thread)) ? std::string() : wrong(result);
    }
    case 6: {
      std::stop_source stop;
      stop.request_stop();
      pynisher::options cancelled = limits;
      cancelled.stop = stop.get_token();
      const auto result = limit(support::sleep_forever, cancelled).try_call();
      return result.verdict() == verdict::cancelled ? std::string() : wrong(result);
    }
    default: {
      const auto result = limit(
                              [] {
                                if (::fork() == 0) support::sleep_two_minutes();
                                return 1;
                              },
                              limits)
                              .try_call();
      return result && *result == 1 ? std::string() : wrong(result);
    }
  }
}

TEST_P(IndependentCalls, SixteenThreadsGetEachTheirOwnOfManyOutcomes) {
  const pynisher::options limits = unlimited();
  const auto complaints = in_threads(16, [&](int thread) {
    std::string text;
    for (int call = 0; call < 200; ++call) text += mixed_call(thread, call, limits);
    return text;
  });
  EXPECT_THAT(complaints, ::testing::IsEmpty());
}

TEST_P(IndependentCalls, OneObjectServesManyThreads) {
  const auto doubled = limit([](int x) { return 2 * x; }, with({.wall_time = 1min}));
  const auto complaints = in_threads(16, [&](int thread) {
    std::string text;
    for (int call = 0; call < 50; ++call) {
      if (const int got = doubled(thread * 100 + call); got != 2 * (thread * 100 + call)) {
        text += std::to_string(got) + ' ';
      }
    }
    return text;
  });
  EXPECT_THAT(complaints, ::testing::IsEmpty());
}

std::set<std::string> what_is_open() {
  std::set<std::string> open;
  for (const auto& fd : concurrency::entries_of("/proc/self/fd")) {
    char target[256] = {};
    if (::readlink(("/proc/self/fd/" + fd).c_str(), target, sizeof target - 1) > 0) open.insert(fd + ' ' + target);
  }
  return open;
}

std::set<std::string> without_a_number(const std::set<std::string>& open) {
  std::set<std::string> kinds;
  for (const auto& line : open) kinds.insert(line.substr(line.find(' ') + 1));
  return kinds;
}

// A function that reads from, or writes to, whatever it finds would otherwise disturb its neighbours.
TEST_P(IndependentCalls, SeeNoDescriptorsOfEachOther) {
  ONLY_BY_FORK("its callable has captures");
  const auto count_open = limit([] { return what_is_open().size(); }, unlimited());
  const std::size_t alone = count_open();
  const support::shared_counter running;
  const support::shared_flag release;
  std::vector<std::jthread> others;
  for (int i = 0; i < 6; ++i) {
    others.emplace_back([&, i] {
      // With and without a wish to hear of SIGINT: what is registered for it differs.
      auto limits = with({.wall_time = 1min});
      limits.forceful_keyboard_interrupt = i % 2 == 0;
      limit(
          [running = running.get(), release = release.get()] {
            running->fetch_add(1);
            support::await_flag(*release);
          },
          limits)();
    });
  }
  support::await([&] { return running->load() == 6; });
  const auto seen = limit(what_is_open, unlimited())();
  EXPECT_EQ(seen.size(), alone) << ::testing::PrintToString(without_a_number(seen));
  release->store(true);
}

}  // namespace
