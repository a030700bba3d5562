#pragma once

// What program, forkserver and waiting children say to each other, a message at a time, and the memory that the first
// two share.

#include <sys/mman.h>
#include <sys/types.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "descriptor_passing.hpp"
#include "platform/contract.hpp"

namespace pynisher::detail {

/// What the program asks of the server, or gives a waiting child.
enum class fork_request_kind : std::uint8_t { call, preload, child, stop };

struct fork_request {
  fork_request_kind kind = fork_request_kind::call;
  // Which descriptors come along, in this order, before the call's own.
  bool has_directory = false;
  bool has_output = false;
  bool has_error_output = false;
};

/// A child, whose socket comes along, or what came of a request.
struct fork_answer {
  std::int64_t pid = -1;
  std::int32_t error = 0;
  char text[512] = {};  ///< what a preloaded function threw
};

/// In memory that program and server share. The kernel writes it as part of the fork: there is no moment at which the
/// program could not know of a child, however the server ends.
struct fork_ledger {
  std::atomic<pid_t> last_forked;

  static constexpr std::size_t size = 4096;
  /// Null with errno set: it cannot be mapped.
  static fork_ledger* map(int file) {
    void* const memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    return memory == MAP_FAILED ? nullptr : static_cast<fork_ledger*>(memory);
  }
};
static_assert(sizeof(std::atomic<pid_t>) == sizeof(pid_t) && std::atomic<pid_t>::is_always_lock_free);

template <class Message>
bool send_message(int socket, const Message& message, std::span<const int> descriptors) {
  for (;;) {
    if (send_bytes(socket, std::as_bytes(std::span(&message, 1)), descriptors, 0) == sizeof message) return true;
    if (errno != EINTR) return false;
  }
}

template <class Message>
struct received {
  bool came = false;  ///< the message, but perhaps not all of its descriptors
  bool fine = false;
  Message message;
  std::vector<platform::unique_fd> descriptors;
};

/// What is there. Throws `std::bad_alloc` before anything is received.
template <class Message>
received<Message> receive_message(int socket, int flags = 0) {
  received<Message> got;
  got.came =
      receive_bytes(socket, &got.message, sizeof got.message, got.descriptors, flags, &got.fine) == sizeof got.message;
  got.fine = got.fine && got.came;
  return got;
}

}  // namespace pynisher::detail
