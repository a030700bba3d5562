// Half a what?
// EXPECT: double
// EXPECT: memory_size
#include <pynisher/options.hpp>

pynisher::options bad{.memory = 0.5};
