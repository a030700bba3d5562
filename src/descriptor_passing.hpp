#pragma once

// Descriptors that go along with bytes over a socket.

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/types.h>

#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

namespace pynisher::detail {

/// The room that a message has for descriptors. It stays where it is, and longer than the message is used.
template <std::size_t Most>
class descriptor_room {
 public:
  /// For those that may come.
  explicit descriptor_room(msghdr& message) : message_(message) {
    message.msg_control = control_;
    message.msg_controllen = sizeof control_;
  }
  /// For those that go; at most `Most`.
  descriptor_room(msghdr& message, std::span<const int> sent) : message_(message) {
    if (sent.empty()) return;
    message.msg_control = control_;
    message.msg_controllen = static_cast<decltype(message.msg_controllen)>(CMSG_SPACE(sent.size_bytes()));
    cmsghdr* const passed = CMSG_FIRSTHDR(&message);
    passed->cmsg_level = SOL_SOCKET;
    passed->cmsg_type = SCM_RIGHTS;
    passed->cmsg_len = static_cast<decltype(passed->cmsg_len)>(CMSG_LEN(sent.size_bytes()));
    std::memcpy(CMSG_DATA(passed), sent.data(), sent.size_bytes());
  }
  descriptor_room(const descriptor_room&) = delete;
  descriptor_room& operator=(const descriptor_room&) = delete;

  /// Calls `take(number)` for each that has come: open, and nobody else's.
  template <class Take>
  void for_each_received(Take take) const {
    for (cmsghdr* passed = CMSG_FIRSTHDR(&message_); passed != nullptr; passed = CMSG_NXTHDR(&message_, passed)) {
      if (passed->cmsg_level != SOL_SOCKET || passed->cmsg_type != SCM_RIGHTS) continue;
      for (std::size_t at = 0; CMSG_LEN(at + sizeof(int)) <= passed->cmsg_len; at += sizeof(int)) {
        int number = -1;
        std::memcpy(&number, CMSG_DATA(passed) + at, sizeof number);
        take(number);
      }
    }
  }

 private:
  msghdr& message_;
  alignas(cmsghdr) char control_[CMSG_SPACE(sizeof(int) * Most)] = {};
};

/// For `recvmsg`; zero: the system closes them on exec only where each is told to.
#if defined(MSG_CMSG_CLOEXEC)
inline constexpr int received_close_on_exec = MSG_CMSG_CLOEXEC;
#else
inline constexpr int received_close_on_exec = 0;
#endif

/// As many as go with one message of these functions.
inline constexpr std::size_t most_passed_descriptors = 16;

/// What `sendmsg` returns; the descriptors go with the first byte.
ssize_t send_bytes(int socket, std::span<const std::byte> bytes, std::span<const int> descriptors, int flags);

/// What `recvmsg` returns; descriptors that come along are appended. Those that this process may not have are lost, and
/// `all_came` is false then. Throws `std::bad_alloc` before anything is received.
template <class Descriptor>
ssize_t receive_bytes(int socket, void* to, std::size_t size, std::vector<Descriptor>& descriptors, int flags,
                      bool* all_came = nullptr) {
  descriptors.reserve(descriptors.size() + most_passed_descriptors);
  iovec one{to, size};
  msghdr message{};
  message.msg_iov = &one;
  message.msg_iovlen = 1;
  const descriptor_room<most_passed_descriptors> room(message);
  const ssize_t got = ::recvmsg(socket, &message, received_close_on_exec | flags);
  if (got >= 0) {
    room.for_each_received([&](int number) {
      if (received_close_on_exec == 0) ::fcntl(number, F_SETFD, FD_CLOEXEC);
      descriptors.emplace_back(number);
    });
  }
  if (all_came != nullptr) *all_came = got >= 0 && (message.msg_flags & MSG_CTRUNC) == 0;
  return got;
}

}  // namespace pynisher::detail
