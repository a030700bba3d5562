// Calls per second from several threads at once.

#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <string>
#include <thread>
#include <vector>

#include <pynisher/pynisher.hpp>

#include "every_limit.hpp"
#include "floors.hpp"
#include "row.hpp"

namespace pynisher_benchmark {

namespace {

using namespace std::chrono_literals;

constexpr auto slice = 250ms;

std::uint64_t answer() { return 42; }

/// Seconds per call, while `threads` threads call for a slice of time.
template <class Call>
double seconds_per_call(int threads, const Call& call) {
  std::atomic<std::uint64_t> calls{0};
  std::atomic<bool> failed{false};
  const auto begin = steady::now();
  std::vector<std::thread> callers;
  for (int i = 0; i < threads; ++i) {
    callers.emplace_back([&] {
      try {
        do {
          call();
          calls.fetch_add(1);
        } while (steady::now() < begin + slice);
      } catch (const std::exception&) {
        failed.store(true);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  const double taken = seconds_since(begin);
  expect(!failed.load(), "a call in one of several threads failed");
  return taken / static_cast<double>(calls.load());
}

row threads_row(int threads) {
  return {.name = "threads/" + std::to_string(threads),
          .what = "calls per second, limits set, from " + std::to_string(threads) + " threads",
          .in = unit::calls_per_second,
          .rounds = 10,
          .measure = [threads](benchmark::State& state) {
            const auto limited = pynisher::limit(answer, every_limit());
            return interleaved(
                state, [&] { return seconds_per_call(threads, bare_fork_call); },
                [&] { return seconds_per_call(threads, [&] { expect(limited() == 42, "a wrong answer"); }); });
          }};
}

}  // namespace

std::vector<row> scaling_rows() { return {threads_row(1), threads_row(2), threads_row(4)}; }

}  // namespace pynisher_benchmark
