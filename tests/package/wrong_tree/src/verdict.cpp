#include <boost/interprocess/mapped_region.hpp>

#include "absent.hpp"
