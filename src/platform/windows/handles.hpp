#pragma once

// A descriptor is a handle here. Windows promises that handles fit into 32 bits.

#include <windows.h>

#include <cerrno>
#include <cstdint>

namespace pynisher::platform {

/// Null for none: as a handle, -1 would be the program itself.
inline HANDLE to_handle(int descriptor) {
  return descriptor < 0 ? nullptr : reinterpret_cast<HANDLE>(static_cast<std::intptr_t>(descriptor));
}

/// Null and INVALID_HANDLE_VALUE are no descriptors; then errno is what Windows says.
inline int to_descriptor(HANDLE handle) {
  if (handle == nullptr || handle == INVALID_HANDLE_VALUE) {
    errno = static_cast<int>(::GetLastError());
    return -1;
  }
  return static_cast<int>(reinterpret_cast<std::intptr_t>(handle));
}

}  // namespace pynisher::platform
