#pragma once

#include <functional>
#include <span>

#include "platform/contract.hpp"
#include "program_start.hpp"

namespace pynisher::detail {

/// In the started program: forks children for the program that started it, and ends with it. `ledger`: memory in which
/// the program finds the last child, should this process be killed before it can announce it.
[[noreturn]] void serve_forks(int socket, int ledger);
/// The same where the children are this process's own, which deals with them as the program asks.
[[noreturn]] void relay_forks(int socket);
/// True: that is how it is done here.
bool forks_are_relayed() noexcept;
/// For tests, before the first call, of what other systems do.
void relay_forks_always() noexcept;

/// Starts this process's server if it does not run, so that the next call does not have to. Failures are that call's.
void have_forkserver();

/// How a call's child is to be ended by whom it is left to.
struct tree_to_end {
  bool whole = false;
  platform::call_mark mark{};
};

/// Gives `descriptors` to a child of this process's server, which is started if need be. The child is this process's
/// own, or `parent` is told. `note_start` is called just before. Throws `std::bad_alloc`. `output`: what the child has in place of the
/// program's; -1: that.
program_started call_by_server(std::span<const int> descriptors, const started_output& output, const tree_to_end& tree,
                               const std::function<void()>& note_start);

// Children that wait for their call at a socket, whoever has made them. A copy of an isolate keeps its directory, its
// environment and, where it is not given others, its output.

/// Gives one its call. Zero, or the error number.
int give_call_to_copy(int socket, std::span<const int> descriptors, const started_output& output);
/// In the copy: waits for the call, and makes it.
[[noreturn]] void wait_as_copy(int socket);

/// How the kernel and the C library keep track of this thread.
struct thread_state {
  int* number = nullptr;
  void* robust_list = nullptr;
  std::size_t robust_list_size = 0;
  thread_state();
  /// In a forked child, which the kernel has not told.
  void note_robust_list() const;
};
/// Forks a child that is not this process's but its parent's. No handler of the application's for forks is called.
/// Zero: in the child. Negative, and errno.
long fork_for_parent(const thread_state& thread);
/// In such a child: forgets this library's server, which is not its own.
void forget_server_in_copy();

}  // namespace pynisher::detail
