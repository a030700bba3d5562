#include <pynisher/units.hpp>
