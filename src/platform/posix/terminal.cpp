#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>

#include "../contract.hpp"

namespace pynisher::platform {

bool is_terminal(int descriptor) { return ::isatty(descriptor) == 1; }

unsigned terminal_width(int descriptor) {
  winsize size{};
  if (::ioctl(descriptor, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

bool is_in_foreground(int descriptor) {
  const pid_t foreground = ::tcgetpgrp(descriptor);
  // It may not be the terminal that this process belongs to.
  return foreground < 0 || foreground == ::getpgrp();
}

bool write_to_terminal(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(descriptor, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    // A terminal that takes nothing now is not waited for.
    if (written < 0) return errno == EAGAIN;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

}  // namespace pynisher::platform
