// try_call never throws for what the function did: its outcome has the value or the error, a verdict, the cost, and
// one sentence for the log.

#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <string>
#include <vector>

#include <fmt/format.h>

#include <pynisher/pynisher.hpp>

using namespace std::chrono_literals;

std::size_t fill(std::size_t mebibytes) { return std::vector<char>(mebibytes << 20, 'x').size(); }

void crash() { std::abort(); }

int main(int argc, char** argv) {
  pynisher::init(argc, argv);  // for `spawn`, the way of systems that cannot copy a process
  const auto filled = pynisher::limit(fill, {.wall_time = 1min}).try_call(100);
  const pynisher::usage& cost = filled.usage();
  fmt::print("{}\n", filled.explain());
  fmt::print("  verdict {}, cost {}, {} page faults\n", filled.verdict(), cost, cost.page_faults);

  const auto crashed = pynisher::limit(crash).try_call();
  fmt::print("{}\n  verdict {}\n", crashed.explain(), crashed.verdict());
  try {
    crashed.value();  // throws what the call would have thrown
  } catch (const pynisher::SignalException& e) {
    fmt::print("  value() threw a SignalException, signal {}\n", e.signal());
    return filled && *filled == 100 << 20 && cost.peak_memory >= 100 << 20 && crashed == pynisher::EMPTY ? 0 : 1;
  }
  return 1;
}
