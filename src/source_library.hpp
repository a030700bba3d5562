#pragma once

// C++ text, as a shared library.

#include <filesystem>
#include <string>
#include <vector>

namespace pynisher::detail {

/// Compiles, or finds in the user's cache what was compiled before: $XDG_CACHE_HOME/pynisher, ~/.cache/pynisher, or
/// /tmp/pynisher-<user>. Throws `SourceError`, `UnsupportedException` (no compiler), `IsolateError` (no safe cache).
/// The library may be trimmed away at any moment by others: who cannot open it asks again.
std::filesystem::path library_of_source(const std::string& text, const std::vector<std::string>& flags);

}  // namespace pynisher::detail
