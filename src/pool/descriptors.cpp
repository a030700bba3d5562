#include "descriptors.hpp"

#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include "../descriptor_passing.hpp"

namespace pynisher::detail {

bool send_descriptors(int socket, std::span<const int> descriptors, std::uint64_t serial) noexcept {
  for (;;) {
    if (send_bytes(socket, std::as_bytes(std::span(&serial, 1)), descriptors, MSG_DONTWAIT) == sizeof serial)
      return true;
    if (errno != EINTR) return false;
  }
}

bool receive_descriptors(int socket, std::span<platform::call_fd> to, std::uint64_t serial) noexcept {
  for (;;) {
    // A worker may have no memory left to allocate.
    std::uint64_t which = 0;
    iovec bytes{&which, sizeof which};
    msghdr message{};
    message.msg_iov = &bytes;
    message.msg_iovlen = 1;
    const descriptor_room<descriptors_of_lane> room(message);
    const ssize_t got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    if (got < 0 && errno == EINTR) continue;
    if (got != sizeof which) return false;
    std::size_t count = 0;
    room.for_each_received([&](int number) {
      platform::call_fd received(number);
      if (which == serial && count < to.size()) to[count++] = std::move(received);
    });
    if (which == serial) return count == to.size();
  }
}

}  // namespace pynisher::detail
