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
#include <type_traits>
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

/// A child, whose socket comes along, or what came of a request. Of a server that relays, two sockets: the child's, and
/// one at which the server is asked about it.
struct fork_answer {
  std::int64_t pid = -1;
  std::int32_t error = 0;
  char text[512] = {};  ///< what a preloaded function threw
};

/// What a server that relays is asked about one of its children. The end of such a conversation is the child's.
struct relay_request {
  enum class kind : std::uint8_t {
    given,   ///< the child gets a call now: how it is to be ended, should the program end first
    signal,  ///< no answer
    end,     ///< answered when the child, and what it has started, is gone
  } what = kind::end;
  bool whole_tree = false;
  bool orderly = false;
  std::int32_t signal = 0;
  platform::call_mark mark{};
};

struct relay_answer {
  platform::exit_status status;
};
static_assert(std::is_trivially_copyable_v<relay_request> && std::is_trivially_copyable_v<relay_answer>);

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
  std::span<const std::byte> left = std::as_bytes(std::span(&message, 1));
  while (!left.empty()) {
    // They go with the first byte.
    const bool is_first = left.size() == sizeof message;
    const ssize_t sent = send_bytes(socket, left, is_first ? descriptors : std::span<const int>(), 0);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) return false;
    left = left.subspan(static_cast<std::size_t>(sent));
  }
  return true;
}

template <class Message>
struct received {
  bool came = false;  ///< the message, but perhaps not all of its descriptors
  bool fine = false;
  Message message;
  std::vector<platform::unique_fd> descriptors;
};

/// What is there, and the rest of it where the socket keeps no bounds. Throws `std::bad_alloc` before anything is
/// received.
template <class Message>
received<Message> receive_message(int socket, int flags = 0) {
  received<Message> got;
  std::byte bytes[sizeof(Message)];
  std::size_t filled = 0;
  bool all_came = true;
  while (filled < sizeof bytes) {
    bool these_came = true;
    const ssize_t more = receive_bytes(socket, bytes + filled, sizeof bytes - filled, got.descriptors,
                                       filled == 0 ? flags : 0, &these_came);
    if (more < 0 && errno == EINTR) continue;
    if (more <= 0) return got;
    all_came = all_came && these_came;
    filled += static_cast<std::size_t>(more);
  }
  std::memcpy(&got.message, bytes, sizeof bytes);
  got.came = true;
  got.fine = all_came;
  return got;
}

}  // namespace pynisher::detail
