#pragma once

// What the servers have in common, whosever their children are (forkserver_serving.cpp, forkserver_relaying.cpp), and
// the children that wait for a call.

#include "forkserver_messages.hpp"
#include "platform/contract.hpp"

namespace pynisher::detail {

/// In a server: runs the function that came along, and says what it threw.
fork_answer run_preloaded(const received<fork_request>& received);
/// In a server, when it can serve: says so, or why not.
fork_answer ready_to_serve();

/// As many descriptors as there can be: a server has some for each child.
void take_all_descriptors() noexcept;
/// In a child, which gets back what there was.
void give_back_descriptors() noexcept;

/// In a forked child, when nothing of the server's is left: waits for its call at its socket, and makes it.
[[noreturn]] void wait_for_call(int own_socket, platform::parentage parentage);
/// The second half of that.
[[noreturn]] void take_call(int own_socket, platform::parentage parentage);

}  // namespace pynisher::detail
