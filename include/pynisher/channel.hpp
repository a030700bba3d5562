#pragma once

// Channels between processes: many may send, many may receive, and each item is received once.
//
//     auto [rx, tx] = pynisher::create_channel<std::string>();        // unbuffered: send waits until it is taken
//     auto [r2, t2] = pynisher::create_channel<int>({.buffer = 16});  // or pynisher::unbounded
//     auto pending = iso.start([](pynisher::sender<int> t) { t.send(7); t.close(); }, t2);
//     for (int item : r2) use(item);                                  // until it is closed
//
// The ends are values: copy them, send them over channels, pass them to isolates and to limited functions, return them.
// A process is associated with an end while it has one; with `context = fork`, from its first use on of one that was
// captured, or is part of an argument of a type of your own.
// A channel is closed when nobody is associated any more, or by `close()`. What waits is woken by what it waits for.

#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <limits>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include <pynisher/channel_errors.hpp>
#include <pynisher/detail/mail.hpp>
#include <pynisher/detail/travel.hpp>
#include <pynisher/shared_buffer.hpp>
#include <pynisher/shared_fd.hpp>

namespace pynisher {

namespace detail {

template <class T>
constexpr void refuse_unsendable_item() {
  static_assert(std::is_same_v<T, std::remove_cvref_t<T>> && !std::is_void_v<T>, "pynisher: items are plain values.");
  static_assert(
      sendable<T>,
      "pynisher: an item of this type cannot cross between processes. Send a value that cereal can serialise and "
      "that has a default constructor.");
}

template <class T>
mail pack_item(const T& value) {
  return pack_mail([&value](output_archive& out) { out(value); });
}

template <class T>
T unpack_item(const mail& came) {
  T value{};
  unpack_mail(came, [&value](input_archive& in) { in(value); });
  return value;
}

}  // namespace detail

/// A buffer without a bound.
struct unbounded_buffer {
  explicit constexpr unbounded_buffer(int /*one*/) {}
  constexpr operator std::size_t() const { return (std::numeric_limits<std::size_t>::max)(); }
};
inline constexpr unbounded_buffer unbounded{1};

struct channel_options {
  /// Items that may wait in the channel. 0: `send` waits until its item is taken.
  std::size_t buffer = 0;
  /// What becomes of items whose isolate has ended.
  pynisher::unbound unbound = pynisher::unbound::sentinel;
};

template <class T>
class receiver;
template <class T>
class sender;
template <class T>
[[nodiscard]] std::pair<receiver<T>, sender<T>> create_channel(channel_options wanted = {});

/// Of an item that was posted. A handle; copies may wait at the same time.
class receipt {
 public:
  /// Until it is taken. Throws `ChannelClosedError` or `ChannelPoisonedError` when it never will be.
  void wait() const { detail::await_receipt(*state_, std::nullopt); }
  /// False: not taken in time.
  template <class Rep, class Period>
  [[nodiscard]] bool wait_for(std::chrono::duration<Rep, Period> time) const {
    return detail::await_receipt(*state_, detail::deadline_in(time));
  }
  [[nodiscard]] bool done() const { return detail::is_taken(*state_); }
  /// Waits, and says which isolate has taken it.
  [[nodiscard]] std::int64_t taken_by() const { return detail::taken_by(*state_); }

 private:
  template <class>
  friend class sender;
  explicit receipt(std::shared_ptr<detail::receipt_state> state) : state_(std::move(state)) {}
  std::shared_ptr<detail::receipt_state> state_;
};

namespace detail {

/// What both ends have. Everything throws `ChannelNotFoundError` for an end of no channel.
template <class End>
class channel_end {
 public:
  /// Of no channel.
  channel_end() = default;

  /// Rises with each channel and queue, and is never used again; -1: of no channel.
  [[nodiscard]] std::int64_t id() const noexcept { return end_.id(); }
  /// This process is not associated with this end any more, and cannot use it again. True the first time.
  bool release() { return end_.release(); }
  /// For everybody. The receiving end of a channel that has items: throws `ChannelNotEmptyError`, or `force` discards
  /// them. The sending end: nothing more is sent, what was sent is still received. Throws `ChannelClosedError` a second
  /// time.
  void close(bool force = false) { end_.close(force); }
  /// Discards what there is; whoever uses the channel, or is waiting, gets `ChannelPoisonedError`.
  void poison() { end_.poison(); }
  /// This end was closed, or the channel, or nobody is associated any more with either end. That nobody is left at the
  /// other end alone does not close it: `recv` and `send` tell that.
  [[nodiscard]] bool is_closed() const { return end_.is_closed(); }
  /// Ids of the isolates that are associated with this end; the program itself is 0.
  [[nodiscard]] std::vector<std::int64_t> isolates() const { return end_.isolates(); }

