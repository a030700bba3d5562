#pragma once

// How a limited call ended, as a value: for callers who would rather ask than catch.
//
//     auto result = guarded.try_call(path);
//     if (result) use(*result);
//     else log(result.explain(), result.usage().peak_memory);

#include <cstdint>
#include <exception>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include <pynisher/detail/value_or_error.hpp>
#include <pynisher/exceptions.hpp>
#include <pynisher/usage.hpp>

namespace pynisher {

/// What a call without a result compares equal to; the same as `std::nullopt`.
inline constexpr std::nullopt_t EMPTY = std::nullopt;

enum class verdict : std::uint8_t {
  returned,        ///< the function returned
  raised,          ///< the function threw
  wall_timeout,    ///< the wall clock limit was reached
  cpu_timeout,     ///< the CPU limit was reached
  memory_limit,    ///< the memory limit was reached
  signalled,       ///< the child was killed by a signal: a crash, or somebody else
  exited,          ///< the child exited instead of returning
  cancelled,       ///< the caller gave the call up
  start_failed,    ///< the child could not be started under its limits
  protocol_error,  ///< what the child sent is no result
};

/// "returned", "wall_timeout", ... : the enumerator's name.
[[nodiscard]] const char* to_string(verdict v) noexcept;

namespace detail {

/// The part of an outcome that does not depend on the result's type.
class outcome_base {
 public:
  [[nodiscard]] pynisher::verdict verdict() const noexcept { return verdict_; }
  [[nodiscard]] const pynisher::usage& usage() const noexcept { return usage_; }
  /// What the call would have thrown; null when it returned.
  [[nodiscard]] const std::exception_ptr& error() const noexcept { return error_; }
  /// One sentence: what happened, the limit, the measured value, the evidence.
  [[nodiscard]] const std::string& explain() const noexcept { return explanation_; }
  [[nodiscard]] explicit operator bool() const noexcept { return !error_; }
  [[nodiscard]] bool has_value() const noexcept { return !error_; }
  friend bool operator==(const outcome_base& a, std::nullopt_t) noexcept { return !a.has_value(); }

 protected:
  outcome_base(pynisher::verdict v, pynisher::usage u, std::exception_ptr e, std::string text)
      : verdict_(v), usage_(u), error_(std::move(e)), explanation_(std::move(text)) {}
  void rethrow_if_failed() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  pynisher::verdict verdict_;
  pynisher::usage usage_;
  std::exception_ptr error_;
  std::string explanation_;
};

}  // namespace detail

/// A value, or why there is none. Moves where `R` moves, copies where `R` copies.
/// `value()`, `operator*` and `operator->` without a value throw what the call would have thrown: nothing here is
/// undefined.
template <class R>
class [[nodiscard]] outcome : public detail::value_or_error<detail::outcome_base, R> {
 public:
  outcome(pynisher::verdict v, pynisher::usage u, std::exception_ptr error, std::string explanation,
          std::optional<R>&& value)
      : outcome::value_or_error(std::move(value), v, u, std::move(error), std::move(explanation)) {}

  /// The value alone; empty when there is none.
  [[nodiscard]] std::optional<R> to_optional() && { return std::move(this->value_); }
};

template <>
class [[nodiscard]] outcome<void> : public detail::value_or_error<detail::outcome_base, void> {
 public:
  outcome(pynisher::verdict v, pynisher::usage u, std::exception_ptr error, std::string explanation)
      : value_or_error(v, u, std::move(error), std::move(explanation)) {}
};

}  // namespace pynisher
