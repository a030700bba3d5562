// EXPECT: bool
// EXPECT: memory_size
#include <pynisher/options.hpp>

pynisher::options bad{.memory = true};
