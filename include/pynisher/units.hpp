#pragma once

// Sizes and durations as a caller writes them: a number with its unit, never a bare double.
//
//     using namespace std::chrono_literals;
//     using namespace pynisher::literals;
//     pynisher::memory_size m = 500_MiB;      // or {0.5, "GB"}, or 524288000
//     pynisher::time_span t = 1.5h;           // or {90, "m"}, or 5400, or 5400.0
//
// Both are literal types that hold what was written. Nothing is judged here: a value that makes no sense
// is refused by `limit()`, which knows the name of the option it was meant for.

#include <chrono>
#include <compare>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <ratio>
#include <string>
#include <string_view>
#include <type_traits>

namespace pynisher {

namespace detail {

template <class T>
concept character =
    std::same_as<T, char> || std::same_as<T, wchar_t> || std::same_as<T, char8_t> ||
    std::same_as<T, char16_t> || std::same_as<T, char32_t>;

template <class T>
concept whole_number = std::integral<T> && !std::same_as<T, bool> && !character<T>;

template <class T>
concept number = whole_number<T> || std::floating_point<T>;

/// A unit's name, held by value so that a quantity never points into somebody else's string.
/// A longer name is cut; no known unit is that long, so a cut name is still an unknown one.
class unit_name {
 public:
  constexpr unit_name() = default;
  constexpr unit_name(std::string_view text)
      : size_(static_cast<std::uint8_t>(text.size() < capacity ? text.size() : capacity)) {
    // Plain loops and arrays: the standard's are not constant in the place where RESTRICTED checks limits.
    for (std::size_t i = 0; i < size_; ++i) text_[i] = text.data()[i];
  }
  [[nodiscard]] constexpr std::string_view view() const { return {text_, size_}; }
  [[nodiscard]] constexpr bool equals_ignoring_case(std::string_view other) const {
    const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
    if (size_ != other.size()) return false;
    for (std::size_t i = 0; i < size_; ++i) {
      if (lower(text_[i]) != lower(other.data()[i])) return false;
    }
    return true;
  }

 private:
  static constexpr std::size_t capacity = 15;
  char text_[capacity] = {};
  std::uint8_t size_ = 0;
};

/// Why a written quantity is no limit. `none`: it is one.
enum class quantity_fault : std::uint8_t { none, not_a_number, not_positive, unknown_unit, too_large };

}  // namespace detail

/// A number of bytes. Unset by default: no limit.
/// Units (any case): `B KB MB GB TB` and `B KiB MiB GiB TiB`, all powers of 1024.
/// A fraction of a byte is dropped: "at most 10.5 bytes" is at most 10.
class memory_size {
 public:
  constexpr memory_size() = default;
  template <detail::whole_number Number>
  constexpr memory_size(Number bytes) : number_(static_cast<long double>(bytes)), set_(true) {}
  template <detail::number Number>
  constexpr memory_size(Number number, std::string_view unit)
      : number_(static_cast<long double>(number)), unit_(unit.empty() ? "(none)" : unit), set_(true) {}

  [[nodiscard]] constexpr bool has_value() const { return set_; }
  [[nodiscard]] constexpr explicit operator bool() const { return set_; }

  /// The size in bytes; 0 when unset or when `fault()` is not `none`.
  [[nodiscard]] constexpr std::uint64_t bytes() const {
    return set_ && fault() == detail::quantity_fault::none ? static_cast<std::uint64_t>(scaled()) : 0;
  }

  [[nodiscard]] constexpr detail::quantity_fault fault() const {
    using enum detail::quantity_fault;
    if (!set_) return none;
    if (number_ != number_) return not_a_number;
    if (factor() == 0) return unknown_unit;
    if (number_ <= 0 || scaled() < 1) return not_positive;
    // The kernel's own sizes are signed 64-bit.
    if (scaled() > static_cast<long double>((std::numeric_limits<std::int64_t>::max)())) return too_large;
    return none;
  }

  /// The value as it was written: "200 MB", "-1".
  [[nodiscard]] std::string written() const;

  friend constexpr bool operator==(const memory_size& a, const memory_size& b) {
    return a.set_ == b.set_ && (!a.set_ || a.scaled() == b.scaled());
  }
  friend constexpr std::partial_ordering operator<=>(const memory_size& a, const memory_size& b) {
    return a.scaled() <=> b.scaled();
  }

 private:
  [[nodiscard]] constexpr long double factor() const {
    constexpr long double k = 1024;
    if (unit_.view().empty() || unit_.equals_ignoring_case("B")) return 1;
    if (unit_.equals_ignoring_case("KB") || unit_.equals_ignoring_case("KiB")) return k;
    if (unit_.equals_ignoring_case("MB") || unit_.equals_ignoring_case("MiB")) return k * k;
    if (unit_.equals_ignoring_case("GB") || unit_.equals_ignoring_case("GiB")) return k * k * k;
    if (unit_.equals_ignoring_case("TB") || unit_.equals_ignoring_case("TiB")) return k * k * k * k;
    return 0;
  }
  [[nodiscard]] constexpr long double scaled() const { return set_ ? number_ * factor() : 0; }

