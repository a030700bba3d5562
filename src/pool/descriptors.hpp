#pragma once

// Descriptors sent to a worker over its conversation: those of its lane at first, then files with large tasks.

#include <cstddef>
#include <cstdint>
#include <span>

#include "../platform/contract.hpp"

namespace pynisher::detail {

inline constexpr std::size_t descriptors_of_lane = 3;  ///< memory, bell of results, urgent bell

/// Never waits. False: they were not sent. `serial`: by which the receiver knows which these are.
bool send_descriptors(int socket, std::span<const int> descriptors, std::uint64_t serial = 0) noexcept;
/// Waits for as many as `to` has places, with that serial; others are closed. False: the other end is gone.
bool receive_descriptors(int socket, std::span<platform::call_fd> to, std::uint64_t serial = 0) noexcept;

}  // namespace pynisher::detail
