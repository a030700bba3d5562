#pragma once

#include <functional>
#include <span>

#include "program_start.hpp"

namespace pynisher::detail {

/// In the started program: forks children for the program that started it, and ends with it. `ledger`: memory in which
/// the program finds the last child, should this process be killed before it can announce it.
[[noreturn]] void serve_forks(int socket, int ledger);

/// Starts this process's server if it does not run, so that the next call does not have to. Failures are that call's.
void have_forkserver();

/// Gives `descriptors` to a child of this process's server, which is started if need be. The child is this process's own.
/// `note_start` is called just before. Throws `std::bad_alloc`.
program_started call_by_server(std::span<const int> descriptors, const std::function<void()>& note_start);

}  // namespace pynisher::detail
