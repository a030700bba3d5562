// Standard output, terminals, the environment.

#include <windows.h>

#include <io.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>

#include "../contract.hpp"

namespace pynisher::platform {

void flush_iostreams() {
  for (std::ostream* stream : {&std::cout, &std::clog}) stream->flush();
  for (std::wostream* stream : {&std::wcout, &std::wclog}) stream->flush();
}

void flush_stdio() {
  flush_iostreams();
  // All streams at once would mean waiting for the lock that a thread holds while it waits for input.
  std::fflush(stdout);
  std::fflush(stderr);
}

void flush_all_stdio() { std::fflush(nullptr); }

// A child has inherited none.
void forget_stdio() noexcept {}

// --- terminals --------------------------------------------------------------------------------------------------

bool is_terminal(int descriptor) { return ::_isatty(descriptor) != 0; }

unsigned terminal_width(int descriptor) {
  CONSOLE_SCREEN_BUFFER_INFO info{};
  const auto handle = reinterpret_cast<HANDLE>(::_get_osfhandle(descriptor));
  if (::GetConsoleScreenBufferInfo(handle, &info) == 0) return 80;
  return static_cast<unsigned>(info.srWindow.Right - info.srWindow.Left + 1);
}

bool is_in_foreground(int /*descriptor*/) { return true; }

bool write_to_terminal(int descriptor, std::string_view text) {
  while (!text.empty()) {
    const int written = ::_write(descriptor, text.data(), static_cast<unsigned>(text.size()));
    if (written <= 0) return false;
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

// --- the environment ----------------------------------------------------------------------------------------------

// A child that is started has it from the system.
std::string environment() { return {}; }
void take_environment(std::string /*variables*/) {}

void forget_variable(const char* name) noexcept {
  ::SetEnvironmentVariableA(name, nullptr);
  // The C library has a copy.
  const std::string none = std::string(name) + "=";
  ::_putenv(none.c_str());
}

bool has_borrowed_rights() noexcept { return false; }

}  // namespace pynisher::platform
