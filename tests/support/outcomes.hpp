#pragma once

// What a test says about how a call ended.
//
//     EXPECT_THAT(limit(spin_forever, {.cpu_time = 50ms}).try_call(), EndedAs(verdict::cpu_timeout));
//     EXPECT_THAT(call.try_call(), FailedWith<ExitException>([](auto& e) { EXPECT_EQ(e.exit_code(), 3); }));
//     EXPECT_THAT(call.try_call(), RaisedAs<std::out_of_range>("vector::at"));

#include <exception>
#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <type_traits>
#include <typeinfo>
#include <utility>

#include <gmock/gmock.h>

#include <pynisher/detail/call_name.hpp>
#include <pynisher/exceptions.hpp>
#include <pynisher/options.hpp>
#include <pynisher/outcome.hpp>

#include "support/system.hpp"

namespace pynisher {

inline void PrintTo(verdict v, std::ostream* os) { *os << to_string(v); }
/// gmock shows outcomes by their sentence.
template <class R>
void PrintTo(const outcome<R>& o, std::ostream* os) {
  *os << to_string(o.verdict()) << ": " << o.explain();
}

}  // namespace pynisher

namespace support {

/// The dynamic type of an exception, as its author wrote it.
inline std::string type_of(const std::exception_ptr& error) {
  if (!error) return "no exception";
  try {
    std::rethrow_exception(error);
  } catch (const pynisher::ExecutionFailed& e) {
    return e.excinfo().type_name + " (arrived): " + e.excinfo().message;
  } catch (const std::exception& e) {
    return pynisher::detail::demangled_name(typeid(e)) + ": " + e.what();
  } catch (...) {
    return "something that is no std::exception";
  }
}

MATCHER_P(EndedAs, expected, std::string("ended as ") + pynisher::to_string(expected)) {
  *result_listener << "which ended as " << pynisher::to_string(arg.verdict()) << ": " << arg.explain();
  return arg.verdict() == expected && arg.has_value() == (expected == pynisher::verdict::returned);
}

namespace detail {

// The error of an outcome is exactly an `E`: not something derived from it.
template <class E>
class failed_with {
 public:
  using is_gtest_matcher = void;
  explicit failed_with(std::function<void(const E&)> look) : look_(std::move(look)) {}

  template <class Outcome>
  bool MatchAndExplain(const Outcome& outcome, std::ostream* os) const {
    if (os) *os << "whose error is " << type_of(outcome.error()) << " [" << outcome.explain() << "]";
    if (!outcome.error()) return false;
    try {
      std::rethrow_exception(outcome.error());
    } catch (const E& e) {
      if constexpr (std::is_polymorphic_v<E>) {
        if (typeid(e) != typeid(E)) return false;
      }
      if (look_) look_(e);
      return true;
    } catch (...) {
      return false;
    }
  }
  void DescribeTo(std::ostream* os) const { *os << "failed with " << pynisher::detail::demangled_name(typeid(E)); }
  void DescribeNegationTo(std::ostream* os) const {
    *os << "did not fail with " << pynisher::detail::demangled_name(typeid(E));
  }

 private:
  std::function<void(const E&)> look_;
};

// The function threw exactly an `E`, and that is what arrived, with `ExecutionFailed` at its side.
template <class E>
class raised_as {
 public:
  using is_gtest_matcher = void;
  raised_as(std::string message, bool check_message, std::function<void(const E&)> look)
      : message_(std::move(message)), check_message_(check_message), look_(std::move(look)) {}

  template <class Outcome>
  bool MatchAndExplain(const Outcome& outcome, std::ostream* os) const {
    if (os) *os << "whose error is " << type_of(outcome.error()) << " [" << outcome.explain() << "]";
    if (outcome.verdict() != pynisher::verdict::raised || !outcome.error()) return false;
    try {
      std::rethrow_exception(outcome.error());
    } catch (const E& e) {
      const auto* failed = dynamic_cast<const pynisher::ExecutionFailed*>(&e);
      if (failed == nullptr) return false;
      if (failed->excinfo().type_name != pynisher::detail::demangled_name(typeid(E))) return false;
      if (check_message_ && (failed->excinfo().message != message_ || std::string(e.what()) != message_)) return false;
      if (look_) look_(e);
      return true;
    } catch (...) {
      return false;
    }
  }
  void DescribeTo(std::ostream* os) const {
    *os << "raised " << pynisher::detail::demangled_name(typeid(E));
    if (check_message_) *os << " with the message \"" << message_ << '"';
  }
  void DescribeNegationTo(std::ostream* os) const {
    *os << "did not raise " << pynisher::detail::demangled_name(typeid(E));
  }

 private:
  std::string message_;
  bool check_message_;
  std::function<void(const E&)> look_;
};

}  // namespace detail

/// The outcome's error is exactly an `E`; `look` may look at it further.
template <class E>
auto FailedWith(std::function<void(const E&)> look = nullptr) {
  return detail::failed_with<E>(std::move(look));
}

/// The function threw exactly an `E` (any class with a what()), and it arrived as one.
template <class E>
auto RaisedAs(std::function<void(const E&)> look = nullptr) {
  return detail::raised_as<E>({}, false, std::move(look));
}
template <class E>
auto RaisedAs(std::string message, std::function<void(const E&)> look = nullptr) {
  return detail::raised_as<E>(std::move(message), true, std::move(look));
}

/// A text that names a function, as far as this system tells the library what functions are called.
inline ::testing::Matcher<std::string> MentionsFunction(const std::string& name) {
  // NOLINTNEXTLINE: an address to look up.
  const pynisher::detail::call_name known{reinterpret_cast<const void*>(&sleep_forever), nullptr, {}};
  const bool has_names = known.text().find("sleep_forever") != std::string::npos;
  return ::testing::HasSubstr(has_names ? name : "function at ");
}

/// Calls `fn` and gives what it threw; null if it returned.
template <class F>
std::exception_ptr thrown_by(F&& fn) {
  try {
    std::forward<F>(fn)();
  } catch (...) {
    return std::current_exception();
  }
  return nullptr;
}

}  // namespace support
