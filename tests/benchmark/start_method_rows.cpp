// Calls by the forkserver and by spawn, beside large memory and many threads; calls in flight.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include <pynisher/pynisher.hpp>

#include "ballast.hpp"
#include "every_limit.hpp"
#include "floors.hpp"
#include "row.hpp"

namespace pynisher_benchmark {

namespace {

using namespace std::chrono_literals;
using pynisher::start_method;

std::uint64_t answer() { return 42; }
std::uint64_t same(std::uint64_t value) { return value; }

auto limited_by(start_method method) {
  pynisher::options limits = every_limit();
  limits.context = method;
  return pynisher::limit(answer, limits);
}

/// Between two calls that are not made in a row, on both sides.
void rest() { std::this_thread::sleep_for(1ms); }

row one_call(const std::string& name, start_method method, double bar, double stretch, std::int64_t rounds) {
  return {.name = name + "/call",
          .what = "no-op call by " + name + ", limits set",
          .bar = bar,
          .stretch = stretch,
          .rounds = rounds,
          .smoke_rounds = 5,
          .measure = [method](benchmark::State& state) {
            const auto limited = limited_by(method);
            expect(limited() == 42, "a wrong answer");
            return interleaved(
                state, [] { return rest(), timed(bare_fork_call); },
                [&] {
                  // A fork leaves pages behind that the program has to get back: the floor's own affair.
                  limited();
                  return rest(), timed([&] { expect(limited() == 42, "a wrong answer"); });
                });
          }};
}

row in_a_row(const std::string& name, start_method method, std::int64_t rounds) {
  return {.name = name + "/in_a_row",
          .what = "ten calls by " + name + " in a row, each",
          .rounds = rounds,
          .measure = [method](benchmark::State& state) {
            const auto limited = limited_by(method);
            expect(limited() == 42, "a wrong answer");
            constexpr int calls = 10;
            const auto each = [](auto call) {
              rest();
              return timed([&] {
                       for (int i = 0; i < calls; ++i) call();
                     }) /
                     calls;
            };
            return interleaved(
                state, [&] { return each(bare_fork_call); },
                [&] { return each([&] { expect(limited() == 42, "a wrong answer"); }); });
          }};
}

/// Against its own time in a program that has neither the memory nor the threads.
row beside(const std::string& name, const std::string& what, std::size_t mebibytes, int threads) {
  return {.name = "forkserver/" + name,
          .what = "the same, caller has " + what + "; floor: without",
          .bar = 1.3,
          .rounds = 100,
          .smoke_rounds = 2,
          .measure = [mebibytes, threads](benchmark::State& state) {
            const auto limited = limited_by(start_method::forkserver);
            const auto call = [&] { return rest(), timed([&] { expect(limited() == 42, "a wrong answer"); }); };
            call();
            figures f;
            for (std::int64_t i = 0; i < state.max_iterations; ++i) f.floor.add(call());
            const ballast held(mebibytes << 20);
            std::vector<std::jthread> idle;
            for (int i = 0; i < threads; ++i) {
              idle.emplace_back([](const std::stop_token& stop) {
                while (!stop.stop_requested()) std::this_thread::sleep_for(50ms);
              });
            }
            for (auto _ : state) {
              const double taken = call();
              f.ours.add(taken);
              state.SetIterationTime(taken);
            }
            return f;
          }};
}

row warm_call() {
  return {.name = "isolate/warm",
          .what = "call in an isolate, 8 bytes each way; floor: a round trip through pipes",
          .bar = 1.5,
          .stretch = 0.6,
          .rounds = 20000,
          .smoke_rounds = 10,
          .measure = [](benchmark::State& state) {
            const pipe_echo echo;
            auto isolate = pynisher::isolate::create({.limits = {.warnings = false}});
            isolate.call(same, std::uint64_t{1});
            return interleaved(
                state, [&] { return timed([&] { expect(echo.round_trip(42) == 42, "a wrong answer"); }); },
                [&] { return timed([&] { expect(isolate.call(same, std::uint64_t{42}) == 42, "a wrong answer"); }); });
          }};
}

row made_isolate() {
  return {.name = "isolate/create",
          .what = "an isolate made, called once and closed",
          .rounds = 200,
          .smoke_rounds = 3,
          .measure = [](benchmark::State& state) {
            return interleaved(
                state, [] { return timed(bare_fork_call); },
                [] {
                  return timed([] {
                    auto isolate = pynisher::isolate::create({.limits = {.warnings = false}});
                    expect(isolate.call(same, std::uint64_t{42}) == 42, "a wrong answer");
                  });
                });
          }};
}

row in_flight(start_method method, const std::string& name, int count) {
  return {.name = "in_flight/" + name,
          .what = std::to_string(count) + " calls at once by " + name + ", each; floor: one bare fork after the other",
          .rounds = 5,
          .measure = [method, count](benchmark::State& state) {
            const auto limited = limited_by(method);
            return interleaved(
                state,
                [&] {
                  return timed([&] {
                           for (int i = 0; i < count; ++i) bare_fork_call();
                         }) /
                         count;
                },
                [&] {
                  return timed([&] {
                           std::vector<pynisher::call<std::uint64_t>> calls;
                           for (int i = 0; i < count; ++i) calls.push_back(limited.start());
                           for (auto& call : calls) expect(call.get() == 42, "a wrong answer");
                         }) /
                         count;
                });
          }};
}

}  // namespace

std::vector<row> start_method_rows() {
  return {
      one_call("forkserver", start_method::forkserver, 1.5, 1.15, 1000),
      in_a_row("forkserver", start_method::forkserver, 50),
      beside("1_GiB", "1 GiB", 1024, 0),
      beside("8_GiB", "8 GiB", 8192, 0),
      beside("32_threads", "32 threads", 0, 32),
      one_call("spawn", start_method::spawn, 10, 8, 200),
      warm_call(),
      made_isolate(),
      in_flight(start_method::fork, "fork", 200),
      in_flight(start_method::forkserver, "forkserver", 200),
  };
}

}  // namespace pynisher_benchmark
