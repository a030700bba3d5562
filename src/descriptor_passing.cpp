#include "descriptor_passing.hpp"

#include <algorithm>

namespace pynisher::detail {

namespace {

// Where a socket can be told once and for all, each is when it is made: older versions of that system have no such flag.
#if defined(SO_NOSIGPIPE)
constexpr int no_signal = 0;
#else
constexpr int no_signal = MSG_NOSIGNAL;
#endif

}  // namespace

ssize_t send_bytes(int socket, std::span<const std::byte> bytes, std::span<const int> descriptors, int flags) {
  if (descriptors.empty()) return ::send(socket, bytes.data(), bytes.size(), no_signal | flags);
  iovec one{const_cast<std::byte*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &one;
  message.msg_iovlen = 1;
  const descriptor_room<most_passed_descriptors> room(
      message, descriptors.first(std::min(descriptors.size(), most_passed_descriptors)));
  return ::sendmsg(socket, &message, no_signal | flags);
}

}  // namespace pynisher::detail
