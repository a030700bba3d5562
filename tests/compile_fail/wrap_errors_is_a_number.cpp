// EXPECT: error_wrapping
#include <pynisher/options.hpp>

pynisher::options bad{.wrap_errors = 1};
