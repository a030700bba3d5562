#pragma once

namespace pynisher::platform {

/// What the console's handler does: tells the calls of a Ctrl-C or Ctrl-Break. True: the program is not to end of it now.
bool tell_of_console_event(unsigned long what) noexcept;

}  // namespace pynisher::platform
