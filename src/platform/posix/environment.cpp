#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "../contract.hpp"

namespace pynisher::platform {

std::string environment() {
  std::string variables;
  for (char** entry = ::environ; entry != nullptr && *entry != nullptr; ++entry) {
    variables += *entry;
    variables += '\0';
  }
  return variables;
}

void take_environment(std::string variables) {
  // For the rest of the process's life.
  auto* const kept = new std::string(std::move(variables));
  auto* const entries = new std::vector<char*>;
  for (std::size_t at = 0; at < kept->size(); at = kept->find('\0', at) + 1) entries->push_back(kept->data() + at);
  entries->push_back(nullptr);
  ::environ = entries->data();
}

}  // namespace pynisher::platform
