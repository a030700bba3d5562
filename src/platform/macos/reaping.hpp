#pragma once

#include <sys/resource.h>
#include <sys/types.h>

namespace pynisher::platform {

/// Waits for a child of this process that has ended or is about to, and reaps it. What `wait4` returns: negative, it
/// was reaped already. System calls only.
pid_t reap(pid_t child, int* status = nullptr, rusage* used = nullptr) noexcept;

}  // namespace pynisher::platform
