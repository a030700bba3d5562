// A program of somebody else's: it knows the package's name and this header, nothing more.

#include <pynisher/pynisher.hpp>

#include <chrono>
#include <cstdio>
#include <thread>

using namespace std::chrono_literals;
using namespace pynisher::literals;

int main(int argc, char** argv) {
  pynisher::init(argc, argv);

  const auto twice = pynisher::limit([](int x) { return 2 * x; }, {.wall_time = 1min});
  const int answer = twice(21);

  const auto endless = pynisher::limit(
      [] {
        for (;;) std::this_thread::sleep_for(1s);
      },
      {.wall_time = 100ms});
  try {
    endless();
    std::puts("the limit did not hold");
    return 1;
  } catch (const pynisher::WallTimeoutException&) {
  }

  // Through fmt, which the package has to bring along.
  std::puts(fmt::format("answer {} of {}", answer, 3_MiB).c_str());
  return 0;
}
