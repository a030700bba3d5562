#include "descriptor_passing.hpp"

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>

namespace pynisher::detail {

ssize_t send_bytes(int socket, std::span<const std::byte> bytes, std::span<const int> descriptors, int flags) {
  if (descriptors.empty()) return ::send(socket, bytes.data(), bytes.size(), MSG_NOSIGNAL | flags);
  iovec one{const_cast<std::byte*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * most_passed_descriptors)] = {};
  descriptors = descriptors.first(std::min(descriptors.size(), most_passed_descriptors));
  msghdr message{};
  message.msg_iov = &one;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
  cmsghdr* const passed = CMSG_FIRSTHDR(&message);
  passed->cmsg_level = SOL_SOCKET;
  passed->cmsg_type = SCM_RIGHTS;
  passed->cmsg_len = CMSG_LEN(descriptors.size_bytes());
  std::memcpy(CMSG_DATA(passed), descriptors.data(), descriptors.size_bytes());
  return ::sendmsg(socket, &message, MSG_NOSIGNAL | flags);
}

ssize_t receive_bytes(int socket, void* to, std::size_t size, std::vector<platform::call_fd>& descriptors, int flags) {
  iovec one{to, size};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * most_passed_descriptors)] = {};
  msghdr message{};
  message.msg_iov = &one;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC | flags);
  if (got < 0) return got;
  for (cmsghdr* passed = CMSG_FIRSTHDR(&message); passed != nullptr; passed = CMSG_NXTHDR(&message, passed)) {
    if (passed->cmsg_level != SOL_SOCKET || passed->cmsg_type != SCM_RIGHTS) continue;
    std::array<int, most_passed_descriptors> numbers{};
    const std::size_t bytes = std::min<std::size_t>(passed->cmsg_len - CMSG_LEN(0), sizeof numbers);
    std::memcpy(numbers.data(), CMSG_DATA(passed), bytes);
    for (std::size_t i = 0; i < bytes / sizeof(int); ++i) descriptors.emplace_back(numbers[i]);
  }
  return got;
}

}  // namespace pynisher::detail
