// EXPECT: time_span
#include <pynisher/options.hpp>

using namespace pynisher::literals;
pynisher::options bad{.wall_time = 5_MiB};
