// Pools: tasks per second, large results from a warm worker, recovery from a death.

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ranges>
#include <stdexcept>
#include <string>
#include <vector>

#include <pynisher/pynisher.hpp>

#include "floors.hpp"
#include "row.hpp"

namespace pynisher_benchmark {

namespace {

using namespace std::chrono_literals;
using pynisher::order;

int same(int value) { return value; }

/// `bar` and `stretch` in tasks per second.
row throughput(std::size_t chunk, order wanted, int tasks, double bar, double stretch) {
  const std::string in = wanted == order::input ? "input" : "completion";
  return {.name = "pool/" + in + "/" + std::to_string(chunk),
          .what = "tasks per second, 2 workers, chunk " + std::to_string(chunk) + ", " + in + " order",
          .in = unit::calls_per_second,
          .bar = 1 / bar,
          .stretch = 1 / stretch,
          .rounds = 5,
          .measure = [=](benchmark::State& state) {
            auto pool = pynisher::make_pool({.workers = 2, .limits = {.warnings = false}, .chunk = chunk}, &same);
            const auto run = [&](int count) {
              std::int64_t sum = 0;
              for (auto&& one : pool.map(std::views::iota(0, count), wanted)) sum += one.value();
              expect(sum == std::int64_t{count} * (count - 1) / 2, "a wrong sum");
            };
            run(1000);
            const int count = state.max_iterations > 1 ? tasks : tasks / 100;
            return alone(state, [&] { return timed([&] { run(count); }) / count; });
          }};
}

std::vector<double> filled(std::size_t count) { return std::vector<double>(count, 1.5); }

/// The worker keeps the value: what is measured is its way.
struct keeper {
  std::vector<double> value = filled((std::size_t{64} << 20) / sizeof(double));
  const std::vector<double>& operator()(int /*item*/) const { return value; }
};

row large_result() {
  return {.name = "pool/64MiB",
          .what = "64 MiB of double from a warm worker; floor: memcpy of them",
          .bar = 4.0,
          .stretch = 1.7,
          .rounds = 20,
          .smoke_rounds = 2,
          .measure = [](benchmark::State& state) {
            pynisher::worker_pool<keeper> pool({.workers = 1, .limits = {.warnings = false}});
            const std::vector<double> from = filled((std::size_t{64} << 20) / sizeof(double));
            std::vector<double> to(from.size());
            expect(pool.map({0}).begin()->ok(), "no result");
            return interleaved(
                state,
                [&] {
                  return timed([&] {
                    std::memcpy(to.data(), from.data(), from.size() * sizeof(double));
                    benchmark::DoNotOptimize(to.data());
                  });
                },
                [&] {
                  // One at a time: nothing is under way before it is asked for.
                  return timed([&] {
                    auto one = pool.map({0});
                    expect(one.begin()->value().size() == from.size(), "a wrong size");
                  });
                });
          }};
}

int dies(int item) {
  if (item == 1) ::kill(::getpid(), SIGKILL);
  return item;
}

row recovery() {
  return {.name = "pool/recovery",
          .what = "a worker is killed by its task; until the next task has its result; floor: a bare fork",
          .rounds = 50,
          .smoke_rounds = 3,
          .measure = [](benchmark::State& state) {
            auto pool = pynisher::make_pool({.workers = 1, .limits = {.warnings = false}}, &dies);
            return interleaved(
                state, [] { return timed(bare_fork_call); },
                [&] {
                  return timed([&] {
                    int ok = 0;
                    for (auto&& one : pool.map({1, 0})) ok += one.ok() ? 1 : 0;
                    expect(ok == 1, "a wrong number of failures");
                  });
                });
          }};
}

/// Tasks per second of Python's own pools, from a script of its own; they stand beside ours in the table.
row by_python(const std::string& which, const std::string& what) {
  return {.name = "pool/python/" + which,
          .what = "tasks per second, 2 workers, Python's " + what,
          .in = unit::calls_per_second,
          .measure = [which](benchmark::State& state) -> figures {
            const std::string command = std::string("python3 \"") + PYTHON_POOLS + "\" " + which + " 2>/dev/null";
            return alone(state, [&] {
              std::FILE* const out = ::popen(command.c_str(), "r");
              if (out == nullptr) throw std::runtime_error("python3 cannot be run");
              double seconds = 0;
              const int got = std::fscanf(out, "%lf", &seconds);
              const int status = ::pclose(out);
              expect(got == 1 && status == 0 && seconds > 0, "python3 gave no figure");
              return seconds;
            });
          }};
}

bool has_python() { return std::system("python3 -c 'import multiprocessing' >/dev/null 2>&1") == 0; }

}  // namespace

std::vector<row> pool_rows() {
  std::vector<row> rows;
  for (const order wanted : {order::completion, order::input}) {
    rows.push_back(throughput(1, wanted, 100'000, 105e3, 150e3));
    rows.push_back(throughput(10, wanted, 400'000, 400e3, 1e6));
    rows.push_back(throughput(100, wanted, 1'000'000, 1e6, 2e6));
    rows.push_back(throughput(1000, wanted, 2'000'000, 1.5e6, 4e6));
  }
  rows.push_back(large_result());
  rows.push_back(recovery());
  if (has_python()) {
    rows.push_back(by_python("futures1", "concurrent.futures, chunk 1"));
    rows.push_back(by_python("futures1000", "concurrent.futures, chunk 1000"));
    rows.push_back(by_python("pool1", "multiprocessing.Pool, imap_unordered, chunk 1"));
    rows.push_back(by_python("pool1000", "multiprocessing.Pool, imap_unordered, chunk 1000"));
  }
  return rows;
}

}  // namespace pynisher_benchmark
