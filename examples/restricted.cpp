// RESTRICTED in front of a lambda or a function's name: the same callable, limited. It may stand wherever an
// expression may. Limits that are constants are checked by the compiler.

#include <chrono>
#include <cstdio>
#include <optional>
#include <string>

#include <pynisher/pynisher.hpp>

using namespace std::chrono_literals;

/// How often a number is halved or tripled (and one added) until it is 1. From 0 it never gets there.
int collatz_steps(long long number) {
  int steps = 0;
  for (; number != 1; ++steps) number = number % 2 == 0 ? number / 2 : 3 * number + 1;
  return steps;
}

// At namespace scope, in front of a function.
const auto steps_in_time = RESTRICTED(.cpu_time = {5, "s"}) collatz_steps;

// In a class, as a member's initialiser. An empty optional is what comes of a broken limit.
struct calculator {
  decltype(RESTRICTED_NO_RAISE() collatz_steps) try_steps = RESTRICTED_NO_RAISE(.cpu_time = 100ms) collatz_steps;
};

int main(int argc, char** argv) {
  pynisher::init(argc, argv);  // for `spawn`, the way of systems that cannot copy a process
  // In a block, in front of a lambda.
  const auto shout = RESTRICTED(.wall_time = 1min)[](std::string text) { return text + "!"; };

  const int steps = steps_in_time(27);
  const std::optional<int> none = calculator().try_steps(0);
  const std::string loud = shout("done");
  std::printf("27: %d steps, 0: %s, %s\n", steps, none ? "some" : "none in time", loud.c_str());
  return steps == 111 && !none && loud == "done!" ? 0 : 1;
}
