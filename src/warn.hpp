#pragma once

#include <string>

namespace pynisher::detail {

/// Hands one warning to the sink of `set_warning_sink`. Thread-safe; not for use after fork.
void warn(const std::string& text);

}  // namespace pynisher::detail
