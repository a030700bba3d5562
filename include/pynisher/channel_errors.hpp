#pragma once

// What channels and queues throw.
//
//     try { tx.send_nowait(frame); }
//     catch (const pynisher::NotReceivedError&)   { drop(frame); }         // nobody is waiting for one
//     catch (const pynisher::ChannelClosedError&) { return; }              // nobody ever will
//
// All of them are `PynisherException`s and `std::runtime_error`s, and cross between processes as themselves. Like all
// exceptions here they are values.

#include <stdexcept>
#include <string>

#include <pynisher/exceptions.hpp>

namespace pynisher {

/// A value cannot be sent, or cannot be kept under a name, or is of another type there.
class NotShareableError : public PynisherException, public std::runtime_error {
 public:
  explicit NotShareableError(const std::string& what) : std::runtime_error(what) {}
  [[nodiscard]] const char* what() const noexcept override { return std::runtime_error::what(); }
};

/// A channel cannot do what it is asked for.
class ChannelError : public PynisherException, public std::runtime_error {
 public:
  explicit ChannelError(const std::string& what) : std::runtime_error(what) {}
  [[nodiscard]] const char* what() const noexcept override { return std::runtime_error::what(); }
};
/// There is no such channel, or no longer.
class ChannelNotFoundError : public ChannelError {
 public:
  using ChannelError::ChannelError;
};
/// There is nothing to receive now.
class ChannelEmptyError : public ChannelError {
 public:
  using ChannelError::ChannelError;
};
/// The receiving end is not closed while there is something to receive, unless it is forced.
class ChannelNotEmptyError : public ChannelError {
 public:
  using ChannelError::ChannelError;
};
/// It was closed, or there is nobody left at the other end.
class ChannelClosedError : public ChannelError {
 public:
  using ChannelError::ChannelError;
};
/// This process has released its end; the channel may be open for others.
class ChannelReleasedError : public ChannelClosedError {
 public:
  using ChannelClosedError::ChannelClosedError;
};
/// An item could not be handed over at once.
class NotReceivedError : public ChannelError {
 public:
  using ChannelError::ChannelError;
};
/// Somebody has poisoned it.
class ChannelPoisonedError : public ChannelError {
 public:
  using ChannelError::ChannelError;
};

/// A queue cannot do what it is asked for.
class QueueError : public PynisherException, public std::runtime_error {
 public:
  explicit QueueError(const std::string& what) : std::runtime_error(what) {}
  [[nodiscard]] const char* what() const noexcept override { return std::runtime_error::what(); }
};
class QueueEmpty : public QueueError {
 public:
  using QueueError::QueueError;
};
class QueueFull : public QueueError {
 public:
  using QueueError::QueueError;
};
/// There is no such queue, or no longer.
class QueueNotFoundError : public QueueError {
 public:
  using QueueError::QueueError;
};

/// The next item, of a channel or a queue, was an isolate's that has ended. It is gone; the next call gives the next
/// item.
class ItemOwnerDestroyed : public PynisherException, public std::runtime_error {
 public:
  explicit ItemOwnerDestroyed(const std::string& what) : std::runtime_error(what) {}
  [[nodiscard]] const char* what() const noexcept override { return std::runtime_error::what(); }
};

}  // namespace pynisher
