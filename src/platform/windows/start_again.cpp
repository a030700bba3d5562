#include "start_again.hpp"

#include <windows.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../contract.hpp"

namespace pynisher::platform {

std::wstring own_image_path() {
  std::wstring path(MAX_PATH, L'\0');
  for (;;) {
    const DWORD size = ::GetModuleFileNameW(nullptr, path.data(), static_cast<DWORD>(path.size()));
    if (size < path.size()) {
      path.resize(size);
      return path;
    }
    path.resize(2 * path.size());
  }
}

std::wstring own_command_line() { return ::GetCommandLineW(); }

int received_descriptor(int place) noexcept {
  const char* const mark = std::getenv("PYNISHER_STARTED_AS");
  const char* at = mark == nullptr ? nullptr : std::strchr(mark, ':');
  constexpr int first = 3;
  for (int skipped = first; at != nullptr && skipped < place; ++skipped) at = std::strchr(at + 1, ',');
  return at == nullptr || at[1] == '\0' ? -1 : static_cast<int>(std::strtol(at + 1, nullptr, 10));
}

}  // namespace pynisher::platform
