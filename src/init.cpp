#include <pynisher/init.hpp>

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "call_order.hpp"
#include "forkserver.hpp"
#include "platform/contract.hpp"
#include "program_start.hpp"

namespace pynisher {

namespace detail {

namespace {

struct program_state {
  bool initialised = false;
  std::vector<std::string> arguments;
};

/// Never destroyed: calls may be made while the program's statics are.
program_state& program() {
  static auto* const state = new program_state;
  return *state;
}

}  // namespace

const char* why_not_started_again() noexcept {
  if (!program().initialised) {
    return "start the program again, whose main has not called pynisher::init(argc, argv) at its beginning";
  }
  // Whoever started it could hand it any order.
  if (platform::has_borrowed_rights()) return "start a program again whose real and effective user differ";
  return nullptr;
}

std::vector<const char*> arguments_of_program() {
  std::vector<const char*> arguments;
  for (const std::string& argument : program().arguments) arguments.push_back(argument.c_str());
  // The name is what a program expects to find.
  if (arguments.empty()) arguments.push_back("pynisher");
  arguments.push_back(nullptr);
  return arguments;
}

}  // namespace detail

void init(int argc, char** argv) {
  using namespace detail;
  if (!program().initialised && argv != nullptr) program().arguments.assign(argv, argv + argc);
  program().initialised = true;
  const char* const mark = std::getenv(start_mark);
  if (mark == nullptr) return;
  // And never on into main, which would start the program again.
  if (platform::has_borrowed_rights()) platform::leave(1);
  const auto role = static_cast<program_role>(mark[0]);
  // Where they are not numbered by their places, the mark tells.
  const auto number = [](int place) { return platform::received_descriptor(place); };
  const int region = number(region_descriptor), doorbell = number(doorbell_descriptor),
            order = number(order_descriptor), conversation = number(conversation_descriptor);
  platform::forget_variable(start_mark);
  if (role == program_role::call) {
    follow_order(region, doorbell, order, conversation, platform::parentage::fresh);
  }
  if (role == program_role::forkserver) serve_forks(requests_descriptor, ledger_descriptor);
  if (role == program_role::relaying_forkserver) relay_forks(requests_descriptor);
  std::fprintf(stderr, "pynisher: the environment has %s, which is the library's own\n", start_mark);
}

}  // namespace pynisher
