#include <pynisher/init.hpp>

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "call_order.hpp"
#include "forkserver.hpp"
#include "program_start.hpp"

namespace pynisher {

namespace detail {

namespace {

struct {
  bool initialised = false;
  std::vector<std::string> arguments;
} program;

}  // namespace

bool can_be_started_again() noexcept { return program.initialised; }

std::vector<const char*> arguments_of_program() {
  std::vector<const char*> arguments;
  for (const std::string& argument : program.arguments) arguments.push_back(argument.c_str());
  // The name is what a program expects to find.
  if (arguments.empty()) arguments.push_back("pynisher");
  arguments.push_back(nullptr);
  return arguments;
}

}  // namespace detail

void init(int argc, char** argv) {
  using namespace detail;
  if (!program.initialised && argv != nullptr) program.arguments.assign(argv, argv + argc);
  program.initialised = true;
  // Not where the program runs with more rights than whoever started it, who could hand it any order.
  const char* const mark = ::secure_getenv(start_mark);
  if (mark == nullptr) return;
  const auto role = static_cast<program_role>(mark[0]);
  ::unsetenv(start_mark);
  if (role == program_role::call) {
    follow_order(region_descriptor, doorbell_descriptor, order_descriptor, platform::parentage::fresh);
  }
  if (role == program_role::forkserver) serve_forks(forkserver_descriptor);
  std::fprintf(stderr, "pynisher: the environment has %s, which is the library's own\n", start_mark);
}

}  // namespace pynisher