  friend bool operator==(const End& a, const End& b) noexcept { return a.id() == b.id(); }

  void save(output_archive& out) const { mail_end::write(out, end_); }

 protected:
  explicit channel_end(mail_end end) : end_(std::move(end)) {}
  mail_end end_;
};

}  // namespace detail

/// The receiving end. A handle: cheap to copy, equal by id; for any thread.
template <class T>
class receiver : public detail::channel_end<receiver<T>> {
 public:
  using value_type = T;
  receiver() = default;

  /// Waits for the next item. Throws `ChannelClosedError` when none can come any more, `ChannelReleasedError`,
  /// `ChannelPoisonedError`, `ItemOwnerDestroyed`; so do all that receive.
  T recv() { return item(end_.receive(std::nullopt)); }
  /// Empty: none came in time.
  template <class Rep, class Period>
  [[nodiscard]] std::optional<T> recv_for(std::chrono::duration<Rep, Period> time) {
    return maybe(end_.receive(detail::deadline_in(time)));
  }
  /// Throws `ChannelEmptyError` where there is none now.
  T recv_nowait() {
    auto came = try_recv();
    if (!came) detail::throw_empty_channel(this->id());
    return *std::move(came);
  }
  T recv_nowait(T otherwise) {
    auto came = try_recv();
    return came ? *std::move(came) : std::move(otherwise);
  }
  /// Empty: there is none now.
  [[nodiscard]] std::optional<T> try_recv() { return maybe(end_.receive_nowait()); }
  /// Waits; empty in place of an item whose owner is gone (`unbound::sentinel`).
  [[nodiscard]] std::optional<T> take() {
    detail::arrival came = end_.receive(std::nullopt);
    if (came.what == detail::arrival::kind::sentinel) return std::nullopt;
    return item(std::move(came));
  }
  /// Readable while `recv` would not wait: for poll and event loops, which leave it unread. The library's own; valid
  /// while this process has handles of this end.
  [[nodiscard]] int native_handle() const { return end_.native_handle(); }

  /// Items until the channel is closed.
  class iterator {
   public:
    using iterator_category = std::input_iterator_tag;
    using value_type = T;
    using difference_type = std::ptrdiff_t;
    using pointer = T*;
    using reference = T&;

    explicit iterator(receiver& from) : from_(&from) { ++*this; }
    T& operator*() const { return *item_; }
    T* operator->() const { return &*item_; }
    iterator& operator++() {
      try {
        item_.emplace(from_->recv());
      } catch (const ChannelReleasedError&) {
        throw;
      } catch (const ChannelClosedError&) {
        item_.reset();
      }
      return *this;
    }
    void operator++(int) { ++*this; }
    friend bool operator==(const iterator& at, std::default_sentinel_t /*end*/) { return !at.item_; }

   private:
    receiver* from_;
    mutable std::optional<T> item_;
  };
  [[nodiscard]] iterator begin() { return iterator(*this); }
  [[nodiscard]] std::default_sentinel_t end() const noexcept { return {}; }

  void load(detail::input_archive& in) {
    end_ = detail::mail_end::read(in, detail::end_kind::receiving, detail::type_hash<T>());
  }
  /// The seam to what is not a template.
  [[nodiscard]] const detail::mail_end& mail() const { return end_; }
  [[nodiscard]] T item(detail::arrival came) const {
    if (came.what == detail::arrival::kind::sentinel) detail::throw_owner_destroyed(this->id(), false);
    return detail::unpack_item<T>(came.content);
  }

 private:
  template <class U>
  friend std::pair<receiver<U>, sender<U>> create_channel(channel_options wanted);
  using detail::channel_end<receiver<T>>::end_;
  explicit receiver(detail::mail_end end) : detail::channel_end<receiver<T>>(std::move(end)) {}
  std::optional<T> maybe(detail::arrival came) const {
    if (came.what == detail::arrival::kind::nothing) return std::nullopt;
    return item(std::move(came));
  }
};

/// The sending end. A handle: cheap to copy, equal by id; for any thread.
template <class T>
class sender : public detail::channel_end<sender<T>> {
 public:
  using value_type = T;
  sender() = default;

