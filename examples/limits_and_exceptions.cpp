// A call under limits: its result, or an exception that says which limit it broke.

#include <chrono>
#include <cstddef>
#include <cstdio>
#include <stdexcept>
#include <vector>

#include <pynisher/pynisher.hpp>

using namespace std::chrono_literals;
using namespace pynisher::literals;

double mean(const std::vector<double>& numbers) {
  static std::vector<double> cache;
  volatile std::size_t count = numbers.size();
  if (count == 0) throw std::domain_error("no numbers");
  if (count == 1) cache.resize(std::size_t{1} << 32);  // a bug: it takes 32 GiB
  while (count == 2) continue;                         // another: it never ends
  double sum = 0;
  for (const double number : numbers) sum += number;
  return sum / static_cast<double>(count);
}

int main(int argc, char** argv) {
  pynisher::init(argc, argv);  // for `spawn`, the way of systems that cannot copy a process
  if (!pynisher::supports(pynisher::feature::memory)) return 77;  // built with sanitizers: see supports.cpp
  const auto guarded_mean = pynisher::limit(mean, {.memory = 256_MiB});
  const auto quick_mean = pynisher::limit(mean, {.memory = 256_MiB, .wall_time = 500ms});
  int seen = 0;
  std::printf("mean: %g\n", guarded_mean({1, 2, 6}));
  try {
    guarded_mean({});
  } catch (const std::domain_error& e) {  // the function's own exceptions arrive as themselves
    seen += std::printf("the function threw: %s\n", e.what()) > 0;
  }
  try {
    quick_mean({1, 2});
  } catch (const pynisher::WallTimeoutException& e) {
    seen += std::printf("too slow: %s\n", e.what()) > 0;
  }
  try {
    guarded_mean({1});
  } catch (const pynisher::MemoryLimitException& e) {
    seen += std::printf("too large: %s\n", e.what()) > 0;
  }
  return seen == 3 ? 0 : 1;
}
