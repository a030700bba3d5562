// A call of a function that does nothing, against F.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <pynisher/pynisher.hpp>

#include "ballast.hpp"
#include "every_limit.hpp"
#include "floors.hpp"
#include "row.hpp"

namespace pynisher_benchmark {

namespace {

std::uint64_t answer() { return 42; }

figures against_bare_fork(benchmark::State& state, const pynisher::options& limits) {
  const auto limited = pynisher::limit(answer, limits);
  return interleaved(
      state, [] { return timed(bare_fork_call); },
      [&] { return timed([&] { expect(limited() == 42, "a wrong answer"); }); });
}

row under_ballast(const std::string& name, std::size_t mebibytes, std::int64_t rounds) {
  return {.name = "rss/" + name,
          .what = "no-op call, limits set, caller holds " + name,
          .rounds = rounds,
          .measure = [mebibytes](benchmark::State& state) {
            const ballast held(mebibytes << 20);
            return against_bare_fork(state, every_limit());
          }};
}

row with_limits(const std::string& name, const std::string& what, const pynisher::options& limits) {
  return {.name = "fresh/" + name,
          .what = "no-op call, " + what,
          .bar = 1.15,
          .stretch = 0.95,
          .rounds = 3000,
          .smoke_rounds = 20,
          .measure = [limits](benchmark::State& state) { return against_bare_fork(state, limits); }};
}

}  // namespace

std::vector<row> fresh_call_rows() {
  pynisher::options in_address_space = every_limit();
  in_address_space.measure = pynisher::memory_measure::address_space;
  pynisher::options leaving_the_tree = every_limit();
  leaving_the_tree.terminate_child_processes = false;
  return {
      with_limits("limits", "wall + cpu + memory limits set", every_limit()),
      with_limits("address_space", "the same, memory as address space", in_address_space),
      with_limits("leaving_tree", "the same, child processes are left alone", leaving_the_tree),
      with_limits("bare", "no limits", {.warnings = false}),
      under_ballast("0_MiB", 0, 1000),
      under_ballast("256_MiB", 256, 40),
      under_ballast("1_GiB", 1024, 15),
  };
}

}  // namespace pynisher_benchmark