  /// Waits until the item is taken; where there is a buffer, until it has its place there. Throws `ChannelClosedError`,
  /// `ChannelReleasedError`, `ChannelPoisonedError`, `NotShareableError`; so do all that send.
  void send(const T& value) { end_.send(detail::pack_item<T>(value), std::nullopt); }
  /// False: not in time; the item is withdrawn, and nobody will receive it.
  template <class Rep, class Period>
  [[nodiscard]] bool send_for(std::chrono::duration<Rep, Period> time, const T& value) {
    return end_.send(detail::pack_item<T>(value), detail::deadline_in(time));
  }
  /// Throws `NotReceivedError` where nobody is receiving or the buffer is full.
  void send_nowait(const T& value) { end_.send_nowait(detail::pack_item<T>(value)); }
  /// Never waits; the receipt tells when the item is taken.
  receipt post(const T& value) { return receipt(end_.post(detail::pack_item<T>(value))); }
  /// Sends the memory itself: both sides see what either writes.
  void send_buffer(const shared_buffer& buffer) requires std::constructible_from<T, const shared_buffer&> {
    send(T(buffer));
  }
  void send_buffer_nowait(const shared_buffer& buffer) requires std::constructible_from<T, const shared_buffer&> {
    send_nowait(T(buffer));
  }

  void load(detail::input_archive& in) {
    end_ = detail::mail_end::read(in, detail::end_kind::sending, detail::type_hash<T>());
  }
  /// The seam to what is not a template.
  [[nodiscard]] const detail::mail_end& mail() const { return end_; }

 private:
  template <class U>
  friend std::pair<receiver<U>, sender<U>> create_channel(channel_options wanted);
  using detail::channel_end<sender<T>>::end_;
  explicit sender(detail::mail_end end) : detail::channel_end<sender<T>>(std::move(end)) {}
};

namespace detail {
template <class T>
struct may_hold_ends<receiver<T>> : std::true_type {};
template <class T>
struct may_hold_ends<sender<T>> : std::true_type {};
}  // namespace detail

/// A channel's two ends. The calling process is associated with both. Throws `ChannelError` where there are too many.
template <class T>
std::pair<receiver<T>, sender<T>> create_channel(channel_options wanted) {
  detail::refuse_unsendable_item<T>();
  auto ends = detail::mail_end::create_channel(wanted.buffer, wanted.unbound, detail::type_hash<T>());
  return {receiver<T>(std::move(ends.first)), sender<T>(std::move(ends.second))};
}
template <class T>
[[nodiscard]] std::pair<receiver<T>, sender<T>> create_channel(unbounded_buffer buffer) {
  return create_channel<T>(channel_options{.buffer = buffer});
}

/// Waits until one of them has something to receive (or an error to tell), and gives its place in the list; nothing:
/// not in time. What is there is not taken; another receiver may be faster.
template <class Rep, class Period, class... T>
[[nodiscard]] std::optional<std::size_t> select(std::chrono::duration<Rep, Period> timeout,
                                                const receiver<T>&... from) {
  return detail::select_ready({&from.mail()...}, detail::deadline_in(timeout));
}

/// An open channel of this program's.
class channel_info {
 public:
  explicit channel_info(std::int64_t id) noexcept : id_(id) {}
  [[nodiscard]] std::int64_t id() const noexcept { return id_; }
  operator std::int64_t() const noexcept { return id_; }

 private:
  std::int64_t id_;
};
/// All that are not closed, in the order of their ids; also those whose ends this process has released.
[[nodiscard]] inline std::vector<channel_info> list_all_channels() {
  std::vector<channel_info> all;
  for (const std::int64_t id : detail::open_channels()) all.emplace_back(id);
  return all;
}

}  // namespace pynisher

template <class T>
struct std::hash<pynisher::receiver<T>> {
  std::size_t operator()(const pynisher::receiver<T>& which) const noexcept {
    return std::hash<std::int64_t>()(which.id());
  }
};
template <class T>
struct std::hash<pynisher::sender<T>> {
  std::size_t operator()(const pynisher::sender<T>& which) const noexcept {
    return std::hash<std::int64_t>()(which.id());
  }
};
