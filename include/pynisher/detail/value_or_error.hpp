#pragma once

// The value of an outcome or of a task's result, or the exception in its place.

#include <optional>
#include <utility>

namespace pynisher::detail {

/// `Base` says why there is no value: `rethrow_if_failed()`.
template <class Base, class R>
class value_or_error : public Base {
 public:
  /// The value; throws what took its place.
  R& value() & {
    this->rethrow_if_failed();
    return *value_;
  }
  const R& value() const& {
    this->rethrow_if_failed();
    return *value_;
  }
  R&& value() && {
    this->rethrow_if_failed();
    return *std::move(value_);
  }
  R& operator*() & { return value(); }
  const R& operator*() const& { return value(); }
  R&& operator*() && { return std::move(*this).value(); }
  R* operator->() { return &value(); }
  const R* operator->() const { return &value(); }

  template <class U>
  [[nodiscard]] R value_or(U&& otherwise) const& {
    return value_ ? *value_ : static_cast<R>(std::forward<U>(otherwise));
  }
  template <class U>
  [[nodiscard]] R value_or(U&& otherwise) && {
    return value_ ? *std::move(value_) : static_cast<R>(std::forward<U>(otherwise));
  }

 protected:
  template <class... A>
  explicit value_or_error(std::optional<R>&& value, A&&... why_not)
      : Base(std::forward<A>(why_not)...), value_(std::move(value)) {}

  std::optional<R> value_;
};

template <class Base>
class value_or_error<Base, void> : public Base {
 public:
  /// Throws what took the place of an ordinary end.
  void value() const { this->rethrow_if_failed(); }
  void operator*() const { value(); }

 protected:
  using Base::Base;
};

}  // namespace pynisher::detail
