#pragma once

// Finding and ending what a call has started. A call whose tree is to be ended runs in a session of its own; what stays
// in that session, or descends from the child while it lives, is found. A daemon that leaves the session and whose
// parent has ended is not: nothing on this system marks a process for good.
//
// System calls only: crash handlers and the death watch use it.

#include <sys/types.h>

#include "../contract.hpp"

namespace pynisher::platform {

/// SIGKILL to all descendants of `pid`, which stands still, or does what calls this: found by ancestry.
void kill_descendants(pid_t pid) noexcept;
/// SIGKILL to all processes of a session, again and again until none is left, or for a second.
void kill_session(pid_t leader) noexcept;

/// Tells this program's death watch, if there is one, of a child to end, or that it is gone. Async-signal-safe.
void tell_watch_of(pid_t child, bool whole_tree) noexcept;
void tell_watch_gone(pid_t child) noexcept;

}  // namespace pynisher::platform
