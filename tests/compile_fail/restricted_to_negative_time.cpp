// EXPECT: pynisher: a limit in RESTRICTED\(...\) makes no sense
// NOT ON: Clang it does not fold the check of a limit, and refuses it when the expression is evaluated
#include <chrono>

#include <pynisher/restricted.hpp>

using namespace std::chrono_literals;
int twice(int x) { return 2 * x; }
const auto bad = RESTRICTED(.cpu_time = -1) twice;
