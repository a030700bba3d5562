#pragma once

// One row of the table: a thing measured against its floor.

#include <benchmark/benchmark.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "samples.hpp"

namespace pynisher_benchmark {

enum class unit : std::uint8_t {
  seconds,
  calls_per_second,  ///< measured as seconds per call, shown as calls per second
  bytes,
  count,
};

/// What was measured. Without a floor, the library's own value stands against the bar.
struct figures {
  samples floor;
  samples ours;
};

struct row {
  std::string name;  ///< for --benchmark_filter
  std::string what;
  unit in = unit::seconds;
  std::optional<double> bar{}, stretch{};  ///< of the ratio where there is a floor, else of the value
  std::int64_t rounds = 1;
  std::int64_t smoke_rounds = 1;
  /// Throws what makes a measurement impossible or a result wrong.
  std::function<figures(benchmark::State&)> measure;
};

std::vector<row> fresh_call_rows();
std::vector<row> result_rows();
std::vector<row> time_limit_rows();
std::vector<row> memory_limit_rows();
std::vector<row> tree_rows();
std::vector<row> scaling_rows();
std::vector<row> start_method_rows();
std::vector<row> isolate_rows();
std::vector<row> channel_rows();
std::vector<row> leftover_rows();
std::vector<row> pool_rows();

/// `effort` multiplies the rounds; 0: as few as show that it can be measured. Keeps `r` for `row_named`.
void register_row(row r, double effort);
/// Null for a name that was never registered.
const row* row_named(const std::string& name);

/// Both sides in every round of one loop, each of them first in every other round. `floor` and `ours` return seconds.
template <class Floor, class Ours>
figures interleaved(benchmark::State& state, Floor floor, Ours ours) {
  figures f;
  bool floor_first = true;
  for (auto _ : state) {
    if (floor_first) f.floor.add(floor());
    const double taken = ours();
    f.ours.add(taken);
    if (!floor_first) f.floor.add(floor());
    floor_first = !floor_first;
    state.SetIterationTime(taken);
  }
  return f;
}

/// A thing that has no floor.
template <class Ours>
figures alone(benchmark::State& state, Ours ours) {
  figures f;
  for (auto _ : state) {
    const double value = ours();
    f.ours.add(value);
    state.SetIterationTime(value > 0 ? value : 1e-9);
  }
  return f;
}

/// Throws if `true_for_us` does not hold: the measurement is worth nothing then.
void expect(bool true_for_us, const char* what);

}  // namespace pynisher_benchmark
