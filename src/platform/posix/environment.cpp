#if defined(__APPLE__)
#include <crt_externs.h>
#else
#include <unistd.h>
#endif

#include <cstdlib>
#include <string>
#include <utility>
#include <vector>

#include "../contract.hpp"

namespace pynisher::platform {

namespace {

/// A library may not name the variable itself on every system.
char**& entries_of_process() noexcept {
#if defined(__APPLE__)
  return *::_NSGetEnviron();
#else
  return ::environ;
#endif
}

}  // namespace

#if defined(__APPLE__)
char** environment_entries() noexcept { return entries_of_process(); }
#endif

std::string environment() {
  std::string variables;
  for (char** entry = entries_of_process(); entry != nullptr && *entry != nullptr; ++entry) {
    variables += *entry;
    variables += '\0';
  }
  return variables;
}

void forget_variable(const char* name) noexcept { ::unsetenv(name); }

void take_environment(std::string variables) {
  // For the rest of the process's life.
  auto* const kept = new std::string(std::move(variables));
  auto* const entries = new std::vector<char*>;
  for (std::size_t at = 0; at < kept->size(); at = kept->find('\0', at) + 1) entries->push_back(kept->data() + at);
  entries->push_back(nullptr);
  entries_of_process() = entries->data();
}

}  // namespace pynisher::platform
