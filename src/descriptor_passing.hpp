#pragma once

// Descriptors that go along with bytes over a socket.

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <vector>

#include "platform/contract.hpp"

namespace pynisher::detail {

/// As many as go with one message.
inline constexpr std::size_t most_passed_descriptors = 16;

/// What `sendmsg` returns; the descriptors go with the first byte.
ssize_t send_bytes(int socket, std::span<const std::byte> bytes, std::span<const int> descriptors, int flags);
/// What `recvmsg` returns; descriptors that come along are appended. At most `most_passed_descriptors` of them, and
/// those that this process may not have are lost.
ssize_t receive_bytes(int socket, void* to, std::size_t size, std::vector<platform::call_fd>& descriptors, int flags);

}  // namespace pynisher::detail
