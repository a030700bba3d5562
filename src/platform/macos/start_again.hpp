#pragma once

#include <cstddef>
#include <string>

namespace pynisher::platform {

/// Empty: it cannot be had.
std::string own_image_path();
/// This process's own, with a null at the end.
char** environment_entries() noexcept;
/// Between fork and exec: `descriptors` become 3, 4, ...; nothing else stays open but stdout and stderr, if
/// `with_output`. Returns an error number, or 0.
int arrange_descriptors(const int* descriptors, std::size_t count, bool with_output) noexcept;

}  // namespace pynisher::platform
