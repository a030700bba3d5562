#pragma once

// The library's values in messages, as texts and for fmt.
//
//     fmt::print("{} of {}, {}\n", result.usage(), 500_MiB, result.verdict());

#include <chrono>
#include <cstdint>
#include <string>

#include <fmt/format.h>

#include <pynisher/outcome.hpp>
#include <pynisher/units.hpp>
#include <pynisher/usage.hpp>

namespace pynisher {

/// "500 MiB", "1.5 GiB", "7 B": the largest unit that says it exactly in four digits; "500.000001 MiB" is one byte
/// more.
[[nodiscard]] std::string to_string(memory_size size);
/// "1.5 s", "2 min", "1.5 h", "40 ms".
[[nodiscard]] std::string to_string(std::chrono::nanoseconds time);
[[nodiscard]] std::string to_string(time_span span);
template <class Rep, class Period>
[[nodiscard]] std::string to_string(std::chrono::duration<Rep, Period> time) {
  return to_string(std::chrono::duration_cast<std::chrono::nanoseconds>(time));
}
/// "1.2 s wall, 1.1 s CPU, 80 MiB"
[[nodiscard]] std::string to_string(const usage& use);

namespace detail {

template <class T>
struct text_formatter : fmt::formatter<fmt::string_view> {
  template <class Context>
  auto format(const T& value, Context& context) const {
    const std::string text{to_string(value)};
    return fmt::formatter<fmt::string_view>::format(text, context);
  }
};

}  // namespace detail

}  // namespace pynisher

template <>
struct fmt::formatter<pynisher::memory_size> : pynisher::detail::text_formatter<pynisher::memory_size> {};
template <>
struct fmt::formatter<pynisher::time_span> : pynisher::detail::text_formatter<pynisher::time_span> {};
template <>
struct fmt::formatter<pynisher::usage> : pynisher::detail::text_formatter<pynisher::usage> {};
template <>
struct fmt::formatter<pynisher::verdict> : pynisher::detail::text_formatter<pynisher::verdict> {};
/// An outcome as its sentence.
template <class R>
struct fmt::formatter<pynisher::outcome<R>> : fmt::formatter<fmt::string_view> {
  template <class Context>
  auto format(const pynisher::outcome<R>& result, Context& context) const {
    return fmt::formatter<fmt::string_view>::format(result.explain(), context);
  }
};
