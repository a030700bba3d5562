// What many calls in a row leave behind.

#include <cstddef>
#include <cstdint>
#include <vector>

#include <pynisher/pynisher.hpp>

#include "every_limit.hpp"
#include "proc_facts.hpp"
#include "row.hpp"

namespace pynisher_benchmark {

namespace {

constexpr std::int64_t calls_in_a_row = 10'000;

std::uint64_t answer() { return 42; }

/// What `count` says after the calls, less what it said before: some calls come first, so that what is made once
/// for the whole program is there.
template <class Count>
figures left_after_calls(benchmark::State& state, Count count) {
  const auto limited = pynisher::limit(answer, every_limit());
  for (int i = 0; i < 100; ++i) expect(limited() == 42, "a wrong answer");
  const double before = count();
  for (auto _ : state) state.SetIterationTime(timed([&] { expect(limited() == 42, "a wrong answer"); }));
  figures f;
  f.ours.add(count() - before);
  return f;
}

/// The last tenth of the calls against the first.
figures latency_over_calls(benchmark::State& state) {
  const auto limited = pynisher::limit(answer, every_limit());
  samples all;
  for (auto _ : state) {
    all.add(timed([&] { expect(limited() == 42, "a wrong answer"); }));
    state.SetIterationTime(all.values().back());
  }
  const auto tenth = static_cast<std::ptrdiff_t>(all.values().size() / 10);
  figures f;
  for (auto at = all.values().begin(); at != all.values().begin() + tenth; ++at) f.floor.add(*at);
  for (auto at = all.values().end() - tenth; at != all.values().end(); ++at) f.ours.add(*at);
  return f;
}

}  // namespace

std::vector<row> leftover_rows() {
  return {
      {.name = "leftovers/descriptors",
       .what = "left after 10^4 calls: descriptors, zombies, threads",
       .in = unit::count,
       .bar = 0,
       .rounds = calls_in_a_row,
       .smoke_rounds = 50,
       .measure =
           [](benchmark::State& state) {
             figures f = left_after_calls(state, [] { return open_descriptors() + children() + other_threads(); });
             expect(f.ours.median() == 0, "calls leave descriptors, children or threads behind");
             return f;
           }},
      {.name = "leftovers/memory",
       .what = "left after 10^4 calls: resident memory",
       .in = unit::bytes,
       .bar = 64 << 10,
       .rounds = calls_in_a_row,
       .smoke_rounds = 50,
       .measure =
           [](benchmark::State& state) {
             return left_after_calls(state, [] { return static_cast<double>(resident_bytes()); });
           }},
      {.name = "leftovers/latency",
       .what = "last 1000 of 10^4 calls, against the first 1000",
       .bar = 1.1,
       .rounds = calls_in_a_row,
       .smoke_rounds = 50,
       .measure = latency_over_calls},
  };
}

}  // namespace pynisher_benchmark
