// Starting this program's own image as a child.

#include <crt_externs.h>
#include <fcntl.h>
#include <mach-o/dyld.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <string>

#include "../contract.hpp"
#include "start_again.hpp"

namespace pynisher::platform {

bool has_borrowed_rights() noexcept { return ::issetugid() != 0; }

std::string own_image_path() {
  std::uint32_t size = 0;
  ::_NSGetExecutablePath(nullptr, &size);
  std::string path(size, '\0');
  if (::_NSGetExecutablePath(path.data(), &size) != 0) return {};
  path.resize(path.find('\0') == std::string::npos ? path.size() : path.find('\0'));
  return path;
}

int arrange_descriptors(const int* descriptors, std::size_t count, bool with_output) noexcept {
  constexpr int first = 3;
  constexpr std::size_t most = 8;
  // Out of the way of each other first.
  std::array<int, most> moved{};
  if (count > most) return E2BIG;
  for (std::size_t i = 0; i < count; ++i) {
    moved[i] = ::fcntl(descriptors[i], F_DUPFD_CLOEXEC, first + static_cast<int>(most));
    if (moved[i] < 0) return errno;
  }
  for (std::size_t i = 0; i < count; ++i) {
    if (::dup2(moved[i], first + static_cast<int>(i)) < 0) return errno;
  }
  // The launcher's own, by which it hears of a failure, is closed by exec like these.
  for (int fd = first + static_cast<int>(count); fd < ::getdtablesize(); ++fd) ::fcntl(fd, F_SETFD, FD_CLOEXEC);
  const int nothing = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  for (int fd = 0; fd < (with_output ? 1 : first); ++fd) {
    if (nothing < 0) {
      ::close(fd);
    } else if (fd == nothing) {
      // Its own number, where the program has closed that: dup2 would leave it to be closed by exec.
      ::fcntl(fd, F_SETFD, 0);
    } else {
      ::dup2(nothing, fd);
    }
  }
  return 0;
}

}  // namespace pynisher::platform
