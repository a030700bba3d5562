#include "program_title.hpp"

#include <sys/prctl.h>

#include <algorithm>
#include <cstring>

#include "raw_syscall.hpp"

namespace pynisher::platform {

namespace {

char* program_argument = nullptr;

/// glibc hands constructors what main gets.
[[gnu::constructor]] void remember_arguments(int argc, char** argv, char** /*environment*/) {
  if (argc > 0 && argv != nullptr) program_argument = argv[0];
}

}  // namespace

void show_as(std::string_view name) noexcept {
  char short_name[16] = {};
  std::copy_n(name.data(), std::min(name.size(), sizeof short_name - 1), short_name);
  raw::call(SYS_prctl, PR_SET_NAME, short_name);
  // /proc shows the memory of the arguments. Only the program's own name gives way: the function may read the rest.
  if (program_argument != nullptr) {
    const std::size_t room = std::strlen(program_argument);
    const std::size_t shown = std::min(name.size(), room);
    std::memcpy(program_argument, name.data(), shown);
    std::memset(program_argument + shown, 0, room - shown);
  }
}

}  // namespace pynisher::platform
