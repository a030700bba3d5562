// Isolates: how soon one is there, copied, or known to be dead; what capturing costs.

#include <signal.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <pynisher/pynisher.hpp>

#include "floors.hpp"
#include "row.hpp"

namespace pynisher_benchmark {

namespace {

using namespace std::chrono_literals;
using pynisher::isolate;

std::uint64_t same_value(std::uint64_t value) { return value; }
void sleep_long() { std::this_thread::sleep_for(10min); }
void print_much(std::size_t lines) {
  for (std::size_t i = 0; i < lines; ++i) std::printf("a line of some thirty characters\n");
}

isolate quiet() { return isolate::create({.limits = {.warnings = false}, .out = pynisher::output::null()}); }

row cloned() {
  return {
      .name = "isolate/clone",
      .what = "a copy of an isolate made and called once; floor: a bare fork",
      .rounds = 50,
      .smoke_rounds = 3,
      .measure = [](benchmark::State& state) {
        isolate original = quiet();
        original.call(same_value, std::uint64_t{1});
        return interleaved(
            state, [] { return timed(bare_fork_call); },
            [&] {
              return timed([&] { expect(original.clone().call(same_value, std::uint64_t{7}) == 7, "a wrong answer"); });
            });
      }};
}

row known_to_be_dead() {
  return {.name = "isolate/death_notice",
          .what = "from the death of an isolate until whoever waits for its call knows",
          .bar = 0.05,
          .rounds = 50,
          .smoke_rounds = 3,
          .measure = [](benchmark::State& state) {
            return alone(state, [] {
              isolate iso = quiet();
              auto pending = iso.start(sleep_long);
              while (!iso.is_running()) std::this_thread::yield();
              return timed([&] {
                ::kill(static_cast<pid_t>(iso.pid()), SIGKILL);
                expect(!pending.get_outcome(), "it lives");
              });
            });
          }};
}

row made_in_parallel() {
  return {.name = "isolate/200_at_once",
          .what = "200 isolates made by 200 threads, each",
          .rounds = 3,
          .measure = [](benchmark::State& state) {
            return alone(state, [] {
              std::vector<isolate> all(200, isolate::main());
              const double taken = timed([&] {
                std::vector<std::jthread> makers;
                for (isolate& one : all) makers.emplace_back([&one] { one = quiet(); });
              });
              return taken / 200;
            });
          }};
}

row captured() {
  return {.name = "isolate/capture",
          .what = "a megabyte printed and captured; floor: printed to nowhere",
          .rounds = 30,
          .smoke_rounds = 3,
          .measure = [](benchmark::State& state) {
            constexpr std::size_t lines = 32'000;
            isolate iso = quiet();
            return interleaved(
                state, [&] { return timed([&] { iso.call(print_much, lines); }); },
                [&] {
                  return timed([&] {
                    pynisher::capture_output cap(iso);
                    iso.call(print_much, lines);
                    expect(cap.out().size() == lines * 33, "something is missing");
                  });
                });
          }};
}

}  // namespace

std::vector<row> isolate_rows() { return {cloned(), known_to_be_dead(), made_in_parallel(), captured()}; }

}  // namespace pynisher_benchmark
