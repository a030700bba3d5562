// EXPECT: pynisher: limit\(\) needs something that can be called
#include <pynisher/limit.hpp>

auto bad = pynisher::limit(42);
