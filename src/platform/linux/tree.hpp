#pragma once

// Finding and ending what a call has started: by ancestry while the child lives, by mark wherever it went.
//
// A mark is a value of RLIMIT_LOCKS. The kernel has not used that limit since 2.4.25, but still hands it to every
// new process through fork and exec, whatever becomes of its session, group and parent; anybody may read it, and
// without privilege it can only be lowered. Nested calls mark within the range of the outer one.
//
// All of this makes raw system calls only, so that crash handlers and the death watch may use it.

#include <sys/types.h>

#include "../contract.hpp"

namespace pynisher::platform {

/// The mark that this process carries; 0: none.
std::uint64_t own_mark() noexcept;
/// The marks of all calls made by this program.
call_mark program_marks() noexcept;

/// True: this system has made no process and no thread since it made `pid`, which is not reaped and so has started nothing.
/// A number is not given again while somebody has it. (With CAP_CHECKPOINT_RESTORE a process can choose its children's.)
bool is_last_made(pid_t pid) noexcept;

/// SIGKILL to all descendants of `pid`, found by ancestry. Returns how many were alive.
int kill_descendants(pid_t pid) noexcept;

/// True if this thread has a child with the mark: with CLONE_PARENT a process makes not a child but a sibling.
bool has_marked_child(const call_mark& mark) noexcept;

/// Kills all processes that carry the mark, again and again until none is left alive, and sees them reaped.
void kill_marked(const call_mark& mark) noexcept;

/// Ends and reaps all descendants of this process, which must be their reaper. False: some may not be killed.
bool end_own_descendants() noexcept;

}  // namespace pynisher::platform
