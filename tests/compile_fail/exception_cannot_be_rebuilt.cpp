// EXPECT: pynisher: this exception type cannot be rebuilt here
// EXPECT: constructor that takes its what\(\)
#include <pynisher/exception_registry.hpp>

struct stubborn : std::exception {
  explicit stubborn(int) {}
};
PYNISHER_EXCEPTION(stubborn);
