// Breaks the rules on purpose: the checks of tests/package are shown this tree and have to complain.
#include <boost/asio.hpp>
#include <pynisher/limit.hpp>
#include <sys/types.h>

#include "../../src/settings.hpp"