  long double number_ = 0;
  detail::unit_name unit_;
  bool set_ = false;
};

/// A span of time. Unset by default: no limit. Infinity means "no limit" as well.
/// From any `std::chrono::duration`, from a number of seconds, or from `{number, unit}` with
/// `ms s m h d` (any case). Exact to 1 ns.
class time_span {
 public:
  constexpr time_span() = default;
  template <detail::number Number>
  constexpr time_span(Number seconds) : number_(static_cast<long double>(seconds)), set_(true) {}
  template <detail::number Number>
  constexpr time_span(Number number, std::string_view unit)
      : number_(static_cast<long double>(number)), unit_(unit.empty() ? "(none)" : unit), set_(true) {}
  template <class Rep, class Period>
  constexpr time_span(std::chrono::duration<Rep, Period> d)
      : number_(static_cast<long double>(d.count())), unit_(unit_of<Period>()), set_(true) {
    // Of periods that have no unit here.
    if (unit_.equals_ignoring_case("ns")) {
      number_ *= static_cast<long double>(Period::num) * (1'000'000'000.0L / static_cast<long double>(Period::den));
    }
  }

  [[nodiscard]] constexpr bool has_value() const { return set_ && !infinite(); }
  [[nodiscard]] constexpr explicit operator bool() const { return has_value(); }

  /// The span, rounded to the nearest nanosecond; 0 when unset, infinite, or when `fault()` is not `none`.
  [[nodiscard]] constexpr std::chrono::nanoseconds nanoseconds() const {
    return has_value() && fault() == detail::quantity_fault::none
               ? std::chrono::nanoseconds(static_cast<std::int64_t>(scaled() + 0.5L))
               : std::chrono::nanoseconds(0);
  }

  [[nodiscard]] constexpr detail::quantity_fault fault() const {
    using enum detail::quantity_fault;
    if (!set_) return none;
    if (number_ != number_) return not_a_number;
    if (factor() == 0) return unknown_unit;
    if (infinite()) return none;
    if (number_ <= 0 || scaled() + 0.5L < 1) return not_positive;
    if (scaled() >= static_cast<long double>((std::numeric_limits<std::int64_t>::max)())) return too_large;
    return none;
  }

  /// The value as it was written: "1.5 h", "-1 s".
  [[nodiscard]] std::string written() const;

  friend constexpr bool operator==(const time_span& a, const time_span& b) {
    return a.set_ == b.set_ && (!a.set_ || a.scaled() == b.scaled());
  }
  friend constexpr std::partial_ordering operator<=>(const time_span& a, const time_span& b) {
    return a.scaled() <=> b.scaled();
  }

 private:
  template <class Period>
  static constexpr std::string_view unit_of() {
    if constexpr (std::ratio_equal_v<Period, std::ratio<86400>>) return "d";
    if constexpr (std::ratio_equal_v<Period, std::ratio<3600>>) return "h";
    if constexpr (std::ratio_equal_v<Period, std::ratio<60>>) return "m";
    if constexpr (std::ratio_equal_v<Period, std::ratio<1>>) return "s";
    if constexpr (std::ratio_equal_v<Period, std::milli>) return "ms";
    return "ns";
  }
  [[nodiscard]] constexpr bool infinite() const {
    return number_ == std::numeric_limits<long double>::infinity();
  }
  [[nodiscard]] constexpr long double factor() const {
    constexpr long double second = 1'000'000'000;
    if (unit_.view().empty() || unit_.equals_ignoring_case("s")) return second;
    if (unit_.equals_ignoring_case("ns")) return 1;
    if (unit_.equals_ignoring_case("ms")) return second / 1000;
    if (unit_.equals_ignoring_case("m")) return second * 60;
    if (unit_.equals_ignoring_case("h")) return second * 3600;
    if (unit_.equals_ignoring_case("d")) return second * 86400;
    return 0;
  }
  [[nodiscard]] constexpr long double scaled() const { return set_ ? number_ * factor() : 0; }

  long double number_ = 0;
  detail::unit_name unit_;
  bool set_ = false;
};

namespace literals {

consteval memory_size operator""_B(unsigned long long n) { return {n, "B"}; }
consteval memory_size operator""_KiB(unsigned long long n) { return {n, "KiB"}; }
consteval memory_size operator""_MiB(unsigned long long n) { return {n, "MiB"}; }
consteval memory_size operator""_GiB(unsigned long long n) { return {n, "GiB"}; }
consteval memory_size operator""_TiB(unsigned long long n) { return {n, "TiB"}; }
consteval memory_size operator""_KiB(long double n) { return {n, "KiB"}; }
consteval memory_size operator""_MiB(long double n) { return {n, "MiB"}; }
consteval memory_size operator""_GiB(long double n) { return {n, "GiB"}; }
consteval memory_size operator""_TiB(long double n) { return {n, "TiB"}; }

}  // namespace literals

}  // namespace pynisher
