// EXPECT: memory_size
#include <chrono>

#include <pynisher/options.hpp>

pynisher::options bad{.memory = std::chrono::seconds(1)};
