#pragma once

// Where the library's warnings go: a limit below what is mapped already, fork in a threaded program.

#include <functional>
#include <string_view>

namespace pynisher {

using warning_sink = std::function<void(std::string_view)>;

/// Sends warnings of later calls to `sink` instead of stderr; an empty sink means stderr again.
/// Returns the previous sink. Thread-safe; the sink is called from the threads that make limited
/// calls, perhaps from several at once, and must not throw.
warning_sink set_warning_sink(warning_sink sink);

}  // namespace pynisher
