// EXPECT: pynisher: this exception type cannot be rebuilt here
#include <pynisher/exception_registry.hpp>

PYNISHER_EXCEPTION(int*);
