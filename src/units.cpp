#include <pynisher/units.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <string_view>

#include <fmt/format.h>

#include <pynisher/format.hpp>

namespace pynisher {

namespace {

std::string number_text(long double number) {
  // Whole numbers to the last digit, unless a short text such as "1e+18" is no less exact.
  if (number == std::trunc(number) && std::abs(number) < std::ldexp(1.0L, 64)) {
    const std::string digits = fmt::format("{:.0f}", number);
    if (digits.find_last_not_of('0') >= std::numeric_limits<double>::digits10 || std::abs(number) < 1e16L)
      return digits;
  }
  // fmt writes a long double by the shortest text that gives it back; a double's worth of digits is what was typed.
  const auto as_double = static_cast<double>(number);
  return as_double == number ? fmt::format("{}", as_double) : fmt::format("{}", number);
}

std::string with_unit(long double number, std::string_view unit) {
  std::string text = number_text(number);
  if (!unit.empty()) text.append(" ").append(unit);
  return text;
}

struct scale {
  long double unit;
  const char* name;
  long double from;  ///< used for what it does not say exactly if at least this many of the unit
};

/// As many decimals as make four digits.
int decimals_of(long double value) { return value < 10 ? 3 : value < 100 ? 2 : value < 1000 ? 1 : 0; }

std::string without_final_zeros(std::string text) {
  if (text.find('.') == std::string::npos) return text;
  text.erase(text.find_last_not_of('0') + 1);
  if (text.ends_with('.')) text.pop_back();
  return text;
}

/// In the largest unit in which four digits say the amount exactly. If there is none, it is rounded, but to a number
/// that does not look like an exact one.
std::string in_fitting_unit(long double amount, std::span<const scale> scales) {
  for (const auto& [unit, name, from] : scales) {
    const long double value = amount / unit;
    const int decimals = decimals_of(value);
    const long double power = std::pow(10.0L, decimals);
    if (value < 1 || (value >= 10'000 && unit != scales.front().unit)) continue;
    if (std::round(std::round(value * power) / power * unit) != amount) continue;
    return fmt::format("{} {}", without_final_zeros(fmt::format("{:.{}f}", value, decimals)), name);
  }
  for (const auto& [unit, name, from] : scales) {
    const long double value = amount / unit;
    if (value < from) continue;
    int decimals = std::max(1, decimals_of(value));
    std::string text = fmt::format("{:.{}f}", value, decimals);
    while (text.ends_with('0') && decimals < 18) text = fmt::format("{:.{}f}", value, ++decimals);
    return fmt::format("{} {}", text, name);
  }
  return fmt::format("{:.0f} {}", amount, scales.back().name);
}

}  // namespace

std::string memory_size::written() const { return set_ ? with_unit(number_, unit_.view()) : "no limit"; }

std::string time_span::written() const { return set_ ? with_unit(number_, unit_.view()) : "no limit"; }

std::string to_string(memory_size size) {
  if (!size.has_value()) return "no limit";
  constexpr long double k = 1024;
  static constexpr scale scales[] = {
      {k * k * k * k, "TiB", 1}, {k * k * k, "GiB", 1}, {k * k, "MiB", 1}, {k, "KiB", 1}, {1, "B", 1}};
  return in_fitting_unit(static_cast<long double>(size.bytes()), scales);
}

std::string to_string(std::chrono::nanoseconds time) {
  // A hundred seconds and a bit are still seconds.
  static constexpr scale scales[] = {{3600e9L, "h", 2}, {60e9L, "min", 2}, {1e9L, "s", 1},
                                     {1e6L, "ms", 1},   {1e3L, "us", 1},   {1, "ns", 1}};
  const auto amount = static_cast<long double>(time.count());
  return amount < 0 ? "-" + in_fitting_unit(-amount, scales) : in_fitting_unit(amount, scales);
}

std::string to_string(time_span span) { return span.has_value() ? to_string(span.nanoseconds()) : "no limit"; }

std::string to_string(const usage& use) {
  return fmt::format("{} wall, {} CPU, {}", to_string(use.wall_time), to_string(use.cpu_time()),
                     to_string(memory_size(use.peak_memory)));
}

}  // namespace pynisher
