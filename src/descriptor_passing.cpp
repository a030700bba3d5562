#include "descriptor_passing.hpp"

#include <algorithm>

namespace pynisher::detail {

ssize_t send_bytes(int socket, std::span<const std::byte> bytes, std::span<const int> descriptors, int flags) {
  if (descriptors.empty()) return ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL | flags);
  iovec one{const_cast<std::byte*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &one;
  message.msg_iovlen = 1;
  const descriptor_room<most_passed_descriptors> room(
      message, descriptors.first(std::min(descriptors.size(), most_passed_descriptors)));
  return ::sendmsg(socket, &message, MSG_NOSIGNAL | flags);
}

}  // namespace pynisher::detail
