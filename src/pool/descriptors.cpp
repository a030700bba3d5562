#include "descriptors.hpp"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace pynisher::detail {

namespace {

struct message {
  std::uint64_t serial;
  iovec bytes{&serial, sizeof serial};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * descriptors_of_lane)] = {};
  msghdr header{};

  explicit message(std::uint64_t which) : serial(which) {
    header.msg_iov = &bytes;
    header.msg_iovlen = 1;
    header.msg_control = control;
    header.msg_controllen = sizeof control;
  }
  message(const message&) = delete;
  message& operator=(const message&) = delete;
};

}  // namespace

bool send_descriptors(int socket, std::span<const int> descriptors, std::uint64_t serial) noexcept {
  message sent(serial);
  sent.header.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
  cmsghdr* const passed = CMSG_FIRSTHDR(&sent.header);
  passed->cmsg_level = SOL_SOCKET;
  passed->cmsg_type = SCM_RIGHTS;
  passed->cmsg_len = CMSG_LEN(descriptors.size_bytes());
  std::memcpy(CMSG_DATA(passed), descriptors.data(), descriptors.size_bytes());
  for (;;) {
    if (::sendmsg(socket, &sent.header, MSG_NOSIGNAL | MSG_DONTWAIT) == sizeof serial) return true;
    if (errno != EINTR) return false;
  }
}

bool receive_descriptors(int socket, std::span<platform::call_fd> to, std::uint64_t serial) noexcept {
  for (;;) {
    message came(0);
    const ssize_t got = ::recvmsg(socket, &came.header, MSG_CMSG_CLOEXEC);
    if (got < 0 && errno == EINTR) continue;
    if (got != sizeof serial) return false;
    std::size_t count = 0;
    for (cmsghdr* passed = CMSG_FIRSTHDR(&came.header); passed != nullptr; passed = CMSG_NXTHDR(&came.header, passed)) {
      if (passed->cmsg_level != SOL_SOCKET || passed->cmsg_type != SCM_RIGHTS) continue;
      for (std::size_t at = 0; CMSG_LEN(at + sizeof(int)) <= passed->cmsg_len; at += sizeof(int)) {
        int number = -1;
        std::memcpy(&number, CMSG_DATA(passed) + at, sizeof number);
        platform::call_fd received(number);
        if (came.serial == serial && count < to.size()) to[count++] = std::move(received);
      }
    }
    if (came.serial == serial) return count == to.size();
  }
}

}  // namespace pynisher::detail
