#pragma once

// A limited callable as an expression, in front of a lambda or a function's name.
//
//     const auto notify = RESTRICTED_NO_RAISE(.wall_time = 1s) [](std::string host) { ping(host); };
//     const auto safe_parse = RESTRICTED(.memory = {200, "MB"}, .cpu_time = 3s) parse;
//
// It may stand at namespace, class (as a member's initialiser) and block scope, in headers too. Every field of
// `pynisher::options` can be named, in its order. Limits that are constants are checked by the compiler.

#include <concepts>
#include <initializer_list>
#include <utility>

#include <pynisher/limit.hpp>

namespace pynisher::detail {

/// Takes the value of any option that has nothing to be checked at compile time.
struct unchecked {
  constexpr unchecked() = default;
  template <class T>
  constexpr unchecked(const T&) {}
  constexpr unchecked(std::initializer_list<wrap_rule>) {}
};

/// The fields of `options` in their order, as a literal type.
struct constant_options {
  unchecked name{};
  memory_size memory{};
  time_span cpu_time{};
  time_span wall_time{};
  unchecked context{};
  unchecked measure{};
  unchecked processes{};
  unchecked warnings{};
  unchecked wrap_errors{};
  unchecked terminate_child_processes{};
  unchecked forceful_keyboard_interrupt{};
  unchecked stop{};

  [[nodiscard]] constexpr bool make_sense() const {
    return memory.fault() == quantity_fault::none && makes_sense(cpu_time) && makes_sense(wall_time);
  }

 private:
  static constexpr bool makes_sense(const time_span& limit) {
    return limit.fault() == quantity_fault::none && (!limit.has_value() || limit.nanoseconds().count() >= 1'000'000);
  }
};

#define PYNISHER_NO_SENSE_                                                                         \
  "pynisher: a limit in RESTRICTED(...) makes no sense: it is zero or negative, too small or too " \
  "large, not a number, or has an unknown unit."
#if defined(__clang__)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wgcc-compat"
bool passes(constant_options given) __attribute__((diagnose_if(!given.make_sense(), PYNISHER_NO_SENSE_, "error")));
#pragma clang diagnostic pop
#else
template <bool limits_make_sense>
struct constant_check {
  static_assert(limits_make_sense, PYNISHER_NO_SENSE_);
  static constexpr bool passed = true;
};
#endif
#undef PYNISHER_NO_SENSE_

template <template <class, class> class Limited>
struct restriction {
  options wanted;
  template <class F>
  friend auto operator->*(restriction&& limits, F&& fn) {
    return make_limited<Limited>(std::forward<F>(fn), std::move(limits.wanted));
  }
};

template <template <class, class> class Limited, bool>
restriction<Limited> restrict_to(options wanted) {
  return {std::move(wanted)};
}

}  // namespace pynisher::detail

// A limit that is no constant is checked when the expression is evaluated.
#if defined(__clang__)
#define PYNISHER_CONSTANT_CHECK_(...) \
  (sizeof(::pynisher::detail::passes(::pynisher::detail::constant_options{__VA_ARGS__})) > 0)
#elif defined(__GNUC__)
#define PYNISHER_CONSTANT_CHECK_(...)                                                                       \
  ::pynisher::detail::constant_check<(                                                                      \
      __builtin_constant_p(::pynisher::detail::constant_options{__VA_ARGS__}.make_sense())                  \
          ? ::pynisher::detail::constant_options{__VA_ARGS__}.make_sense()                                  \
          : true)>::passed
#else
#define PYNISHER_CONSTANT_CHECK_(...) true
#endif

#define RESTRICTED(...)                                                                                      \
  ::pynisher::detail::restrict_to<::pynisher::limited, PYNISHER_CONSTANT_CHECK_(__VA_ARGS__)>(               \
      ::pynisher::options{__VA_ARGS__})                                                                      \
      ->*

#define RESTRICTED_NO_RAISE(...)                                                                             \
  ::pynisher::detail::restrict_to<::pynisher::limited_no_raise, PYNISHER_CONSTANT_CHECK_(__VA_ARGS__)>(      \
      ::pynisher::options{__VA_ARGS__})                                                                      \
      ->*
