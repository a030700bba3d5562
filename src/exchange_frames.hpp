#pragma once

// How requests and answers go over a socket: a header, what is asked or answered, then the item's bytes; descriptors
// come with the header's first byte. Neither side believes a length of the other's.

#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/un.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "exchange.hpp"
#include "platform/contract.hpp"

namespace pynisher::detail {

/// A descriptor on its way.
class passed_file final : public held_file {
 public:
  explicit passed_file(platform::call_fd descriptor) : descriptor_(std::move(descriptor)) {}
  [[nodiscard]] int get() const { return descriptor_.get(); }

 private:
  platform::call_fd descriptor_;
};
/// A duplicate of it; null, with errno set: there is none.
std::shared_ptr<held_file> duplicate_of(int descriptor);
int descriptor_of(const held_file& file);

enum class mail_frame : std::uint32_t { hello = 0x70796e31, request, answer };

struct mail_header {
  mail_frame kind = mail_frame::request;
  std::uint32_t operation = 0;
  std::uint32_t meta = 0;   ///< bytes
  std::uint32_t files = 0;  ///< descriptors
  std::uint64_t content = 0;
};
inline constexpr std::uint32_t largest_meta = 1 << 16;
/// As many as the system passes at once.
inline constexpr std::uint32_t most_files = 250;
/// Of one process: so many of its threads may wait at the same time.
inline constexpr std::size_t most_connections = 512;

/// Where the exchange listens: a name that leaves nothing behind in any file system, and what is to be said there.
struct exchange_place {
  std::uint64_t name = 0;
  deposit_key token{};
};
socklen_t write_address(const exchange_place& of, sockaddr_un& to);

/// Who a process says it is.
struct greeting {
  std::array<std::uint64_t, 2> token{};
  std::uint64_t household = 0;
  std::int64_t isolate = 0;
  bool is_head = false;
};

/// A frame that is being sent, by and by.
class outgoing_frame {
 public:
  outgoing_frame(mail_frame kind, std::uint32_t operation, const greeting& hello);
  outgoing_frame(std::uint32_t operation, const request& what);
  outgoing_frame(std::uint32_t operation, const answer& what);
  [[nodiscard]] bool is_too_large() const {
    return head_.size() - sizeof(mail_header) > largest_meta || files_.size() > most_files;
  }

  enum class progress : std::uint8_t { done, blocked, broken };
  progress send(int socket, int flags);
  /// Some of it has gone.
  [[nodiscard]] bool has_begun() const { return sent_ > 0; }

 private:
  void finish(mail_frame kind, std::uint32_t operation);
  void add_content(const std::shared_ptr<parcel>& content);

  std::vector<std::byte> head_;
  std::shared_ptr<parcel> content_;
  std::vector<int> files_;
  std::size_t sent_ = 0;
};

/// Frames as they arrive.
class incoming_frames {
 public:
  struct frame {
    mail_header header;
    std::vector<std::byte> meta;
    std::vector<std::byte> content;
    std::vector<std::shared_ptr<held_file>> files;
  };
  enum class progress : std::uint8_t { some, nothing, ended, lies };
  /// Reads what there is, up to a bound. `flags`: MSG_DONTWAIT, or 0 to wait for something.
  progress read(int socket, int flags);
  /// The next one that is there completely.
  std::optional<frame> next();
  [[nodiscard]] bool has_lied() const { return lies_; }

 private:
  [[nodiscard]] bool begin_frame();

  std::vector<std::byte> bytes_;
  std::size_t at_ = 0;
  std::deque<std::shared_ptr<held_file>> files_;
  std::optional<frame> current_;  ///< header and meta are there, content comes
  bool lies_ = false;
};

/// Empty: it makes no sense.
std::optional<greeting> read_greeting(const incoming_frames::frame& from);
std::optional<request> read_request(incoming_frames::frame&& from);
std::optional<answer> read_answer(incoming_frames::frame&& from);

}  // namespace pynisher::detail
