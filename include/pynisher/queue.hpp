#pragma once

// Queues between processes: first in, first out, for any number of producers and consumers.
//
//     auto work = pynisher::create_queue<std::string>(100);           // put waits while there are 100
//     auto done = pynisher::create_queue<int>();
//     auto pending = iso.start([](pynisher::queue<std::string> in, pynisher::queue<int> out) {
//       while (auto item = in.get_for(1s)) out.put(int(item->size()));
//     }, work, done);
//     work.put("spam");
//     int size = done.get();
//
// A queue is a value that travels, as the ends of a channel are; it lives until the last process that has it lets it
// go.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <utility>

#include <pynisher/channel_errors.hpp>
#include <pynisher/detail/mail.hpp>
#include <pynisher/detail/travel.hpp>

namespace pynisher {

template <class T>
class queue;
/// `maxsize` of 0 or less: endless. Throws `QueueError` where there are too many.
template <class T>
[[nodiscard]] queue<T> create_queue(std::int64_t maxsize = 0, unbound policy = unbound::sentinel);

/// A handle: cheap to copy, equal by id; for any thread. Everything throws `QueueNotFoundError` for a handle of no
/// queue.
template <class T>
class queue {
 public:
  using value_type = T;
  /// Of no queue.
  queue() = default;

  /// Waits while it is full. Throws `NotShareableError`.
  void put(const T& value) { end_.send(pack(value), std::nullopt); }
  /// False: full all the time; nobody will get it.
  template <class Rep, class Period>
  [[nodiscard]] bool put_for(std::chrono::duration<Rep, Period> time, const T& value) {
    return end_.send(pack(value), detail::deadline_in(time));
  }
  /// Throws `QueueFull`.
  void put_nowait(const T& value) { end_.send_nowait(pack(value)); }

  /// Waits for the next item. Throws `ItemOwnerDestroyed` in place of one whose owner is gone; so do all but `take`.
  T get() { return item(end_.receive(std::nullopt)); }
  /// Empty: none came in time.
  template <class Rep, class Period>
  [[nodiscard]] std::optional<T> get_for(std::chrono::duration<Rep, Period> time) {
    detail::arrival came = end_.receive(detail::deadline_in(time));
    if (came.what == detail::arrival::kind::nothing) return std::nullopt;
    return item(std::move(came));
  }
  /// Throws `QueueEmpty`.
  T get_nowait() {
    detail::arrival came = end_.receive_nowait();
    if (came.what == detail::arrival::kind::nothing) detail::throw_empty_queue(id());
    return item(std::move(came));
  }
  /// Waits; empty in place of an item whose owner is gone (`unbound::sentinel`).
  [[nodiscard]] std::optional<T> take() {
    detail::arrival came = end_.receive(std::nullopt);
    if (came.what == detail::arrival::kind::sentinel) return std::nullopt;
    return item(std::move(came));
  }

  // As of now; others may change it meanwhile.
  [[nodiscard]] bool empty() const { return qsize() == 0; }
  [[nodiscard]] bool full() const {
    const auto [size, most] = end_.fill();
    return size >= most;
  }
  [[nodiscard]] std::size_t qsize() const { return static_cast<std::size_t>(end_.fill().first); }
  /// 0: endless.
  [[nodiscard]] std::size_t maxsize() const {
    const std::uint64_t most = end_.fill().second;
    return most == endless ? 0 : static_cast<std::size_t>(most);
  }
  /// Rises with each channel and queue, and is never used again; -1: of no queue.
  [[nodiscard]] std::int64_t id() const noexcept { return end_.id(); }
  /// Readable while `get` would not wait: for poll and event loops, which leave it unread. The library's own; valid
  /// while this process has handles of this queue.
  [[nodiscard]] int native_handle() const { return end_.native_handle(); }

  friend bool operator==(const queue& a, const queue& b) noexcept { return a.id() == b.id(); }

  void save(detail::output_archive& out) const { detail::mail_end::write(out, end_); }
  void load(detail::input_archive& in) {
    end_ = detail::mail_end::read(in, detail::end_kind::queue, detail::type_hash<T>());
  }
  /// The seam to what is not a template.
  [[nodiscard]] const detail::mail_end& mail() const { return end_; }
  [[nodiscard]] T item(detail::arrival came) const {
    if (came.what == detail::arrival::kind::sentinel) detail::throw_owner_destroyed(id(), true);
    T value{};
    detail::unpack_mail(came.content, [&value](detail::input_archive& in) { in(value); });
    return value;
  }

 private:
  template <class U>
  friend queue<U> create_queue(std::int64_t maxsize, unbound policy);
  static constexpr std::uint64_t endless = (std::numeric_limits<std::uint64_t>::max)();
  static detail::mail pack(const T& value) {
    return detail::pack_mail([&value](detail::output_archive& out) { out(value); });
  }
  explicit queue(detail::mail_end end) : end_(std::move(end)) {}
  detail::mail_end end_{detail::end_kind::queue};
};

namespace detail {
template <class T>
struct may_hold_ends<queue<T>> : std::true_type {};
}  // namespace detail

template <class T>
queue<T> create_queue(std::int64_t maxsize, unbound policy) {
  static_assert(
      detail::sendable<T>,
      "pynisher: an item of this type cannot cross between processes. Put a value that cereal can serialise and "
      "that has a default constructor.");
  const std::uint64_t capacity = maxsize > 0 ? static_cast<std::uint64_t>(maxsize) : queue<T>::endless;
  return queue<T>(detail::mail_end::create_queue(capacity, policy, detail::type_hash<T>()));
}

}  // namespace pynisher

template <class T>
struct std::hash<pynisher::queue<T>> {
  std::size_t operator()(const pynisher::queue<T>& which) const noexcept {
    return std::hash<std::int64_t>()(which.id());
  }
};
