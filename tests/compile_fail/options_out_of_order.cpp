// EXPECT: order
// NOT ON: Clang there it is a warning
#include <pynisher/options.hpp>

pynisher::options bad{.wall_time = 1, .memory = 1, .name = "x"};
