#pragma once

// The seam between the templates of channels and queues, which know the type of an item, and the exchange, which moves
// bytes, ends and descriptors between processes.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include <pynisher/detail/wire/archive.hpp>

namespace pynisher {

/// What becomes of an item whose isolate ends before somebody has taken it.
enum class unbound : std::uint8_t {
  sentinel,  ///< its place stays: `take()` gives nothing for it, other ways of receiving throw `ItemOwnerDestroyed`
  error,     ///< its place stays: whoever comes to it gets `ItemOwnerDestroyed`, once
  remove,    ///< it is gone
};

namespace detail {

enum class end_kind : std::uint8_t { receiving, sending, queue };

using mail_time = std::chrono::steady_clock::time_point;
/// Empty: as long as it takes.
using mail_deadline = std::optional<mail_time>;

template <class Rep, class Period>
mail_deadline deadline_in(std::chrono::duration<Rep, Period> time) {
  using seconds = std::chrono::duration<double>;
  constexpr seconds longest = std::chrono::hours(24 * 365 * 100);
  // Also where it is infinite, or too long to be counted in nanoseconds.
  if (seconds(time) >= longest) return std::nullopt;
  return std::chrono::steady_clock::now() +
         std::chrono::ceil<std::chrono::steady_clock::duration>(time > time.zero() ? time : time.zero());
}

struct parcel;
struct end_state;
struct receipt_state;
using mail = std::shared_ptr<parcel>;

/// Throws `NotShareableError`.
mail pack_mail(const std::function<void(output_archive&)>& write);
/// Throws `SerializationException` for bytes that are no such value.
void unpack_mail(const mail& came, const std::function<void(input_archive&)>& read);

struct arrival {
  enum class kind : std::uint8_t {
    nothing,  ///< in time
    item,
    sentinel,  ///< in place of an item whose owner is gone
  } what = kind::nothing;
  mail content;
};

/// An operation that somebody else waits for.
class mail_operation {
 public:
  virtual ~mail_operation() = default;
  /// It ends with `CancelledException`, unless it was over already.
  virtual void cancel() noexcept = 0;
};

/// One end of a channel, or a queue. Thread-safe as a `std::shared_ptr` is; what it does is thread-safe altogether.
class mail_end {
 public:
  /// None: whatever is asked of it, there is no such channel.
  mail_end() = default;
  explicit mail_end(end_kind of) : of_queue_(of == end_kind::queue) {}
  explicit mail_end(std::shared_ptr<end_state> state) : state_(std::move(state)) {}

  static std::pair<mail_end, mail_end> create_channel(std::uint64_t capacity, unbound policy, std::uint64_t type);
  static mail_end create_queue(std::uint64_t capacity, unbound policy, std::uint64_t type);

  [[nodiscard]] std::int64_t id() const noexcept;
  [[nodiscard]] explicit operator bool() const noexcept { return state_ != nullptr; }

  /// False: not in time, and withdrawn.
  bool send(mail content, mail_deadline until) const;
  /// Throws `NotReceivedError` or `QueueFull`.
  void send_nowait(mail content) const;
  [[nodiscard]] std::shared_ptr<receipt_state> post(mail content) const;
  [[nodiscard]] arrival receive(mail_deadline until) const;
  [[nodiscard]] arrival receive_nowait() const;

  /// On a thread of the library's, or at once.
  std::shared_ptr<mail_operation> begin_send(mail content, std::function<void(std::exception_ptr)> done) const;
  std::shared_ptr<mail_operation> begin_receive(std::function<void(std::exception_ptr, arrival)> done) const;

  bool release() const;
  void close(bool force) const;
  void poison() const;
  [[nodiscard]] bool is_closed() const;
  [[nodiscard]] std::vector<std::int64_t> isolates() const;
  /// Readable while there is something to receive, or an error to be told.
  [[nodiscard]] int native_handle() const;
  /// Items in a queue, and how many it takes.
  [[nodiscard]] std::pair<std::uint64_t, std::uint64_t> fill() const;

  /// As part of a value.
  static void write(output_archive& out, const mail_end& end);
  static mail_end read(input_archive& in, end_kind kind, std::uint64_t type);

 private:
  friend std::optional<std::size_t> select_ready(const std::vector<const mail_end*>& ends, mail_deadline until);
  end_state& state() const;
  std::shared_ptr<end_state> state_;
  bool of_queue_ = false;
};

std::optional<std::size_t> select_ready(const std::vector<const mail_end*>& ends, mail_deadline until);
[[nodiscard]] std::vector<std::int64_t> open_channels();

/// Of an item that was posted.
/// False: not in time. Throws where it will never be taken.
bool await_receipt(receipt_state& of, mail_deadline until);
[[nodiscard]] bool is_taken(receipt_state& of);
[[nodiscard]] std::int64_t taken_by(receipt_state& of);

[[noreturn]] void throw_empty_channel(std::int64_t id);
[[noreturn]] void throw_owner_destroyed(std::int64_t id, bool of_queue);
[[noreturn]] void throw_empty_queue(std::int64_t id);

/// A descriptor as part of a value: a copy of it.
void write_descriptor(output_archive& out, int descriptor);
int read_descriptor(input_archive& in);

}  // namespace detail

}  // namespace pynisher
