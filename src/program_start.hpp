#pragma once

// The program, started again as a child.

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "platform/contract.hpp"

namespace pynisher::detail {

/// What the started program is to be; `init` finds out.
enum class program_role : char { call = 'c', forkserver = 's', relaying_forkserver = 'r' };

struct program_started {
  pid_t pid = -1;
  const char* failed = nullptr;  ///< what could not be done; null: it was started
  int error = 0;
  int process = -1;  ///< its descriptor, where there is one already; the receiver's to close
  int job = -1;      ///< likewise, where the system holds it and what it starts by one
  std::shared_ptr<platform::distant_parent> parent{};  ///< null: this process
};

/// What a started program has as its standard output and error: the program's own or none, but for those that are
/// given here.
struct started_output {
  bool inherits = false;
  int out = -1, err = -1;
};

/// Starts this program's own image, whatever has become of its file, with its arguments, environment and working
/// directory, with `output`, and with `descriptors` as 3, 4, ...; with nothing
/// else open, and all signals blocked. It dies with the calling thread until it says otherwise.
program_started start_program(program_role role, std::span<const int> descriptors, const started_output& output);

/// Another program: what came of it.
struct program_ended {
  int status = -1;  ///< its exit code; 128 and the signal that ended it
  const char* failed = nullptr;  ///< what could not be done; null: it ran
  int error = 0;
};
/// In a process of one thread: runs `command`, the first word of which is a path, with no input and with `output` for all
/// that it says, and waits for its end.
program_ended run_program(const std::vector<std::string>& command, int output);

/// What has to be done, or cannot be, before the program can be started again; null: it can.
const char* why_not_started_again() noexcept;
/// What main got, with a null at the end.
std::vector<const char*> arguments_of_program();
/// The environment variable by which a program that is started again knows it.
inline constexpr const char* start_mark = "PYNISHER_STARTED_AS";
/// The descriptors of a call, beginning with the first that a started program has beside stdin, stdout and stderr.
enum : int { region_descriptor = 3, doorbell_descriptor, order_descriptor, conversation_descriptor };
/// And those of the forkserver.
enum : int { requests_descriptor = 3, ledger_descriptor };

}  // namespace pynisher::detail
