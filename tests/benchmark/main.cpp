// What the library costs, beside what the bare system calls cost, interleaved in one run.
//
//     pynisher_benchmark                                   the table
//     pynisher_benchmark --smoke                           few rounds: can everything be measured, is everything right
//     pynisher_benchmark --effort=5                        five times the rounds
//     pynisher_benchmark --json=out.json                   also as JSON, values in seconds and bytes
//     pynisher_benchmark --benchmark_filter=fresh/         and the other flags of Google Benchmark
//
// Fails when a measurement cannot be made or a result is wrong, never for being slow.

#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include <benchmark/benchmark.h>
#include <pynisher/init.hpp>

#include "reporter.hpp"
#include "row.hpp"

namespace {

using namespace pynisher_benchmark;

/// The value of `--name=value` if this is it.
bool takes(std::string_view argument, std::string_view name, std::string& value) {
  if (!argument.starts_with(name)) return false;
  value = argument.substr(name.size());
  return true;
}

void register_all(double effort) {
  for (auto rows :
       {fresh_call_rows, result_rows, time_limit_rows, memory_limit_rows, tree_rows, scaling_rows, start_method_rows, isolate_rows,
        channel_rows, pool_rows, leftover_rows}) {
    for (row& r : rows()) register_row(std::move(r), effort);
  }
}

}  // namespace

int main(int argc, char** argv) {
  pynisher::init(argc, argv);
  double effort = 1;
  std::vector<std::string> arguments{argv[0]};
  for (int i = 1; i < argc; ++i) {
    std::string value;
    if (std::string_view(argv[i]) == "--smoke") {
      effort = 0;
    } else if (takes(argv[i], "--effort=", value)) {
      effort = std::strtod(value.c_str(), nullptr);
    } else if (takes(argv[i], "--json=", value)) {
      arguments.push_back("--benchmark_out=" + value);
    } else {
      arguments.emplace_back(argv[i]);
    }
  }
  std::vector<char*> pointers;
  for (std::string& argument : arguments) pointers.push_back(argument.data());
  auto count = static_cast<int>(pointers.size());
  benchmark::Initialize(&count, pointers.data());
  if (benchmark::ReportUnrecognizedArguments(count, pointers.data())) return 2;

  register_all(effort);
  table_reporter table;
  benchmark::RunSpecifiedBenchmarks(&table);
  benchmark::Shutdown();
  return table.all_measured() ? 0 : 1;
}
