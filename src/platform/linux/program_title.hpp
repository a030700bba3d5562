#pragma once

#include <string_view>

namespace pynisher::platform {

/// In the child: shows `name` as this process's name and command line. Best effort; makes system calls only.
void show_as(std::string_view name) noexcept;

}  // namespace pynisher::platform
