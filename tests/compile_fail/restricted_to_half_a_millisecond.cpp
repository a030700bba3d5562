// EXPECT: pynisher: a limit in RESTRICTED\(...\) makes no sense
#include <chrono>

#include <pynisher/restricted.hpp>

using namespace std::chrono_literals;
int twice(int x) { return 2 * x; }
const auto bad = RESTRICTED(.wall_time = 500us) twice;
