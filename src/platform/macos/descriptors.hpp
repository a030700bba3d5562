#pragma once

#include <poll.h>

#include <cstddef>
#include <optional>

#include "../contract.hpp"

namespace pynisher::platform {

/// Two connected sockets that raise no SIGPIPE. False with errno set.
bool connect_two(call_fd& one, call_fd& other);
bool connect_two(unique_fd& one, unique_fd& other);
/// A queue that becomes readable at a process's end and keeps its status. Negative with ESRCH: it has ended already.
int queue_end_of(pid_t process) noexcept;
/// `poll` until that time; what it returns.
int poll_until(pollfd* watched, std::size_t count, std::optional<clock::time_point> until) noexcept;

}  // namespace pynisher::platform
