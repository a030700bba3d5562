#pragma once

// The one place that holds the version; CMake reads it from here.
#define PYNISHER_VERSION_MAJOR 0
#define PYNISHER_VERSION_MINOR 1
#define PYNISHER_VERSION_PATCH 0
