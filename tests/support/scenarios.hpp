#pragma once

// What children do in tests, by name. All are plain functions of values, so that every start method can call them.
// None of them is meant to return unless it says so.

#include "support/descendants.hpp"
#include "support/functions.hpp"
#include "support/posix_functions.hpp"
