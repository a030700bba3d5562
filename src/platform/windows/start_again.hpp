#pragma once

// What a started process is told of its handles: their numbers, in the variable by which it knows that it was started.
//   PYNISHER_STARTED_AS=c:10,14,18

#include <string>

namespace pynisher::platform {

/// The program's image and its command line, as it was started.
std::wstring own_image_path();
std::wstring own_command_line();

}  // namespace pynisher::platform
